// Stacks that are switched by hand: one per GPU thread that waits. Twenty instructions on x86-64, the C
// library's ucontext elsewhere. Never leaves its OS thread.
#pragma once
#include <stddef.h>

namespace emu {

struct Fiber {
    void* stack = nullptr;    // lowest address; null: the OS thread's own
    void* pointer = nullptr;  // where it goes on (elsewhere: its ucontext)
};

constexpr size_t STACK_BYTES = 64 << 10;

// A fiber with a stack of its own that has not run. `colour` keeps the tops of stacks in different
// lines of the cache.
Fiber fiber_new(int colour);
// Makes the fiber begin at `entry`, which never returns.
void fiber_begin(Fiber& fiber, int colour, void (*entry)());
// Leaves `from` and goes on in `to`.
void fiber_switch(Fiber& from, Fiber& to);
// False when the lowest bytes of the stack were written: the kernel needs more than STACK_BYTES.
bool fiber_intact(const Fiber& fiber);

}  // namespace emu
