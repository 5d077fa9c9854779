// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/activation/activation.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

// Which coefficients a kind learns.
enum class Coefficients : std::uint8_t {
  none,
  slope,             // a_0
  powers,            // a_0 .. a_order
  powers_and_slope,  // a_0 .. a_order, then the slope
};

// What is to be known of a kind beside its formula.
struct Facts {
  ActivationKind kind;
  const char* name;
  Coefficients coefficients = Coefficients::none;
  bool gated = false;
  bool norms_rows = false;
};

// In the order of the enumeration.
constexpr Facts all_facts[] = {
    {.kind = ActivationKind::relu, .name = "relu"},
    {.kind = ActivationKind::leaky_relu, .name = "leaky_relu"},
    {.kind = ActivationKind::prelu, .name = "prelu", .coefficients = Coefficients::slope},
    {.kind = ActivationKind::relu2, .name = "relu2"},
    {.kind = ActivationKind::gelu, .name = "gelu"},
    {.kind = ActivationKind::silu, .name = "silu"},
    {.kind = ActivationKind::swiglu, .name = "swiglu", .gated = true},
    {.kind = ActivationKind::polyrelu, .name = "polyrelu", .coefficients = Coefficients::powers},
    {.kind = ActivationKind::polyprelu,
     .name = "polyprelu",
     .coefficients = Coefficients::powers_and_slope},
    {.kind = ActivationKind::polynorm,
     .name = "polynorm",
     .coefficients = Coefficients::powers,
     .norms_rows = true},
    {.kind = ActivationKind::polyrelunorm,
     .name = "polyrelunorm",
     .coefficients = Coefficients::powers,
     .norms_rows = true},
    {.kind = ActivationKind::polynomial,
     .name = "polynomial",
     .coefficients = Coefficients::powers},
};

constexpr bool is_in_order() {
  for (std::size_t i = 0; i < std::size(all_facts); ++i) {
    if (all_facts[i].kind != static_cast<ActivationKind>(i)) return false;
  }
  return true;
}
static_assert(is_in_order());

const Facts& facts_of(ActivationKind kind) {
  const auto number = static_cast<std::size_t>(kind);
  if (number < std::size(all_facts)) return all_facts[number];
  throw InvalidArgument("no activation has the number " + std::to_string(number));
}

}  // namespace

const char* name_of(ActivationKind kind) { return facts_of(kind).name; }

const std::vector<ActivationKind>& all_activations() {
  static const std::vector<ActivationKind> kinds = [] {
    std::vector<ActivationKind> list;
    for (const Facts& facts : all_facts) list.push_back(facts.kind);
    return list;
  }();
  return kinds;
}

ActivationKind parse_activation(std::string_view text) {
  std::string allowed;
  for (const Facts& facts : all_facts) {
    if (facts.name == text) return facts.kind;
    allowed += (allowed.empty() ? "" : ", ") + std::string(facts.name);
  }
  throw InvalidArgument("unknown activation '" + std::string(text) + "', allowed: " + allowed);
}

bool is_gated(ActivationKind kind) { return facts_of(kind).gated; }

bool norms_rows(ActivationKind kind) { return facts_of(kind).norms_rows; }

bool has_order(ActivationKind kind) {
  const Coefficients learned = facts_of(kind).coefficients;
  return learned == Coefficients::powers || learned == Coefficients::powers_and_slope;
}

int pre_activation_factor(ActivationKind kind) { return is_gated(kind) ? 2 : 1; }

int coefficient_count(const Activation& activation) {
  switch (facts_of(activation.kind).coefficients) {
    case Coefficients::none:
      return 0;
    case Coefficients::slope:
      return 1;
    case Coefficients::powers:
      return activation.order + 1;
    case Coefficients::powers_and_slope:
      return activation.order + 2;
  }
  return 0;
}

std::vector<double> initial_coefficients(const Activation& activation) {
  constexpr double initial_slope = 0.25;
  std::vector<double> values(static_cast<std::size_t>(coefficient_count(activation)));
  if (has_order(activation.kind)) {
    for (int p = 1; p <= activation.order; ++p) {
      values[static_cast<std::size_t>(p)] = 1.0 / activation.order;
    }
  }
  const Coefficients learned = facts_of(activation.kind).coefficients;
  if (learned == Coefficients::slope || learned == Coefficients::powers_and_slope) {
    values.back() = initial_slope;
  }
  return values;
}

}  // namespace polymoe
