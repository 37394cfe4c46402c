// Names and codes of refusals.
#include "services/router/core/call_types.h"

namespace dray {
namespace {
struct Row {
  const char* name;
  Errc code;
  CallLimit limit;
};
constexpr Row kRows[kCallRefusals] = {
    {"draining", Errc::draining, CallLimit::none},
    {"unknown_handler", Errc::unknown_handler, CallLimit::none},
    {"no_replica", Errc::no_replica, CallLimit::none},
    {"client_calls", Errc::overloaded, CallLimit::client_calls},
    {"client_bytes", Errc::overloaded, CallLimit::client_bytes},
    {"call_bytes", Errc::overloaded, CallLimit::call_bytes},
    {"max_queued", Errc::overloaded, CallLimit::max_queued},
    {"batch_items", Errc::too_large, CallLimit::batch_items},
    {"batch_bytes", Errc::too_large, CallLimit::batch_bytes},
    {"infeasible", Errc::infeasible, CallLimit::deadline_us},
    {"too_late", Errc::infeasible, CallLimit::deadline_us},
    {"sent_back", Errc::no_replica, CallLimit::none},
};
}  // namespace

const char* call_refusal_name(CallRefusal why) { return kRows[static_cast<size_t>(why)].name; }
Errc call_refusal_code(CallRefusal why) { return kRows[static_cast<size_t>(why)].code; }
CallLimit call_refusal_limit(CallRefusal why) { return kRows[static_cast<size_t>(why)].limit; }

}  // namespace dray
