// Bytes: an immutable, shared, sliceable piece of memory. Frames, journal bodies and payloads are
// all Bytes, so a payload is copied only when it crosses a process or goes to disk.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace dray {

class Bytes {
 public:
  Bytes() = default;
  // Takes ownership of a string's contents.
  explicit Bytes(std::string s) {
    if (s.empty()) return;
    auto owner = std::make_shared<const std::string>(std::move(s));
    data_ = owner->data();
    size_ = owner->size();
    owner_ = std::move(owner);
  }
  // View into memory that `owner` keeps alive and unchanged.
  Bytes(std::shared_ptr<const void> owner, const char* data, size_t size)
      : owner_(std::move(owner)), data_(data), size_(size) {}
  static Bytes copy(std::string_view s) { return Bytes(std::string(s)); }

  const char* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::string_view view() const { return {data_, size_}; }
  const std::shared_ptr<const void>& owner() const { return owner_; }
  // Sub-range sharing the same memory; clamps to the end.
  Bytes slice(size_t offset, size_t size) const {
    if (offset > size_) offset = size_;
    if (size > size_ - offset) size = size_ - offset;
    return Bytes(owner_, data_ + offset, size);
  }
  bool operator==(const Bytes& o) const { return view() == o.view(); }

 private:
  std::shared_ptr<const void> owner_;
  const char* data_ = "";
  size_t size_ = 0;
};

}  // namespace dray
