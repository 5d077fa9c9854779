// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "kernels/activation/activation.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

struct Name {
  ActivationKind kind;
  const char* text;
};

constexpr Name names[] = {
    {ActivationKind::relu, "relu"},
    {ActivationKind::leaky_relu, "leaky_relu"},
    {ActivationKind::prelu, "prelu"},
    {ActivationKind::relu2, "relu2"},
    {ActivationKind::gelu, "gelu"},
    {ActivationKind::silu, "silu"},
    {ActivationKind::swiglu, "swiglu"},
    {ActivationKind::polyrelu, "polyrelu"},
    {ActivationKind::polyprelu, "polyprelu"},
    {ActivationKind::polynorm, "polynorm"},
    {ActivationKind::polyrelunorm, "polyrelunorm"},
    {ActivationKind::polynomial, "polynomial"},
};

}  // namespace

const char* name_of(ActivationKind kind) {
  for (const Name& name : names) {
    if (name.kind == kind) return name.text;
  }
  throw InvalidArgument("no activation has the number " + std::to_string(static_cast<int>(kind)));
}

const std::vector<ActivationKind>& all_activations() {
  static const std::vector<ActivationKind> kinds = [] {
    std::vector<ActivationKind> list;
    for (const Name& name : names) list.push_back(name.kind);
    return list;
  }();
  return kinds;
}

ActivationKind parse_activation(std::string_view text) {
  std::string allowed;
  for (const Name& name : names) {
    if (name.text == text) return name.kind;
    allowed += (allowed.empty() ? "" : ", ") + std::string(name.text);
  }
  throw InvalidArgument("unknown activation '" + std::string(text) + "', allowed: " + allowed);
}

int pre_activation_factor(ActivationKind kind) { return kind == ActivationKind::swiglu ? 2 : 1; }

int coefficient_count(const Activation& activation) {
  switch (activation.kind) {
    case ActivationKind::relu:
    case ActivationKind::leaky_relu:
    case ActivationKind::relu2:
    case ActivationKind::gelu:
    case ActivationKind::silu:
    case ActivationKind::swiglu:
      return 0;
    case ActivationKind::prelu:
      return 1;
    case ActivationKind::polyrelu:
    case ActivationKind::polynorm:
    case ActivationKind::polyrelunorm:
    case ActivationKind::polynomial:
      return activation.order + 1;
    case ActivationKind::polyprelu:
      return activation.order + 2;
  }
  return 0;
}

std::vector<double> initial_coefficients(const Activation& activation) {
  constexpr double initial_slope = 0.25;
  std::vector<double> values(static_cast<std::size_t>(coefficient_count(activation)));
  if (activation.kind == ActivationKind::prelu) {
    values[0] = initial_slope;
  } else if (!values.empty()) {
    for (int p = 1; p <= activation.order; ++p) {
      values[static_cast<std::size_t>(p)] = 1.0 / activation.order;
    }
    if (activation.kind == ActivationKind::polyprelu) values.back() = initial_slope;
  }
  return values;
}

}  // namespace polymoe
