// Fake GPUs: the reader of their description.
#include "common/gpu/fake_gpus.h"

#include <charconv>
#include <optional>
#include <utility>

#include "common/base/limits.h"

namespace dray::gpu {
namespace {
Error bad(std::string_view item, const std::string& why) {
  return make_error(Errc::bad_argument, "fake GPUs \"" + std::string(item) + "\": " + why +
                                            "; expected forms: 2x24GiB, 24GiB, 1x80GiB,2x24GiB");
}

// The number at the begin of `text`, which loses it. Empty if there is none, or it is too large.
std::optional<uint64_t> take_number(std::string_view& text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

struct Group {
  uint64_t count = 1;
  uint64_t mib = 0;
  std::string size;  // "24GiB"
};

Result<Group> parse_group(std::string_view item) {
  Group group;
  std::string_view rest = item;
  if (const size_t x = item.find('x'); x != std::string_view::npos) {
    const auto count = take_number(rest);
    if (!count || rest.empty() || rest.front() != 'x')
      return bad(item, "the count before the x is not a number");
    group.count = *count;
    rest.remove_prefix(1);
  }
  if (group.count == 0 || group.count > kDevicesMax)
    return bad(item, "the count must be 1 to " + std::to_string(kDevicesMax));
  group.size = rest;
  const auto size = take_number(rest);
  if (!size) return bad(item, "the size is not a number");
  if (rest != "MiB" && rest != "GiB") return bad(item, "the unit of the size must be MiB or GiB");
  const uint64_t unit = rest == "GiB" ? 1024 : 1;
  if (*size == 0 || *size > kDeviceMibMax / unit)
    return bad(item, "the size must be up to 4096GiB");
  group.mib = *size * unit;
  return group;
}
}  // namespace

Result<std::vector<Device>> parse_fake_gpus(std::string_view text, std::string_view node) {
  std::vector<Device> devices;
  std::string_view rest = text;
  for (bool is_last = false; !is_last;) {
    const size_t comma = rest.find(',');
    is_last = comma == std::string_view::npos;
    DRAY_TRY_ASSIGN(const Group group, parse_group(rest.substr(0, comma)));
    if (!is_last) rest.remove_prefix(comma + 1);
    if (devices.size() + group.count > kDevicesMax)
      return bad(text, "more than " + std::to_string(kDevicesMax) + " devices");
    for (uint64_t i = 0; i < group.count; ++i) {
      Device device;
      device.uuid = "FAKE-" + std::string(node) + "-" + std::to_string(devices.size());
      device.kind = Kind::fake;
      device.name = "fake " + group.size;
      device.memory_mib = device.free_mib = group.mib;
      devices.push_back(std::move(device));
    }
  }
  return devices;
}

}  // namespace dray::gpu
