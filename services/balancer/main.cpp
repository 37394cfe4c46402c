// dray-balancer: who is alive, where replicas run, and how many.
#include "common/service/service.h"
#include "services/balancer/shell/balancer_service.h"

int main(int argc, char** argv) {
  int code = 0;
  auto config = dray::start_service("balancer", argc, argv, code);
  return config ? dray::run_balancer(*config) : code;
}
