// What a driver does, written once; driver_cuda.cpp and driver_hip.cpp give it the vendors' names. Calls
// return the vendors' error numbers, which are equal where both have one. Streams execute at once, or
// record while they capture.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <string>
#include <vector>

#include "executor.h"

namespace emu {

enum Code : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    MISALIGNED_ADDRESS = 716,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
};

// One call that a stream does now or a graph does later.
using Work = std::function<int()>;

struct Graph {
    std::vector<Work> nodes;
};

struct Stream {
    Graph* capture = nullptr;
    bool invalidated = false;
};

struct Event {
    double at = -1;  // milliseconds; negative: never recorded
};

// A kernel that a module gave out; attributes are its own.
struct Function {
    Kernel* kernel;
    size_t dynamic_shared_limit = 48 << 10;
};

struct Module {
    std::vector<Function*> functions;
};

// What calls are allowed before any driver call: counts the call, injects its failure (GRT_EMU_FAIL),
// and refuses when the driver is not initialised or the context is broken. 0: go on.
int enter(const char* symbol);
// The same for calls that answer without a device.
int enter_always(const char* symbol);

int driver_init();
int driver_version(int otherwise);
int device_count();
uint64_t memory_total();
int memory_free(size_t* free, size_t* total);
int memory_alloc(uint64_t* address, size_t bytes);
int memory_release(uint64_t address);
int host_alloc(void** p, size_t bytes);
int host_release(void* p);
int copy_in(uint64_t to, const void* from, size_t bytes, Stream* s);
int copy_out(void* to, uint64_t from, size_t bytes, Stream* s);
int copy_device(uint64_t to, uint64_t from, size_t bytes, Stream* s);
int fill(uint64_t to, unsigned char value, size_t bytes, Stream* s);
int stream_new(Stream** s);
int stream_delete(Stream* s);
int stream_wait(Stream* s);
int stream_wait_event(Stream* s, Event* e);
int event_new(Event** e);
int event_delete(Event* e);
int event_record(Event* e, Stream* s);
int event_wait(Event* e);
int event_elapsed(float* ms, Event* begin, Event* end);
int module_load(Module** m, const void* image);
int module_unload(Module* m);
int module_function(Function** f, Module* m, const char* name);
int function_limit_shared(Function* f, int bytes);
int function_attribute(int* value, int attribute, Function* f);
struct LaunchShape {
    Grid grid, threads;
    size_t dynamic_shared;
};
int launch_kernel(Function* f, const LaunchShape& shape, Stream* s, void** params, void** extra);
int capture_begin(Stream* s);
int capture_end(Stream* s, Graph** g);
int graph_instantiate(Graph** executable, Graph* g);
int graph_launch(Graph* executable, Stream* s);
int graph_delete(Graph* g);
// "INVALID_VALUE" and a sentence, or null for a number that is no error.
const char* code_name(int code);
const char* code_text(int code);

}  // namespace emu
