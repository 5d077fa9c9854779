// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding/embedding_backends.h"

#include <limits>

#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/embedding/embedding_cuda_order.h"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

constexpr int threads = 256;

// Unit is uint4 where rows are made of vectors, else T. An id out of range makes a row of NaN.
template <class Unit>
__global__ void __launch_bounds__(threads)
    gather(const std::int32_t* tokens, const Unit* table, Unit nan, std::int64_t vocab, int units,
           Unit* y) {
  const std::int64_t row = blockIdx.x;
  const std::int32_t token = tokens[row];
  const bool known = token >= 0 && token < vocab;
  for (int i = threadIdx.x; i < units; i += threads) {
    y[row * units + i] = known ? table[std::int64_t{token} * units + i] : nan;
  }
}

// A unit is four neighbouring columns where rows are made of fours, else one.
template <int unit, class T>
__device__ void load_unit(const T* from, float (&values)[unit]) {
  if constexpr (unit == 4)
    load_four(from, values);
  else
    values[0] = to_float(*from);
}
template <int unit, class T>
__device__ void store_unit(T* to, const float (&values)[unit]) {
  if constexpr (unit == 4)
    store_four(to, values);
  else
    *to = from_float<T>(values[0]);
}
template <int unit>
__device__ void add_unit(const float (&values)[unit], float (&sum)[unit]) {
#pragma unroll
  for (int j = 0; j < unit; ++j) sum[j] += values[j];
}

constexpr int window_rows = static_cast<int>(detail::EmbeddingScratch::window_rows);
constexpr int batch = 4;  // rows that a thread has under way at a time
static_assert(window_rows % batch == 0 && window_rows <= threads);

// What the sums of d_y's rows, sorted by token, work on.
template <class Table>
struct Runs {
  const std::int32_t* ids;        // [rows] ascending; `vocab` and above are passed over
  const std::int32_t* positions;  // [rows] of d_y
  std::int64_t rows, vocab;
  int width;
  float* window_sums;  // [windows, 2, width]
  Table* d_table;      // [vocab, width]

  __device__ bool is(std::int64_t i, std::int32_t id) const {
    return i >= 0 && i < rows && ids[i] == id;
  }
};

// A block sums the rows of one window, token by token. A token that lies in it as a whole is added
// to the table. The sums of one that entered from the window before, and of one that began here and
// goes on, are for add_window_sums. A thread owns columns, so that sums need no barriers.
template <class T, class Table, int unit>
__global__ void __launch_bounds__(threads) sum_windows(Runs<Table> runs, const T* d_y) {
  __shared__ std::int32_t positions[window_rows];
  // Where the sum that ends here goes: into window_sums, or where it adds into d_table; null where
  // none does.
  __shared__ void* targets[window_rows];
  __shared__ bool adds[window_rows];
  const std::int64_t begin = std::int64_t{blockIdx.x} * window_rows;
  const std::int64_t i = begin + threadIdx.x;
  bool counts = false;
  if (threadIdx.x < window_rows && i < runs.rows) {
    const std::int32_t id = runs.ids[i];
    counts = id < runs.vocab;
    const bool goes_on = runs.is(i + 1, id), entered = runs.is(begin - 1, id);
    const bool leaves = goes_on && threadIdx.x == window_rows - 1;
    void* target = nullptr;
    if (entered || leaves) {
      target = runs.window_sums + (2 * std::int64_t{blockIdx.x} + (entered ? 0 : 1)) * runs.width;
    } else if (counts) {
      target = runs.d_table + std::int64_t{id} * runs.width;
    }
    positions[threadIdx.x] = runs.positions[i];
    targets[threadIdx.x] = goes_on && !leaves ? nullptr : target;
    adds[threadIdx.x] = !goes_on && !entered;
  }
  const int size = __syncthreads_count(counts);  // rows to pass over are the last ones
  const int column = unit * static_cast<int>(blockIdx.y * threads + threadIdx.x);
  if (column >= runs.width) return;
  float sum[unit] = {};
  for (int first = 0; first < size; first += batch) {
    float values[batch][unit], before[batch][unit];
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      const int row = first + b;
      if (row >= size) continue;
      load_unit<unit>(d_y + std::int64_t{positions[row]} * runs.width + column, values[b]);
      if (adds[row]) load_unit<unit>(static_cast<const Table*>(targets[row]) + column, before[b]);
    }
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      const int row = first + b;
      if (row >= size) continue;
      add_unit(values[b], sum);
      if (targets[row] == nullptr) continue;
      if (adds[row]) {
        add_unit(before[b], sum);
        store_unit<unit>(static_cast<Table*>(targets[row]) + column, sum);
      } else {
        store_unit<unit>(static_cast<float*>(targets[row]) + column, sum);
      }
#pragma unroll
      for (float& s : sum) s = 0.0f;
    }
  }
}

// The block of the window in which a token began that goes on beyond it adds up its windows' sums.
template <class Table, int unit>
__global__ void __launch_bounds__(threads) add_window_sums(Runs<Table> runs) {
  const std::int64_t window = blockIdx.x, begin = window * window_rows, next = begin + window_rows;
  if (next >= runs.rows) return;
  const std::int32_t id = runs.ids[next];
  if (id >= runs.vocab || !runs.is(next - 1, id) || runs.is(begin - 1, id)) return;
  std::int64_t windows = 0;  // that the token enters
  for (int found = threads; found == threads; windows += found) {
    found = __syncthreads_count(runs.is(next + (windows + threadIdx.x) * window_rows, id));
  }
  const int column = unit * static_cast<int>(blockIdx.y * threads + threadIdx.x);
  if (column >= runs.width) return;
  const float* from = runs.window_sums + (2 * window + 1) * runs.width + column;
  float sum[unit], values[unit];
  load_unit<unit>(from, sum);
#pragma unroll 8
  for (std::int64_t w = 1; w <= windows; ++w) {
    load_unit<unit>(from + (2 * w - 1) * runs.width, values);
    add_unit(values, sum);
  }
  Table* to = runs.d_table + std::int64_t{id} * runs.width + column;
  load_unit<unit>(to, values);
  add_unit(values, sum);
  store_unit<unit>(to, sum);
}

template <int unit, class T, class Table>
void sum_by_token(const Runs<Table>& runs, const T* d_y, Stream& stream) {
  const cudaStream_t native_stream = native(stream);
  const dim3 grid(static_cast<unsigned>(divide_up(runs.rows, window_rows)),
                  static_cast<unsigned>(divide_up(runs.width, unit * threads)));
  sum_windows<T, Table, unit><<<grid, threads, 0, native_stream>>>(runs, d_y);
  check_launch("sum_windows");
  add_window_sums<Table, unit><<<grid, threads, 0, native_stream>>>(runs);
  check_launch("add_window_sums");
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void embedding_forward(CudaBackend, const Tensor& tokens, const Tensor& table, Tensor y,
                       Stream& stream) {
  if (y.elements() == 0) return;
  const auto native = cuda::native(stream);
  const auto grid = static_cast<unsigned>(y.dim(0));
  cuda::with_real(table.dtype(), [&]<class T>(T) {
    const std::int64_t width = table.dim(1);
    if (cuda::in_vectors<T>(width, {table.raw(), y.raw()})) {
      constexpr unsigned ones = ~0U;
      cuda::gather<uint4><<<grid, cuda::threads, 0, native>>>(
          tokens.data<std::int32_t>(), static_cast<const uint4*>(table.raw()),
          uint4{ones, ones, ones, ones}, table.dim(0),
          static_cast<int>(width / cuda::Vector<T>::size), static_cast<uint4*>(y.raw()));
    } else {
      cuda::gather<T><<<grid, cuda::threads, 0, native>>>(
          tokens.data<std::int32_t>(), static_cast<const T*>(table.raw()),
          static_cast<T>(std::numeric_limits<float>::quiet_NaN()), table.dim(0),
          static_cast<int>(width), static_cast<T*>(y.raw()));
    }
  });
  cuda::check_launch("embedding_forward");
}

void embedding_backward(CudaBackend, const Tensor& tokens, const Tensor& d_y, Tensor d_table,
                        const EmbeddingScratch& scratch, Stream& stream) {
  if (d_y.elements() == 0 || d_table.elements() == 0) return;
  const std::int64_t vocab = d_table.dim(0);
  const cuda::TokenOrder order = cuda::order_tokens(tokens, vocab, scratch, stream);
  const auto sum = [&]<class T, class Table>(T, Table) {
    const auto* rows = static_cast<const T*>(d_y.raw());
    const cuda::Runs<Table> runs{order.ids,
                                 order.positions,
                                 d_y.dim(0),
                                 vocab,
                                 static_cast<int>(d_y.dim(1)),
                                 scratch.window_sums.data<float>(),
                                 static_cast<Table*>(d_table.raw())};
    if (cuda::in_vectors<float>(runs.width, {rows, runs.window_sums, runs.d_table})) {
      cuda::sum_by_token<4>(runs, rows, stream);
    } else {
      cuda::sum_by_token<1>(runs, rows, stream);
    }
  };
  cuda::with_real(d_table.dtype(), [&]<class Table>(Table table) {
    if (d_y.dtype() == DType::f32) {
      if constexpr (sizeof(Table) == sizeof(float)) sum(float{}, table);
    } else {
      sum(__nv_bfloat16{}, table);
    }
  });
}

}  // namespace polymoe::detail
