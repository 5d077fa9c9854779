// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/sample_order.h"

namespace polymoe {

/// The shares of the samples that a list of weighted files asks for, whose sum is 1.
/// `windows[i]` is the size of file i.
std::vector<double> shares_of(const std::vector<WeightedFile>& files,
                              const std::vector<std::int64_t>& windows, WeightKind kind);
/// What `automatic` means for these files.
WeightKind resolved_weights(const std::vector<WeightedFile>& files, WeightKind kind);

/// From which file each sample of a run is, and which of the file's windows it is. A function of
/// what it is made of and the sample's number alone.
///
/// The mixture holds from sample `first` on, where file f has been read `files[f].start` windows
/// far. Stages follow one another; a file that has reached its cap gives its share to the others.
class Mixture {
 public:
  struct File {
    std::string name;
    std::int64_t start = 0;  // windows drawn before sample `first`
    std::int64_t most = 0;   // windows that are ever drawn; 0 = no cap
  };
  struct Stage {
    std::int64_t first = 0;      // sample
    std::vector<double> shares;  // per file; 0 = none of it
  };
  struct Settings {
    std::vector<File> files;
    std::vector<Stage> stages;  // ascending; the first holds before its sample too
    bool linear = false;  // shares move from a stage's to the next one's between their samples
    std::int64_t first = 0;
    std::int64_t last = 0;  // of the run, not drawn itself
    std::uint64_t seed = 0;
  };

  Mixture() = default;
  /// Throws InvalidArgument where the caps leave nothing to draw before `last`.
  explicit Mixture(Settings settings);

  /// sample >= first; beyond last, the last stage goes on.
  Interleaving::Choice operator()(std::int64_t sample) const;
  /// Windows of each file that are drawn before `sample`.
  std::vector<std::int64_t> drawn(std::int64_t sample) const;

 private:
  // Samples of constant shares.
  struct Segment {
    std::int64_t first;
    std::vector<std::size_t> active;  // files
    std::vector<std::int64_t> drawn;  // of each file, before it
    Interleaving interleaving;
  };
  void add(std::int64_t first, std::int64_t last, const std::vector<double>& shares);
  const Segment& segment_of(std::int64_t sample) const;

  Settings settings_;
  std::vector<Segment> segments_;
};

}  // namespace polymoe
