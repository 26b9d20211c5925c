// Switching of stacks. Never unwinds: a fiber that is not wanted any more is simply not run again.
#include "fiber.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <new>

// 0 asks for the portable form.
#if !defined(GRT_EMU_ASM)
#if defined(__x86_64__)
#define GRT_EMU_ASM 1
#else
#define GRT_EMU_ASM 0
#endif
#endif
#if !GRT_EMU_ASM
#include <ucontext.h>
#endif

namespace emu {

static const uint64_t CANARY = 0x5afe57ac5afe57acull;

Fiber fiber_new(int) {
    void* p = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    for (int i = 0; i < 8; i++) ((uint64_t*)p)[i] = CANARY;
    Fiber f;
    f.stack = p;
#if !GRT_EMU_ASM
    f.pointer = new ucontext_t;
#endif
    return f;
}

bool fiber_intact(const Fiber& fiber) {
    for (int i = 0; i < 8; i++)
        if (((const uint64_t*)fiber.stack)[i] != CANARY) return false;
    return true;
}

// Bytes at the top that are left free, so that stacks of one size do not share lines of the cache.
static size_t skip(int colour) { return (size_t)(colour % 64) * 192; }

#if GRT_EMU_ASM

extern "C" void grt_emu_switch(void** save, void* to) __attribute__((visibility("hidden")));
// Saves what a callee must keep, changes the stack, restores. It leaves by a jump: the processor would
// foretell a `ret` to the caller on the old stack, and be wrong every time.
asm(R"(.text
.globl grt_emu_switch
.hidden grt_emu_switch
.type grt_emu_switch,@function
grt_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size grt_emu_switch,.-grt_emu_switch
)");

void fiber_begin(Fiber& fiber, int colour, void (*entry)()) {
    uintptr_t top = ((uintptr_t)fiber.stack + STACK_BYTES - skip(colour)) & ~(uintptr_t)63;
    uint64_t* s = (uint64_t*)top;
    *--s = 0;  // the entry's return address; with it the stack is aligned as after a call
    *--s = (uint64_t)(uintptr_t)entry;
    for (int i = 0; i < 6; i++) *--s = 0;
    fiber.pointer = s;
}

void fiber_switch(Fiber& from, Fiber& to) { grt_emu_switch(&from.pointer, to.pointer); }

#else

void fiber_begin(Fiber& fiber, int colour, void (*entry)()) {
    ucontext_t* c = (ucontext_t*)fiber.pointer;
    getcontext(c);
    c->uc_stack.ss_sp = fiber.stack;
    c->uc_stack.ss_size = STACK_BYTES - skip(colour);
    c->uc_link = nullptr;
    makecontext(c, entry, 0);
}

void fiber_switch(Fiber& from, Fiber& to) {
    if (!from.pointer) from.pointer = new ucontext_t;
    swapcontext((ucontext_t*)from.pointer, (ucontext_t*)to.pointer);
}

#endif

}  // namespace emu
