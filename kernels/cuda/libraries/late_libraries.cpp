// SPDX-License-Identifier: Apache-2.0
// cuBLASLt and NVRTC, loaded at their first call: to load them takes 170 MiB of memory and 0.1 s,
// of which a run on CPUs has no use. What the program calls of them is defined here and handed on.
#include <cublasLt.h>
#include <dlfcn.h>
#include <nvrtc.h>

#include <boost/preprocessor/repetition/enum.hpp>
#include <boost/preprocessor/repetition/enum_params.hpp>
#include <string>
#include <tuple>

#include "runtime/error.h"

namespace polymoe::cuda {
namespace {

/// By its name where the loader looks, else in the folder that the build found it in.
void* load(const std::string& name) {
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const std::string reason = dlerror();
  library = dlopen((std::string(POLYMOE_CUDA_LIBRARIES "/") + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw DeviceError("a run on GPUs needs " + name + ": " + reason);
  return library;
}

void* cublas_lt() {
  static void* const library = load("libcublasLt.so." POLYMOE_CUDA_MAJOR);
  return library;
}

void* nvrtc() {
  static void* const library = load("libnvrtc.so." POLYMOE_CUDA_MAJOR);
  return library;
}

template <class Function>
Function* find(void* library, const char* name) {
  void* const symbol = dlsym(library, name);
  if (symbol == nullptr) throw DeviceError(std::string("a CUDA library has no ") + name);
  return reinterpret_cast<Function*>(symbol);
}

template <class Function>
struct Signature;
template <class R, class... Parameters>
struct Signature<R(Parameters...)> {
  using Result = R;
  static constexpr std::size_t parameters = sizeof...(Parameters);
  template <std::size_t i>
  using Parameter = std::tuple_element_t<i, std::tuple<Parameters...>>;
};

}  // namespace
}  // namespace polymoe::cuda

// Defines `name`, of `count` parameters, as the library's header declares it; it hands its
// arguments on to the library's.
#define POLYMOE_PARAMETER(unused, i, name) \
  polymoe::cuda::Signature<decltype(name)>::Parameter<i> argument##i
#define POLYMOE_FORWARD(library, name, count)                                     \
  polymoe::cuda::Signature<decltype(name)>::Result name(                          \
      BOOST_PP_ENUM(count, POLYMOE_PARAMETER, name)) {                            \
    static_assert(polymoe::cuda::Signature<decltype(name)>::parameters == count); \
    static const auto function =                                                  \
        polymoe::cuda::find<decltype(name)>(polymoe::cuda::library(), #name);     \
    return function(BOOST_PP_ENUM_PARAMS(count, argument));                       \
  }

extern "C" {

POLYMOE_FORWARD(cublas_lt, cublasLtCreate, 1)
POLYMOE_FORWARD(cublas_lt, cublasLtDestroy, 1)
POLYMOE_FORWARD(cublas_lt, cublasLtGetStatusString, 1)
POLYMOE_FORWARD(cublas_lt, cublasLtMatmul, 16)
POLYMOE_FORWARD(cublas_lt, cublasLtMatmulAlgoGetHeuristic, 10)
POLYMOE_FORWARD(cublas_lt, cublasLtMatmulDescSetAttribute, 4)
POLYMOE_FORWARD(cublas_lt, cublasLtMatmulPreferenceCreate, 1)
POLYMOE_FORWARD(cublas_lt, cublasLtMatmulPreferenceDestroy, 1)
POLYMOE_FORWARD(cublas_lt, cublasLtMatmulPreferenceSetAttribute, 4)
// Called by cublasLt.h itself, in cublasLtMatmulDescInit and cublasLtMatrixLayoutInit.
POLYMOE_FORWARD(cublas_lt, cublasLtMatmulDescInit_internal, 4)
POLYMOE_FORWARD(cublas_lt, cublasLtMatrixLayoutInit_internal, 6)

// Called by the headers of cudnn-frontend.
POLYMOE_FORWARD(nvrtc, nvrtcCreateProgram, 6)
POLYMOE_FORWARD(nvrtc, nvrtcDestroyProgram, 1)
POLYMOE_FORWARD(nvrtc, nvrtcCompileProgram, 3)
POLYMOE_FORWARD(nvrtc, nvrtcGetCUBINSize, 2)
POLYMOE_FORWARD(nvrtc, nvrtcGetCUBIN, 2)
POLYMOE_FORWARD(nvrtc, nvrtcGetProgramLogSize, 2)
POLYMOE_FORWARD(nvrtc, nvrtcGetProgramLog, 2)

}  // extern "C"

#undef POLYMOE_FORWARD
#undef POLYMOE_PARAMETER
