// dray-aggregator: keeps results, tells those who wait, counts groups.
#include "common/service/service.h"
#include "services/aggregator/shell/aggregator_service.h"

int main(int argc, char** argv) {
  int code = 0;
  auto config = dray::start_service("aggregator", argc, argv, code);
  return config ? dray::run_aggregator(*config) : code;
}
