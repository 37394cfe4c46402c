// vec.topk: the stored vectors most similar (cosine) to each query.
//
// Payload  u32 k, u16 path length, path, u32 nq, u32 dim, nq * dim float32 (the queries).
//          The path is relative to the worker's data dir and names a matrix file (matrix.h).
// Result   for each query min(k, rows) times: u64 row, f32 score; 12 bytes each, best first, equal
//          scores by row. All numbers little-endian. k is 1..65536. A query or stored row whose
//          length is zero or not finite scores 0.
#include <cblas.h>
#include <dray/worker.h>

#include <cmath>

#include "matrix.h"
#include "payload.h"

namespace {

using dray_tasks::Matrix;
using dray_tasks::MatrixCache;

constexpr uint32_t kTopMax = 65536;
constexpr size_t kHitBytes = 12;
constexpr uint64_t kBlockScores = 1 << 18;  // 1 MiB of scores at a time: stays in the cache
constexpr uint64_t kBlockRows = 4096;

struct Hit {
  float score;
  uint64_t row;
};

bool better(const Hit& a, const Hit& b) {
  return a.score != b.score ? a.score > b.score : a.row < b.row;
}

struct Request {
  uint32_t k = 0;
  std::string_view path;
  uint32_t nq = 0;
  uint32_t dim = 0;
  std::vector<float> queries;  // each of length 1, or all zero
};

Request parse(std::string_view payload) {
  dray_tasks::Reader in(payload);
  Request request;
  request.k = in.number<uint32_t>("k");
  request.path = in.bytes(in.number<uint16_t>("the path length"), "the path");
  request.nq = in.number<uint32_t>("nq");
  request.dim = in.number<uint32_t>("dim");
  if (request.k == 0 || request.k > kTopMax)
    throw dray::FinalError("vec.topk: k is not in 1..65536");
  if (request.dim == 0) throw dray::FinalError("vec.topk: dim is 0");
  const size_t count = in.left() / sizeof(float);
  if (in.left() % sizeof(float) != 0 || uint64_t{request.nq} * request.dim != count)
    throw dray::FinalError("vec.topk: the queries are not nq * dim float32");
  request.queries.resize(count);
  const std::string_view bytes = in.bytes(in.left(), "the queries");
  if (count > 0) std::memcpy(request.queries.data(), bytes.data(), bytes.size());
  for (uint32_t q = 0; q < request.nq; ++q) {
    float* query = &request.queries[size_t{q} * request.dim];
    const float scale = dray_tasks::inverse_norm(query, request.dim);
    for (uint32_t i = 0; i < request.dim; ++i) query[i] = scale == 0 ? 0.0f : query[i] * scale;
  }
  return request;
}

// Keeps the best k of all rows seen, for each query: a heap with the worst on top.
class Best {
 public:
  Best(uint32_t nq, size_t k) : k_(k), heaps_(nq) {
    for (auto& heap : heaps_) heap.reserve(k);
  }

  void add(uint32_t query, const Matrix& matrix, uint64_t first, uint64_t rows, const float* dots) {
    auto& heap = heaps_[query];
    for (uint64_t i = 0; i < rows; ++i) {
      const float scale = matrix.inverse_norm(first + i);
      const Hit hit{scale == 0 || std::isnan(dots[i]) ? 0.0f : dots[i] * scale, first + i};
      if (heap.size() == k_) {
        if (!better(hit, heap.front())) continue;
        std::pop_heap(heap.begin(), heap.end(), better);
        heap.pop_back();
      }
      heap.push_back(hit);
      std::push_heap(heap.begin(), heap.end(), better);
    }
  }

  void write(char* out) {
    for (auto& heap : heaps_) {
      std::sort_heap(heap.begin(), heap.end(), better);
      for (const Hit& hit : heap) out = dray_tasks::put(dray_tasks::put(out, hit.row), hit.score);
    }
  }

 private:
  size_t k_;
  std::vector<std::vector<Hit>> heaps_;
};

// scores[q * rows + i] = query q . row first + i
void multiply(const Request& request, const Matrix& matrix, uint64_t first, uint64_t rows,
              float* scores) {
  const auto nq = static_cast<blasint>(request.nq), dim = static_cast<blasint>(request.dim),
             count = static_cast<blasint>(rows);
  if (nq == 1) {
    cblas_sgemv(CblasRowMajor, CblasNoTrans, count, dim, 1.0f, matrix.row(first), dim,
                request.queries.data(), 1, 0.0f, scores, 1);
  } else {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, nq, count, dim, 1.0f,
                request.queries.data(), dim, matrix.row(first), dim, 0.0f, scores, count);
  }
}

dray::Outcome topk(dray::Context& ctx, std::unique_ptr<MatrixCache>& cache) {
  const Request request = parse(ctx.payload());
  const auto matrix = cache->open(request.path);
  if (matrix->dim() != request.dim)
    return dray::fail_final("vec.topk: queries have dim " + std::to_string(request.dim) +
                            ", the matrix has " + std::to_string(matrix->dim()));
  const size_t k = std::min<uint64_t>(request.k, matrix->rows());
  char* out = ctx.result_buffer(size_t{request.nq} * k * kHitBytes);
  if (k == 0 || request.nq == 0) return dray::ok();
  Best best(request.nq, k);
  const uint64_t block = std::clamp<uint64_t>(kBlockScores / request.nq, 1, kBlockRows);
  std::vector<float> scores(block * request.nq);
  for (uint64_t first = 0; first < matrix->rows(); first += block) {
    if (ctx.cancelled()) return dray::fail("cancelled");
    const uint64_t rows = std::min(block, matrix->rows() - first);
    multiply(request, *matrix, first, rows, scores.data());
    for (uint32_t q = 0; q < request.nq; ++q) best.add(q, *matrix, first, rows, &scores[q * rows]);
  }
  best.write(out);
  return dray::ok();
}

std::unique_ptr<MatrixCache> make_cache(const dray::WorkerInfo& worker) {
  openblas_set_num_threads(1);  // see gemm.cpp
  return std::make_unique<MatrixCache>(std::string(worker.data_dir()));
}

}  // namespace

DRAY_HANDLER("vec.topk", dray::HandlerOptions{}, make_cache, topk);
