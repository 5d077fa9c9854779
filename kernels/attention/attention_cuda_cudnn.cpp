// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_cuda_cudnn.h"

#define CUDNN_FRONTEND_SKIP_JSON_LIB  // nothing is serialised
#include <cuda_runtime_api.h>
#include <cudnn_frontend.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "runtime/cuda/check.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/error.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

namespace frontend = cudnn_frontend;
using GraphTensor = std::shared_ptr<frontend::graph::Tensor_attributes>;

// Training has a handful of shapes. Prompts of ever new lengths must not pile up plans for ever.
constexpr std::size_t most_plans = 64;

// The tensors of a plan.
enum Id : std::int64_t { id_q = 1, id_k, id_v, id_out, id_rows, id_d_out, id_d_q, id_d_k, id_d_v };

void check(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw DeviceError(std::string(call) + ": " + cudnnGetErrorString(status));
}

using cuda::check;

struct Layout {
  std::vector<std::int64_t> extents, strides;
};

frontend::graph::Tensor_attributes described(Id id, const Layout& layout) {
  frontend::graph::Tensor_attributes attributes;
  attributes.set_uid(id).set_dim(layout.extents).set_stride(layout.strides);
  return attributes;
}

void describe_output(const GraphTensor& output, Id id, const Layout& layout) {
  output->set_output(true).set_uid(id).set_dim(layout.extents).set_stride(layout.strides);
}

std::byte* at(const Tensor& tensor, std::int64_t elements) {
  return static_cast<std::byte*>(tensor.raw()) +
         static_cast<std::size_t>(elements) * size_of(tensor.dtype());
}

}  // namespace

// A slice of a call: the strides are those of the whole.
struct CudnnAttention::Kernel {
  enum class Pass : std::uint8_t { forward, backward };

  Key key() const {
    return {static_cast<std::int64_t>(pass),
            shape.query_length,
            shape.key_length,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            slice.sequences,
            slice.kv_heads};
  }
  std::int64_t heads() const { return slice.kv_heads * (shape.heads / shape.kv_heads); }
  Layout queries() const { return by_head(heads(), shape.heads, shape.query_length); }
  Layout keys() const { return by_head(slice.kv_heads, shape.kv_heads, shape.key_length); }
  // Packed: a slice has all heads, or only one sequence.
  Layout rows() const {
    return {{slice.sequences, heads(), shape.query_length, 1},
            {heads() * shape.query_length, shape.query_length, 1, 1}};
  }
  std::string description() const {
    const auto text = [](std::int64_t value) { return std::to_string(value); };
    return std::string("cuDNN attention ") + (pass == Pass::backward ? "backward" : "forward") +
           " of " + text(slice.sequences) + " sequences, " + text(shape.query_length) +
           " queries, " + text(shape.key_length) + " keys, " + text(heads()) + " heads, " +
           text(slice.kv_heads) + " key heads of " + text(shape.head_dim);
  }

  Pass pass;
  AttentionShape shape;
  AttentionSlice slice;

 private:
  // [sequences, heads, length, head_dim] in memory of [sequences, length, all_heads, head_dim].
  Layout by_head(std::int64_t some, std::int64_t all_heads, std::int64_t length) const {
    const std::int64_t row = all_heads * shape.head_dim;
    return {{slice.sequences, some, length, shape.head_dim},
            {length * row, shape.head_dim, row, 1}};
  }
};

// Graph and execution plan, and the bytes that it works in.
struct CudnnAttention::Plan {
  Plan(const Kernel& kernel, cudnnHandle_t handle);

  void check(frontend::error_t error) const {
    if (error.is_good()) return;
    std::string cause = error.get_message();
    std::replace(cause.begin(), cause.end(), '\n', ' ');
    throw DeviceError(description + ": " + cause);
  }

  std::string description;
  frontend::graph::Graph graph;
  std::int64_t workspace_bytes = 0;
};

CudnnAttention::Plan::Plan(const Kernel& kernel, cudnnHandle_t handle)
    : description(kernel.description()) {
  const AttentionShape& s = kernel.shape;
  graph.set_io_data_type(frontend::DataType_t::BFLOAT16)
      .set_intermediate_data_type(frontend::DataType_t::FLOAT)
      .set_compute_data_type(frontend::DataType_t::FLOAT);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)));
  // The last query sees the last key.
  const frontend::DiagonalAlignment_t alignment = s.query_length == s.key_length
                                                      ? frontend::DiagonalAlignment_t::TOP_LEFT
                                                      : frontend::DiagonalAlignment_t::BOTTOM_RIGHT;
  const Layout queries = kernel.queries(), keys = kernel.keys(), rows = kernel.rows();
  const GraphTensor q = graph.tensor(described(id_q, queries)),
                    k = graph.tensor(described(id_k, keys)),
                    v = graph.tensor(described(id_v, keys));
  if (kernel.pass == Kernel::Pass::forward) {
    frontend::graph::SDPA_attributes attributes;
    attributes.set_name("attention_forward")
        .set_generate_stats(true)
        .set_attn_scale(scale)
        .set_diagonal_alignment(alignment)
        .set_diagonal_band_right_bound(0);
    const auto [out, log_sum_exp] = graph.sdpa(q, k, v, attributes);
    describe_output(out, id_out, queries);
    describe_output(log_sum_exp, id_rows, rows);
    log_sum_exp->set_data_type(frontend::DataType_t::FLOAT);
  } else {
    const GraphTensor out = graph.tensor(described(id_out, queries)),
                      d_out = graph.tensor(described(id_d_out, queries)),
                      log_sum_exp = graph.tensor(
                          described(id_rows, rows).set_data_type(frontend::DataType_t::FLOAT));
    frontend::graph::SDPA_backward_attributes attributes;
    attributes.set_name("attention_backward")
        .set_attn_scale(scale)
        .set_diagonal_alignment(alignment)
        .set_diagonal_band_right_bound(0)
        .set_deterministic_algorithm(true);
    const auto [d_q, d_k, d_v] = graph.sdpa_backward(q, k, v, out, d_out, log_sum_exp, attributes);
    describe_output(d_q, id_d_q, queries);
    describe_output(d_k, id_d_k, keys);
    describe_output(d_v, id_d_v, keys);
  }
  check(graph.build(handle, {frontend::HeurMode_t::A}));
  check(graph.get_workspace_size(workspace_bytes));
}

CudnnAttention::CudnnAttention(Stream& stream)
    : device_(stream.device().index), stream_(static_cast<cudaStream_t>(stream.native())) {
  use_device(device_);
  check(cudnnCreate(&handle_), "cudnnCreate");
  try {
    check(cudnnSetStream(handle_, stream_), "cudnnSetStream");
  } catch (...) {
    release();
    throw;
  }
}

CudnnAttention::~CudnnAttention() { release(); }

void CudnnAttention::release() noexcept {
  if (own_workspace_ != nullptr) cudaFree(own_workspace_);
  plans_.clear();
  if (handle_ != nullptr) cudnnDestroy(handle_);
}

const CudnnAttention::Plan& CudnnAttention::plan_for(const Kernel& kernel) {
  const Key key = kernel.key();
  const auto known = plans_.find(key);
  if (known != plans_.end()) return *known->second;
  if (plans_.size() >= most_plans) {
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    plans_.clear();
  }
  use_device(device_);
  return *plans_.emplace(key, std::make_unique<Plan>(kernel, handle_)).first->second;
}

void* CudnnAttention::memory_for(const Plan& plan, const Tensor& workspace) {
  const auto begin = reinterpret_cast<std::uintptr_t>(workspace.raw());
  const std::uintptr_t aligned = round_up(begin, workspace_alignment);
  const std::uintptr_t end = begin + workspace.bytes();
  const auto wanted = static_cast<std::uintptr_t>(plan.workspace_bytes);
  if (aligned <= end && wanted <= end - aligned) return reinterpret_cast<void*>(aligned);
  if (plan.workspace_bytes > own_workspace_bytes_) {
    use_device(device_);
    void* const former = std::exchange(own_workspace_, nullptr);
    own_workspace_bytes_ = 0;
    check(cudaFree(former), "cudaFree of a cuDNN workspace");  // waits for what runs in it
    check(cudaMalloc(&own_workspace_, wanted), "cudaMalloc of a cuDNN workspace");
    own_workspace_bytes_ = plan.workspace_bytes;
  }
  return own_workspace_;
}

void CudnnAttention::run(const Kernel& kernel, Pointers pointers, const Tensor& workspace) {
  const Plan& plan = plan_for(kernel);
  plan.check(plan.graph.execute(handle_, pointers, memory_for(plan, workspace)));
}

void CudnnAttention::forward(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                             const Tensor& v, const Tensor& out, const Tensor& log_sum_exp,
                             const Tensor& workspace) {
  run({Kernel::Pass::forward, shape, {shape.batch, shape.kv_heads}},
      {{id_q, q.raw()},
       {id_k, k.raw()},
       {id_v, v.raw()},
       {id_out, out.raw()},
       {id_rows, log_sum_exp.raw()}},
      workspace);
}

void CudnnAttention::backward(const AttentionShape& shape,
                              const detail::AttentionBackwardInputs& inputs,
                              const detail::AttentionGradients& gradients,
                              const Tensor& workspace) {
  const AttentionSlice most = backward_slice(shape);
  const std::int64_t group = shape.heads / shape.kv_heads;
  for (std::int64_t sequence = 0; sequence < shape.batch; sequence += most.sequences) {
    for (std::int64_t head = 0; head < shape.kv_heads; head += most.kv_heads) {
      const AttentionSlice slice{std::min(most.sequences, shape.batch - sequence),
                                 std::min(most.kv_heads, shape.kv_heads - head)};
      const std::int64_t query =
          (sequence * shape.query_length * shape.heads + head * group) * shape.head_dim;
      const std::int64_t key =
          (sequence * shape.key_length * shape.kv_heads + head) * shape.head_dim;
      const std::int64_t row = (sequence * shape.heads + head * group) * shape.query_length;
      run({Kernel::Pass::backward, shape, slice},
          {{id_q, at(inputs.q, query)},
           {id_k, at(inputs.k, key)},
           {id_v, at(inputs.v, key)},
           {id_out, at(inputs.out, query)},
           {id_d_out, at(inputs.d_out, query)},
           {id_rows, at(inputs.log_sum_exp, row)},
           {id_d_q, at(gradients.d_q, query)},
           {id_d_k, at(gradients.d_k, key)},
           {id_d_v, at(gradients.d_v, key)}},
          workspace);
    }
  }
}

}  // namespace polymoe::cuda
