// SPDX-License-Identifier: Apache-2.0
#include "parallel/parameters/parameter_store.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/random_normal/random_normal.h"
#include "kernels/split_float/split_float.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/random.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

// Parameters and owned slices start at multiples of this many elements: a cache line in f32.
constexpr std::int64_t alignment = 16;

// Initial values that are made in f32 at a time, to be split.
constexpr std::int64_t initial_part = std::int64_t{1} << 22;

constexpr std::size_t index_of(ParameterScope scope) { return static_cast<std::size_t>(scope); }

/// Where a declared parameter goes in a store of that dtype.
ParameterScope scope_of(const Parameter& parameter, DType dtype) {
  if (!parameter.wide || dtype != DType::bf16) return parameter.scope;
  return parameter.scope == ParameterScope::dense ? ParameterScope::dense_wide
                                                  : ParameterScope::expert_wide;
}

bool is_wide(ParameterScope scope) {
  return scope == ParameterScope::dense_wide || scope == ParameterScope::expert_wide;
}

}  // namespace

ParameterStore::ParameterStore(const ProcessMesh& mesh) : mesh_(mesh) {}

int ParameterStore::begin_segment() { return segments_++; }

Parameter& ParameterStore::declare(Parameter parameter) {
  if (parameter.logical.empty()) throw InvalidArgument("a parameter without a logical tensor");
  const LogicalTensor& first = parameter.logical.front();
  if (allocated_ || segments_ == 0) {
    throw InvalidArgument("parameter " + first.name + " is declared " +
                          (allocated_ ? "after allocate()" : "before begin_segment()"));
  }
  for (const LogicalTensor& tensor : parameter.logical) {
    if (tensor.shape != first.shape) {
      throw InvalidArgument("parameter " + tensor.name + " of shape " + to_string(tensor.shape) +
                            " is stacked with " + first.name + " of shape " +
                            to_string(first.shape));
    }
  }
  const auto stacked = static_cast<std::int64_t>(parameter.logical.size());
  if (parameter.shape.elements() != stacked * first.shape.elements()) {
    throw InvalidArgument("parameter " + first.name + ": shape " + to_string(parameter.shape) +
                          " does not hold " + std::to_string(stacked) + " tensors of shape " +
                          to_string(first.shape));
  }
  if (parameter.initializer.kind == InitialValues::listed && parameter.initializer.listed.empty()) {
    throw InvalidArgument("parameter " + first.name + ": the list of initial values is empty");
  }
  for (const LogicalTensor& tensor : parameter.logical) {
    if (!names_.insert(tensor.name).second) {
      throw InvalidArgument("parameter " + tensor.name + " is declared twice");
    }
  }
  parameter.segment = segments_ - 1;
  return parameters_.emplace_back(std::move(parameter));
}

void ParameterStore::allocate(DType dtype, Device device, std::optional<DType> gradients) {
  if (dtype != DType::f32 && dtype != DType::f64 && dtype != DType::bf16) {
    throw InvalidArgument(std::string("parameters of dtype ") + name_of(dtype) +
                          ": f32, f64 and bf16 are allowed");
  }
  const DType wide = accumulation_dtype(dtype), of_gradients = gradients.value_or(wide);
  if (of_gradients != wide && of_gradients != dtype) {
    throw InvalidArgument(std::string("gradients of dtype ") + name_of(of_gradients) +
                          " beside parameters of " + name_of(dtype) + ": " + name_of(wide) +
                          (dtype == wide ? " is allowed" : " and bf16 are allowed"));
  }
  if (allocated_) throw InvalidArgument("the parameters are allocated already");
  dtype_ = dtype;
  device_ = device;
  for (Parameter& parameter : parameters_) parameter.scope = scope_of(parameter, dtype);
  for (const ParameterScope scope : all_parameter_scopes) {
    Flat& flat = flat_[index_of(scope)];
    const std::int64_t multiple = alignment * group(scope).size();
    flat.buckets.assign(static_cast<std::size_t>(segments_), Range{});
    std::int64_t end = 0;
    auto parameter = parameters_.begin();
    for (int segment = 0; segment < segments_; ++segment) {
      Range& bucket = flat.buckets[static_cast<std::size_t>(segment)];
      bucket.begin = end;
      for (; parameter != parameters_.end() && parameter->segment == segment; ++parameter) {
        if (parameter->scope != scope) continue;
        flat.parameters.push_back(&*parameter);
        parameter->offset = round_up(end, alignment);
        end = parameter->offset + parameter->shape.elements();
      }
      bucket.end = end = bucket.begin + round_up(end - bucket.begin, multiple);
    }
    flat.values = OwnedTensor({end}, is_wide(scope) ? wide : dtype, device);
    flat.gradients = OwnedTensor({end}, is_wide(scope) ? wide : of_gradients, device);
  }
  for (Parameter& parameter : parameters_) {
    const Flat& flat = flat_[index_of(parameter.scope)];
    const std::int64_t end = parameter.offset + parameter.shape.elements();
    parameter.value = flat.values->rows(parameter.offset, end).view(parameter.shape);
    parameter.gradient = flat.gradients->rows(parameter.offset, end).view(parameter.shape);
  }
  allocated_ = true;
}

void ParameterStore::initialize(std::uint64_t seed, Stream& stream) {
  for (const ParameterScope scope : all_parameter_scopes) {
    const Tensor& flat = values(scope);
    for (const LogicalRange& range : logical_ranges(scope, {0, flat.elements()})) {
      initial_values(range, seed, flat.rows(range.flat_begin, range.flat_begin + range.count), {},
                     stream);
    }
  }
}

void ParameterStore::initial_values(const LogicalRange& range, std::uint64_t seed, Tensor out,
                                    Tensor low, Stream& stream) {
  if (out.dtype() == DType::bf16) {
    const OwnedTensor exact({std::min(range.count, initial_part)}, DType::f32, out.device());
    for (std::int64_t begin = 0; begin < range.count; begin += initial_part) {
      LogicalRange part = range;
      part.tensor_begin += begin;
      part.flat_begin += begin;
      part.count = std::min(initial_part, range.count - begin);
      const Tensor values = exact->rows(0, part.count);
      initial_values(part, seed, values, {}, stream);
      const std::int64_t end = begin + part.count;
      split_floats(values, out.rows(begin, end), low.defined() ? low.rows(begin, end) : Tensor(),
                   stream);
    }
    stream.synchronize();  // what was split ends here
    return;
  }
  const Initializer& initializer = range.parameter->initializer;
  if (initializer.kind == InitialValues::normal) {
    random_normal(RandomStream(seed, range.tensor->name),
                  {.first = range.tensor_begin,
                   .scale = initializer.scale,
                   .truncation = initializer.truncation},
                  out, stream);
    return;
  }
  const OwnedTensor values({range.count}, out.dtype(), Device::cpu());
  for (std::int64_t i = 0; i < range.count; ++i) {
    const auto index = static_cast<std::size_t>(range.tensor_begin + i);
    const double value = initializer.kind == InitialValues::constant
                             ? initializer.scale
                             : initializer.listed[index % initializer.listed.size()];
    if (out.dtype() == DType::f64)
      values->data<double>()[i] = value;
    else
      values->data<float>()[i] = static_cast<float>(value);
  }
  copy(*values, out, stream);
  stream.synchronize();  // what was copied from ends here
}

void ParameterStore::zero_gradients(Stream& stream) {
  for (const Flat& flat : flat_) set_zero(*flat.gradients, stream);
}

Communicator& ParameterStore::group(ParameterScope scope) const {
  const bool expert = scope == ParameterScope::expert || scope == ParameterScope::expert_wide;
  return expert ? mesh_.expert_replicas() : mesh_.world();
}

const Tensor& ParameterStore::values(ParameterScope scope) const {
  return *flat_[index_of(scope)].values;
}

const Tensor& ParameterStore::gradients(ParameterScope scope) const {
  return *flat_[index_of(scope)].gradients;
}

ParameterStore::Range ParameterStore::bucket(ParameterScope scope, int segment) const {
  return flat_[index_of(scope)].buckets.at(static_cast<std::size_t>(segment));
}

ParameterStore::Range ParameterStore::owned(ParameterScope scope, int segment) const {
  const Range whole = bucket(scope, segment);
  const Communicator& members = group(scope);
  const std::int64_t slice = whole.size() / members.size();
  const std::int64_t begin = whole.begin + members.rank() * slice;
  return {begin, begin + slice};
}

std::vector<LogicalRange> ParameterStore::logical_ranges(ParameterScope scope, Range range) const {
  std::vector<LogicalRange> ranges;
  if (range.begin >= range.end) return ranges;
  // Asked for each of a model's buckets: what lies before one is not looked at.
  const std::vector<const Parameter*>& all = flat_[index_of(scope)].parameters;
  auto next = std::ranges::partition_point(all, [&](const Parameter* parameter) {
    return parameter->offset + parameter->shape.elements() <= range.begin;
  });
  for (; next != all.end() && (*next)->offset < range.end; ++next) {
    const Parameter& parameter = **next;
    const std::int64_t count = parameter.logical.front().shape.elements();
    if (count == 0) continue;
    const std::int64_t before = std::max<std::int64_t>(range.begin - parameter.offset, 0) / count;
    for (auto i = static_cast<std::size_t>(before); i < parameter.logical.size(); ++i) {
      const std::int64_t start = parameter.offset + static_cast<std::int64_t>(i) * count;
      if (start >= range.end) break;
      const std::int64_t begin = std::max(range.begin, start);
      const std::int64_t end = std::min(range.end, start + count);
      ranges.push_back({.tensor = &parameter.logical[i],
                        .parameter = &parameter,
                        .tensor_begin = begin - start,
                        .flat_begin = begin,
                        .count = end - begin});
    }
  }
  return ranges;
}

std::int64_t ParameterStore::total_elements() const {
  std::int64_t total = 0;
  for (const Parameter& parameter : parameters_) {
    const bool everywhere = &group(parameter.scope) == &mesh_.world();
    total += (everywhere ? 1 : mesh_.expert_parallel()) * parameter.shape.elements();
  }
  return total;
}

}  // namespace polymoe
