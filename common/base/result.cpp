#include "common/base/result.h"

#include <array>

namespace dray {
namespace {
struct Name {
  Errc code;
  std::string_view name;
};
constexpr std::array kNames{
    Name{Errc::ok, "ok"},
    Name{Errc::bad_message, "bad_message"},
    Name{Errc::bad_version, "bad_version"},
    Name{Errc::too_large, "too_large"},
    Name{Errc::unknown_handler, "unknown_handler"},
    Name{Errc::infeasible, "infeasible"},
    Name{Errc::conflict, "conflict"},
    Name{Errc::id_expired, "id_expired"},
    Name{Errc::overloaded, "overloaded"},
    Name{Errc::unavailable, "unavailable"},
    Name{Errc::draining, "draining"},
    Name{Errc::disk_low, "disk_low"},
    Name{Errc::not_found, "not_found"},
    Name{Errc::denied, "denied"},
    Name{Errc::bad_argument, "bad_argument"},
    Name{Errc::no_replica, "no_replica"},
    Name{Errc::app_error, "app_error"},
    Name{Errc::app_fatal, "app_fatal"},
    Name{Errc::time_limit, "time_limit"},
    Name{Errc::worker_lost, "worker_lost"},
    Name{Errc::cancelled, "cancelled"},
    Name{Errc::expired, "expired"},
    Name{Errc::stale, "stale"},
    Name{Errc::outcome_unknown, "outcome_unknown"},
    Name{Errc::timeout, "timeout"},
    Name{Errc::io, "io"},
    Name{Errc::corrupt, "corrupt"},
    Name{Errc::fenced, "fenced"},
    Name{Errc::config, "config"},
    Name{Errc::closed, "closed"},
    Name{Errc::no_space, "no_space"},
};
}  // namespace

std::string_view errc_name(Errc code) {
  for (const auto& n : kNames)
    if (n.code == code) return n.name;
  return "unknown";
}

std::optional<Errc> errc_from_number(uint64_t number) {
  for (const auto& n : kNames)
    if (static_cast<uint64_t>(n.code) == number) return n.code;
  return std::nullopt;
}
}  // namespace dray
