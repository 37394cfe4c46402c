// What a look at a deployment says to people.
#include <cstdio>

#include "common/deploy/autoscaler.h"

namespace dray {
namespace {

std::string thousandths(int64_t value) {
  char text[48];
  std::snprintf(text, sizeof text, "%.2f", static_cast<double>(value) / 1000);
  return text;
}

std::string seconds(int64_t ms) {
  const int64_t tenths = (ms + 99) / 100;
  return std::to_string(tenths / 10) + (tenths % 10 ? "." + std::to_string(tenths % 10) : "") +
         " s";
}

std::string count(int64_t n) { return std::to_string(n) + (n == 1 ? " replica" : " replicas"); }

std::string why(const ScaleParams& p, const ScaleDecision& d) {
  const std::string need = thousandths(d.need) + " replicas are needed";
  switch (d.rule) {
    case ScaleRule::still:
      return need + ", which is within the tolerance of " + count(d.replicas.current());
    case ScaleRule::up:
      return need + " and were for upscale_delay";
    case ScaleRule::up_step:
      return need + "; one step goes to " + count(d.desired) + " at most";
    case ScaleRule::up_waits:
      return need + "; upscale_delay needs " + seconds(d.wait_ms) + " more of it";
    case ScaleRule::panic:
      return "the last " + seconds(p.panic_window_ms) + " brought " + thousandths(d.panic_load) +
             " requests at once, more than the replicas can run: no delay";
    case ScaleRule::from_zero:
      return "there is work and no replica";
    case ScaleRule::down:
    case ScaleRule::down_step:
      return "at most " + count(d.most_wished) + " were needed in downscale_delay";
    case ScaleRule::down_waits:
      return need + "; " + std::to_string(d.most_wished) + " were needed within downscale_delay";
    case ScaleRule::step_waits:
      return "the next step down may be made in " + seconds(d.wait_ms);
    case ScaleRule::to_zero:
      return "nothing came for downscale_to_zero_delay";
    case ScaleRule::bound:
      return d.desired == p.min_replicas ? "min_replicas" : "max_replicas";
  }
  return {};
}

Doc number(int64_t in_thousandths) { return Doc(static_cast<double>(in_thousandths) / 1000); }

}  // namespace

Doc ScaleDecision::to_doc(const ScaleParams& p) const {
  Doc doc;
  doc.set("rule", std::string(scale_rule_name(rule)));
  doc.set("why", why(p, *this));
  doc.set("current", replicas.current());
  doc.set("desired", desired);
  Doc inputs;
  inputs.set("ready", replicas.ready);
  inputs.set("starting", replicas.starting);
  inputs.set("leaving", replicas.leaving);
  inputs.set("mean_ongoing", number(load));
  inputs.set("mean_ongoing_now", number(panic_load));
  inputs.set("queued_tasks", backlog);
  doc.set("inputs", std::move(inputs));
  Doc steps;
  steps.set("needed", number(need));
  steps.set("needed_for_queued", need_queued);
  steps.set("wished", wish);
  steps.set("most_wished", most_wished);
  steps.set("panic", panic);
  steps.set("wait_s", number(wait_ms));
  doc.set("steps", std::move(steps));
  Doc windows;
  windows.set("look_back_period_s", number(p.look_back_period_ms));
  windows.set("panic_window_s", number(p.panic_window_ms));
  windows.set("upscale_delay_s", number(p.upscale_delay_ms));
  windows.set("downscale_delay_s", number(p.downscale_delay_ms));
  doc.set("windows", std::move(windows));
  return doc;
}

}  // namespace dray
