// ModelCache: the models that a handler keeps loaded, for handlers with HandlerOptions::max_models.
//
//   DRAY_BATCH_HANDLER("embed", dray::HandlerOptions{.max_batch_size = 64, .max_models = 4},
//     [](const dray::WorkerInfo&) { return std::make_unique<dray::ModelCache<Net>>(4, load_net); },
//     [](dray::Batch& batch, std::unique_ptr<dray::ModelCache<Net>>& models) {
//       const std::shared_ptr<Net> net = models->get(batch.model());
//       ...
//     });
#ifndef DRAY_MODEL_CACHE_H_
#define DRAY_MODEL_CACHE_H_

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <future>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

namespace dray {
inline namespace worker_v1 {

// Models by key: at most max_models loaded, the longest unused one goes first. One thread loads a
// model, others that want the same one wait for it; loads of different models do not wait for each
// other. A load that throws is told to all who waited, and the next one tries again.
template <class T>
class ModelCache {
 public:
  using Load = std::function<std::shared_ptr<T>(std::string_view key)>;
  ModelCache(size_t max_models, Load load)
      : max_(std::max<size_t>(max_models, 1)), load_(std::move(load)) {}

  // A model that is dropped lives on until its last user lets go.
  std::shared_ptr<T> get(std::string_view key) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto it = models_.begin(); it != models_.end(); ++it) {
      if (it->key != key) continue;
      models_.splice(models_.begin(), models_, it);
      const std::shared_future<std::shared_ptr<T>> model = it->model;
      lock.unlock();
      return model.get();
    }
    std::promise<std::shared_ptr<T>> promise;
    const uint64_t number = ++loads_;
    models_.push_front({std::string(key), number, promise.get_future().share()});
    auto dropped = make_room();
    lock.unlock();
    dropped.clear();  // before the load: two models may not fit
    try {
      std::shared_ptr<T> model = load_(key);
      promise.set_value(model);
      return model;
    } catch (...) {
      forget(number);
      promise.set_exception(std::current_exception());
      throw;
    }
  }
  size_t size() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return models_.size();
  }
  uint64_t loads() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return loads_;
  }

 private:
  struct Model {
    std::string key;
    uint64_t number;
    std::shared_future<std::shared_ptr<T>> model;
  };
  std::list<Model> make_room() {
    std::list<Model> dropped;
    while (models_.size() > max_) dropped.splice(dropped.end(), models_, std::prev(models_.end()));
    return dropped;
  }
  void forget(uint64_t number) {
    std::lock_guard<std::mutex> lock(mutex_);
    models_.remove_if([&](const Model& model) { return model.number == number; });
  }

  const size_t max_;
  const Load load_;
  mutable std::mutex mutex_;
  std::list<Model> models_;  // last used first
  uint64_t loads_ = 0;
};

}  // namespace worker_v1
}  // namespace dray

#endif  // DRAY_MODEL_CACHE_H_
