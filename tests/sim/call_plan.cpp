// The choice of a seed's knobs of the call lane.
#include "tests/sim/call_plan.h"

#include "tests/sim/world.h"

namespace dray::sim {
namespace {

uint64_t some(World& w, uint64_t percent, uint64_t max) {
  return w.percent(percent) ? 1 + w.below(max) : 0;
}

CallHandler choose_handler(World& w, int index) {
  CallHandler h;
  h.offer.name = "c" + std::to_string(index);
  h.offer.max_ongoing = static_cast<uint32_t>(w.below(3));
  if (w.percent(60)) h.offer.max_batch_size = 2 + static_cast<uint32_t>(w.below(8));
  if (w.one_in(4)) h.offer.max_batch_bytes = 200 + w.below(2'000);
  if (w.one_in(3)) h.offer.batch_wait_us = 1 + static_cast<uint32_t>(w.below(50'000));
  if (w.one_in(4)) h.offer.flags |= kOfferIdempotent;
  if (w.one_in(2)) h.offer.flags |= kOfferStreams;
  if (w.one_in(3)) h.offer.max_models = 1 + static_cast<uint32_t>(w.below(3));
  static constexpr Duration kTimes[] = {100us, 2ms, 20ms, 200ms};
  h.base = w.up_to(kTimes[w.below(4)]);
  h.each = h.base / static_cast<int64_t>(1 + w.below(10));
  h.steady = w.one_in(3);
  return h;
}

void choose_limits(World& w, CallOptions& o) {
  if (w.percent(25)) o.client_calls = 1 + w.below(12);
  if (w.percent(15)) o.client_bytes = 300 + w.below(3'000);
  if (w.percent(15)) o.call_bytes = 500 + w.below(5'000);
  if (w.percent(25)) o.max_queued = 1 + w.below(20);
}

// Short calls, time enough, and nobody who is in the way: then leaving hurts nobody.
void make_graceful(World& w, CallKnobs& k) {
  k.graceful = true;
  k.routers = 2;
  k.tight = k.lasting = k.poison = k.deaf = 0;
  k.limits = CallOptions{};
  if (w.one_in(2)) {  // somebody has a word for those who leave
    k.stream = 60;
    k.cancel = 20;
    for (CallHandler& h : k.handlers) h.offer.flags |= kOfferStreams;
  }
  k.read_max = std::min<Duration>(k.read_max, 20ms);
  k.burst_max = std::min<uint64_t>(k.burst_max, 10);
  for (CallHandler& h : k.handlers) {
    h.base = std::min<Duration>(h.base, 20ms);
    h.each = std::min<Duration>(h.each, 5ms);
  }
}

// Calls that may be repeated, and many of them lost.
void make_lossy(World& w, CallKnobs& k) {
  k.calls = 300;
  k.idempotent = 100;
  k.handlers.resize(1);
  k.handlers[0].base = std::max<Duration>(k.handlers[0].base, 20ms);
  k.burst_max = std::max<uint64_t>(k.burst_max, 10);
  k.tight = 0;
  k.lose_routers = w.one_in(2);
  if (!k.lose_routers) k.poison = 10 + w.below(50);
}

void make_crowded(World& w, CallKnobs& k) {
  k.crowded = true;
  k.calls = 1200;
  k.burst_max = 60;
  k.routers = 1;
  k.slots_max = 1;
  k.limits = CallOptions{};
  k.keys = k.tight = k.cancel = k.hedge = k.stream = k.many_items = 0;
  k.fail = k.lasting = k.poison = k.deaf = 0;
  k.handlers.resize(1);
  CallHandler& h = k.handlers[0];
  h.steady = true;
  h.base = w.between(10ms, 50ms);
  h.each = h.base / 10;
  h.offer.max_ongoing = 1;
  h.offer.max_batch_size = 1 + static_cast<uint32_t>(w.below(3));
  h.offer.max_batch_bytes = h.offer.batch_wait_us = 0;
}

// Some take far longer than most, and there is somebody who could do them meanwhile.
void make_hedging(World& w, CallKnobs& k) {
  k.calls = 500;
  k.hedge = 100;
  k.idempotent = w.one_in(2) ? 100 : 50;
  k.handlers.resize(1);
  k.handlers[0].base = w.up_to(5ms);
  k.handlers[0].each = 10us;
  k.handlers[0].offer.batch_wait_us = 0;
  k.keys = k.stream = k.tight = k.poison = 0;
  k.lasting = 3;
}

}  // namespace

CallKnobs choose_calls(World& w) {
  CallKnobs k;
  k.routers = 1 + static_cast<int>(w.below(2));
  k.calls = w.one_in(6) ? 0 : 20 + w.below(w.one_in(4) ? 500 : 150);
  k.burst_max = 1 + w.below(w.one_in(4) ? 60 : 8);
  const int handlers = 1 + static_cast<int>(w.below(3));
  for (int i = 0; i < handlers; ++i) k.handlers.push_back(choose_handler(w, i));
  k.keys = some(w, 50, 5);
  k.slots_max = 1 + static_cast<uint32_t>(w.below(4));
  k.size_max = 16 + w.below(w.one_in(4) ? 2'000 : 200);
  k.tight = some(w, 50, 60);
  k.cancel = some(w, 50, 30);
  k.idempotent = some(w, 50, 80);
  k.hedge = some(w, 30, 80);
  k.stream = some(w, 40, 60);
  k.many_items = some(w, 30, 40);
  k.read_max = w.one_in(3) ? 2s : 20ms;
  k.fail = some(w, 50, 20);
  k.lasting = some(w, 40, 15);
  k.poison = some(w, 15, 3);
  k.deaf = some(w, 40, 50);
  choose_limits(w, k.limits);
  switch (w.below(32)) {
    case 0:
    case 1:
    case 6:
    case 7:
      make_graceful(w, k);
      break;
    case 2:
    case 3:
      make_lossy(w, k);
      break;
    case 4:
      make_hedging(w, k);
      break;
    case 5:
      make_crowded(w, k);
      break;
    default:
      break;
  }
  return k;
}

}  // namespace dray::sim
