// SPDX-License-Identifier: Apache-2.0
#include "support/fixture.h"

#include <fstream>
#include <sstream>

#include "runtime/error.h"
#include "support/random_tensor.h"

namespace polymoe::test {
namespace {

Shape shape_of(const std::vector<std::int64_t>& extents) {
  switch (extents.size()) {
    case 0:
      return {};
    case 1:
      return {extents[0]};
    case 2:
      return {extents[0], extents[1]};
    case 3:
      return {extents[0], extents[1], extents[2]};
    case 4:
      return {extents[0], extents[1], extents[2], extents[3]};
    default:
      throw InvalidArgument("more than 4 extents");
  }
}

}  // namespace

Fixture::Fixture(const std::string& file) : path_(std::string(POLYMOE_FIXTURES) + "/" + file) {
  std::ifstream in(path_);
  if (!in) throw InputFileError(path_, "cannot be opened");
  std::string head, body;
  while (std::getline(in, head)) {
    std::istringstream words(head);
    std::string name;
    words >> name;
    std::vector<std::int64_t> extents;
    for (std::int64_t extent; words >> extent;) extents.push_back(extent);
    Entry entry{shape_of(extents), {}};
    if (!std::getline(in, body)) throw InputFileError(path_, name + " has no values");
    std::istringstream numbers(body);
    for (std::string number; numbers >> number;) entry.values.push_back(std::stod(number));
    if (static_cast<std::int64_t>(entry.values.size()) != entry.shape.elements()) {
      throw InputFileError(path_, name + " has " + std::to_string(entry.values.size()) +
                                      " values for shape " + to_string(entry.shape));
    }
    if (!entries_.emplace(name, std::move(entry)).second) {
      throw InputFileError(path_, name + " appears twice");
    }
  }
}

const Fixture::Entry& Fixture::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw InvalidArgument(path_ + " has no entry " + name);
  return found->second;
}

double Fixture::scalar(const std::string& name) const {
  const Entry& found = entry(name);
  if (found.values.size() != 1) throw InvalidArgument(path_ + ": " + name + " is not a scalar");
  return found.values[0];
}

OwnedTensor Fixture::tensor(const std::string& name, DType dtype) const {
  const Entry& found = entry(name);
  return tensor_of(found.shape, dtype, found.values);
}

}  // namespace polymoe::test
