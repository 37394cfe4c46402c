// Peek: reads the one flag the router needs from a body that it forwards unread.
#pragma once

#include "common/wire/message.h"

namespace dray {

// First field of the body, if it is `true`: SUBMIT.watch, READY.done. False for anything odd.
bool peek_flag(const Frames& frames);

}  // namespace dray
