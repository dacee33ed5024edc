#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace token_terms {

namespace baseline {
extern const CpuKernel KERNEL;
}
#if defined(WITH_AVX2)
namespace avx2 {
extern const CpuKernel KERNEL;
}
#endif
#if defined(WITH_AVX512)
namespace avx512 {
extern const CpuKernel KERNEL;
}
#endif

const std::vector<const CpuKernel*>& cpu_kernels() {
    static const std::vector<const CpuKernel*> found = [] {
        std::vector<const CpuKernel*> kernels = {&baseline::KERNEL};
#if defined(WITH_AVX2)
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("f16c");
        if (avx2) kernels.push_back(&avx2::KERNEL);
#if defined(WITH_AVX512)
        if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            kernels.push_back(&avx512::KERNEL);
#endif
#endif
        return kernels;
    }();
    return found;
}

namespace {

constexpr std::int64_t SMALL =
    1 << 16;  // logits; with fewer, a second thread costs more time than it saves

// Threads take pieces of rows from one counter; a row's result does not depend on the thread that
// computes it. Threads are created for the call and end with it: no thread waits between calls, and
// a process may fork.
template <class Rows>
void in_threads(const Problem& problem, int threads, Rows rows) {
    const std::int64_t piece = std::max<std::int64_t>(1, SMALL / problem.vocabulary);
    const std::int64_t useful = std::min<std::int64_t>(threads, (problem.n + piece - 1) / piece);
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
        for (;;) {
            const std::int64_t begin = next.fetch_add(piece);
            if (begin >= problem.n) return;
            rows(begin, std::min(begin + piece, problem.n));
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (std::int64_t i = 1; i < useful; ++i) helpers.emplace_back(work);
    } catch (const std::system_error&) {
        // The system allows no more threads: those that exist, and this one, compute all rows.
    }
    work();
    for (auto& helper : helpers) helper.join();
}

// A large gradient is newly allocated memory. With pages of 4 KiB, the page faults at the first
// write to each page would take longer than the kernel itself.
void ask_for_large_pages(void* memory, std::int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t PAGE = 2 << 20;
    const auto begin = (reinterpret_cast<std::uintptr_t>(memory) + PAGE - 1) / PAGE * PAGE;
    const auto end =
        (reinterpret_cast<std::uintptr_t>(memory) + std::uintptr_t(bytes)) / PAGE * PAGE;
    // Advice only: its result can be ignored.
    if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}

}  // namespace

void cpu_stats(const CpuKernel& kernel, const Problem& problem, Wanted wanted, float* table,
               int threads) {
    in_threads(problem, threads, [&](std::int64_t begin, std::int64_t end) {
        kernel.stats(problem, wanted, table, begin, end);
    });
}

static std::int64_t gradient_bytes(const Problem& problem) {
    return problem.n * problem.vocabulary * (problem.type == FLOAT32 ? 4 : 2);
}

void cpu_dlogits(const CpuKernel& kernel, const Problem& problem, const float* table,
                 const float* upstream, void* gradient, int threads) {
    ask_for_large_pages(gradient, gradient_bytes(problem));
    in_threads(problem, threads, [&](std::int64_t begin, std::int64_t end) {
        kernel.dlogits(problem, table, upstream, gradient, begin, end);
    });
}

void cpu_stats_and_dlogits(const CpuKernel& kernel, const Problem& problem, Wanted wanted,
                           float* table, const float* upstream, void* gradient, int threads) {
    ask_for_large_pages(gradient, gradient_bytes(problem));
    const auto floats = std::size_t(kernel.scratch_floats(problem));
    in_threads(problem, threads, [&](std::int64_t begin, std::int64_t end) {
        thread_local std::vector<float> scratch;  // kept by the caller's thread for its next call
        if (scratch.size() < floats) scratch.resize(floats);
        kernel.both(problem, wanted, table, upstream, gradient, scratch.data(), begin, end);
    });
}

}  // namespace token_terms
