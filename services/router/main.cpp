// dray-router: the door for clients.
#include "common/service/service.h"
#include "services/router/shell/router_service.h"

int main(int argc, char** argv) {
  int code = 0;
  auto config = dray::start_service("router", argc, argv, code);
  return config ? dray::run_router(*config) : code;
}
