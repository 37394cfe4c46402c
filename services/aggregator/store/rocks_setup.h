// Rocks setup: options, merge operator and error listener of the RocksDB store. Private to it.
#pragma once

#include <rocksdb/listener.h>
#include <rocksdb/options.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "services/aggregator/store/rocks_store.h"

namespace dray::rocks {

inline rocksdb::Slice slice(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view view(const rocksdb::Slice& s) { return {s.data(), s.size()}; }

// Any error in the background is final: nothing may be acknowledged after it.
class FatalErrors final : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* status) override {
    std::lock_guard lock(mutex_);
    if (text_.empty()) text_ = status->ToString();
    failed_.store(true, std::memory_order_release);
  }
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status,
                            bool* recover) override {
    *recover = false;
  }
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  std::string text() const {
    std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
  std::atomic<bool> failed_{false};
};

rocksdb::Options rocks_options(const RocksOptions& o, std::shared_ptr<FatalErrors> listener);
Error to_error(const std::string& path, const rocksdb::Status& s);

}  // namespace dray::rocks
