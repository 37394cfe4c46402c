// The part of NVML's binary interface that dray uses: own declarations of sizes, numbers and names.
// No header of NVIDIA is needed to build, and no library of theirs to run.
//
// Versioned names only ("..._v2"): the plain names keep their first layouts for old programs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dray::gpu::nvml {

enum class Code : int {
  ok = 0,
  uninitialised = 1,
  not_supported = 3,  // this device has no such thing
  no_permission = 4,
  not_found = 6,
  insufficient_size = 7,
  driver_not_loaded = 9,
  timeout = 10,
  library_not_found = 12,
  function_not_found = 13,  // the driver is older than the function
  gpu_lost = 15,
  reset_required = 16,
  blocked = 17,  // by the operating system or a cgroup
  version_mismatch = 18,  // driver and library differ: the driver is being upgraded
  argument_version = 25,  // a versioned struct that this driver does not know
  unknown = 999,
};

struct DeviceHandleTag;
struct EventSetTag;
using DeviceHandle = DeviceHandleTag*;
using EventSet = EventSetTag*;

constexpr unsigned kUuidBytes = 96;
constexpr unsigned kNameBytes = 96;
constexpr unsigned kVersionBytes = 80;

struct MemoryV1 {
  uint64_t total;
  uint64_t free;
  uint64_t used;  // with what the driver keeps for itself
};
struct MemoryV2 {
  uint32_t version;
  uint64_t total;
  uint64_t reserved;
  uint64_t free;
  uint64_t used;
};
struct Utilisation {
  uint32_t gpu;
  uint32_t memory;
};
struct Pci {
  char bus_id_legacy[16];
  uint32_t domain;
  uint32_t bus;
  uint32_t device;
  uint32_t device_id;
  uint32_t subsystem_id;
  char bus_id[32];
};
struct MigAttributes {
  uint32_t sms;
  uint32_t copy_engines;
  uint32_t decoders;
  uint32_t encoders;
  uint32_t jpegs;
  uint32_t ofas;
  uint32_t gpu_slices;
  uint32_t compute_slices;
  uint64_t memory_mib;
};
struct EventData {
  DeviceHandle device;
  uint64_t type;
  uint64_t data;  // the XID
  uint32_t gpu_instance;  // kNoInstance: the whole GPU
  uint32_t compute_instance;
};
struct Temperature {
  uint32_t version;
  uint32_t sensor;
  int32_t celsius;
};

// The driver writes into these: a wrong size is memory corruption.
static_assert(sizeof(void*) == 8);
static_assert(sizeof(Code) == 4);
static_assert(sizeof(MemoryV1) == 24);
static_assert(sizeof(MemoryV2) == 40 && offsetof(MemoryV2, total) == 8);
static_assert(sizeof(Utilisation) == 8);
static_assert(sizeof(Pci) == 68 && offsetof(Pci, bus_id) == 36);
static_assert(sizeof(MigAttributes) == 40 && offsetof(MigAttributes, memory_mib) == 32);
static_assert(sizeof(EventData) == 32 && offsetof(EventData, gpu_instance) == 24);
static_assert(sizeof(Temperature) == 12);

// A versioned struct carries its size and version in its first word.
template <class T>
constexpr uint32_t version_word(uint32_t version) {
  return static_cast<uint32_t>(sizeof(T)) | version << 24;
}
static_assert(version_word<MemoryV2>(2) == 0x2000028);
static_assert(version_word<Temperature>(1) == 0x100000c);

constexpr uint64_t kEventXid = 0x8;
constexpr uint32_t kNoInstance = 0xffffffff;
constexpr uint32_t kSensorGpu = 0;

// One pointer for each function; null where this driver has none.
struct Functions {
  Code (*init)();
  Code (*shutdown)();
  Code (*driver_version)(char*, unsigned);
  Code (*cuda_version)(int*);
  Code (*count)(unsigned*);
  Code (*handle_by_index)(unsigned, DeviceHandle*);
  Code (*uuid)(DeviceHandle, char*, unsigned);
  Code (*name)(DeviceHandle, char*, unsigned);
  Code (*pci)(DeviceHandle, Pci*);
  Code (*compute_capability)(DeviceHandle, int*, int*);
  Code (*cores)(DeviceHandle, unsigned*);
  Code (*memory_v1)(DeviceHandle, MemoryV1*);
  Code (*memory_v2)(DeviceHandle, MemoryV2*);
  Code (*utilisation)(DeviceHandle, Utilisation*);
  Code (*compute_mode)(DeviceHandle, unsigned*);
  Code (*clock_reasons)(DeviceHandle, unsigned long long*);
  Code (*temperature)(DeviceHandle, Temperature*);
  Code (*temperature_plain)(DeviceHandle, unsigned, unsigned*);
  Code (*mig_mode)(DeviceHandle, unsigned*, unsigned*);
  Code (*mig_count_max)(DeviceHandle, unsigned*);
  Code (*mig_by_index)(DeviceHandle, unsigned, DeviceHandle*);
  Code (*mig_attributes)(DeviceHandle, MigAttributes*);
  Code (*gpu_instance)(DeviceHandle, unsigned*);
  Code (*compute_instance)(DeviceHandle, unsigned*);
  Code (*event_set_create)(EventSet*);
  Code (*event_set_free)(EventSet);
  Code (*event_types)(DeviceHandle, unsigned long long*);
  Code (*register_events)(DeviceHandle, unsigned long long, EventSet);
  Code (*event_wait)(EventSet, EventData*, unsigned);
};

}  // namespace dray::gpu::nvml
