// The part of the CUDA language and runtime that csrc/token_terms_cuda.cu uses, run by one CPU thread: enough to test the
// logic of that very source, not its speed. Blocks run one after the other, their threads as fibres (fibres.h).
//
// What it checks: every thread reaches each barrier, every lane each shuffle, 16-byte accesses are aligned, reads of logits
// stay inside their rows. A missing barrier shows as a result that depends on the order of threads, which a test can set.

#pragma once

#include <math.h>
#include <string.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "fibres.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

// ---- runtime ----

using cudaStream_t = void*;
using cudaError_t = int;
enum { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInsufficientDriver = 35, cudaErrorInvalidDevice = 101,
       cudaErrorLaunchFailure = 719 };
enum cudaDeviceAttr { cudaDevAttrMaxGridDimX = 5, cudaDevAttrMultiProcessorCount = 16 };

namespace emulated {

struct Launch {
    void* stream;
    int device;
    unsigned blocks;
    int threads;
};

struct Machine {
    int devices = 2;
    int device = 0;                // current
    int multiprocessors = 4;
    int largest_grid = 2147483647;
    bool driver = true;
    int launches_until_failure = -1;
    int last_error = cudaSuccess;
    char failure[200] = "";
    std::vector<Launch> launches;
    std::vector<int> devices_set;
};

// Logits that may be read, and how many were.
struct Logits {
    const char* first = nullptr;
    std::int64_t element = 0, stride = 0, rows = 0, columns = 0, read = 0;

    bool holds(const char* pointer, std::int64_t bytes) {
        if (!first || pointer < first) return false;
        const std::int64_t offset = (pointer - first) / element, count = bytes / element;
        const std::int64_t row = stride ? offset / stride : 0, column = offset - row * stride;
        if (row >= rows || column + count > columns) return false;
        read += count;
        return true;
    }
};

inline Machine machine;
inline Logits student, teacher;

inline void fail(const char* what) {
    if (!machine.failure[0]) snprintf(machine.failure, sizeof machine.failure, "%s", what);
    machine.last_error = cudaErrorLaunchFailure;
}

inline void check_read(const void* pointer, std::int64_t bytes) {
    const char* at = static_cast<const char*>(pointer);
    if (bytes == 16 && reinterpret_cast<std::uintptr_t>(pointer) % 16) fail("misaligned read of 16 bytes");
    if (student.holds(at, bytes) || teacher.holds(at, bytes)) return;
    fail("read outside the rows of logits");
}

}  // namespace emulated

namespace emulated {

// Whether a call about `device` works; as in the real runtime, a failure is also the last error until that is asked for.
inline cudaError_t usable(int device) {
    const cudaError_t error = !machine.driver ? cudaErrorInsufficientDriver
                              : device < 0 || device >= machine.devices ? cudaErrorInvalidDevice : cudaSuccess;
    if (error != cudaSuccess) machine.last_error = error;
    return error;
}

}  // namespace emulated

inline cudaError_t cudaGetDevice(int* device) {
    *device = emulated::machine.device;
    return emulated::usable(*device);
}

inline cudaError_t cudaSetDevice(int device) {
    if (const cudaError_t error = emulated::usable(device)) return error;
    emulated::machine.devices_set.push_back(device);
    emulated::machine.device = device;
    return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (const cudaError_t error = emulated::usable(device)) return error;
    *value = attribute == cudaDevAttrMaxGridDimX ? emulated::machine.largest_grid : emulated::machine.multiprocessors;
    return cudaSuccess;
}

inline cudaError_t cudaGetLastError() {
    const cudaError_t error = emulated::machine.last_error;
    emulated::machine.last_error = cudaSuccess;
    return error;
}

inline const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
        case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        default: return emulated::machine.failure;
    }
}

// ---- threads ----

struct Index {
    unsigned x;
};

inline Index threadIdx, blockIdx;

template <class Arguments>
void emulated_launch(void (*kernel)(Arguments), const Arguments& arguments, unsigned blocks, int threads, void* stream) {
    emulated::Machine& machine = emulated::machine;
    if (machine.launches_until_failure == 0 || blocks == 0 || blocks > static_cast<unsigned>(machine.largest_grid)) {
        machine.last_error = cudaErrorInvalidConfiguration;
        return;
    }
    if (machine.launches_until_failure > 0) --machine.launches_until_failure;
    machine.launches.push_back({stream, machine.device, blocks, threads});
    for (unsigned block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        const char* trouble = fibres::run(threads, [&](int thread) { threadIdx.x = thread; }, [&] { kernel(arguments); });
        if (trouble) return emulated::fail(trouble);
    }
}

inline void __syncthreads() { fibres::wait(fibres::AT_BARRIER, nullptr, 0); }

inline int __syncthreads_or(int predicate) { return fibres::any(predicate); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int distance) {
    fibres::wait(fibres::AT_SHUFFLE, &value, sizeof value);
    fibres::take(&value, sizeof value, distance);
    return value;
}

// ---- memory and arithmetic ----

struct float2 {
    float x, y;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <class T>
T __ldg(const T* pointer) {
    emulated::check_read(pointer, sizeof(T));
    T value;
    memcpy(&value, pointer, sizeof value);
    return value;
}

template <class T>
T __ldcs(const T* pointer) { return __ldg(pointer); }

// As PTX promises it: subnormal inputs are 0, results below 2^-126 are 0, exact at 0, and elsewhere wrong by up to 2 units in
// the last place. The emulation is wrong by that much, up or down as the bits of x fall: a result that needs more is found.
inline float emulated_ex2(float x) {
    if (fabsf(x) < 0x1p-126f) return 1;
    const double exact = exp2(static_cast<double>(x));
    if (exact < 0x1p-126) return 0;
    float y = static_cast<float>(exact);
    std::uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits ^ (bits >> 15)) * 2654435761u;
    const float toward = bits >> 31 ? INFINITY : 0.f;
    return isfinite(y) ? nextafterf(nextafterf(y, toward), toward) : y;
}
