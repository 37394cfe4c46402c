// Counting with decay.
#include "common/resources/class_mix.h"

#include <algorithm>

namespace dray {

void ClassMix::note(const Request& request) {
  if (request.variants.empty() || request.variants[0].gpus == 0) return;
  const Variant& v = request.variants[0];
  auto it = std::find_if(kept_.begin(), kept_.end(), [&](const RequestClass& c) {
    return c.need.gpus == v.gpus && c.need.gpu_memory_mib == v.gpu_memory_mib &&
           c.need.pools == v.pools;
  });
  if (it == kept_.end()) {
    if (kept_.size() == kKept) kept_.pop_back();
    it = kept_.insert(kept_.end(), {{v.gpus, v.gpu_memory_mib, v.pools, {}}, 0});
  }
  ++it->weight;
  for (; it != kept_.begin() && (it - 1)->weight < it->weight; --it) std::iter_swap(it - 1, it);
  if (++notes_ == kHalveEvery) halve();
}

std::span<const RequestClass> ClassMix::classes() const {
  return std::span(kept_).first(std::min(kept_.size(), kClassesMax));
}

void ClassMix::halve() {
  notes_ = 0;
  for (RequestClass& c : kept_) c.weight /= 2;
  std::erase_if(kept_, [](const RequestClass& c) { return c.weight == 0; });
}

}  // namespace dray
