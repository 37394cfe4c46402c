// The in-memory store for these tests, without linking RocksDB.
#include "services/aggregator/store/memory_store.cpp"
#include "services/aggregator/store/store_rules.cpp"
