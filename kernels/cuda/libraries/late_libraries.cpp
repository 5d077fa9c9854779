// SPDX-License-Identifier: Apache-2.0
// cuBLASLt and NVRTC, loaded at their first call: to load them takes 170 MiB of memory and 0.1 s,
// of which a run on CPUs has no use. What the program calls of them is defined here and handed on.
#include <cublasLt.h>
#include <dlfcn.h>
#include <nvrtc.h>

#include <string>

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

}  // namespace
}  // namespace polymoe::cuda

// Defines `name` with its parameters, which hands its arguments on to the library's.
#define POLYMOE_FORWARD(library, result, name, parameters, arguments)         \
  result name parameters {                                                    \
    static const auto function =                                              \
        polymoe::cuda::find<decltype(name)>(polymoe::cuda::library(), #name); \
    return function arguments;                                                \
  }

extern "C" {

POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtCreate, (cublasLtHandle_t * handle), (handle))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtDestroy, (cublasLtHandle_t handle), (handle))
POLYMOE_FORWARD(cublas_lt, const char*, cublasLtGetStatusString, (cublasStatus_t status), (status))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatmul,
                (cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void* alpha,
                 const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                 cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                 cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                 const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                 cudaStream_t stream),
                (handle, product, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout,
                 algorithm, workspace, workspace_bytes, stream))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatmulAlgoCheck,
                (cublasLtHandle_t handle, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                 const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result),
                (handle, product, a, b, c, d, algorithm, result))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatmulAlgoGetHeuristic,
                (cublasLtHandle_t handle, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                 cublasLtMatmulPreference_t preference, int requested,
                 cublasLtMatmulHeuristicResult_t* results, int* found),
                (handle, product, a, b, c, d, preference, requested, results, found))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatmulDescInit_internal,
                (cublasLtMatmulDesc_t product, size_t size, cublasComputeType_t compute,
                 cudaDataType_t scale),
                (product, size, compute, scale))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatmulDescSetAttribute,
                (cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute,
                 const void* value, size_t size),
                (product, attribute, value, size))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceCreate,
                (cublasLtMatmulPreference_t * preference), (preference))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceDestroy,
                (cublasLtMatmulPreference_t preference), (preference))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatmulPreferenceSetAttribute,
                (cublasLtMatmulPreference_t preference,
                 cublasLtMatmulPreferenceAttributes_t attribute, const void* value, size_t size),
                (preference, attribute, value, size))
POLYMOE_FORWARD(cublas_lt, cublasStatus_t, cublasLtMatrixLayoutInit_internal,
                (cublasLtMatrixLayout_t layout, size_t size, cudaDataType type, uint64_t rows,
                 uint64_t columns, int64_t leading),
                (layout, size, type, rows, columns, leading))

// Called by the headers of cudnn-frontend.
POLYMOE_FORWARD(nvrtc, nvrtcResult, nvrtcCreateProgram,
                (nvrtcProgram * program, const char* source, const char* name, int headers,
                 const char* const* texts, const char* const* names),
                (program, source, name, headers, texts, names))
POLYMOE_FORWARD(nvrtc, nvrtcResult, nvrtcDestroyProgram, (nvrtcProgram * program), (program))
POLYMOE_FORWARD(nvrtc, nvrtcResult, nvrtcCompileProgram,
                (nvrtcProgram program, int count, const char* const* options),
                (program, count, options))
POLYMOE_FORWARD(nvrtc, nvrtcResult, nvrtcGetCUBINSize, (nvrtcProgram program, size_t* size),
                (program, size))
POLYMOE_FORWARD(nvrtc, nvrtcResult, nvrtcGetCUBIN, (nvrtcProgram program, char* code),
                (program, code))
POLYMOE_FORWARD(nvrtc, nvrtcResult, nvrtcGetProgramLogSize, (nvrtcProgram program, size_t* size),
                (program, size))
POLYMOE_FORWARD(nvrtc, nvrtcResult, nvrtcGetProgramLog, (nvrtcProgram program, char* text),
                (program, text))

}  // extern "C"

#undef POLYMOE_FORWARD
