// The CPU kernels that this processor can run, and the distribution of rows to threads.

#pragma once

#include "token_terms.h"

#include <vector>

namespace token_terms {

// The slowest first, the fastest last.
const std::vector<const CpuKernel*>& cpu_kernels();

void cpu_stats(const CpuKernel&, const Problem&, Wanted, float* table, int threads);
void cpu_dlogits(const CpuKernel&, const Problem&, const float* table, const float* upstream,
                 void* gradient, int threads);
void cpu_stats_and_dlogits(const CpuKernel&, const Problem&, Wanted, float* table,
                           const float* upstream, void* gradient, int threads);

}  // namespace token_terms
