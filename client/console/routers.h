// Questions to every router of a cluster: each answers for itself.
#pragma once

#include <string>
#include <vector>

#include "client/console/outcome.h"

namespace dray::console {

struct RouterAnswer {
  std::string name;  // as the cluster's folder says, else the endpoint
  std::string endpoint;
  Json doc = Json::object();
  std::string error;  // why there is no doc
};

// One after the other; throws Failure (kNoCluster) only if no router answers at all.
std::vector<RouterAnswer> ask_routers(Context& context, std::string_view verb, Millis timeout);

std::vector<std::string> split_endpoints(const std::string& list);

}  // namespace dray::console
