// linalg.gemm: the product of two dense float32 matrices.
//
// Payload  u32 m, u32 n, u32 k, then A (m * k float32, row by row), then B (k * n float32).
// Result   C = A B, m * n float32, row by row. All numbers little-endian. k = 0 gives zeros.
#include <cblas.h>
#include <dray/worker.h>

#include "payload.h"

namespace {

constexpr uint32_t kSideMax = 1u << 20;  // keeps every product below 2^63

struct OneThread {};

// A worker runs one handler per core already; BLAS threads would only fight over them.
OneThread use_one_blas_thread(const dray::WorkerInfo&) {
  openblas_set_num_threads(1);
  return {};
}

std::vector<float> floats(std::string_view bytes) {  // the payload need not be aligned
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

dray::Outcome gemm(dray::Context& ctx, OneThread&) {
  dray_tasks::Reader in(ctx.payload());
  const auto m = in.number<uint32_t>("m");
  const auto n = in.number<uint32_t>("n");
  const auto k = in.number<uint32_t>("k");
  if (m > kSideMax || n > kSideMax || k > kSideMax)
    return dray::fail_final("linalg.gemm: m, n or k is above 1048576");
  const auto a_bytes = in.bytes(uint64_t{m} * k * sizeof(float), "A");
  const auto b_bytes = in.bytes(uint64_t{k} * n * sizeof(float), "B");
  in.end();
  auto* c = reinterpret_cast<float*>(ctx.result_buffer(size_t{m} * n * sizeof(float)));
  if (m == 0 || n == 0 || k == 0) return dray::ok();
  const std::vector<float> a = floats(a_bytes);
  const std::vector<float> b = floats(b_bytes);
  const auto rows = static_cast<blasint>(m), cols = static_cast<blasint>(n),
             inner = static_cast<blasint>(k);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, cols, inner, 1.0f, a.data(), inner,
              b.data(), cols, 0.0f, c, cols);
  return dray::ok();
}

}  // namespace

DRAY_HANDLER("linalg.gemm", dray::HandlerOptions{}, use_one_blas_thread, gemm);
