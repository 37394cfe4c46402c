// An application file: tables [deployment.NAME] in TOML, checked before anybody is asked.
#pragma once

#include <string>
#include <vector>

#include "client/console/outcome.h"
#include "common/deploy/deployment_spec.h"

namespace dray::console {

// In the order of their names. Throws Failure (kUsage) that names every problem with its line. Code
// that lies beside the file is named by its whole path.
std::vector<DeploymentSpec> read_app(const std::string& path);

// What would change: "gpus: 0.5 -> 1" and so on; empty: nothing.
std::vector<std::string> differences(const Json& before, const DeploymentSpec& after);

}  // namespace dray::console
