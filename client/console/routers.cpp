// Asks the routers over one connection each.
#include "client/console/routers.h"

#include <algorithm>

#include "client/console/cluster_dir.h"

namespace dray::console {
namespace {

std::vector<RouterAnswer> routers_of(const Context& context) {
  std::vector<RouterAnswer> list;
  for (const auto& endpoint : split_endpoints(context.router_endpoint()))
    list.push_back({endpoint, endpoint, Json::object(), ""});
  if (!context.endpoint.empty()) {
    if (list.size() == 1) list[0].name = "router";
    return list;
  }
  for (const auto& known : ClusterDir(context.dir).routers())
    for (auto& r : list)
      if (r.endpoint == known.clients) r.name = known.name;
  return list;
}

}  // namespace

std::vector<std::string> split_endpoints(const std::string& list) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    if (end > at) out.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

std::vector<RouterAnswer> ask_routers(Context& context, std::string_view verb, Millis timeout) {
  std::vector<RouterAnswer> list = routers_of(context);
  context.client();  // throws when nobody is there
  for (auto& r : list) {
    auto text = context.ask_router(r.endpoint, verb, timeout);
    if (!text) {
      r.error = text.error().text();
      continue;
    }
    r.doc = parse_json(*text);
    if (!r.doc.is_object()) r.error = "its answer is no object";
  }
  return list;
}

}  // namespace dray::console
