// worker_crowd: many workers that are there and take nothing, over real sockets: each has a session
// with the broker, the router and the balancer. Prints one JSON line.
//
//   crowd --broker E --router E --balancer E --count N --join S --seconds S
//         joins spread over S seconds, then stays so long
#include <algorithm>
#include <memory>

#include "common/wire/offer.h"
#include "tests/system/arguments.h"
#include "tests/system/raw_peer.h"

using namespace dray;
using namespace storm;
using SteadyClock = std::chrono::steady_clock;

namespace {

// One session of a worker.
struct Member {
  std::unique_ptr<RawPeer> peer;
  Role role = Role::broker;  // of the other side
  bool dialled = false;
  bool greeted = false;  // nothing can be sent before it is connected
  uint64_t session = 0;  // the first one
};

Message first_word(Role role) {
  if (role == Role::broker) {
    Attach attach;
    attach.slots = 1;
    attach.handlers = {"crowd"};
    return attach;
  }
  if (role == Role::router) {
    HandlerOffer offer;
    offer.name = "crowd";
    return Offer{1, false, {encode_offer(offer)}};
  }
  return NodeReport{};
}

double since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

int crowd(const Arguments& a) {
  const size_t count = a.number("count", 200);
  const double join = a.real("join", 1), stay = a.real("seconds", 15);
  Context context;
  if (!context.open(2)) return 2;
  std::vector<Member> members;
  for (size_t i = 0; i < count; ++i)
    for (const auto& [role, key] :
         {std::pair{Role::broker, "broker"}, std::pair{Role::router, "router"},
          std::pair{Role::balancer, "balancer"}})
      members.push_back({std::make_unique<RawPeer>(a.text(key), Role::worker,
                                                   "crowd-" + std::to_string(i), &context),
                         role});
  const auto start = SteadyClock::now();
  double joined_at = 0;
  size_t joined = 0;
  while (since(start) < join + stay) {
    for (size_t i = 0; i < members.size(); ++i) {
      Member& m = members[i];
      if (!m.dialled) {
        if (since(start) * static_cast<double>(members.size()) < join * static_cast<double>(i))
          break;
        m.dialled = m.peer->dial();
      }
      m.greeted = m.greeted || m.peer->say_hello();
      m.peer->take_ready([](Incoming&&) {});
      if (m.session != 0 || m.peer->session() == 0) continue;
      m.session = m.peer->session();
      m.peer->send(0, first_word(m.role));
      if (++joined == members.size()) joined_at = since(start);
    }
    ::usleep(2000);
  }
  const auto lost = std::count_if(members.begin(), members.end(), [](const Member& m) {
    return m.session == 0 || m.peer->session() != m.session;
  });
  JsonLine json;
  json.add("sessions", uint64_t{members.size()}).add("joined", uint64_t{joined});
  json.add("joined_s", joined_at).add("lost", static_cast<uint64_t>(lost)).print();
  return lost == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments a(argc, argv);
  return crowd(a);
}
