// What people see of the call lane.
#include "services/router/core/call_lane.h"

namespace dray {
namespace {

Doc times_doc(const LogHistogram& h) {
  Doc doc;
  doc.set("n", h.count())
      .set("mean_us", h.mean())
      .set("p50_us", h.quantile(0.5))
      .set("p95_us", h.quantile(0.95))
      .set("p99_us", h.quantile(0.99))
      .set("p999_us", h.quantile(0.999));
  return doc;
}

Doc latency_doc(const CallTimes& t) {
  Doc doc;
  doc.set("total", times_doc(t.total))
      .set("queue", times_doc(t.queue))
      .set("gather", times_doc(t.gather))
      .set("wire", times_doc(t.wire))
      .set("wait", times_doc(t.wait))
      .set("run", times_doc(t.run));
  return doc;
}

void set_totals(Doc& doc, const CallTotals& totals) {
  Doc outcomes{Doc::Object{}}, rejected{Doc::Object{}};
  for (size_t i = 0; i < kCallEnds; ++i)
    outcomes.set(std::string(call_end_name(static_cast<CallEnd>(i))), totals.ends[i]);
  for (size_t i = 0; i < kCallRefusals; ++i)
    rejected.set(call_refusal_name(static_cast<CallRefusal>(i)), totals.refused[i]);
  doc.set("outcomes", std::move(outcomes))
      .set("rejected", std::move(rejected))
      .set("batches", totals.batches)
      .set("retries", totals.retries)
      .set("returns", totals.returns)
      .set("hedges", totals.hedges)
      .set("hedges_won", totals.hedges_won)
      .set("stops", totals.stops);
}

}  // namespace

Doc CallLane::replica_doc(const Replica& r) const {
  const Worker& w = workers_[r.worker];
  Doc models{Doc::List{}};
  for (uint32_t key : r.models) models.push(deployments_[r.deployment]->keys[key].name);
  Doc doc;
  doc.set("worker", w.name)
      .set("ongoing", r.ongoing.size())
      .set("max_ongoing", r.offer.max_ongoing)
      .set("credit", w.credit.available())
      .set("draining", w.draining)
      .set("models", std::move(models));
  if (is_shared(r)) doc.set("gather_us", to_us(r.gather)).set("quantum_us", to_us(r.quantum));
  return doc;
}

Doc CallLane::deployment_doc(const Deployment& d) const {
  constexpr size_t kListed = 64;
  uint64_t batches = 0, calls = 0;
  uint32_t max_ongoing = 0;
  Doc list{Doc::List{}};
  for (size_t i = 0; i < d.replicas.size(); ++i) {
    const Replica& r = replicas_[d.replicas[i]];
    batches += r.ongoing.size();
    max_ongoing = std::max(max_ongoing, r.offer.max_ongoing);
    for (BatchIndex b : r.ongoing) calls += table_.batch(b).calls.size();
    if (i < kListed) list.push(replica_doc(r));
  }
  Doc line, doc;
  line.set("a_us", d.line.a_us())
      .set("b_us", d.line.b_us())
      .set("sigma", d.line.sigma())
      .set("batches", d.line.batches());
  doc.set("name", d.name)
      .set("replicas", d.replicas.size())
      .set("draining_replicas", d.replicas.size() - d.live)
      .set("queued", d.queued)
      .set("ongoing_batches", batches)
      .set("ongoing_calls", calls)
      .set("idempotent", d.idempotent)
      .set("max_batch_size", d.max_batch_size)
      .set("max_ongoing", max_ongoing)
      .set("batch_wait_us", to_us(d.batch_wait))
      .set("max_models", d.max_models)
      .set("line", std::move(line))
      .set("others_us", d.others_us)
      .set("target_items", d.target(options_.default_deadline))
      .set("mean_batch_items", d.times.batch_items.mean())
      .set("latency", latency_doc(d.times));
  set_totals(doc, d.totals);
  doc.set("replica_list", std::move(list));
  return doc;
}

Doc CallLane::deployments_doc() const {
  constexpr size_t kListed = 256;
  Doc list{Doc::List{}};
  for (size_t i = 0; i < deployments_.size() && i < kListed; ++i)
    list.push(deployment_doc(*deployments_[i]));
  Doc totals, doc;
  set_totals(totals, totals_);
  totals.set("late", late_);
  doc.set("deployments", std::move(list)).set("totals", std::move(totals));
  return doc;
}

uint64_t CallLane::credit_granted() const {
  uint64_t n = 0;
  for (uint32_t i = 0; i < workers_.slots(); ++i)
    if (workers_[i].id != SessionId::none)
      n += workers_[i].credit.available() + workers_[i].batches;
  return n;
}

uint64_t CallLane::credit_used() const {
  uint64_t n = 0;
  for (uint32_t i = 0; i < workers_.slots(); ++i)
    if (workers_[i].id != SessionId::none) n += workers_[i].batches;
  return n;
}

}  // namespace dray
