// `dray up` and `dray down`: the life of a local cluster.
#pragma once

#include "client/console/cluster_dir.h"
#include "client/console/context.h"

namespace dray::console {

struct UpOptions {
  int workers = 1;
  int routers = 1;
  bool tcp = false;
  bool detach = false;
  bool test_handlers = false;
  std::string fake_gpus;  // of each worker: "2x24GiB"
  std::vector<std::string> sets;
};
int up(Context& context, const UpOptions& options);
int down(Context& context, bool force);

// Stops every process of the folder; false when some still run at the end of the time.
bool stop_cluster(const ClusterDir& dir, bool force, int64_t timeout_ms);
// Prints the cluster's logs as they grow until Ctrl-C, then stops it.
int follow_logs(const ClusterDir& dir, pid_t supervisor);
std::string last_lines(const std::string& file, size_t lines, const std::string& indent);

}  // namespace dray::console
