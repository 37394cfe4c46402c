// Choice of a child, and waiting for one.
#include "services/worker/shell/handler_group.h"

#include <algorithm>

namespace dray::worker {

void HandlerGroup::set(std::vector<Place> places, bool expected) {
  std::vector<std::shared_ptr<Member>> next;
  {
    std::lock_guard lock(mutex_);
    for (Place& place : places) {
      const auto old = std::find_if(members_.begin(), members_.end(), [&](const auto& m) {
        return m->place.child == place.child && m->place.handler == place.handler;
      });
      if (old != members_.end()) {
        (*old)->place.limit = place.limit;
        next.push_back(*old);
      } else {
        next.push_back(std::make_shared<Member>(Member{std::move(place)}));
      }
    }
    members_.swap(next);
    expected_ = expected;
  }
  changed_.notify_all();
}

std::shared_ptr<HandlerGroup::Member> HandlerGroup::choose() const {
  std::shared_ptr<Member> best;
  for (const auto& m : members_) {
    if (m->gone || (m->place.limit != 0 && m->ongoing >= m->place.limit)) continue;
    if (best == nullptr || m->ongoing < best->ongoing) best = m;
  }
  return best;
}

bool HandlerGroup::can_wait(std::span<const TaskView> tasks) const {
  // Of members that are gone the core hears soon, and says what comes instead.
  const bool somebody = expected_ || !members_.empty();
  const int64_t now = Clock::now().time_since_epoch().count();
  return somebody && std::any_of(tasks.begin(), tasks.end(), [&](const TaskView& t) {
           return t.deadline_ns > now && (t.cancelled == nullptr || !t.cancelled->load());
         });
}

void HandlerGroup::run(const Handler&, std::span<const TaskView> tasks,
                       std::span<TaskOutput> outs) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (const std::shared_ptr<Member> member = choose()) {
      ++member->ongoing;
      lock.unlock();
      const bool ran = member->place.child->run(member->place.handler, tasks, outs);
      lock.lock();
      --member->ongoing;
      if (ran) break;
      member->gone = true;
    } else if (can_wait(tasks)) {
      changed_.wait_for(lock, kLook);
    } else {
      lock.unlock();
      for (TaskOutput& out : outs) {
        out.kind = TaskOutput::Kind::not_started;
        out.bytes.clear();
        out.text = "no executor of it is running";
      }
      return;
    }
  }
  lock.unlock();
  changed_.notify_one();
}

}  // namespace dray::worker
