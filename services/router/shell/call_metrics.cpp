// Export of the call lane's totals. Handler names come from workers: so many are labels of their
// own, the others are counted together.
#include "services/router/shell/call_metrics.h"

#include <array>
#include <map>

#include "common/service/metrics.h"

namespace dray {
namespace {

constexpr size_t kHandlerLabels = 64;
constexpr std::array<double, 9> kItemBounds = {1, 2, 4, 8, 16, 32, 64, 128, 512};

struct PerHandler {
  std::array<uint64_t, kCallEnds> ends{};
  LogHistogram items;
};

void export_histogram(Histogram& to, const LogHistogram& from, double unit) {
  std::vector<uint64_t> upto;
  for (double bound : to.bounds())
    upto.push_back(from.count_upto(static_cast<uint64_t>(bound / unit)));
  to.set_totals(upto, from.count(), static_cast<double>(from.sum()) * unit);
}

void export_handlers(const CallLane& lane) {
  std::map<std::string, PerHandler> handlers;
  for (size_t i = 0; i < lane.deployments().size(); ++i) {
    const Deployment& d = *lane.deployments()[i];
    PerHandler& h = handlers[i < kHandlerLabels ? d.name : "other"];
    for (size_t end = 0; end < kCallEnds; ++end) h.ends[end] += d.totals.ends[end];
    h.items.merge(d.times.batch_items);
  }
  for (const auto& [name, h] : handlers) {
    for (size_t end = 1; end < kCallEnds; ++end)
      counter(
          "dray_router_calls_total", "Calls that ended, by handler and end.",
          {{"handler", name}, {"outcome", std::string(call_end_name(static_cast<CallEnd>(end)))}})
          .set_total(h.ends[end]);
    export_histogram(histogram("dray_router_call_batch_items", "Items of batches that were run.",
                               kItemBounds, {{"handler", name}}),
                     h.items, 1);
  }
}

void export_times(const CallLane& lane) {
  CallTimes all;
  for (const auto& d : lane.deployments()) {
    all.queue.merge(d->times.queue);
    all.gather.merge(d->times.gather);
    all.wire.merge(d->times.wire);
    all.wait.merge(d->times.wait);
    all.run.merge(d->times.run);
    all.total.merge(d->times.total);
  }
  auto part = [](const char* name, const LogHistogram& h) {
    export_histogram(histogram("dray_router_call_seconds", "Where the time of answered calls went.",
                               latency_bounds(), {{"part", name}}),
                     h, 1e-6);
  };
  part("total", all.total);
  part("queue", all.queue);
  part("gather", all.gather);
  part("wire", all.wire);
  part("wait", all.wait);
  part("run", all.run);
}

}  // namespace

void export_call_metrics(const CallLane& lane) {
  const CallTotals& t = lane.totals();
  for (size_t i = 0; i < kCallRefusals; ++i)
    counter("dray_router_call_rejects_total", "Calls rejected, by reason.",
            {{"reason", call_refusal_name(static_cast<CallRefusal>(i))}})
        .set_total(t.refused[i]);
  export_total("dray_router_call_batches_total", "Batches sent to workers.", t.batches);
  export_total("dray_router_call_parts_total", "Parts of streaming replies.", t.ends[0]);
  export_total("dray_router_call_retries_total", "Calls sent again after a replica was lost.",
               t.retries);
  export_total("dray_router_call_returns_total", "Calls that a worker sent back unstarted.",
               t.returns);
  export_total("dray_router_call_hedges_total", "Copies of late calls sent.", t.hedges);
  export_total("dray_router_call_stops_total", "Calls that workers were told to stop.", t.stops);
  export_total("dray_router_call_late_total", "Rows of workers that belong to no call.",
               lane.late());
  export_level("dray_router_workers", "Connected workers.", lane.workers());
  export_level("dray_router_calls", "Open calls.", lane.open_calls());
  export_level("dray_router_call_bytes", "Payload bytes of open calls.", lane.bytes());
  export_level("dray_router_call_credit_granted", "Batches that workers take now.",
               lane.credit_granted());
  export_level("dray_router_call_credit_used", "Batches at workers.", lane.credit_used());
  export_handlers(lane);
  export_times(lane);
}

}  // namespace dray
