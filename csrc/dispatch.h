// The CPU kernels this processor can run, and their rows handed to threads.

#pragma once

#include "token_terms.h"

#include <vector>

namespace token_terms {

// Weakest first; the last is the fastest.
const std::vector<const CpuKernel*>& cpu_kernels();

void cpu_stats(const CpuKernel&, const Problem&, bool entropy, float* table, int threads);
void cpu_dlogits(const CpuKernel&, const Problem&, const float* table, const float* upstream, void* gradient, int threads);

}  // namespace token_terms
