// Connections of the simulation: delivery in order, breaks, holes, partitions.
#include "tests/sim/net.h"

#include "tests/sim/node.h"

namespace dray::sim {
namespace {
bool is_kind(const Frames& frames, Kind kind) {
  auto e = decode_envelope(frames);
  return e && e->kind == kind;
}
bool is_hello(const Frames& frames) { return is_kind(frames, Kind::hello); }
// What receivers count, so that it may come twice.
bool may_repeat(const Frames& frames) {
  auto e = decode_envelope(frames);
  return e && (e->kind == Kind::dispatch || e->kind == Kind::run || e->kind == Kind::finished);
}

void show(World& world, const Node& from, const Node& to, const Frames& frames) {
  auto in = decode(frames);
  if (!in) return world.trace(from.name(), "-> " + to.name() + " (not readable)");
  Kind k = in->envelope.kind;
  if (k == Kind::beat || k == Kind::have || (k == Kind::sync && in->envelope.granted == 0)) return;
  world.trace(from.name(), "-> " + to.name() + " " + print(in->message).substr(0, 150));
}
}  // namespace

Net::Conn* Net::find(uint64_t id) {
  auto it = conns_.find(id);
  return it == conns_.end() ? nullptr : &it->second;
}

void Net::dial(Node& from, Port port, Node& to, Port listening) {
  auto& dial = dials_[{&from, port}];
  if (!dial) dial = std::make_unique<Dial>();
  *dial = Dial{&from, &to, port, listening, from.life(), dial->socket_no + 1, 0, false, {}};
  connect_later(*dial, world_.skewed(20ms));
}

void Net::connect_later(Dial& dial, Duration delay) {
  uint64_t no = dial.socket_no;
  Dial* d = &dial;
  world_.after(delay, [this, d, no] { connect(*d, no); });
}

Duration Net::blocked_until(const Node* dialer, const Node* listener, Dir dir) const {
  auto it = blocked_.find({dialer, listener});
  if (it == blocked_.end()) return Duration{0};
  return dir == kUp ? it->second.first : it->second.second;
}

void Net::connect(Dial& dial, uint64_t socket_no) {
  if (dial.socket_no != socket_no || dial.conn != 0) return;
  if (!dial.from->alive() || dial.from->life() != dial.life) return;
  bool blocked = blocked_until(dial.from, dial.to, kUp) > world_.now() ||
                 blocked_until(dial.from, dial.to, kDown) > world_.now();
  if (!dial.to->alive() || blocked) return connect_later(dial, world_.between(50ms, 500ms));
  uint64_t id = next_conn_++;
  Conn& c = conns_[id];
  c.id = id;
  c.dialer = dial.from;
  c.listener = dial.to;
  c.dial = &dial;
  c.dport = dial.port;
  c.lport = dial.lport;
  c.dialer_life = dial.life;
  c.listener_life = dial.to->life();
  c.socket_no = socket_no;
  dial.conn = id;
  auto unsent = std::exchange(dial.unsent, {});
  for (Frames& f : unsent) push(c, kUp, std::move(f));
}

void Net::push(Conn& conn, Dir dir, Frames frames) {
  if (conn.hole[dir]) return;
  Duration at = std::max(conn.ready[dir], world_.now() + 20us + world_.skewed(delay_max_));
  conn.ready[dir] = at;
  conn.flight[dir].push_back(std::move(frames));
  uint64_t id = conn.id;
  world_.at(at, [this, id, dir] { deliver(id, dir); });
}

void Net::deliver(uint64_t id, Dir dir) {
  Conn* c = find(id);
  if (!c || c->flight[dir].empty()) return;
  Duration wait = blocked_until(c->dialer, c->listener, dir);
  if (c->broken) wait = std::max(wait, c->late_until);
  if (wait > world_.now()) {
    world_.at(wait, [this, id, dir] { deliver(id, dir); });
    return;
  }
  Frames frames = std::move(c->flight[dir].front());
  c->flight[dir].pop_front();
  const Node* dialer = c->dialer;
  const Node* listener = c->listener;
  Node* to = dir == kUp ? c->listener : c->dialer;
  bool same_life = to->alive() && to->life() == (dir == kUp ? c->listener_life : c->dialer_life);
  if (dir == kDown) same_life = same_life && c->dial->socket_no == c->socket_no;
  world_.mix(id * 2 + dir + frames.frame[0].size() * 1000 + frames.frame[2].size());
  Packet packet{dir == kUp ? c->lport : c->dport, dir == kUp ? id : 0, std::move(frames)};
  if (c->broken && same_life && dir == kUp && c->dial->conn != id && c->dial->conn != 0)
    world_.reach("late packets of an old connection");
  if (c->broken && c->flight[kUp].empty() && c->flight[kDown].empty()) conns_.erase(id);
  if (same_life && world_.verbose())
    show(world_, dir == kUp ? *dialer : *listener, *to, packet.frames);
  if (same_life) to->arrive(std::move(packet));
}

void Net::lose(Dial& dial) {
  dial.conn = 0;
  dial.unsent.clear();
  dial.muted = true;
  if (dial.from->alive() && dial.from->life() == dial.life) dial.from->unreachable(dial.port, 0);
}

void Net::break_conn(Conn& conn, bool dialer_notices) {
  if (conn.broken) return;
  conn.broken = true;
  for (Dir dir : {kUp, kDown}) {
    size_t keep = world_.below(conn.flight[dir].size() + 1);
    // A pipe that outlives the connection sends the rest on the next one.
    if (dir == kUp && !dialer_notices && conn.dial->conn == conn.id && world_.one_in(2))
      for (size_t i = keep + world_.below(conn.flight[dir].size() - keep + 1);
           i < conn.flight[dir].size(); ++i)
        conn.dial->unsent.push_back(conn.flight[dir][i]);
    conn.flight[dir].resize(keep);
  }
  if (world_.one_in(3)) conn.late_until = world_.now() + world_.skewed(4s);
  world_.disturb(std::max(world_.now(), conn.late_until) + 5s);
  conn.listener_knows = world_.now() + world_.skewed(2s);
  part(conn, dialer_notices, world_.now());
}

// The dialer's end of a broken connection.
void Net::part(Conn& conn, bool dialer_notices, Duration after) {
  Dial* d = conn.dial;
  if (d->conn != conn.id) return;
  uint64_t no = d->socket_no, id = conn.id;
  world_.at(after + world_.skewed(100ms), [this, d, no, id, dialer_notices] {
    if (d->socket_no != no || d->conn != id) return;
    if (dialer_notices)
      lose(*d);
    else
      d->conn = 0;
    connect_later(*d, world_.between(1ms, 200ms));
  });
}

void Net::recreate(Node& from, Port port) {
  Dial& dial = *dials_.at({&from, port});
  uint64_t old = dial.conn;
  dial.conn = 0;
  ++dial.socket_no;
  dial.unsent.clear();
  dial.muted = true;
  if (Conn* c = find(old)) break_conn(*c, false);
  connect_later(dial, world_.skewed(20ms));
}

void Net::on_death(Node& node) {
  std::vector<uint64_t> ids;
  for (auto& [id, c] : conns_)
    if (!c.broken && (c.dialer == &node || c.listener == &node)) ids.push_back(id);
  for (uint64_t id : ids) {
    Conn* c = find(id);
    // A machine that loses power says nothing; a process that dies resets its connections.
    bool silent = c->listener == &node && world_.one_in(4);
    if (silent) {
      c->hole[kUp] = true;
      c->flight[kUp].clear();
    } else {
      break_conn(*c, c->listener == &node);
    }
  }
}

void Net::on_leave(Node& node) {
  std::vector<uint64_t> ids;
  for (auto& [id, c] : conns_)
    if (!c.broken && (c.dialer == &node || c.listener == &node)) ids.push_back(id);
  for (uint64_t id : ids) {
    Conn& c = *find(id);
    c.broken = true;
    c.flight[c.dialer == &node ? kDown : kUp].clear();
    c.dialer_left = c.dialer == &node;
    c.listener_knows =
        world_.now() + world_.up_to(std::max<Duration>(c.ready[kUp] - world_.now(), 0s));
    part(c, c.listener == &node, std::max(world_.now(), c.ready[kDown]));
  }
}

void Net::send_from_dialer(Dial& dial, Frames&& frames) {
  if (dial.muted) {
    if (!is_hello(frames)) return;
    dial.muted = false;
    dial.unsent.clear();
  }
  Conn* c = dial.conn ? find(dial.conn) : nullptr;
  if (c && !c->broken) return push(*c, kUp, std::move(frames));
  if (c && world_.one_in(2)) return;  // into the broken connection
  if (is_hello(frames)) dial.unsent.clear();
  dial.unsent.push_back(std::move(frames));
}

void Net::send(Node& from, Packet&& packet) {
  if (packet.peer == 0)
    return send_from_dialer(*dials_.at({&from, packet.port}), std::move(packet.frames));
  Conn* c = find(packet.peer);
  if (!c || (c->broken && world_.now() >= c->listener_knows)) {
    if (c && c->dialer_left) arrive_all(*c);
    return from.unreachable(packet.port, packet.peer);
  }
  if (c->broken) return;
  if (world_.percent(repeat_percent_) && may_repeat(packet.frames)) {
    Frames copy = packet.frames;
    uint64_t id = c->id;
    world_.after(world_.skewed(1s), [this, id, copy] {
      Conn* conn = find(id);
      if (conn && !conn->broken) push(*conn, kDown, copy);
    });
  }
  push(*c, kDown, std::move(packet.frames));
}

// Who knows that the peer has left has all it said in the socket, but has not read it yet.
void Net::arrive_all(Conn& conn) {
  for (Frames& frames : std::exchange(conn.flight[kUp], {})) {
    world_.mix(conn.id + frames.frame[0].size() * 1000);
    if (world_.verbose()) show(world_, *conn.dialer, *conn.listener, frames);
    conn.listener->arrive(Packet{conn.lport, conn.id, std::move(frames)});
    world_.reach("last words of who is out of reach");
  }
  conns_.erase(conn.id);
}

Net::Conn* Net::choose(Node* node) {
  std::vector<Conn*> list;
  for (auto& [id, c] : conns_)
    if (!c.broken && (!node || c.dialer == node || c.listener == node)) list.push_back(&c);
  if (list.empty()) return nullptr;
  Conn* c = list[world_.below(list.size())];
  hit_ = {c->dialer, c->listener};
  return c;
}

bool Net::break_some(Node* node) {
  Conn* c = choose(node);
  if (!c) return false;
  world_.trace("net", "reset " + c->dialer->name() + " - " + c->listener->name());
  break_conn(*c, world_.percent(80));
  return true;
}

bool Net::hole_some(Node* node, bool up, bool down) {
  Conn* c = choose(node);
  if (!c) return false;
  world_.trace("net", "hole " + c->dialer->name() + " - " + c->listener->name());
  for (Dir dir : {kUp, kDown}) {
    if (dir == kUp ? !up : !down) continue;
    c->hole[dir] = true;
    world_.disturb(world_.now() + 30s);
    c->flight[dir].resize(world_.below(c->flight[dir].size() + 1));
  }
  return true;
}

bool Net::has_hole(const Node& node, const Node& listener) const {
  return std::any_of(conns_.begin(), conns_.end(), [&](const auto& entry) {
    const Conn& c = entry.second;
    return !c.broken && (c.hole[kUp] || c.hole[kDown]) && c.dialer == &node &&
           c.listener == &listener;
  });
}

void Net::partition(Node& a, Node& b, bool up, bool down, Duration until) {
  auto& entry = blocked_[{&a, &b}];
  if (up) entry.first = std::max(entry.first, until);
  if (down) entry.second = std::max(entry.second, until);
  world_.disturb(until + 10s);
  world_.trace("net", "partition " + a.name() + " - " + b.name());
}

}  // namespace dray::sim
