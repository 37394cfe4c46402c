// OpenTable: the tasks that have no result yet, 64 ids to a block of 48 bytes, so that thirty
// million open tasks of our own making take less than a byte each.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/ids.h"

namespace dray {

class OpenTable {
 public:
  using Index = uint32_t;
  static constexpr Index kNone = UINT32_MAX;
  struct Block {
    uint64_t hi = 0;
    uint64_t lo = 0;  // id without its low six bits; 0 and hi 0: free
    uint64_t open = 0;  // no result yet
    uint64_t accepted = 0;  // the broker has it
    uint64_t covered = 0;  // named in a WAIT of this session
    uint32_t queued = 0;  // times it stands in the owner's due queue; keeps the block alive
    uint32_t next_free = 0;
    TaskId id(unsigned bit) const { return {hi, lo | bit}; }
  };
  static_assert(sizeof(Block) == 48);

  static uint64_t bit(TaskId id) { return uint64_t{1} << (id.lo & 63); }

  Index find(TaskId id) const;
  Index find_or_add(TaskId id);
  Block& at(Index i) { return blocks_[i]; }
  const Block& at(Index i) const { return blocks_[i]; }
  // Frees the block if nothing is open in it and nobody queues it.
  void release_if_idle(Index i);
  // True if the id was open; it is closed now.
  bool close(TaskId id);

  template <class F>
  void for_each(F&& f) {  // in storage order, which depends on the inputs only
    for (Index i = 0; i < blocks_.size(); ++i)
      if (blocks_[i].open || blocks_[i].queued) f(i, blocks_[i]);
  }
  size_t blocks() const { return used_; }
  size_t memory_bytes() const {
    return blocks_.capacity() * sizeof(Block) + slots_.capacity() * sizeof(uint32_t);
  }
  bool check() const;  // tests: index and blocks agree

 private:
  static uint64_t key_lo(TaskId id) { return id.lo & ~uint64_t{63}; }
  size_t home(uint64_t hi, uint64_t lo) const;
  size_t slot_of(uint64_t hi, uint64_t lo) const;  // slot with the block, or the first empty one
  void grow();

  std::vector<Block> blocks_;
  std::vector<uint32_t> slots_;  // open addressing: block index + 1, 0 = empty
  Index free_ = kNone;
  size_t used_ = 0;
};

// Walks ids that mostly lie in the same block: one index lookup per change of block. Emptied blocks
// are released on the way.
class BlockCursor {
 public:
  explicit BlockCursor(OpenTable& table) : table_(table) {}
  ~BlockCursor() { leave(); }
  BlockCursor(const BlockCursor&) = delete;
  BlockCursor& operator=(const BlockCursor&) = delete;

  OpenTable::Index index() const { return at_; }
  OpenTable::Block* find(TaskId id) { return move_to(id, false); }
  OpenTable::Block& find_or_add(TaskId id) { return *move_to(id, true); }

 private:
  OpenTable::Block* move_to(TaskId id, bool add) {
    uint64_t lo = id.lo & ~uint64_t{63};
    if (valid_ && id.hi == hi_ && lo == lo_ && (at_ != OpenTable::kNone || !add))
      return at_ == OpenTable::kNone ? nullptr : &table_.at(at_);
    leave();
    at_ = add ? table_.find_or_add(id) : table_.find(id);
    hi_ = id.hi;
    lo_ = lo;
    valid_ = true;
    return at_ == OpenTable::kNone ? nullptr : &table_.at(at_);
  }
  void leave() {
    if (valid_ && at_ != OpenTable::kNone) table_.release_if_idle(at_);
    at_ = OpenTable::kNone;
  }

  OpenTable& table_;
  OpenTable::Index at_ = OpenTable::kNone;
  uint64_t hi_ = 0;
  uint64_t lo_ = 0;
  bool valid_ = false;
};

}  // namespace dray
