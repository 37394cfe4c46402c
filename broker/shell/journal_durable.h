// JournalDurable: the broker's durable step: appends the turn's records, syncs them once, and fills
// messages with bytes that lie in the journal.
#pragma once

#include "broker/core/broker.h"
#include "common/journal/journal.h"

namespace dray::broker {

class JournalDurable {
 public:
  explicit JournalDurable(Journal& journal) : journal_(journal) {}

  // Acquires the journal and replays it into the core.
  Status recover(Broker& core, Now now);
  Status persist(BrokerOut& out);
  Status load(Send& send);

 private:
  Journal& journal_;
};

}  // namespace dray::broker
