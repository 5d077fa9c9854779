// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/weight_analysis.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/activation/activation.h"
#include "launch/analysis/expert_similarity.h"
#include "launch/analysis/spectra.h"
#include "launch/config/values.h"
#include "moe/model_config.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

/// What a parameter's name tells: "layers.L.experts.E.up.weight" and the like.
struct Place {
  std::int64_t layer = -1;
  std::int64_t expert = -1;
  std::string stem;  // without the part: "layers.L.experts.E"
  std::string part;  // "up", "down", "coefficients"; empty: none of a feed-forward
};

Place place_of(std::string_view name) {
  Place place;
  if (!name.starts_with(parameter_kind)) return place;
  name.remove_prefix(parameter_kind.size());
  std::string text(name);
  for (const std::string_view ending : {".up.weight", ".down.weight", ".coefficients"}) {
    if (!name.ends_with(ending)) continue;
    place.stem = text.substr(0, text.size() - ending.size());
    place.part =
        ending.substr(1, ending.find('.', 1) == std::string_view::npos ? std::string_view::npos
                                                                       : ending.find('.', 1) - 1);
  }
  const auto number_after = [&](std::string_view front) {
    const std::size_t at = place.stem.find(front);
    if (at == std::string::npos) return std::int64_t{-1};
    const std::string rest = place.stem.substr(at + front.size());
    return parse_count(rest.substr(0, rest.find('.'))).value_or(-1);
  };
  place.layer = number_after("layers.");
  place.expert = number_after(".experts.");
  return place;
}

std::vector<float> values_of(const CheckpointReader& checkpoint,
                             const CheckpointManifest::StoredTensor& tensor, std::int64_t begin,
                             std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  checkpoint.read({{.name = tensor.name,
                    .shape = tensor.shape,
                    .begin = begin,
                    .data = Tensor(values.data(), {count}, DType::f32, Device::cpu())}});
  return values;
}

void add_spectrum(std::vector<MatrixSpectrum>& spectra, const Place& place, const std::string& part,
                  std::span<const float> values, std::int64_t rows, std::int64_t columns) {
  MatrixSpectrum spectrum{.name = place.stem + "." + part,
                          .layer = place.layer,
                          .expert = place.expert,
                          .part = part,
                          .rows = rows,
                          .columns = columns,
                          .values = singular_values(values, rows, columns)};
  spectrum.effective_rank = effective_rank(spectrum.values);
  spectra.push_back(std::move(spectrum));
}

}  // namespace

std::vector<MatrixSpectrum> matrix_spectra(const CheckpointReader& checkpoint,
                                           const ModelConfig& model, const ProgressOutput& output) {
  std::vector<std::pair<Place, const CheckpointManifest::StoredTensor*>> matrices;
  for (const auto& tensor : checkpoint.manifest().tensors)
    if (const Place place = place_of(tensor.name); place.part == "up" || place.part == "down")
      matrices.emplace_back(place, &tensor);
  std::stable_sort(matrices.begin(), matrices.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.layer, a.first.expert) < std::pair(b.first.layer, b.first.expert);
  });
  Progress progress(output, {.what = "singular values",
                             .total = static_cast<std::int64_t>(matrices.size()),
                             .unit = "matrices"});
  std::vector<MatrixSpectrum> spectra;
  for (const auto& [place, tensor] : matrices) {
    const std::int64_t rows = tensor->shape[0], columns = tensor->shape[1];
    const std::vector<float> values = values_of(checkpoint, *tensor, 0, rows * columns);
    const std::span<const float> all(values);
    // The rows of swiglu's gate lie before those of its up projection.
    if (place.part == "up" && is_gated(model.activation.kind)) {
      const auto half = static_cast<std::size_t>(rows / 2 * columns);
      add_spectrum(spectra, place, "gate", all.first(half), rows / 2, columns);
      add_spectrum(spectra, place, "up", all.subspan(half), rows / 2, columns);
    } else {
      add_spectrum(spectra, place, place.part, all, rows, columns);
    }
    progress.advance();
  }
  return spectra;
}

std::vector<ExpertSimilarity> expert_similarities(const CheckpointReader& checkpoint,
                                                  const ModelConfig& model,
                                                  const ProgressOutput& output) {
  std::vector<ExpertSimilarity> similarities;
  const std::int64_t experts = model.moe.experts;
  if (experts < 2) return similarities;
  std::map<std::int64_t, std::vector<const CheckpointManifest::StoredTensor*>> layers;
  for (const auto& tensor : checkpoint.manifest().tensors)
    if (const Place place = place_of(tensor.name);
        place.expert >= 0 && (place.part == "up" || place.part == "down"))
      layers[place.layer].push_back(&tensor);
  Progress progress(output, {.what = "similarity of experts",
                             .total = static_cast<std::int64_t>(layers.size()),
                             .unit = "layers"});
  const auto count = static_cast<std::size_t>(experts);
  for (const auto& [layer, tensors] : layers) {
    std::vector<double> products(count * count, 0.0);
    for (const char* part : {"up", "down"}) {
      std::vector<const CheckpointManifest::StoredTensor*> of_expert(count, nullptr);
      for (const auto* tensor : tensors) {
        const Place place = place_of(tensor->name);
        if (place.part == part && place.expert < experts)
          of_expert[static_cast<std::size_t>(place.expert)] = tensor;
      }
      if (std::find(of_expert.begin(), of_expert.end(), nullptr) != of_expert.end())
        throw InputFileError(checkpoint.directory().string(),
                             fmt::format("layer {} lacks the weights of an expert", layer));
      // A slice of every expert at a time.
      constexpr std::int64_t most_slice = std::int64_t{1} << 18;
      const std::int64_t elements = of_expert.front()->shape.elements();
      for (std::int64_t begin = 0; begin < elements; begin += most_slice) {
        const std::int64_t slice = std::min(most_slice, elements - begin);
        std::vector<std::vector<float>> slices;
        for (const auto* tensor : of_expert)
          slices.push_back(values_of(checkpoint, *tensor, begin, slice));
        for (std::size_t a = 0; a < count; ++a) {
          for (std::size_t b = 0; b <= a; ++b) {
            double sum = 0.0;
            for (std::size_t i = 0; i < slices[a].size(); ++i)
              sum += static_cast<double>(slices[a][i]) * static_cast<double>(slices[b][i]);
            products[a * count + b] += sum;
          }
        }
      }
    }
    ExpertSimilarity similarity{.layer = layer, .experts = experts, .cosines = products};
    for (std::size_t a = 0; a < count; ++a)
      for (std::size_t b = 0; b <= a; ++b) {
        const double norms = std::sqrt(products[a * count + a] * products[b * count + b]);
        const double cosine = norms > 0.0 ? products[a * count + b] / norms : 0.0;
        similarity.cosines[a * count + b] = similarity.cosines[b * count + a] = cosine;
      }
    similarities.push_back(std::move(similarity));
    progress.advance();
  }
  return similarities;
}

std::vector<CoefficientHistory> coefficient_histories(const CheckpointReader& checkpoint) {
  namespace fs = std::filesystem;
  std::vector<fs::path> directories;
  const fs::path here = fs::weakly_canonical(checkpoint.directory());
  for (const fs::directory_entry& entry : fs::directory_iterator(here.parent_path())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && is_checkpoint(entry.path()) &&
        name <= here.filename().string())
      directories.push_back(entry.path());
  }
  // A checkpoint of another name stands alone.
  if (std::find(directories.begin(), directories.end(), here) == directories.end())
    directories = {here};
  std::sort(directories.begin(), directories.end());
  std::map<std::string, CoefficientHistory> histories;
  for (const fs::path& directory : directories) {
    const CheckpointReader reader(directory);
    for (const auto& tensor : reader.manifest().tensors) {
      const Place place = place_of(tensor.name);
      if (place.part != "coefficients") continue;
      const std::vector<float> values = values_of(reader, tensor, 0, tensor.shape.elements());
      CoefficientHistory& history = histories[place.stem];
      history.name = place.stem;
      history.layer = place.layer;
      history.expert = place.expert;
      history.steps.push_back(reader.info().step);
      history.values.emplace_back(values.begin(), values.end());
    }
  }
  std::vector<CoefficientHistory> list;
  for (auto& [name, history] : histories) list.push_back(std::move(history));
  std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
    return std::pair(a.layer, a.expert) < std::pair(b.layer, b.expert);
  });
  return list;
}

}  // namespace polymoe
