// The child that loads CUDA, and its parent's side: plain structs through a pipe, with a time
// limit.
#include "common/gpu/cuda_child.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <span>
#include <utility>

#include "common/base/limits.h"

namespace dray::gpu {
namespace {

// --- what the child writes ---
enum class Step : int32_t { ok, no_library, no_functions, init, count };
struct Head {
  Step step = Step::ok;
  int32_t code = 0;  // of CUDA
  int32_t version = 0;
  uint32_t count = 0;
};
struct Row {
  char name[256] = {};
  uint8_t uuid[16] = {};
  uint64_t bytes = 0;
  int32_t sms = 0, mode = -1, cc_major = 0, cc_minor = 0;
  int32_t pci_domain = 0, pci_bus = -1, pci_device = 0;
};

// --- the child; CUDA's own declarations of what is used ---
using CuDevice = int;
enum CuAttribute : int {
  kCuSms = 16,
  kCuComputeMode = 20,
  kCuPciBus = 33,
  kCuPciDevice = 34,
  kCuPciDomain = 50,
  kCuMajor = 75,
  kCuMinor = 76,
};
struct Cuda {
  int (*init)(unsigned) = nullptr;
  int (*version)(int*) = nullptr;
  int (*count)(int*) = nullptr;
  int (*get)(CuDevice*, int) = nullptr;
  int (*name)(char*, int, CuDevice) = nullptr;
  int (*uuid)(uint8_t*, CuDevice) = nullptr;
  int (*memory)(size_t*, CuDevice) = nullptr;
  int (*attribute)(int*, int, CuDevice) = nullptr;

  bool is_complete() const {
    return init != nullptr && version != nullptr && count != nullptr && get != nullptr &&
           name != nullptr && uuid != nullptr && memory != nullptr && attribute != nullptr;
  }
};

template <class F>
void find(void* library, F*& f, const char* symbol) {
  f = std::bit_cast<F*>(dlsym(library, symbol));
}

Cuda find_all(void* library) {
  Cuda cu;
  find(library, cu.init, "cuInit");
  find(library, cu.version, "cuDriverGetVersion");
  find(library, cu.count, "cuDeviceGetCount");
  find(library, cu.get, "cuDeviceGet");
  find(library, cu.name, "cuDeviceGetName");
  find(library, cu.uuid, "cuDeviceGetUuid_v2");  // tells MIG devices apart
  if (cu.uuid == nullptr) find(library, cu.uuid, "cuDeviceGetUuid");
  find(library, cu.memory, "cuDeviceTotalMem_v2");
  find(library, cu.attribute, "cuDeviceGetAttribute");
  return cu;
}

void put(int fd, const void* data, size_t size) {
  if (::write(fd, data, size) != static_cast<ssize_t>(size)) _exit(1);
}

void put_device(const Cuda& cu, CuDevice device, Row& row) {
  cu.name(row.name, int{sizeof row.name} - 1, device);
  cu.uuid(row.uuid, device);
  size_t bytes = 0;
  if (cu.memory(&bytes, device) == 0) row.bytes = bytes;
  cu.attribute(&row.sms, kCuSms, device);
  cu.attribute(&row.mode, kCuComputeMode, device);
  cu.attribute(&row.pci_domain, kCuPciDomain, device);
  cu.attribute(&row.pci_bus, kCuPciBus, device);
  cu.attribute(&row.pci_device, kCuPciDevice, device);
  cu.attribute(&row.cc_major, kCuMajor, device);
  cu.attribute(&row.cc_minor, kCuMinor, device);
}

Head open_cuda(const char* library, Cuda& cu) {
  void* handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL);
  if (handle == nullptr) return {Step::no_library, 0, 0, 0};
  cu = find_all(handle);
  if (!cu.is_complete()) return {Step::no_functions, 0, 0, 0};
  Head head;
  if ((head.code = cu.init(0)) != 0) return {Step::init, head.code, 0, 0};
  cu.version(&head.version);
  int count = 0;
  if ((head.code = cu.count(&count)) != 0) return {Step::count, head.code, head.version, 0};
  head.count = static_cast<uint32_t>(std::clamp(count, 0, static_cast<int>(kDevicesMax)));
  return head;
}

// Nothing of the parent may happen here: none of its handlers, no output, no exit functions.
[[noreturn]] void run_child(const char* library, int out) {
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) ::signal(signal, SIG_DFL);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd : {0, 1, 2}) ::dup2(null, fd);
  Cuda cu;
  const Head head = open_cuda(library, cu);
  put(out, &head, sizeof head);
  for (uint32_t i = 0; i < head.count; ++i) {
    Row row;
    CuDevice device = 0;
    if (cu.get(&device, static_cast<int>(i)) == 0) put_device(cu, device, row);
    put(out, &row, sizeof row);
  }
  _exit(0);
}

// --- the parent ---
using Clock = std::chrono::steady_clock;

// Reads until the child closes its end, or the limit.
Result<std::string> read_all(int fd, Duration limit) {
  const auto end = Clock::now() + limit;
  std::string bytes;
  char piece[4096];
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) return make_error(Errc::timeout, "CUDA did not answer in time");
    pollfd p{fd, POLLIN, 0};
    if (::poll(&p, 1, static_cast<int>(std::min<int64_t>(left.count(), 60'000))) <= 0) continue;
    const ssize_t n = ::read(fd, piece, sizeof piece);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return make_error(Errc::io, "reading from the CUDA child failed");
    if (n == 0) return bytes;
    bytes.append(piece, static_cast<size_t>(n));
  }
}

std::string uuid_text(std::span<const uint8_t, 16> uuid) {
  std::string text = "GPU-";
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", unsigned{uuid[i]});
    text += hex;
  }
  return text;
}

std::optional<uint32_t> positive(int32_t number) {
  return number > 0 ? std::optional(static_cast<uint32_t>(number)) : std::nullopt;
}

Device to_device(const Row& row) {
  Device d;
  d.uuid = uuid_text(row.uuid);
  d.name.assign(row.name, ::strnlen(row.name, sizeof row.name));
  if (row.pci_bus >= 0) {
    char pci[32];
    std::snprintf(pci, sizeof pci, "%08X:%02X:%02X.0", static_cast<unsigned>(row.pci_domain),
                  static_cast<unsigned>(row.pci_bus), static_cast<unsigned>(row.pci_device));
    d.pci = pci;
  }
  if (row.bytes != 0) d.memory_mib = row.bytes >> 20;
  d.sms = positive(row.sms);
  d.cc_major = positive(row.cc_major);
  if (d.cc_major) d.cc_minor = static_cast<uint32_t>(row.cc_minor);
  if (row.mode >= 0 && row.mode <= 3) d.compute_mode = static_cast<ComputeMode>(row.mode);
  return d;
}

Result<CudaList> refuse(const std::string& library, const Head& head) {
  const std::string code = " (CUDA error " + std::to_string(head.code) + ")";
  switch (head.step) {
    case Step::no_library:
      return make_error(Errc::not_found, library + ": can not be opened");
    case Step::no_functions:
      return make_error(Errc::bad_version, library + ": is not CUDA, or too old");
    case Step::init:
      return make_error(Errc::unavailable, library + ": CUDA does not start" + code);
    default:
      return make_error(Errc::unavailable, library + ": CUDA does not count its devices" + code);
  }
}

Result<CudaList> parse(const std::string& library, const std::string& bytes) {
  Head head;
  if (bytes.size() < sizeof head)
    return make_error(Errc::unavailable, library + ": CUDA ended the process that asked it");
  std::memcpy(&head, bytes.data(), sizeof head);
  if (head.step != Step::ok) return refuse(library, head);
  if (bytes.size() != sizeof head + head.count * sizeof(Row))
    return make_error(Errc::unavailable, library + ": CUDA ended the process that asked it");
  CudaList list;
  list.version =
      std::to_string(head.version / 1000) + "." + std::to_string(head.version % 1000 / 10);
  for (uint32_t i = 0; i < head.count; ++i) {
    Row row;
    std::memcpy(&row, bytes.data() + sizeof head + i * sizeof row, sizeof row);
    Device device = to_device(row);
    if (std::all_of(row.uuid, row.uuid + sizeof row.uuid, [](uint8_t b) { return b == 0; }))
      list.notes.push_back("CUDA device " + std::to_string(i) + " does not tell its UUID");
    else if (device.compute_mode == ComputeMode::prohibited)
      list.notes.push_back("CUDA device " + std::to_string(i) + " (" + device.name +
                           ") is in compute mode PROHIBITED: not offered");
    else
      list.devices.push_back(std::move(device));
  }
  return list;
}
}  // namespace

Result<CudaList> list_cuda_devices(const std::string& library, Duration limit) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return make_error(Errc::io, "no pipe for the CUDA child");
  const pid_t child = ::fork();
  if (child == 0) run_child(library.c_str(), ends[1]);
  ::close(ends[1]);
  if (child < 0) {
    ::close(ends[0]);
    return make_error(Errc::io, "no process for the CUDA child");
  }
  const auto bytes = read_all(ends[0], limit);
  ::close(ends[0]);
  if (!bytes) ::kill(child, SIGKILL);
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (!bytes) return bytes.error();
  return parse(library, *bytes);
}

}  // namespace dray::gpu
