// Threads of one block as fibres of one CPU thread: each runs until it waits for the others or returns.
//
// The order in which ready threads run is settable. Results of a correct kernel do not depend on it.

#pragma once

#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace fibres {

enum State { READY, AT_BARRIER, AT_SHUFFLE, RETURNED };
enum Order { FORWARD, REVERSE, SHUFFLED };

constexpr int WARP = 32;
constexpr std::size_t STACK = 128 << 10;

struct Fibre {
    ucontext_t context;
    jmp_buf here;
    std::unique_ptr<char[]> stack;
    bool started = false;
    State state = READY;
    char offered[2][8];  // to shuffles, in turn: a lane may offer to the next one before all have taken from this one
    int turn = 0;
    int predicates = 0;  // calls of any() so far
};

inline Order order = FORWARD;
inline std::mt19937 dice;
inline std::vector<Fibre> fibres_;
inline std::function<void(int)>* enter_ = nullptr;
inline std::function<void()>* body_ = nullptr;
inline jmp_buf scheduler_;
inline int current_ = 0;
inline bool any_[3];  // three in turn: one being read, one being written, one to be cleared

inline void leave() {
    if (_setjmp(fibres_[current_].here) == 0) _longjmp(scheduler_, 1);
}

inline void start() {
    (*body_)();
    fibres_[current_].state = RETURNED;
    _longjmp(scheduler_, 1);
}

// To the fibre until it leaves. setcontext only for its first step: it costs two system calls, the long jumps none.
inline void step(int thread) {
    Fibre& fibre = fibres_[thread];
    current_ = thread;
    (*enter_)(thread);
    if (_setjmp(scheduler_) != 0) return;
    if (fibre.started) _longjmp(fibre.here, 1);
    fibre.started = true;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, start, 0);
    setcontext(&fibre.context);
}

inline void wait(State state, const void* offer, std::size_t size) {
    Fibre& fibre = fibres_[current_];
    if (state == AT_SHUFFLE) memcpy(fibre.offered[fibre.turn ^= 1], offer, size);
    fibre.state = state;
    leave();
}

inline void take(void* value, std::size_t size, int distance) {
    const Fibre& from = fibres_[current_ ^ distance];
    memcpy(value, from.offered[fibres_[current_].turn], size);
}

// Whether any thread of the block brought a true predicate.
inline bool any(bool predicate) {
    const int turn = fibres_[current_].predicates++ % 3;
    any_[turn] |= predicate;
    wait(AT_BARRIER, nullptr, 0);
    any_[(turn + 2) % 3] = false;  // the last one: all have read it before they came here
    return any_[turn];
}

// Lets go those who wait for nobody any more; what is wrong if nobody can go on.
inline const char* release(int threads) {
    auto in = [&](int first, int end, State state) {
        return std::count_if(fibres_.begin() + first, fibres_.begin() + end, [=](const Fibre& f) { return f.state == state; });
    };
    bool released = in(0, threads, READY) > 0;
    auto let_go = [&](int first, int end) {
        for (int t = first; t < end; ++t) fibres_[t].state = READY;
        released = true;
    };
    for (int first = 0; first < threads; first += WARP)
        if (in(first, first + WARP, AT_SHUFFLE) == WARP) let_go(first, first + WARP);
    if (in(0, threads, AT_BARRIER) == threads) let_go(0, threads);
    if (released || in(0, threads, RETURNED) == threads) return nullptr;
    return in(0, threads, AT_SHUFFLE) ? "a shuffle that not every lane of its warp reaches"
                                      : "a barrier that not every thread of the block reaches";
}

// One block of `threads` threads; what is wrong with it, or null.
inline const char* run(int threads, std::function<void(int)> enter, std::function<void()> body) {
    if (static_cast<int>(fibres_.size()) < threads) fibres_.resize(threads);
    std::vector<int> turns(threads);
    for (int t = 0; t < threads; ++t) {
        Fibre& fibre = fibres_[t];
        if (!fibre.stack) fibre.stack.reset(new char[STACK]);
        fibre.started = false;
        fibre.state = READY;
        fibre.turn = fibre.predicates = 0;
        turns[t] = order == REVERSE ? threads - 1 - t : t;
    }
    any_[0] = any_[1] = any_[2] = false;
    enter_ = &enter;
    body_ = &body;
    while (std::any_of(fibres_.begin(), fibres_.begin() + threads, [](const Fibre& f) { return f.state != RETURNED; })) {
        if (order == SHUFFLED) std::shuffle(turns.begin(), turns.end(), dice);
        for (int t : turns)
            if (fibres_[t].state == READY) step(t);
        if (const char* trouble = release(threads)) return trouble;
    }
    return nullptr;
}

}  // namespace fibres
