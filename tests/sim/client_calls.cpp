// The application's calls: what it asks for, how it reads parts, what it changes its mind about.
#include "tests/sim/client_node.h"

namespace dray::sim {

void ClientNode::call_some() {
  if (alive()) later([this](Now now, Out& out) { do_calls(now, out); });
}

void ClientNode::probe(size_t handler) {
  if (alive()) later([this, handler](Now now, Out& out) { do_probe(handler, now, out); });
}

CallOrder ClientNode::choose_call(const CallHandler& handler) {
  const CallKnobs& k = knobs_.calls;
  CallOrder o;
  o.client = this;
  o.handler = handler.offer.name;
  o.size = 16 + world_.skewed(Duration(static_cast<int64_t>(k.size_max))).count();
  if (handler.offer.max_models != 0 && k.keys != 0)
    o.key = "m" + std::to_string(world_.below(k.keys));
  if (world_.percent(k.stream)) o.window = 1 + world_.below(200);
  if (world_.percent(k.many_items))
    o.items = static_cast<uint16_t>(1 + world_.below(handler.offer.max_batch_size + 1));
  if (world_.percent(k.idempotent)) o.flags |= kCallIdempotent;
  if (world_.percent(k.hedge)) o.flags |= kCallHedge;
  o.may_repeat = (o.flags & kCallIdempotent) != 0 || (handler.offer.flags & kOfferIdempotent) != 0;
  o.easy = k.graceful && world_.now() > 5s;
  const Duration cost = handler.base + handler.each;
  Duration time = world_.one_in(3) ? world_.between(100ms, 2s) : world_.between(1s, 60s);
  if (world_.percent(k.tight)) time = 100us + world_.up_to(4 * cost + 2 * knobs_.delay_max);
  if (o.easy) time = world_.between(15s, 60s);
  if (k.crowded) time = 8 * (handler.base + handler.each * handler.offer.max_batch_size);
  o.deadline = world_.now() + time;
  return o;
}

void ClientNode::do_calls(Now now, Out& out) {
  const CallKnobs& k = knobs_.calls;
  const uint64_t n =
      1 + world_.below(world_.one_in(4) ? k.burst_max : std::min<uint64_t>(k.burst_max, 3));
  const CallHandler& handler = k.handlers[world_.below(k.handlers.size())];
  for (uint64_t i = 0; i < n; ++i) {
    CallOrder order = choose_call(handler);
    if (!order.easy && world_.one_in(200)) order.handler = "nobody";
    const Duration time = order.deadline - world_.now();
    do_call(std::move(order), now, out);
    if (world_.percent(k.cancel))
      plan_cancel(calls_.rbegin()->first, world_.skewed(std::min<Duration>(time, 5s)));
  }
  world_.reach("bursts of calls");
}

void ClientNode::do_call(CallOrder order, Now now, Out& out) {
  CallCmd cmd;
  cmd.handler = order.handler;
  cmd.key = order.key;
  cmd.window = order.window;
  cmd.items = order.items;
  cmd.flags = order.flags;
  const Duration time = order.deadline - world_.now();
  cmd.deadline = now.mono + time;
  const uint64_t id = call_oracle_.made(std::move(order));
  cmd.tag = id;
  cmd.payload = Bytes(call_oracle_.payload(id));
  if (world_.verbose()) trace("calls " + std::to_string(id));
  calls_[id] = core_->calls().start(std::move(cmd), now, out);
}

void ClientNode::do_probe(size_t handler, Now now, Out& out) {
  const CallHandler& h = knobs_.calls.handlers[handler];
  CallOrder o;
  o.client = this;
  o.handler = h.offer.name;
  o.size = 16;
  o.may_repeat = (h.offer.flags & kOfferIdempotent) != 0;
  o.deadline = world_.now() + 1000s;
  do_call(std::move(o), now, out);
  probes_.insert(calls_.rbegin()->first);
}

void ClientNode::plan_cancel(uint64_t call, Duration after) {
  const uint64_t life = life_;
  world_.after(after, [this, call, life] {
    if (!alive() || life_ != life) return;
    later([this, call](Now, Out& out) {
      auto it = calls_.find(call);
      if (it == calls_.end()) return;
      call_oracle_.cancels(call);
      core_->calls().cancel(it->second, out);
    });
  });
}

void ClientNode::plan_read(uint64_t call, uint64_t bytes) {
  const uint64_t life = life_;
  world_.after(world_.skewed(knobs_.calls.read_max), [this, call, bytes, life] {
    if (!alive() || life_ != life) return;
    later([this, call, bytes](Now now, Out&) {
      auto it = calls_.find(call);
      if (it == calls_.end()) return;
      call_oracle_.takes(call, bytes);
      core_->calls().taken(it->second, bytes, now);
    });
  });
}

void ClientNode::on_calls(Out& out) {
  for (const Send& send : out.now) {
    const auto* call = std::get_if<Call>(&send.message);
    size_t offset = 0;
    for (size_t i = 0; call && i < call->rows.size(); offset += call->rows[i++].len)
      sent_in_[call_oracle_.left(call->bytes.view().substr(offset, call->rows[i].len))] = send.to;
  }
  for (CallEvent& e : std::exchange(out.calls, {})) {
    if (world_.verbose())
      trace("call " + std::to_string(e.tag) + " " +
            std::string(call_end_name(static_cast<CallEnd>(e.row.status))) + " " +
            std::string(errc_name(static_cast<Errc>(e.row.code))));
    call_oracle_.told(e.tag, e);
    const auto end = static_cast<CallEnd>(e.row.status);
    if (end == CallEnd::part) {
      plan_read(e.tag, e.bytes.size());
      continue;
    }
    calls_.erase(e.tag);
    sent_in_.erase(e.tag);
    if (probes_.erase(e.tag) != 0 && end != CallEnd::reply && end != CallEnd::failed)
      violate("P5", "at rest, with time enough, call " + std::to_string(e.tag) + " ends as " +
                        std::string(call_end_name(end)) + " (" +
                        std::string(errc_name(static_cast<Errc>(e.row.code))) + ")");
  }
}

void ClientNode::count_calls() {
  const CallCounters& c = core_->calls().counters();
  if (c.moved > calls_seen_.moved) world_.reach("calls moved to another router");
  if (c.repeated > calls_seen_.repeated) world_.reach("calls repeated by the client");
  if (c.stray_rows > calls_seen_.stray_rows) world_.reach("ends of calls that are over");
  if (1000 * c.repeated > 1000 * repeats_at_start_ + 100 * c.started)
    violate("P5", name_ + " repeats more than 10 % of its calls");
  if (c.unbudgeted > calls_seen_.unbudgeted) world_.reach("calls not repeated for want of budget");
  calls_seen_ = c;
}

// What was sent in a session that is over has ended, or waits to be sent again. The core may hear
// of it at the very end of a turn; then it says so in the next one.
void ClientNode::check_lost_sessions() {
  size_t lost = 0;
  for (const auto& [call, session] : sent_in_) lost += !links_->is_open(session);
  const bool untold = lost > 0 && lost > core_->calls().waiting();
  if (untold && loss_untold_)
    violate("P5", name_ + ": the session of a call is lost, and nobody is told");
  loss_untold_ = untold;
}

}  // namespace dray::sim
