// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "runtime/files/safetensors.h"
#include "runtime/float16.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

const char* spelling(SafetensorsDType dtype) {
  return dtype == SafetensorsDType::bf16 ? "BF16" : "F32";
}

std::int64_t size_of_element(SafetensorsDType dtype) {
  return dtype == SafetensorsDType::bf16 ? 2 : 4;
}

std::string file_name(std::size_t file, std::size_t files) {
  if (files == 1) return SafetensorsModel::single_name;
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", file + 1, files);
  return name;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path directory, std::vector<Plan> tensors,
                                     const Options& options)
    : directory_(std::move(directory)), tensors_(std::move(tensors)), options_(options) {
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const std::int64_t more = bytes_of(tensors_[i]);
    if (i == 0 || bytes + more > options_.max_file_bytes) {
      first_.push_back(i);
      bytes = 0;
    }
    bytes += more;
  }
  if (first_.empty()) first_.push_back(0);
  const std::size_t files = first_.size();
  first_.push_back(tensors_.size());
  for (std::size_t file = 0; file < files; ++file) files_.push_back(file_name(file, files));
  open_file(0);
}

std::int64_t SafetensorsWriter::bytes_of(const Plan& tensor) const {
  return tensor.shape.elements() * size_of_element(options_.dtype);
}

void SafetensorsWriter::open_file(std::size_t file) {
  file_ = file;
  Json header = Json::object();
  header.set("__metadata__", Json::object().set("format", "pt"));
  std::int64_t begin = 0;
  for (std::size_t i = first_[file]; i < first_[file + 1]; ++i) {
    Json shape = Json::array();
    for (int d = 0; d < tensors_[i].shape.rank(); ++d) shape.add(tensors_[i].shape[d]);
    const std::int64_t end = begin + bytes_of(tensors_[i]);
    header.set(tensors_[i].name, Json::object()
                                     .set("dtype", spelling(options_.dtype))
                                     .set("shape", std::move(shape))
                                     .set("data_offsets", Json::array().add(begin).add(end)));
    begin = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the elements start aligned
  const std::uint64_t length = text.size();
  output_.emplace(directory_ / files_[file]);
  output_->write(&length, sizeof length);
  output_->write(text);
}

void SafetensorsWriter::close_file() {
  output_->sync();
  output_->close();
  output_.reset();
}

void SafetensorsWriter::append(std::string_view name, const Tensor& elements) {
  if (tensor_ < tensors_.size() && done_ == tensors_[tensor_].shape.elements()) {
    ++tensor_;
    done_ = 0;
    if (tensor_ == first_[file_ + 1] && tensor_ < tensors_.size()) {
      close_file();
      open_file(file_ + 1);
    }
  }
  const std::int64_t count = elements.elements();
  if (tensor_ == tensors_.size() || tensors_[tensor_].name != name ||
      count > tensors_[tensor_].shape.elements() - done_) {
    throw InvalidArgument("safetensors writer: " + std::to_string(count) + " elements of " +
                          std::string(name) + ", expected " +
                          (tensor_ == tensors_.size()
                               ? std::string("none")
                               : "the rest of " + tensors_[tensor_].name + " from element " +
                                     std::to_string(done_) + " on"));
  }
  done_ += count;
  const float* values = elements.data<float>();
  if (options_.dtype == SafetensorsDType::f32) {
    output_->write(values, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  constexpr std::int64_t block = std::int64_t{1} << 18;
  rounded_.resize(static_cast<std::size_t>(std::min(block, count)));
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t end = std::min(begin + block, count);
    std::transform(values + begin, values + end, rounded_.begin(), bf16_of_float);
    output_->write(rounded_.data(), static_cast<std::size_t>(end - begin) * sizeof(std::uint16_t));
  }
}

void SafetensorsWriter::finish() {
  const bool full = tensors_.empty() ||
                    (tensor_ + 1 == tensors_.size() && done_ == tensors_[tensor_].shape.elements());
  if (!full)
    throw InvalidArgument("safetensors writer: tensor " + tensors_[tensor_].name +
                          " ends at element " + std::to_string(done_) + ", and it is number " +
                          std::to_string(tensor_ + 1) + " of " + std::to_string(tensors_.size()));
  close_file();
  if (files_.size() > 1) {
    std::int64_t total = 0;
    Json weight_map = Json::object();
    for (std::size_t file = 0; file < files_.size(); ++file)
      for (std::size_t i = first_[file]; i < first_[file + 1]; ++i) {
        total += bytes_of(tensors_[i]);
        weight_map.set(tensors_[i].name, files_[file]);
      }
    Json index = Json::object();
    index.set("metadata", Json::object().set("total_size", total));
    index.set("weight_map", std::move(weight_map));
    replace_file(directory_ / SafetensorsModel::index_name, index.dump_indented());
    files_.emplace_back(SafetensorsModel::index_name);
  }
  sync_directory(directory_);
}

}  // namespace polymoe
