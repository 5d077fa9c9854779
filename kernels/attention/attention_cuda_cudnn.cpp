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
enum Id : std::int64_t {
  id_q = 1,
  id_k,
  id_v,
  id_out,
  id_rows,
  id_d_out,
  id_d_q,
  id_d_k,
  id_d_v,
  // Of documents in windows.
  id_query_lengths,
  id_key_lengths,
  id_query_offsets,
  id_key_offsets,
  id_row_offsets
};

void check(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw DeviceError(std::string(call) + ": " + cudnnGetErrorString(status));
}

using cuda::check;

struct Layout {
  std::vector<std::int64_t> extents, strides;
};

// `offsets`: where each sequence begins, or null where the strides say it.
frontend::graph::Tensor_attributes described(Id id, const Layout& layout,
                                             const GraphTensor& offsets) {
  frontend::graph::Tensor_attributes attributes;
  attributes.set_uid(id).set_dim(layout.extents).set_stride(layout.strides);
  if (offsets != nullptr) attributes.set_ragged_offset(offsets);
  return attributes;
}

void describe_output(const GraphTensor& output, Id id, const Layout& layout,
                     const GraphTensor& offsets) {
  output->set_output(true).set_uid(id).set_dim(layout.extents).set_stride(layout.strides);
  if (offsets != nullptr) output->set_ragged_offset(offsets);
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
            slice.kv_heads,
            window};
  }
  std::int64_t heads() const { return slice.kv_heads * (shape.heads / shape.kv_heads); }
  Layout queries() const { return by_head(heads(), shape.heads, shape.query_length); }
  Layout keys() const { return by_head(slice.kv_heads, shape.kv_heads, shape.key_length); }
  // Packed: a slice has all heads, or only one sequence. Of documents, in the memory of windows.
  Layout rows() const {
    if (window > 0)
      return {{slice.sequences, heads(), shape.query_length, 1},
              {shape.heads * window, window, 1, 1}};
    return {{slice.sequences, heads(), shape.query_length, 1},
            {heads() * shape.query_length, shape.query_length, 1, 1}};
  }
  std::string description() const {
    const auto text = [](std::int64_t value) { return std::to_string(value); };
    return std::string("cuDNN attention ") + (pass == Pass::backward ? "backward" : "forward") +
           " of " + text(slice.sequences) + " sequences, " + text(shape.query_length) +
           " queries, " + text(shape.key_length) + " keys, " + text(heads()) + " heads, " +
           text(slice.kv_heads) + " key heads of " + text(shape.head_dim) +
           (window > 0 ? ", in windows of " + text(window) : "");
  }

  Pass pass;
  AttentionShape shape;
  AttentionSlice slice;
  std::int64_t window = 0;  // where the sequences are documents in windows: rows of one

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
  GraphTensor query_lengths, key_lengths, query_offsets, key_offsets, row_offsets;
  if (kernel.window > 0) {
    const auto table = [&](Id id, std::int64_t entries, frontend::DataType_t type) {
      return graph.tensor(
          described(id, {{entries, 1, 1, 1}, {1, 1, 1, 1}}, nullptr).set_data_type(type));
    };
    const auto lengths = [&](Id id) {
      return table(id, kernel.slice.sequences, frontend::DataType_t::INT32);
    };
    const auto offsets = [&](Id id) {
      return table(id, kernel.slice.sequences + 1, frontend::DataType_t::INT64);
    };
    query_lengths = lengths(id_query_lengths);
    key_lengths = lengths(id_key_lengths);
    query_offsets = offsets(id_query_offsets);
    key_offsets = offsets(id_key_offsets);
    row_offsets = offsets(id_row_offsets);
  }
  const auto set_common = [&](auto& attributes) {
    attributes.set_attn_scale(scale)
        .set_diagonal_alignment(alignment)
        .set_diagonal_band_right_bound(0);
    if (kernel.window > 0)
      attributes.set_padding_mask(true).set_seq_len_q(query_lengths).set_seq_len_kv(key_lengths);
  };
  const GraphTensor q = graph.tensor(described(id_q, queries, query_offsets)),
                    k = graph.tensor(described(id_k, keys, key_offsets)),
                    v = graph.tensor(described(id_v, keys, key_offsets));
  if (kernel.pass == Kernel::Pass::forward) {
    frontend::graph::SDPA_attributes attributes;
    attributes.set_name("attention_forward").set_generate_stats(true);
    set_common(attributes);
    const auto [out, log_sum_exp] = graph.sdpa(q, k, v, attributes);
    describe_output(out, id_out, queries, query_offsets);
    describe_output(log_sum_exp, id_rows, rows, row_offsets);
    log_sum_exp->set_data_type(frontend::DataType_t::FLOAT);
  } else {
    const GraphTensor out = graph.tensor(described(id_out, queries, query_offsets)),
                      d_out = graph.tensor(described(id_d_out, queries, query_offsets)),
                      log_sum_exp = graph.tensor(described(id_rows, rows, row_offsets)
                                                     .set_data_type(frontend::DataType_t::FLOAT));
    frontend::graph::SDPA_backward_attributes attributes;
    attributes.set_name("attention_backward").set_deterministic_algorithm(true);
    set_common(attributes);
    const auto [d_q, d_k, d_v] = graph.sdpa_backward(q, k, v, out, d_out, log_sum_exp, attributes);
    describe_output(d_q, id_d_q, queries, query_offsets);
    describe_output(d_k, id_d_k, keys, key_offsets);
    describe_output(d_v, id_d_v, keys, key_offsets);
  }
  check(graph.build(handle, {frontend::HeurMode_t::A}));
  check(graph.get_workspace_size(workspace_bytes));
}

CudnnAttention::CudnnAttention(Stream& stream)
    : device_(stream.device().index), stream_(static_cast<cudaStream_t>(stream.native())) {
  use_device(device_);
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_),
        "cudaDeviceGetAttribute");
  constexpr std::size_t oldest_tried = 91900;
  takes_documents_ = (major == 9 || major == 10) && cudnnGetVersion() >= oldest_tried;
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

void CudnnAttention::forward_of_documents(const AttentionShape& shape, const LongDocumentPlan& plan,
                                          const Tensor& q, const Tensor& k, const Tensor& v,
                                          const Tensor& out, const Tensor& log_sum_exp,
                                          const Tensor& workspace) {
  for (std::size_t c = 0; c < plan.tables.size(); ++c) {
    if (!plan.some[c]) continue;
    const AttentionShape documents = shape_of_long_documents(shape, c);
    Pointers pointers{{id_q, q.raw()},
                      {id_k, k.raw()},
                      {id_v, v.raw()},
                      {id_out, out.raw()},
                      {id_rows, log_sum_exp.raw()}};
    add_tables(plan.tables[c], 0, pointers);
    run({Kernel::Pass::forward,
         documents,
         {documents.batch, documents.kv_heads},
         shape.query_length},
        std::move(pointers), workspace);
  }
}

template <class RunSlice>
void CudnnAttention::for_each_slice(const AttentionShape& shape, const RunSlice& run_slice) {
  const AttentionSlice most = backward_slice(shape);
  for (std::int64_t sequence = 0; sequence < shape.batch; sequence += most.sequences) {
    for (std::int64_t head = 0; head < shape.kv_heads; head += most.kv_heads) {
      run_slice(AttentionSlice{std::min(most.sequences, shape.batch - sequence),
                               std::min(most.kv_heads, shape.kv_heads - head)},
                sequence, head);
    }
  }
}

void CudnnAttention::backward(const AttentionShape& shape,
                              const detail::AttentionBackwardInputs& inputs,
                              const detail::AttentionGradients& gradients,
                              const Tensor& workspace) {
  const std::int64_t group = shape.heads / shape.kv_heads;
  for_each_slice(shape, [&](const AttentionSlice& slice, std::int64_t sequence, std::int64_t head) {
    run({Kernel::Pass::backward, shape, slice},
        backward_pointers(
            inputs, gradients,
            {.query = (sequence * shape.query_length * shape.heads + head * group) * shape.head_dim,
             .key = (sequence * shape.key_length * shape.kv_heads + head) * shape.head_dim,
             .row = (sequence * shape.heads + head * group) * shape.query_length}),
        workspace);
  });
}

void CudnnAttention::backward_of_documents(const AttentionShape& shape,
                                           const LongDocumentPlan& plan,
                                           const detail::AttentionBackwardInputs& inputs,
                                           const detail::AttentionGradients& gradients,
                                           const Tensor& workspace) {
  const std::int64_t window = shape.query_length, group = shape.heads / shape.kv_heads;
  for (std::size_t c = 0; c < plan.tables.size(); ++c) {
    if (!plan.some[c]) continue;
    const AttentionShape documents = shape_of_long_documents(shape, c);
    for_each_slice(
        documents, [&](const AttentionSlice& slice, std::int64_t place, std::int64_t head) {
          Pointers pointers = backward_pointers(inputs, gradients,
                                                {.query = head * group * shape.head_dim,
                                                 .key = head * shape.head_dim,
                                                 .row = head * group * window});
          add_tables(plan.tables[c], place, pointers);
          run({Kernel::Pass::backward, documents, slice, window}, std::move(pointers), workspace);
        });
  }
}

CudnnAttention::Pointers CudnnAttention::backward_pointers(
    const detail::AttentionBackwardInputs& inputs, const detail::AttentionGradients& gradients,
    const Begin& begin) {
  return {{id_q, at(inputs.q, begin.query)},         {id_k, at(inputs.k, begin.key)},
          {id_v, at(inputs.v, begin.key)},           {id_out, at(inputs.out, begin.query)},
          {id_d_out, at(inputs.d_out, begin.query)}, {id_rows, at(inputs.log_sum_exp, begin.row)},
          {id_d_q, at(gradients.d_q, begin.query)},  {id_d_k, at(gradients.d_k, begin.key)},
          {id_d_v, at(gradients.d_v, begin.key)}};
}

void CudnnAttention::add_tables(const LongDocumentTables& tables, std::int64_t first,
                                Pointers& pointers) {
  pointers[id_query_lengths] = pointers[id_key_lengths] = at(tables.lengths, first);
  pointers[id_query_offsets] = at(tables.query_offsets, first);
  pointers[id_key_offsets] = at(tables.key_offsets, first);
  pointers[id_row_offsets] = at(tables.row_offsets, first);
}

}  // namespace polymoe::cuda
