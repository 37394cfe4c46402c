// dray-worker: runs the handlers of its plugins for the broker.
#include "common/service/service.h"
#include "services/worker/shell/worker_service.h"

int main(int argc, char** argv) {
  int code = 0;
  auto config = dray::start_service("worker", argc, argv, code);
  return config ? dray::worker::run_worker(*config) : code;
}
