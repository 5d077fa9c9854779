// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/view.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "runtime/files/hdf5_view.h"

namespace polymoe {

std::string view_path(std::string_view tensor) {
  if (tensor.starts_with(parameter_kind)) tensor.remove_prefix(parameter_kind.size());
  std::string path = "/" + std::string(tensor);
  std::replace(path.begin(), path.end(), '.', '/');
  return path;
}

void write_checkpoint_view(const std::filesystem::path& path, const CheckpointManifest& manifest) {
  Hdf5ViewWriter view(path);
  std::vector<Hdf5ViewWriter::Part> parts;
  for (const auto& tensor : manifest.tensors) {
    parts.clear();
    for (const auto& piece : tensor.pieces) {
      parts.push_back({.file = manifest.files[static_cast<std::size_t>(piece.file)].name,
                       .dataset = piece.dataset,
                       .begin = piece.begin,
                       .count = piece.count});
    }
    view.add(view_path(tensor.name), tensor.shape, tensor.dtype, parts);
  }
  view.close();
}

}  // namespace polymoe
