// csrc/token_terms_cuda.cu on the emulator, as C functions for ctypes. Texts that come back are null where all is well.

#include "../../csrc/token_terms_cuda.cu"

using namespace token_terms;

namespace {

Problem problem_of(const void* student, const void* teacher, const std::int64_t* labels, const std::int64_t* numbers) {
    Problem p = {};
    p.student = student;
    p.teacher = teacher;
    p.labels = labels;
    p.student_stride = numbers[0];
    p.teacher_stride = numbers[1];
    p.n = numbers[2];
    p.vocabulary = numbers[3];
    p.ignore_index = numbers[4];
    p.type = static_cast<Type>(numbers[5]);
    p.skip_ignored = numbers[6] != 0;
    const std::int64_t element = p.type == FLOAT32 ? 4 : 2;
    emulated::student = {static_cast<const char*>(student), element, p.student_stride, p.n, p.vocabulary, 0};
    emulated::teacher = {static_cast<const char*>(teacher), element, p.teacher_stride, p.n, p.vocabulary, 0};
    return p;
}

// Half of the threads reach a barrier.
void some_at_a_barrier(int) {
    if (threadIdx.x < 32) __syncthreads();
}

// Half of a warp's lanes reach a shuffle.
void some_at_a_shuffle(int) {
    if (threadIdx.x % 32 < 16) __shfl_xor_sync(0xFFFFFFFFu, 1, 8);
}

// Thread 0 reads what thread 63 writes, with no barrier between them.
float seen;
void race(int) {
    __shared__ float written;
    if (threadIdx.x == 0) written = 0;
    __syncthreads();
    if (threadIdx.x == 63) written = 1;
    if (threadIdx.x == 0) seen = written;
}

const char* run_block(void (*kernel)(int)) {
    emulated_launch(kernel, 0, 1, 64, nullptr);
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

extern "C" {

// A machine as new. `order` is 0 forward, 1 reverse, or a seed.
void machine(int order, int multiprocessors, int largest_grid, int device, int driver, int launches_until_failure) {
    emulated::machine = {};
    emulated::machine.multiprocessors = multiprocessors;
    emulated::machine.largest_grid = largest_grid;
    emulated::machine.device = device;
    emulated::machine.driver = driver != 0;
    emulated::machine.launches_until_failure = launches_until_failure;
    fibres::order = order == 0 ? fibres::FORWARD : order == 1 ? fibres::REVERSE : fibres::SHUFFLED;
    fibres::dice.seed(order);
}

// What happened since: the current device, devices set, launches, and logits read of the student and of the teacher.
void happened(std::int64_t* numbers) {
    const emulated::Machine& m = emulated::machine;
    numbers[0] = m.device;
    numbers[1] = static_cast<std::int64_t>(m.devices_set.size());
    numbers[2] = static_cast<std::int64_t>(m.launches.size());
    numbers[3] = emulated::student.read;
    numbers[4] = emulated::teacher.read;
}

// Launch `i`: stream, device current then, blocks, threads.
void launched(std::int64_t i, std::int64_t* numbers) {
    const emulated::Launch& launch = emulated::machine.launches[i];
    numbers[0] = static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(launch.stream));
    numbers[1] = launch.device;
    numbers[2] = launch.blocks;
    numbers[3] = launch.threads;
}

std::int64_t workspace(const std::int64_t* numbers, int device) {
    return cuda_workspace(problem_of(nullptr, nullptr, nullptr, numbers), device);
}

const char* stats(const void* student, const void* teacher, const std::int64_t* labels, const std::int64_t* numbers,
                  int wanted, float* table, float* workspace, int device, void* stream) {
    return cuda_stats(problem_of(student, teacher, labels, numbers), static_cast<Wanted>(wanted), table, workspace, device, stream);
}

const char* dlogits(const void* student, const void* teacher, const std::int64_t* labels, const std::int64_t* numbers,
                    const float* table, const float* upstream, void* gradient, int device, void* stream) {
    return cuda_dlogits(problem_of(student, teacher, labels, numbers), table, upstream, gradient, device, stream);
}

const char* both(const void* student, const void* teacher, const std::int64_t* labels, const std::int64_t* numbers,
                 int wanted, float* table, float* workspace, const float* upstream, void* gradient, int device, void* stream) {
    return cuda_stats_and_dlogits(problem_of(student, teacher, labels, numbers), static_cast<Wanted>(wanted), table,
                                  workspace, upstream, gradient, device, stream);
}

const char* broken_barrier() { return run_block(some_at_a_barrier); }
const char* broken_shuffle() { return run_block(some_at_a_shuffle); }

float missing_barrier() {
    run_block(race);
    return seen;
}

float ex2(float x) { return emulated_ex2(x); }
}
