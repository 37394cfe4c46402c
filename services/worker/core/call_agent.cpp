// The conversations with routers: sessions, credit, RUN, STOP, CALL_CREDIT, DRAIN and DONE.
#include "services/worker/core/call_agent.h"

#include <algorithm>
#include <type_traits>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "common/base/mutant.h"

namespace dray::worker {
namespace {

constexpr Duration kRoundTrip = 200us;  // router - worker - router
constexpr Duration kLong = 1ms;  // a batch that runs so long is never prefetched
constexpr size_t kPayloadsBytesMax = size_t{64} << 20;  // payloads held: no credit beyond

}  // namespace

size_t offer_bytes(const std::vector<HandlerOffer>& offers) {
  size_t bytes = 0;
  for (const HandlerOffer& offer : offers) bytes += encode_offer(offer).size() + 3;
  return bytes;
}

CallAgent::CallAgent(CallAgentOptions options, LaneShare* share)
    : options_(std::move(options)),
      share_(share),
      pace_({options_.slots, options_.prefetch_max, kRoundTrip, kLong, 0}),
      ongoing_(options_.offers.size(), 0) {
  DRAY_ASSERT(options_.slots > 0);
  for (const HandlerOffer& offer : options_.offers) blobs_.push_back(encode_offer(offer));
  fixed_offers_ = blobs_.size();
}

// What is held of a handler that is not offered any more still runs, or comes back from the
// executors as not started.
void CallAgent::set_offers(const std::vector<std::optional<HandlerOffer>>& offers, Now now,
                           Out& out) {
  DRAY_ASSERT(offers.size() >= options_.offers.size());
  std::vector<std::string> blobs;
  options_.offers.resize(offers.size());
  ongoing_.resize(offers.size(), 0);
  for (size_t i = 0; i < offers.size(); ++i) {
    if (offers[i]) options_.offers[i] = *offers[i];
    blobs.push_back(offers[i] ? encode_offer(*offers[i]) : std::string());
  }
  if (blobs == blobs_) return;
  blobs_ = std::move(blobs);
  changed_ = true;
  if (DRAY_MUTANT(offer_not_repeated)) return;
  for (Peer& peer : routers_) send(peer, Offer{options_.slots, draining(), blobs_}, now, out);
}

// --- session -----------------------------------------------------------------------------------

CallAgent::Peer* CallAgent::find(SessionId id) {
  for (Peer& peer : routers_)
    if (peer.session == id) return &peer;
  return nullptr;
}
const CallAgent::Peer* CallAgent::find(SessionId id) const {
  return const_cast<CallAgent*>(this)->find(id);
}

void CallAgent::on_open(const SessionInfo& info, Now now, Out& out) {
  if (info.role != Role::router || has(info.id)) return;
  Peer peer;
  peer.session = info.id;
  peer.name = info.name;
  routers_.push_back(std::move(peer));
  out.note("offered", "router=" + info.name);
  send(routers_.back(), Offer{options_.slots, draining(), blobs_}, now, out);
  RowsBuilder<ShareRow> rows;
  for (uint32_t h = 0; h < options_.offers.size(); ++h)
    if (is_shared(h) && share_->terms(h) != LaneShare::Terms{}) rows.add(share_row(h, 0));
  if (!rows.empty()) send(routers_.back(), Share{rows.take()}, now, out);
  changed_ = true;
}

void CallAgent::tell(SessionId to, const CapacityNews& news, Now now, Out& out) {
  for (Peer& peer : routers_)
    if (to == SessionId::none || peer.session == to) send(peer, news, now, out);
}

void CallAgent::on_close(SessionId id, CloseReason reason, Now, Out& out) {
  const auto peer = std::find_if(routers_.begin(), routers_.end(),
                                 [&](const Peer& p) { return p.session == id; });
  if (peer == routers_.end()) return;
  out.note("router_gone", std::string("reason=") + close_reason_name(reason) +
                              " router=" + peer->name + " held=" + std::to_string(peer->held));
  for (auto it = batches_.begin(); it != batches_.end();) {
    const auto next = std::next(it);
    if (it->second.router == id) orphan(it, out);
    it = next;
  }
  routers_.erase(peer);
  if (share_ != nullptr) share_->forget(id);
  changed_ = true;
}

void CallAgent::on_message(SessionId from, const Envelope& envelope, Message&& message, Now now,
                           Out& out) {
  Peer* const peer = find(from);
  if (peer == nullptr) return;
  changed_ = true;
  std::visit(
      [&](auto&& m) {
        using M = std::decay_t<decltype(m)>;
        if constexpr (std::is_same_v<M, Run>) {
          on_run(*peer, m, now, out);
        } else if constexpr (std::is_same_v<M, Stop>) {
          on_stop(*peer, m, now, out);
        } else if constexpr (std::is_same_v<M, CallCredit>) {
          on_credit(*peer, m, out);
        } else if constexpr (std::is_same_v<M, Drain>) {
          on_drain(*peer, m);
        } else if constexpr (std::is_same_v<M, Want>) {
          on_want(*peer, m, now);
        } else {
          take_other(from, envelope, m, out);
        }
      },
      std::move(message));
}

// --- credit ------------------------------------------------------------------------------------

bool CallAgent::stalled(Now now) const {
  return running_ >= options_.slots && now.mono - moved_at_ > kLong;
}

uint64_t CallAgent::target(const Peer& peer, Now now) const {
  if (draining() || payload_bytes_ > kPayloadsBytesMax) return 0;
  const uint64_t others = batches_.size() - peer.held;
  const uint64_t all = std::min<uint64_t>(pace_.target(stalled(now)), kItemsMax);
  const uint64_t share = std::max<uint64_t>(1, options_.slots / routers_.size());
  return std::max(share, all > others ? all - others : 0);
}

uint64_t CallAgent::granted(const Peer& peer, Now now) const {
  return peer.credit.granted(target(peer, now),
                             DRAY_MUTANT(call_credit_ignores_held) ? 0 : peer.held);
}

uint64_t CallAgent::target(SessionId id, Now now) const {
  const Peer* peer = find(id);
  return peer == nullptr ? 0 : target(*peer, now);
}
uint64_t CallAgent::granted(SessionId id, Now now) const {
  const Peer* peer = find(id);
  return peer == nullptr ? 0 : granted(*peer, now);
}
uint64_t CallAgent::received(SessionId id) const {
  const Peer* peer = find(id);
  return peer == nullptr ? 0 : peer->credit.received();
}
uint64_t CallAgent::held(SessionId id) const {
  const Peer* peer = find(id);
  return peer == nullptr ? 0 : peer->held;
}

void CallAgent::send(Peer& peer, Message message, Now now, Out& out) {
  const uint64_t grant = granted(peer, now);
  peer.published = std::max(peer.published, grant);
  out.now.push_back({peer.session, 0, 0, grant, std::move(message), {}, 0});
}

// Credit travels with what is said anyway. A message of its own is worth it when the router has
// none left, or little against what it could have.
void CallAgent::grant(Peer& peer, Now now, Out& out) {
  const uint64_t got = peer.credit.received();
  const uint64_t open = peer.published > got ? peer.published - got : 0;
  const uint64_t could = granted(peer, now) - got;
  if (could <= 2 * open) return;
  ++counters_.grants;
  send(peer, Done{}, now, out);
}

// --- DONE --------------------------------------------------------------------------------------

void CallAgent::say(Peer& peer, const DoneRow& row, Bytes bytes, Now now, Out& out) {
  if (peer.rows.size() == kItemsMax || peer.body + bytes.size() > kBodyBytesMax)
    flush(peer, now, out);
  DoneRow filled = row;
  filled.len = static_cast<uint32_t>(bytes.size());
  peer.rows.add(filled);
  peer.body += bytes.size();
  if (!bytes.empty()) peer.bytes.push_back(std::move(bytes));
}

void CallAgent::flush(Peer& peer, Now now, Out& out) {
  if (peer.rows.empty()) return;
  Done done;
  done.rows = peer.rows.take();
  if (peer.bytes.size() == 1) {
    done.bytes = std::move(peer.bytes[0]);  // a single reply is not copied
  } else if (!peer.bytes.empty()) {
    std::string body;
    body.reserve(peer.body);
    for (const Bytes& b : peer.bytes) body.append(b.view());
    done.bytes = Bytes(std::move(body));
  }
  peer.bytes.clear();
  peer.body = 0;
  send(peer, std::move(done), now, out);
}

void CallAgent::end_turn(Now now, Out& out) {
  if (!changed_) return;
  changed_ = false;
  start_ready(now, out);
  for (Peer& peer : routers_) flush(peer, now, out);
  for (Peer& peer : routers_) grant(peer, now, out);
  check_drain(now, out);
}

// --- RUN ---------------------------------------------------------------------------------------

CallAgent::Span CallAgent::next_span(const Run& m, size_t begin, size_t offset) {
  Span span{begin, begin, offset, 0, 0};
  const uint16_t batch = m.rows[begin].batch;
  for (; span.end < m.rows.size() && m.rows[span.end].batch == batch; ++span.end) {
    span.bytes += m.rows[span.end].len;
    span.items += m.rows[span.end].items;
  }
  return span;
}

// A router counts what it sent; what lies below `received` came before. It can not have sent more
// than it was granted, so a larger number is nonsense and must not become credit.
void CallAgent::on_run(Peer& peer, const Run& m, Now now, Out& out) {
  const uint64_t known = peer.credit.received();
  const uint64_t granted_before = peer.published;
  const bool nonsense = m.first > granted_before;
  if (!nonsense && m.first > known) counters_.missed += m.first - known;
  uint64_t number = m.first;
  Span span;
  while (span.end < m.rows.size()) {
    span = next_span(m, span.end, span.offset + span.bytes);
    if (number++ < known && !nonsense && !DRAY_MUTANT(repeated_run_taken)) {
      ++counters_.repeated;
      continue;
    }
    const bool beyond = nonsense || number > granted_before;
    const Errc code = beyond ? Errc::overloaded : judge(peer, m, span);
    if (code == Errc::ok)
      take(peer, m, span, now, out);
    else
      refuse(peer, m, span, code, now, out);
  }
  if (!nonsense) peer.credit.on_received_upto(std::min(number, granted_before));
}

Errc CallAgent::judge(const Peer& peer, const Run& m, const Span& span) const {
  const RunRow head = m.rows[span.begin];
  if (draining() && peer.drains != 0 && peer.drains_answered == peer.drains) return Errc::draining;
  if (head.handler >= options_.offers.size() || blobs_[head.handler].empty())
    return Errc::unknown_handler;
  if (head.key >= m.keys.size()) return Errc::bad_argument;
  const HandlerOffer& offer = options_.offers[head.handler];
  const size_t n = span.end - span.begin;
  if (n > offer.max_batch_size || span.items > offer.max_batch_size) return Errc::too_large;
  if (offer.max_batch_bytes != 0 && span.bytes > offer.max_batch_bytes) return Errc::too_large;
  for (size_t i = span.begin; i < span.end; ++i) {
    const RunRow row = m.rows[i];
    if (row.handler != head.handler || row.key != head.key) return Errc::bad_argument;
    if (peer.calls.count(row.call) != 0) return Errc::conflict;
  }
  return Errc::ok;
}

void CallAgent::take(Peer& peer, const Run& m, const Span& span, Now now, Out& out) {
  const uint64_t number = next_batch_++ * kItemsMax;  // its calls are number, number + 1 ...
  Batch batch;
  batch.router = peer.session;
  batch.handler = m.rows[span.begin].handler;
  batch.key = m.keys[m.rows[span.begin].key];
  batch.arrived = batch.since = now.mono;
  batch.bytes = span.bytes;
  batch.items = static_cast<uint32_t>(span.items);
  size_t offset = span.offset;
  for (size_t i = span.begin; i < span.end; ++i) {
    const RunRow row = m.rows[i];
    const uint64_t ours = number + batch.calls.size();
    if (!peer.calls.emplace(row.call, ours).second) {  // twice in one batch
      for (const Call& call : batch.calls) peer.calls.erase(call.theirs);
      return refuse(peer, m, span, Errc::conflict, now, out);
    }
    const auto left = std::min<uint64_t>(row.deadline_us, uint64_t{kCallDeadlineUsMax});
    const Time deadline = now.mono + std::chrono::microseconds(left);
    const uint64_t window = std::min(row.window, kStreamWindowMax);
    const Duration waited = std::chrono::microseconds(row.waited_us);
    batch.calls.push_back({row.call, deadline, window, waited, false, false});
    if (is_shared(batch.handler))
      share_->call_came(batch.handler, waited + (deadline - now.mono), now);
    batch.payloads.push_back({ours, m.bytes.slice(offset, row.len), deadline, window, row.items});
    expire_at_ = std::min(expire_at_, deadline);
    offset += row.len;
  }
  batch.open = batch.calls.size();
  counters_.calls += batch.open;
  ++counters_.batches;
  ++peer.held;
  payload_bytes_ += batch.bytes;
  if (is_shared(batch.handler)) {
    share_->came(batch.handler, peer.session);
    share_->call_waits(batch.handler, 1);
  }
  batches_.emplace_hint(batches_.end(), number, std::move(batch));
  waiting_.push_back(number);
}

void CallAgent::refuse(Peer& peer, const Run& m, const Span& span, Errc code, Now now, Out& out) {
  const bool known = m.rows[span.begin].handler < blobs_.size();
  (known && code == Errc::unknown_handler ? counters_.withdrawn : counters_.refused) +=
      span.end - span.begin;
  for (size_t i = span.begin; i < span.end; ++i) {
    DoneRow row;
    row.call = m.rows[i].call;
    row.status = static_cast<uint8_t>(CallEnd::rejected);
    row.code = static_cast<uint8_t>(code);
    row.flags = kDoneNotStarted;
    if (i + 1 == span.end) row.flags |= kDoneFreesSlot;
    say(peer, row, {}, now, out);
  }
}

// --- other verbs -------------------------------------------------------------------------------

void CallAgent::on_stop(Peer& peer, const Stop& m, Now now, Out& out) {
  for (size_t k = 0; k < m.rows.size(); ++k) {
    const auto known = peer.calls.find(m.rows[k].call);
    if (known == peer.calls.end()) continue;  // ended; its DONE is on the way
    const auto it = std::prev(batches_.upper_bound(known->second));
    const size_t i = known->second - it->first;
    if (it->second.running) {
      stop(it, i, out);
      arm(it->second);
      continue;
    }
    DoneRow row;
    row.status = static_cast<uint8_t>(CallEnd::cancelled);
    row.code = static_cast<uint8_t>(Errc::cancelled);
    row.flags = kDoneNotStarted;
    end_call(it, i, row, {}, now, out);
  }
}

void CallAgent::on_credit(Peer& peer, const CallCredit& m, Out& out) {
  for (size_t k = 0; k < m.rows.size(); ++k) {
    const CallCreditRow row = m.rows[k];
    const auto known = peer.calls.find(row.call);
    if (known == peer.calls.end()) continue;
    const auto it = std::prev(batches_.upper_bound(known->second));
    Batch& batch = it->second;
    Call& call = batch.calls[known->second - it->first];
    if (call.window == 0 || row.granted <= call.window) continue;
    call.window = row.granted;
    if (batch.running)
      out.part_grants.push_back({known->second, row.granted});
    else
      batch.payloads[known->second - it->first].window = row.granted;
  }
}

// Answers to DRAIN(on) are counted, so that the answer to an earlier one is not taken for it.
void CallAgent::on_drain(Peer& peer, const Drain& m) {
  if (m.on && peer.drains_answered < peer.drains) ++peer.drains_answered;
}

// --- sharing -----------------------------------------------------------------------------------

void CallAgent::on_want(const Peer& peer, const Want& m, Now now) {
  for (size_t k = 0; k < m.rows.size(); ++k) {
    const WantRow row = m.rows[k];
    if (row.handler >= options_.offers.size() || !is_shared(row.handler)) continue;
    share_->want(row.handler,
                 {peer.session, row.sent, row.items, std::chrono::microseconds(row.head_us)}, now);
  }
}

ShareRow CallAgent::share_row(uint32_t handler, uint64_t batches) const {
  const LaneShare::Terms terms = share_->terms(handler);
  const auto us = [](Duration d) {
    return static_cast<uint32_t>(std::clamp<int64_t>(to_us(d), 0, UINT32_MAX));
  };
  return {batches, handler, us(terms.gather), us(terms.quantum), 0};
}

void CallAgent::tell_share(const std::vector<LaneShare::Grant>& grants,
                           const std::vector<uint32_t>& changed_terms, Now now, Out& out) {
  if (grants.empty() && changed_terms.empty()) return;
  for (Peer& peer : routers_) {
    RowsBuilder<ShareRow> rows;
    for (const uint32_t handler : changed_terms) rows.add(share_row(handler, 0));
    for (const LaneShare::Grant& grant : grants)
      if (grant.router == peer.session) rows.add(share_row(grant.handler, grant.batches));
    if (!rows.empty()) send(peer, Share{rows.take()}, now, out);
  }
}

void CallAgent::on_parts(std::vector<CallPart>&& parts, Now now, Out& out) {
  for (CallPart& part : parts) {
    auto it = batches_.upper_bound(part.call);
    Peer* peer = nullptr;
    if (it != batches_.begin()) {
      --it;
      const size_t i = part.call - it->first;
      const Batch& batch = it->second;
      if (i < batch.calls.size() && batch.running && !batch.calls[i].stopped &&
          !batch.calls[i].ended)
        peer = find(batch.router);
    }
    if (peer == nullptr) {
      ++counters_.dropped;
      continue;
    }
    ++counters_.parts;
    counters_.part_bytes += part.bytes.size();
    DoneRow row;
    row.call = it->second.calls[part.call - it->first].theirs;
    row.status = static_cast<uint8_t>(CallEnd::part);
    say(*peer, row, std::move(part.bytes), now, out);
    changed_ = true;
  }
}

Doc CallAgent::to_doc(Now now) const {
  Doc doc;
  doc.set("slots", options_.slots).set("draining", draining());
  doc.set("running", running_).set("waiting", waiting_.size());
  doc.set("payload_bytes", payload_bytes_).set("service_us", to_us(pace_.service()));
  Doc routers;
  for (const Peer& peer : routers_) {
    Doc row;
    row.set("received", peer.credit.received()).set("held", peer.held);
    row.set("granted", granted(peer, now)).set("target", target(peer, now));
    row.set("drained", peer.drains != 0 && peer.drains == peer.drains_answered);
    routers.set(peer.name + "/" + std::to_string(static_cast<uint64_t>(peer.session)),
                std::move(row));
  }
  doc.set("routers", std::move(routers));
  Doc ongoing;
  for (size_t i = 0; i < ongoing_.size(); ++i)
    if (ongoing_[i] != 0) ongoing.set(options_.offers[i].name, ongoing_[i]);
  doc.set("ongoing", std::move(ongoing));
  const CallCounters& c = counters_;
  Doc counts;
  counts.set("batches", c.batches).set("calls", c.calls).set("started", c.started);
  counts.set("replies", c.replies).set("failed", c.failed).set("expired", c.expired);
  counts.set("cancelled", c.cancelled)
      .set("unknown", c.unknown)
      .set("refused", c.refused)
      .set("withdrawn", c.withdrawn)
      .set("dropped", c.dropped);
  counts.set("parts", c.parts).set("part_bytes", c.part_bytes).set("repeated", c.repeated);
  counts.set("missed", c.missed).set("grants", c.grants).set("stuck", c.stuck);
  doc.set("counters", std::move(counts));
  return doc;
}

}  // namespace dray::worker
