// libcuda's names for driver.cpp: the signatures of cuda.h, the properties of an H100. Nothing here does
// more than translate.
#include <string.h>

#include "driver.h"

using namespace emu;

// Numbers of CUdevice_attribute (cuda.h) and what an H100 SXM answers.
static int attribute(int which) {
    switch (which) {
        case 1: case 2: case 3: return 1024;     // threads per block, block x, block y
        case 4: return 64;                       // block z
        case 5: return 2147483647;               // grid x
        case 6: case 7: return 65535;            // grid y, z
        case 8: return 49152;                    // shared memory per block
        case 10: return GRT_WAVE;                // warp size
        case 12: case 82: return 65536;          // registers per block, per multiprocessor
        case 13: return 1980000;                 // clock, kHz
        case 16: return 132;                     // multiprocessors
        case 36: return 2619000;                 // memory clock, kHz
        case 37: return 5120;                    // memory bus, bits
        case 38: return 52428800;                // L2 cache
        case 39: return 2048;                    // threads per multiprocessor
        case 41: case 115: return 1;             // unified addressing, memory pools
        case 75: return 9;                       // compute capability
        case 81: return 233472;                  // shared memory per multiprocessor
        case 97: return (int)MAX_SHARED;         // shared memory per block, opt-in
        case 106: return 32;                     // blocks per multiprocessor
        case 111: return 1024;                   // reserved shared memory per block
        default: return 0;
    }
}

#pragma GCC visibility push(default)
extern "C" {
int cuInit(unsigned) { return driver_init(); }
int cuDriverGetVersion(int* v) {
    if (int failed = enter_always("cuDriverGetVersion")) return failed;
    *v = driver_version(13000);
    return SUCCESS;
}
int cuGetErrorName(int code, const char** text) {
    static std::string name[1024];
    *text = nullptr;
    if (code < 0 || code >= 1024 || !code_name(code)) return INVALID_VALUE;
    name[code] = std::string(code ? "CUDA_ERROR_" : "CUDA_") + code_name(code);
    *text = name[code].c_str();
    return SUCCESS;
}
int cuGetErrorString(int code, const char** text) {
    *text = code_text(code);
    return *text ? SUCCESS : INVALID_VALUE;
}
int cuDeviceGetCount(int* n) {
    if (int failed = enter("cuDeviceGetCount")) return failed;
    *n = device_count();
    return SUCCESS;
}
int cuDeviceGet(int* device, int ordinal) {
    if (int failed = enter("cuDeviceGet")) return failed;
    if (ordinal < 0 || ordinal >= device_count()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
int cuDeviceGetName(char* name, int bytes, int) {
    if (int failed = enter("cuDeviceGetName")) return failed;
    strncpy(name, "Emulated H100", (size_t)bytes);
    if (bytes > 0) name[bytes - 1] = 0;
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
    if (int failed = enter("cuDeviceTotalMem_v2")) return failed;
    *bytes = memory_total();
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int which, int) {
    if (int failed = enter("cuDeviceGetAttribute")) return failed;
    *value = attribute(which);
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (int failed = enter("cuDevicePrimaryCtxRetain")) return failed;
    *context = (void*)(uintptr_t)(0x1000 + device);
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int) {
    if (int failed = enter("cuDevicePrimaryCtxRelease_v2")) return failed;
    return SUCCESS;
}
int cuCtxSetCurrent(void*) {
    if (int failed = enter("cuCtxSetCurrent")) return failed;
    return SUCCESS;
}
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    if (int failed = enter("cuMemGetInfo_v2")) return failed;
    return memory_free(free, total);
}
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    if (int failed = enter("cuMemAlloc_v2")) return failed;
    return memory_alloc(address, bytes);
}
int cuMemFree_v2(uint64_t address) {
    if (int failed = enter("cuMemFree_v2")) return failed;
    return memory_release(address);
}
int cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    if (int failed = enter("cuMemHostAlloc")) return failed;
    return host_alloc(p, bytes);
}
int cuMemFreeHost(void* p) {
    if (int failed = enter("cuMemFreeHost")) return failed;
    return host_release(p);
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* s) {
    if (int failed = enter("cuMemcpyHtoDAsync_v2")) return failed;
    return copy_in(to, from, bytes, s);
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* s) {
    if (int failed = enter("cuMemcpyDtoHAsync_v2")) return failed;
    return copy_out(to, from, bytes, s);
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* s) {
    if (int failed = enter("cuMemcpyDtoDAsync_v2")) return failed;
    return copy_device(to, from, bytes, s);
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* s) {
    if (int failed = enter("cuMemsetD8Async")) return failed;
    return fill(to, value, bytes, s);
}
int cuStreamCreate(Stream** s, unsigned) {
    if (int failed = enter("cuStreamCreate")) return failed;
    return stream_new(s);
}
int cuStreamDestroy_v2(Stream* s) {
    if (int failed = enter("cuStreamDestroy_v2")) return failed;
    return stream_delete(s);
}
int cuStreamSynchronize(Stream* s) {
    if (int failed = enter("cuStreamSynchronize")) return failed;
    return stream_wait(s);
}
int cuStreamWaitEvent(Stream* s, Event* e, unsigned) {
    if (int failed = enter("cuStreamWaitEvent")) return failed;
    return stream_wait_event(s, e);
}
int cuEventCreate(Event** e, unsigned) {
    if (int failed = enter("cuEventCreate")) return failed;
    return event_new(e);
}
int cuEventDestroy_v2(Event* e) {
    if (int failed = enter("cuEventDestroy_v2")) return failed;
    return event_delete(e);
}
int cuEventRecord(Event* e, Stream* s) {
    if (int failed = enter("cuEventRecord")) return failed;
    return event_record(e, s);
}
int cuEventSynchronize(Event* e) {
    if (int failed = enter("cuEventSynchronize")) return failed;
    return event_wait(e);
}
int cuEventElapsedTime(float* ms, Event* begin, Event* end) {
    if (int failed = enter("cuEventElapsedTime")) return failed;
    return event_elapsed(ms, begin, end);
}
int cuModuleLoadData(Module** m, const void* image) {
    if (int failed = enter("cuModuleLoadData")) return failed;
    return module_load(m, image);
}
int cuModuleUnload(Module* m) {
    if (int failed = enter("cuModuleUnload")) return failed;
    return module_unload(m);
}
int cuModuleGetFunction(Function** f, Module* m, const char* name) {
    if (int failed = enter("cuModuleGetFunction")) return failed;
    return module_function(f, m, name);
}
int cuFuncSetAttribute(Function* f, int which, int value) {
    if (int failed = enter("cuFuncSetAttribute")) return failed;
    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    return which == 8 ? function_limit_shared(f, value) : (int)SUCCESS;
}
int cuFuncGetAttribute(int* value, int which, Function* f) {
    if (int failed = enter("cuFuncGetAttribute")) return failed;
    return function_attribute(value, which, f);
}
int cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned tx, unsigned ty,
                   unsigned tz, unsigned shared, Stream* s, void** params, void** extra) {
    if (int failed = enter("cuLaunchKernel")) return failed;
    return launch_kernel(f, {{gx, gy, gz}, {tx, ty, tz}, shared}, s, params, extra);
}
int cuStreamBeginCapture_v2(Stream* s, int) {
    if (int failed = enter("cuStreamBeginCapture_v2")) return failed;
    return capture_begin(s);
}
int cuStreamEndCapture(Stream* s, Graph** g) {
    if (int failed = enter("cuStreamEndCapture")) return failed;
    return capture_end(s, g);
}
int cuGraphInstantiateWithFlags(Graph** executable, Graph* g, unsigned long long) {
    if (int failed = enter("cuGraphInstantiateWithFlags")) return failed;
    return graph_instantiate(executable, g);
}
int cuGraphLaunch(Graph* executable, Stream* s) {
    if (int failed = enter("cuGraphLaunch")) return failed;
    return graph_launch(executable, s);
}
int cuGraphDestroy(Graph* g) {
    if (int failed = enter("cuGraphDestroy")) return failed;
    return graph_delete(g);
}
int cuGraphExecDestroy(Graph* g) {
    if (int failed = enter("cuGraphExecDestroy")) return failed;
    return graph_delete(g);
}
}
#pragma GCC visibility pop
