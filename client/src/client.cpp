// The public classes: thin, in terms of ClientImpl.
#include <unistd.h>

#include <algorithm>

#include "client/src/client_impl.h"

namespace dray {
inline namespace client_v1 {
namespace {

using SteadyClock = std::chrono::steady_clock;

Millis left_until(SteadyClock::time_point until) {
  auto left = std::chrono::duration_cast<Millis>(until - SteadyClock::now());
  return std::max(left, Millis{0});
}

Rows<IdRow> id_rows(std::span<const Id> ids) {
  RowsBuilder<IdRow> rows;
  rows.reserve(ids.size());
  for (Id id : ids) rows.add({to_wire(id)});
  return rows.take();
}

using IdCommand = uint64_t (ClientCore::*)(Rows<IdRow>, Time, Now, ClientOut&);

// Runs a command over the ids, as many to a message as it takes, and hands every answer to `take`.
template <class Take>
Expected<Done> for_ids(ClientImpl& impl, std::span<const Id> ids, Millis timeout,
                       ClientImpl::Starter (*make)(Rows<IdRow>, Id), Id extra, Take take) {
  auto until = SteadyClock::now() + impl.effective(timeout);
  for (size_t i = 0; i < ids.size(); i += kItemsMax) {
    auto part = ids.subspan(i, std::min(kItemsMax, ids.size() - i));
    auto event = impl.request(left_until(until), make(id_rows(part), extra));
    if (!event) return event.error();
    take(*event);
  }
  return Done{};
}

template <IdCommand command>
ClientImpl::Starter starter(Rows<IdRow> rows, Id) {
  return [rows = std::move(rows)](Now now, Time deadline, ClientCore& core, ClientOut& out) {
    return (core.*command)(rows, deadline, now, out);
  };
}
ClientImpl::Starter group_starter(Rows<IdRow> rows, Id group) {
  return [rows = std::move(rows), id = to_wire(group)](Now now, Time deadline, ClientCore& core,
                                                       ClientOut& out) {
    return core.group_put(id, rows, deadline, now, out);
  };
}

template <IdCommand command>
Expected<std::vector<TaskInfo>> states(ClientImpl& impl, std::span<const Id> ids, Millis timeout) {
  std::vector<TaskInfo> out;
  auto done = for_ids(impl, ids, timeout, starter<command>, {}, [&](Event& event) {
    const auto& rows = std::get<StatesEvent>(event).rows;
    for (size_t i = 0; i < rows.size(); ++i) {
      StateRow r = rows[i];
      out.push_back({to_public(r.id), static_cast<State>(r.state), to_code(r.code), r.attempt});
    }
  });
  if (!done) return done.error();
  return out;
}

Expected<GroupProgress> ask_group(ClientImpl& impl, Id id, bool push, Millis timeout) {
  auto event = impl.request(
      timeout, [id = to_wire(id), push](Now now, Time deadline, ClientCore& core, ClientOut& out) {
        return core.group_watch(id, push, deadline, now, out);
      });
  if (!event) return event.error();
  const GroupState& s = std::get<GroupEvent>(*event).state;
  return GroupProgress{s.total, s.done, s.succeeded, s.failed, s.cancelled, s.expired};
}

Role role_from(std::string_view target) {
  for (Role r : {Role::router, Role::broker, Role::aggregator, Role::balancer})
    if (role_name(r) == target) return r;
  return Role{};
}

}  // namespace

// --- Task
// ------------------------------------------------------------------------------------------

bool Task::ready() const {
  std::lock_guard lock(batch_->mutex);
  return batch_->slots[index_].over;
}

TaskOutcome Task::get(Millis timeout) const {
  std::unique_lock lock(batch_->mutex);
  if (timeout.count() < 0) timeout = batch_->timeout;
  bool blocks = std::this_thread::get_id() != batch_->client_thread;
  bool over = batch_->slots[index_].over;
  if (!over && blocks)
    over = batch_->changed.wait_for(lock, timeout, [&] { return batch_->slots[index_].over; });
  TaskOutcome out = batch_->outcome(index_, id_);
  if (!over) {
    out.code = blocks ? Code::timeout : Code::bad_argument;
    out.bytes = blocks ? "not over so far" : "a blocking call from a callback of the client";
  }
  return out;
}

Expected<Done> Task::accepted(Millis timeout) const {
  std::unique_lock lock(batch_->mutex);
  if (timeout.count() < 0) timeout = batch_->timeout;
  if (std::this_thread::get_id() == batch_->client_thread) timeout = Millis{0};
  bool done = batch_->changed.wait_for(lock, timeout, [&] { return batch_->messages_open == 0; });
  if (batch_->error) return *batch_->error;
  if (!done) return fault(Code::timeout, "not accepted so far");
  return Done{};
}

void Task::on_done(std::function<void(const TaskOutcome&)> f) const {
  std::unique_lock lock(batch_->mutex);
  if (!batch_->slots[index_].over) {
    batch_->callbacks.emplace(index_, std::move(f));
    return;
  }
  TaskOutcome out = batch_->outcome(index_, id_);
  lock.unlock();
  f(out);
}

std::future<TaskOutcome> Task::future() const {
  auto promise = std::make_shared<std::promise<TaskOutcome>>();
  on_done([promise](const TaskOutcome& out) { promise->set_value(out); });
  return promise->get_future();
}

// --- Group
// -----------------------------------------------------------------------------------------

Expected<GroupProgress> Group::progress(Millis timeout) const {
  return ask_group(*impl_, id_, false, timeout);
}

Expected<GroupProgress> Group::wait(Millis timeout) const {
  auto until = SteadyClock::now() + impl_->effective(timeout);
  auto waiter = impl_->join_group(id_);
  auto first = ask_group(*impl_, id_, true, left_until(until));
  Expected<GroupProgress> out = first;
  if (first && !first->is_done()) {
    std::unique_lock lock(waiter->mutex);
    bool done = waiter->changed.wait_until(
        lock, until, [&] { return waiter->closed || waiter->latest.is_done(); });
    if (waiter->latest.is_done())
      out = waiter->latest;
    else if (!done)
      out = fault(Code::timeout, std::to_string(waiter->latest.done) + " of " +
                                     std::to_string(waiter->latest.total) + " tasks are over");
    else
      out = fault(Code::closed, "the client was shut down");
  }
  impl_->leave_group(id_);
  return out;
}

Expected<Done> Group::cancel(Millis timeout) const {
  if (!ids_) return fault(Code::not_found, "the tasks of an opened group are not known here");
  auto all = states<&ClientCore::cancel>(*impl_, *ids_, timeout);
  if (!all) return all.error();
  return Done{};
}

// --- Client
// ----------------------------------------------------------------------------------------

Client::Client(std::shared_ptr<ClientImpl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}
Client::~Client() {
  if (!impl_) return;
  if (impl_->pid() == ::getpid())
    impl_->shutdown();
  else
    new std::shared_ptr<ClientImpl>(impl_);  // after a fork its thread is not here: leak it
}

Expected<Client> Client::connect(ClientOptions options) {
  auto impl = std::make_shared<ClientImpl>(std::move(options));
  auto started = impl->start();
  if (!started) {
    impl->shutdown();
    return started.error();
  }
  return Client(std::move(impl));
}

Expected<Task> Client::submit(std::string_view handler, std::string_view payload,
                              const TaskOptions& options, Millis timeout) {
  auto task = submit_async(handler, payload, options, timeout);
  if (!task) return task;
  auto accepted = impl_->await_accepted(*task->batch_, timeout);
  if (!accepted) return accepted.error();
  return task;
}

Expected<Task> Client::submit_async(std::string_view handler, std::string_view payload,
                                    const TaskOptions& options, Millis timeout) {
  auto batch = impl_->make_batch(1);
  std::vector<Id> ids;
  auto sent = impl_->submit(handler, std::span(&payload, 1), options, batch, ids, timeout);
  if (!sent) return sent.error();
  Task task;
  task.batch_ = std::move(batch);
  task.id_ = ids[0];
  return task;
}

Expected<std::vector<Task>> Client::submit_many(std::string_view handler,
                                                std::span<const std::string_view> payloads,
                                                const TaskOptions& options, Millis timeout) {
  auto batch = impl_->make_batch(payloads.size());
  std::vector<Id> ids;
  auto sent = impl_->submit(handler, payloads, options, batch, ids, timeout);
  if (!sent) return sent.error();
  auto accepted = impl_->await_accepted(*batch, timeout);
  if (!accepted) return accepted.error();
  std::vector<Task> tasks(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    tasks[i].batch_ = batch;
    tasks[i].index_ = static_cast<uint32_t>(i);
    tasks[i].id_ = ids[i];
  }
  return tasks;
}

Expected<std::vector<Task>> Client::submit_many(std::string_view handler,
                                                const std::vector<std::string>& payloads,
                                                const TaskOptions& options, Millis timeout) {
  std::vector<std::string_view> views(payloads.begin(), payloads.end());
  return submit_many(handler, std::span<const std::string_view>(views), options, timeout);
}

Expected<std::vector<Id>> Client::post_many(std::string_view handler,
                                            std::span<const std::string_view> payloads,
                                            const TaskOptions& options, Millis timeout) {
  std::vector<Id> ids;
  auto sent = impl_->submit(handler, payloads, options, nullptr, ids, timeout);
  if (!sent) return sent.error();
  return ids;
}

void Client::on_results(std::function<void(std::span<const ResultView>)> f) {
  impl_->set_on_results(std::move(f));
}

Expected<Done> Client::flush(Millis timeout) { return impl_->flush(timeout); }

std::pair<std::vector<Task>, std::vector<Task>> Client::wait(std::span<const Task> tasks,
                                                             size_t n_ready, Millis timeout) {
  if (n_ready == 0 || n_ready > tasks.size()) n_ready = tasks.size();
  std::vector<bool> over(tasks.size());
  size_t count = 0;
  auto look = [&] {
    for (size_t i = 0; i < tasks.size(); ++i) {
      if (over[i] || !tasks[i].ready()) continue;
      over[i] = true;
      ++count;
    }
    return count >= n_ready;
  };
  if (!look() && !impl_->on_client_thread()) impl_->wait_any(timeout, look);
  std::pair<std::vector<Task>, std::vector<Task>> out;
  for (size_t i = 0; i < tasks.size(); ++i) (over[i] ? out.first : out.second).push_back(tasks[i]);
  return out;
}

Expected<TaskOutcome> Client::result(Id id, Millis timeout) {
  auto batch = impl_->wait_for(id);
  if (!batch)
    return fault(Code::bad_argument, "the client is closed, or waits for that id already");
  Task task;
  task.batch_ = batch;
  task.id_ = id;
  TaskOutcome out = task.get(timeout);
  if (out.is_over()) return out;
  impl_->stop_waiting_for(id);
  return fault(out.code, out.bytes);
}

Expected<std::vector<TaskOutcome>> Client::fetch(std::span<const Id> ids, Millis timeout) {
  std::vector<TaskOutcome> out;
  auto done = for_ids(*impl_, ids, timeout, starter<&ClientCore::fetch>, {}, [&](Event& event) {
    const auto& fetched = std::get<FetchedEvent>(event);
    size_t offset = 0;
    for (size_t i = 0; i < fetched.rows.size(); ++i) {
      ResultRow r = fetched.rows[i];
      out.push_back({to_public(r.id), static_cast<State>(r.status), to_code(r.code), r.attempt,
                     std::chrono::microseconds(r.exec_us),
                     std::string(fetched.bytes.view().substr(offset, r.len))});
      offset += r.len;
    }
  });
  if (!done) return done.error();
  return out;
}

Expected<std::vector<TaskInfo>> Client::query(std::span<const Id> ids, Millis timeout) {
  return states<&ClientCore::query>(*impl_, ids, timeout);
}
Expected<std::vector<TaskInfo>> Client::cancel(std::span<const Id> ids, Millis timeout) {
  return states<&ClientCore::cancel>(*impl_, ids, timeout);
}
Expected<Done> Client::forget(std::span<const Id> ids, Millis timeout) {
  return for_ids(*impl_, ids, timeout, starter<&ClientCore::forget>, {}, [](Event&) {});
}

Expected<Group> Client::group(std::span<const Task> tasks, Millis timeout) {
  std::vector<Id> ids;
  for (const Task& task : tasks) ids.push_back(task.id());
  return group(ids, timeout);
}

Expected<Group> Client::group(std::span<const Id> ids, Millis timeout) {
  if (ids.empty()) return fault(Code::bad_argument, "a group needs at least one task");
  Group group = open_group(impl_->new_id());
  group.ids_ = std::make_shared<const std::vector<Id>>(ids.begin(), ids.end());
  auto done = for_ids(*impl_, ids, timeout, group_starter, group.id_, [](Event&) {});
  if (!done) return done.error();
  return group;
}

Group Client::open_group(Id id) {
  Group group;
  group.impl_ = impl_;
  group.id_ = id;
  return group;
}

namespace {
template <class T>
Doc to_arg(const T& value) {
  return Doc(value);
}
Doc to_arg(const std::vector<std::string>& list) {
  Doc doc{Doc::List{}};
  for (const std::string& text : list) doc.push(text);
  return doc;
}
}  // namespace

Expected<std::string> Client::admin(std::string_view target, std::string_view verb,
                                    const Args& args, Millis timeout) {
  Role role = role_from(target);
  if (role == Role{})
    return fault(Code::bad_argument, "admin target is router, broker, aggregator or balancer");
  Doc doc{Doc::Object{}};
  for (const auto& [key, value] : args)
    std::visit([&doc, &name = key](const auto& v) { doc.set(name, to_arg(v)); }, value);
  Admin admin{static_cast<uint8_t>(role), std::string(verb), std::move(doc)};
  auto event = impl_->request(
      timeout,
      [admin = std::move(admin)](Now now, Time deadline, ClientCore& core, ClientOut& out) {
        return core.admin(admin, deadline, now, out);
      });
  if (!event) return event.error();
  return to_json(std::get<AdminEvent>(*event).body);
}

bool Client::connected() const { return impl_->connected(); }
ClientStats Client::stats() const { return impl_->stats(); }

}  // namespace client_v1
}  // namespace dray
