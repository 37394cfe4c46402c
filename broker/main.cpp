// dray-broker: accepts, orders, leases and finishes queued tasks.
#include "broker/shell/broker_service.h"
#include "common/service/service.h"

int main(int argc, char** argv) {
  int code = 0;
  auto config = dray::start_service("broker", argc, argv, code);
  return config ? dray::broker::run_broker(*config) : code;
}
