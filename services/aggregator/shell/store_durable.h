// StoreDurable: the aggregator's Durable: one turn is one commit of the result store. The real
// host and the simulator use it alike.
#pragma once

#include "services/aggregator/core/aggregator.h"

namespace dray {

class StoreDurable {
 public:
  StoreDurable(Aggregator& core, ResultStore& store) : core_(core), store_(store) {}

  // An error means that the process must end. A full disk is none: nothing was written, the core
  // takes the turn back.
  Status persist(AggregatorOut& out) {
    StoreBatch& batch = out.batch;
    const bool empty = batch.results.empty() && batch.puts.empty() && batch.dels.empty() &&
                       batch.forget.empty() && batch.stream.pos == 0;
    Status status = empty ? Status{} : store_.commit(std::move(batch));
    if (!status && status.error().code != Errc::no_space) return status;
    if (status)
      core_.on_committed(out);
    else
      core_.on_stalled(out);
    if (!out.sweep) return {};
    auto dropped = store_.sweep(out.sweep->wall_ms, out.sweep->size_budget, out.sweep->pages_max);
    if (!dropped) return dropped.error().code == Errc::no_space ? Status{} : dropped.error();
    core_.on_swept(*dropped);
    return {};
  }
  Status load(Send&) { return {}; }  // results travel in the messages themselves

 private:
  Aggregator& core_;
  ResultStore& store_;
};

}  // namespace dray
