// A library that looks like CUDA's driver library to whoever lists devices. DRAY_FAKE_CUDA says how
// it behaves: "devices=2", "error=803", "prohibited", "hang", "crash"; words may be combined.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {
std::string words() {
  const char* text = std::getenv("DRAY_FAKE_CUDA");
  return text != nullptr ? text : "";
}
bool has(const char* word) { return words().find(word) != std::string::npos; }
int number(const std::string& name) {
  const std::string all = words();
  const size_t at = all.find(name + "=");
  return at == std::string::npos ? 0 : std::atoi(all.c_str() + at + name.size() + 1);
}
}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cuInit(unsigned) {
  if (has("hang")) ::sleep(3600);
  if (has("crash")) std::abort();
  return number("error");
}
EXPORT int cuDriverGetVersion(int* out) {
  *out = 12040;
  return 0;
}
EXPORT int cuDeviceGetCount(int* out) {
  *out = number("devices");
  return 0;
}
EXPORT int cuDeviceGet(int* out, int index) {
  *out = index;
  return 0;
}
EXPORT int cuDeviceGetName(char* out, int, int) {
  std::strcpy(out, "CUDA card");
  return 0;
}
EXPORT int cuDeviceGetUuid(uint8_t* out, int device) {
  for (uint8_t i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>(i + 16 * (device + 1));
  return 0;
}
EXPORT int cuDeviceTotalMem_v2(size_t* out, int) {
  *out = size_t{24} << 30;
  return 0;
}
EXPORT int cuDeviceGetAttribute(int* out, int attribute, int device) {
  switch (attribute) {
    case 16:
      *out = 58;
      return 0;
    case 20:
      *out = has("prohibited") && device == 0 ? 2 : 0;
      return 0;
    case 33:
      *out = 0x3b + device;
      return 0;
    case 34:
      *out = 0;
      return 0;
    case 50:
      *out = 0;
      return 0;
    case 75:
      *out = 8;
      return 0;
    case 76:
      *out = 9;
      return 0;
    default:
      return 1;
  }
}
