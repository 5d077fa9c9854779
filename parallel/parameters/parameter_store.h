// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "parallel/communication/process_mesh.h"
#include "runtime/buffer.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Which ranks hold a parameter, and over which its gradient is summed. Each scope has flat buffers
/// of its own.
enum class ParameterScope : std::uint8_t {
  dense,        // every rank of the world
  expert,       // the ranks of expert_replicas
  dense_wide,   // as dense, of f32 values beside bf16 ones; empty unless the store's dtype is bf16
  expert_wide,  // as expert, likewise
};
constexpr std::array all_parameter_scopes{ParameterScope::dense, ParameterScope::expert,
                                          ParameterScope::dense_wide, ParameterScope::expert_wide};
constexpr int parameter_scopes = static_cast<int>(all_parameter_scopes.size());

enum class InitialValues : std::uint8_t { normal, constant, listed };

/// How a parameter starts. Values are a function of (seed, logical name, index): the same under any
/// layout.
struct Initializer {
  InitialValues kind = InitialValues::normal;
  double scale = 0.0;          // standard deviation, or the constant
  double truncation = 0.0;     // normal: redraw beyond this many standard deviations; 0 = never
  std::vector<double> listed;  // listed: repeated over the parameter
};

/// A logical tensor, named and shaped as if there were one rank: the unit of checkpoints.
struct LogicalTensor {
  std::string name;  // "layers.3.experts.17.up.weight"; expert ids are global
  Shape shape;
};

/// A learned array held by this rank: one logical tensor, or several of one shape stacked along a
/// new first dimension (the rank's experts). Layers keep a pointer to it.
struct Parameter {
  std::vector<LogicalTensor> logical;            // consecutive in memory, equal shapes
  Shape shape;                                   // of value and gradient
  ParameterScope scope = ParameterScope::dense;  // declared dense or expert
  bool decay = true;                             // weight decay applies
  bool wide = false;                             // f32 values where the others are bf16
  Initializer initializer;
  Tensor value;     // set by allocate()
  Tensor gradient;  // sum over the tokens of this rank (after reduction: of the global batch)
  std::int64_t offset = 0;  // of the first element in its scope's flat buffer
  int segment = 0;
};

/// A contiguous part of a flat buffer that falls within one logical tensor.
struct LogicalRange {
  const LogicalTensor* tensor;
  const Parameter* parameter;
  std::int64_t tensor_begin;  // first element within the logical tensor, flat
  std::int64_t flat_begin;    // first element within the scope's flat buffer
  std::int64_t count;
};

/// All parameters of a model on one rank, in flat buffers per scope.
///
/// Layers declare parameters in forward order, grouped in segments (embedding, each block, output);
/// allocate() then lays them out. A segment is the unit of gradient reduction: its part of a flat
/// buffer, padded to a multiple of 16 times the reducing group's size, is one bucket, of which rank
/// r of the group owns the r-th slice: that slice's optimizer state, and its update. Parameters
/// start at multiples of 16 elements.
class ParameterStore {
 public:
  /// Half-open range of a flat buffer, in elements.
  struct Range {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::int64_t size() const { return end - begin; }
  };

  explicit ParameterStore(const ProcessMesh& mesh);

  /// What follows belongs to a new segment. Returns its number, from 0.
  int begin_segment();
  /// `parameter` gives logical, shape, scope, decay, wide and initializer. The returned reference
  /// stays valid. Throws InvalidArgument on a repeated name or on shapes that do not fit together.
  Parameter& declare(Parameter parameter);

  /// Lays out and allocates values of `dtype` (f32, f64 or bf16) on `device`, and gradients of
  /// accumulation_dtype(dtype), or beside bf16 values of bf16 where `gradients` says so; those of
  /// wide values stay f32. Zero-filled.
  void allocate(DType dtype, Device device, std::optional<DType> gradients = {});
  /// Fills every value by its initializer.
  void initialize(std::uint64_t seed, Stream& stream);
  /// out = what `range` starts with, in out's dtype; bf16 is the upper part of f32 values
  /// (kernels/split_float), whose lower bits go to `low` unless it is undefined. out, low
  /// [range.count], on any device.
  static void initial_values(const LogicalRange& range, std::uint64_t seed, Tensor out, Tensor low,
                             Stream& stream);
  void zero_gradients(Stream& stream);

  int segments() const { return segments_; }
  const std::deque<Parameter>& parameters() const { return parameters_; }
  /// What the values, the wide ones left out, and activations are held in.
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  /// The group that sums the scope's gradients and shards its optimizer state.
  Communicator& group(ParameterScope scope) const;
  /// The scope's flat buffers, padding included.
  const Tensor& values(ParameterScope scope) const;
  const Tensor& gradients(ParameterScope scope) const;
  /// The bucket of a segment; may be empty.
  Range bucket(ParameterScope scope, int segment) const;
  /// This rank's slice of that bucket.
  Range owned(ParameterScope scope, int segment) const;

  /// The logical tensors within a flat range, padding left out, in memory order.
  std::vector<LogicalRange> logical_ranges(ParameterScope scope, Range range) const;

  /// Elements over all ranks, each logical tensor once: exact, without padding.
  std::int64_t total_elements() const;

 private:
  struct Flat {
    std::vector<Range> buckets;                // per segment
    std::vector<const Parameter*> parameters;  // in memory order
    OwnedTensor values, gradients;
  };

  const ProcessMesh& mesh_;
  std::deque<Parameter> parameters_;
  std::set<std::string> names_;
  int segments_ = 0;
  std::array<Flat, parameter_scopes> flat_;
  DType dtype_ = DType::f32;
  Device device_;
  bool allocated_ = false;
};

}  // namespace polymoe
