// Router core: what people see of it.
#include "services/router/core/router.h"

namespace dray {

const char* refusal_name(Refusal refusal) {
  switch (refusal) {
    case Refusal::bad_message:
      return "bad_message";
    case Refusal::bad_argument:
      return "bad_argument";
    case Refusal::unavailable:
      return "unavailable";
    case Refusal::draining:
      return "draining";
    case Refusal::client_credit:
      return "client_credit";
    case Refusal::client_bytes:
      return "client_bytes";
    case Refusal::inflight_bytes:
      return "inflight_bytes";
    case Refusal::client_waits:
      return "client_waits";
  }
  return "?";
}

Doc Router::to_doc() const {
  Doc requests{Doc::Object{}}, answers{Doc::Object{}}, refused{Doc::Object{}}, clients{Doc::List{}};
  for (const auto& [kind, n] : counters_.requests) requests.set(std::string(kind_name(kind)), n);
  for (const auto& [kind, n] : counters_.answers) answers.set(std::string(kind_name(kind)), n);
  for (size_t i = 0; i < kRefusals; ++i)
    refused.set(refusal_name(static_cast<Refusal>(i)), counters_.refused[i]);
  constexpr size_t kListed = 50;
  uint64_t waits = 0;
  size_t listed = 0;
  for (const auto& [id, client] : clients_) {
    waits += client.waits.size();
    if (listed++ >= kListed) continue;
    Doc row;
    row.set("name", client.name)
        .set("received", client.credit.received())
        .set("granted", client.published)
        .set("inflight", client.inflight.size())
        .set("bytes", client.bytes)
        .set("waits", client.waits.size());
    clients.push(std::move(row));
  }
  Doc doc;
  doc.set("broker", has_broker())
      .set("aggregator", has_aggregator())
      .set("balancer", has_balancer())
      .set("draining", draining_)
      .set("clients", clients_.size())
      .set("inflight", inflight_)
      .set("inflight_bytes", inflight_bytes_)
      .set("waits", waits)
      .set("requests", std::move(requests))
      .set("answers", std::move(answers))
      .set("refused", std::move(refused))
      .set("unknown_route", counters_.unknown_route)
      .set("late_answers", counters_.late)
      .set("not_for_clients", counters_.not_for_clients)
      .set("watch_lost", counters_.watch_lost)
      .set("workers", lane_.workers())
      .set("gpus", lane_.gpus_doc())
      .set("calls", lane_.open_calls())
      .set("call_bytes", lane_.bytes())
      .set("client_list", std::move(clients));
  return doc;
}

}  // namespace dray
