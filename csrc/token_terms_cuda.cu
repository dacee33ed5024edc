// stats and dlogits of token_terms.h on a GPU: which kernels run, with how many blocks. Nothing is
// allocated and nothing waits, so a CUDA graph can capture the launches.

#include <type_traits>

#include "token_terms_rows.cuh"

namespace token_terms {
namespace {

// The runtime keeps the last error until it is asked for. It is asked for here, so that it is not
// taken for an error of the next launch.
const char* message_of(cudaError_t error) {
    if (error == cudaSuccess) return nullptr;
    cudaGetLastError();
    return cudaGetErrorString(error);
}

// Makes `device` the current one if it is not, and restores the earlier one. A call that is not
// needed is not made: it would create a context on another GPU.
class CurrentDevice {
public:
    explicit CurrentDevice(int device) {
        error = cudaGetDevice(&before);
        if (error != cudaSuccess || before == device) return;
        error = cudaSetDevice(device);
        changed = error == cudaSuccess;
    }
    ~CurrentDevice() {
        if (changed) cudaSetDevice(before);
    }
    CurrentDevice(const CurrentDevice&) = delete;
    CurrentDevice& operator=(const CurrentDevice&) = delete;
    cudaError_t error;

private:
    int before = 0;
    bool changed = false;
};

// `rows` rows of `per_row` blocks, in as many launches as the limit of the grid requires.
template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), Arguments arguments, std::int64_t rows,
                   std::int64_t per_row, int threads, int device, void* stream) {
    int limit = 0;
    const cudaError_t found = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxGridDimX, device);
    if (found != cudaSuccess) return found;
    const std::int64_t at_once = limit / per_row > 0 ? limit / per_row : 1;
    for (std::int64_t row = 0; row < rows; row += at_once) {
        const unsigned blocks =
            static_cast<unsigned>((rows - row < at_once ? rows - row : at_once) * per_row);
        arguments.first_row = row;
#ifdef __CUDACC__
        kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments);
#else
        emulated_launch(kernel, arguments, blocks, threads, stream);
#endif
        const cudaError_t launched = cudaGetLastError();
        if (launched != cudaSuccess) return launched;
    }
    return cudaSuccess;
}

std::int64_t element_size(Type type) { return type == FLOAT32 ? 4 : 2; }

bool on_vectors(const void* pointer, std::int64_t stride, Type type) {
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 &&
           stride * element_size(type) % 16 == 0;
}

bool inputs_on_vectors(const Problem& p) {
    return on_vectors(p.student, p.student_stride, p.type) &&
           on_vectors(p.teacher, p.teacher_stride, p.type);
}

// As many blocks as give each multiprocessor two, but no block has less than a vector for each
// thread.
unsigned parts_of_row(const Problem& problem, int multiprocessors) {
    const std::int64_t logits = 16 / element_size(problem.type) * THREADS;
    std::int64_t parts = (problem.vocabulary + logits - 1) / logits;
    const std::int64_t wanted =
        (2 * static_cast<std::int64_t>(multiprocessors) + problem.n - 1) / problem.n;
    if (parts > wanted) parts = wanted;
    return static_cast<unsigned>(parts > MAX_PARTS ? MAX_PARTS : parts);
}

template <Type type, bool ALIGNED>
void (*row_sums_for(bool teacher, bool entropy))(Forward) {
    if (teacher)
        return entropy ? row_sums<type, true, true, ALIGNED> : row_sums<type, true, false, ALIGNED>;
    return entropy ? row_sums<type, false, true, ALIGNED> : row_sums<type, false, false, ALIGNED>;
}

template <Type type>
cudaError_t launch_stats(const Forward& forward, int device, void* stream) {
    const Problem& p = forward.problem;
    const bool entropy = forward.wanted >= WITH_ENTROPIES;
    const auto kernel = inputs_on_vectors(p) ? row_sums_for<type, true>(p.teacher, entropy)
                                             : row_sums_for<type, false>(p.teacher, entropy);
    const cudaError_t error = launch(kernel, forward, p.n, forward.parts, THREADS, device, stream);
    if (error != cudaSuccess || !forward.partials) return error;
    return launch(merge_parts<type>, forward, p.n, 1, THREADS, device, stream);
}

template <Type type>
unsigned tiles_of(const Problem& problem) {
    const std::int64_t logits = TILE_THREADS * TILE_VECTORS * LOGITS<type>;
    return static_cast<unsigned>((problem.vocabulary + logits - 1) / logits);
}

template <Type type>
cudaError_t launch_dlogits(Backward backward, int device, void* stream) {
    const Problem& p = backward.problem;
    const bool aligned = inputs_on_vectors(p) && on_vectors(backward.gradient, p.vocabulary, type);
    backward.tiles = tiles_of<type>(p);
    void (*kernel)(Backward) = row_gradients<type, false, false>;
    if (p.teacher) {
        kernel = aligned ? row_gradients<type, true, true> : row_gradients<type, true, false>;
    } else if (aligned) {
        kernel = row_gradients<type, false, true>;
    }
    return launch(kernel, backward, p.n, backward.tiles, TILE_THREADS, device, stream);
}

// One launch if a row is one block's, or those of stats and dlogits.
template <Type type>
cudaError_t launch_both(const Forward& forward, Backward backward, int device, void* stream) {
    const Problem& p = forward.problem;
    if (forward.partials || forward.wanted != WITH_ENTROPIES || !inputs_on_vectors(p) ||
        !on_vectors(backward.gradient, p.vocabulary, type)) {
        const cudaError_t error = launch_stats<type>(forward, device, stream);
        return error != cudaSuccess ? error : launch_dlogits<type>(backward, device, stream);
    }
    backward.tiles = tiles_of<type>(p);
    const Both both = {forward, backward, 0};
    return launch(p.teacher ? row_both<type, true> : row_both<type, false>, both, p.n, 1, THREADS,
                  device, stream);
}

}  // namespace

std::int64_t cuda_workspace(const Problem& problem, int device) {
    int multiprocessors = 0;
    if (problem.n == 0) return 0;
    if (message_of(
            cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device)))
        return 0;
    const unsigned parts = parts_of_row(problem, multiprocessors);
    return parts == 1 ? 0
                      : problem.n * parts * static_cast<std::int64_t>(sizeof(Part) / sizeof(float));
}

static cudaError_t forward_of(const Problem& problem, Wanted wanted, float* table, float* workspace,
                              int device, Forward& forward) {
    int multiprocessors = 0;
    const cudaError_t error =
        cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess) return error;
    const unsigned parts = workspace ? parts_of_row(problem, multiprocessors) : 1;
    Part* partials = parts == 1 ? nullptr : reinterpret_cast<Part*>(workspace);
    forward = {problem, wanted, table, partials, parts, 0};
    return cudaSuccess;
}

// Calls `launch` with the type of the logits, if there are rows. Returns null, or what went wrong.
template <class Launch>
static const char* launch_on(int device, const Problem& problem, Launch launch) {
    if (problem.n == 0) return nullptr;
    const CurrentDevice current(device);
    if (current.error != cudaSuccess) return message_of(current.error);
    if (problem.type == FLOAT32) return message_of(launch(std::integral_constant<Type, FLOAT32>()));
    if (problem.type == BFLOAT16)
        return message_of(launch(std::integral_constant<Type, BFLOAT16>()));
    return message_of(launch(std::integral_constant<Type, FLOAT16>()));
}

const char* cuda_stats(const Problem& problem, Wanted wanted, float* table, float* workspace,
                       int device, void* stream) {
    return launch_on(device, problem, [&](auto type) {
        Forward forward;
        const cudaError_t error = forward_of(problem, wanted, table, workspace, device, forward);
        return error != cudaSuccess ? error : launch_stats<type()>(forward, device, stream);
    });
}

const char* cuda_dlogits(const Problem& problem, const float* table, const float* upstream,
                         void* gradient, int device, void* stream) {
    const Backward backward = {problem, table, upstream, gradient, 0, 0};
    return launch_on(device, problem,
                     [&](auto type) { return launch_dlogits<type()>(backward, device, stream); });
}

const char* cuda_stats_and_dlogits(const Problem& problem, Wanted wanted, float* table,
                                   float* workspace, const float* upstream, void* gradient,
                                   int device, void* stream) {
    const Backward backward = {problem, table, upstream, gradient, 0, 0};
    return launch_on(device, problem, [&](auto type) {
        Forward forward;
        const cudaError_t error = forward_of(problem, wanted, table, workspace, device, forward);
        return error != cudaSuccess ? error
                                    : launch_both<type()>(forward, backward, device, stream);
    });
}

}  // namespace token_terms
