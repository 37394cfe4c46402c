// Store rules: checks of a batch that every ResultStore makes before it writes anything.
#pragma once

#include "services/aggregator/store/result_store.h"

namespace dray {

// ok, too_large or bad_argument; `at` is the position the store holds now.
Status check_batch(const StoreBatch& batch, StreamPos at);

}  // namespace dray
