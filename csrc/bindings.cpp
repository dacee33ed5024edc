// The kernels for Python. Arguments are addresses, strides and sizes; nothing is checked here. The
// only caller is clear_ref/losses/operators.py, after the checks of operand_checks.py. While a
// kernel runs the GIL is released, and no Python object is used.

#include "dispatch.h"
#include "token_terms.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

namespace py = pybind11;
using namespace token_terms;
using Address = std::uintptr_t;

static Problem problem(Address student, std::int64_t student_stride, Address teacher,
                       std::int64_t teacher_stride, Address labels, std::int64_t n,
                       std::int64_t vocabulary, std::int64_t ignore_index, int type,
                       bool skip_ignored) {
    return {reinterpret_cast<const void*>(student),
            reinterpret_cast<const void*>(teacher),
            reinterpret_cast<const std::int64_t*>(labels),
            student_stride,
            teacher_stride,
            n,
            vocabulary,
            ignore_index,
            Type(type),
            skip_ignored};
}

static float* floats(Address address) { return reinterpret_cast<float*>(address); }

static void raise_if(const char* error, const char* operation) {
    if (error) throw std::runtime_error(std::string(operation) + ": CUDA says: " + error);
}

// The first row whose label is neither in [0, vocabulary) nor ignore_index; -1 if there is no such
// row.
static std::int64_t first_bad_label(Address labels, std::int64_t n, std::int64_t vocabulary,
                                    std::int64_t ignore_index) {
    const auto* label = reinterpret_cast<const std::int64_t*>(labels);
    for (std::int64_t i = 0; i < n; ++i) {
        if (label[i] != ignore_index && (label[i] < 0 || label[i] >= vocabulary)) return i;
    }
    return -1;
}

PYBIND11_MODULE(_token_terms, m) {
    m.doc() = "Compiled token terms; private to clear_ref.losses.";
    m.attr("N_STATS") = int(N_STATS);
    m.attr("FLOAT32") = int(FLOAT32);
    m.attr("BFLOAT16") = int(BFLOAT16);
    m.attr("FLOAT16") = int(FLOAT16);
    m.attr("WITH_PREDICTIONS") = int(WITH_PREDICTIONS);
#if defined(WITH_CUDA)
    m.attr("cuda_targets") = WITH_CUDA;
#else
    m.attr("cuda_targets") = "";
#endif
    py::class_<Problem>(m, "Problem").def(py::init(&problem));
    m.def("first_bad_label", &first_bad_label);
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const auto* kernel : cpu_kernels()) names.push_back(kernel->name);
        return names;
    });
    m.def("cpu_stats", [](const Problem& p, int wanted, Address table, int kernel, int threads) {
        py::gil_scoped_release released;
        cpu_stats(*cpu_kernels().at(std::size_t(kernel)), p, Wanted(wanted), floats(table),
                  threads);
    });
    m.def("cpu_dlogits", [](const Problem& p, Address table, Address upstream, Address gradient,
                            int kernel, int threads) {
        py::gil_scoped_release released;
        cpu_dlogits(*cpu_kernels().at(std::size_t(kernel)), p, floats(table), floats(upstream),
                    reinterpret_cast<void*>(gradient), threads);
    });
    m.def("cpu_stats_and_dlogits", [](const Problem& p, int wanted, Address table, Address upstream,
                                      Address gradient, int kernel, int threads) {
        py::gil_scoped_release released;
        cpu_stats_and_dlogits(*cpu_kernels().at(std::size_t(kernel)), p, Wanted(wanted),
                              floats(table), floats(upstream), reinterpret_cast<void*>(gradient),
                              threads);
    });
#if defined(WITH_CUDA)
    m.def("cuda_workspace", [](const Problem& p, int device) { return cuda_workspace(p, device); });
    m.def("cuda_stats", [](const Problem& p, int wanted, Address table, Address workspace,
                           int device, Address stream) {
        py::gil_scoped_release released;
        raise_if(cuda_stats(p, Wanted(wanted), floats(table), floats(workspace), device,
                            reinterpret_cast<void*>(stream)),
                 "token_stats");
    });
    m.def("cuda_dlogits", [](const Problem& p, Address table, Address upstream, Address gradient,
                             int device, Address stream) {
        py::gil_scoped_release released;
        raise_if(cuda_dlogits(p, floats(table), floats(upstream), reinterpret_cast<void*>(gradient),
                              device, reinterpret_cast<void*>(stream)),
                 "token_dlogits");
    });
    m.def("cuda_stats_and_dlogits",
          [](const Problem& p, int wanted, Address table, Address workspace, Address upstream,
             Address gradient, int device, Address stream) {
              py::gil_scoped_release released;
              raise_if(cuda_stats_and_dlogits(p, Wanted(wanted), floats(table), floats(workspace),
                                              floats(upstream), reinterpret_cast<void*>(gradient),
                                              device, reinterpret_cast<void*>(stream)),
                       "token_stats_and_dlogits");
          });
#endif
}
