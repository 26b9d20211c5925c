// libamdhip64's names for driver.cpp: the signatures of hip_runtime_api.h, the properties of an MI300X.
// Nothing here does more than translate.
#include <string.h>

#include "driver.h"

using namespace emu;

// Numbers of hipDeviceAttribute_t (hip_runtime_api.h) and what an MI300X answers.
static int attribute(int which) {
    switch (which) {
        case 5: return 2100000;                        // clock, kHz
        case 19: return 4194304;                       // L2 cache
        case 23: return 9;                             // compute capability
        case 26: case 27: case 28: case 56: return 1024;  // block x, y, z, threads per block
        case 29: return 2147483647;                    // grid x
        case 30: case 31: return 65535;                // grid y, z
        case 57: return 2048;                          // threads per multiprocessor
        case 59: return 8192;                          // memory bus, bits
        case 60: return 1300000;                       // memory clock, kHz
        case 61: return 4;                             // compute capability, minor
        case 63: return 304;                           // compute units
        case 74: case 75: return (int)MAX_SHARED;      // shared memory per block, opt-in
        case 87: return GRT_WAVE;                      // wave size
        default: return 0;
    }
}

// The fields of hipDeviceProp_tR0600 that are set, at their offsets; the struct has 1472 bytes.
struct Properties {
    unsigned char bytes[1472];

    template <class T>
    void set(size_t offset, T value) {
        memcpy(bytes + offset, &value, sizeof value);
    }
    void set_text(size_t offset, const char* text) {
        memcpy(bytes + offset, text, strlen(text) + 1);
    }
};

static void fill_properties(Properties& p) {
    memset(&p, 0, sizeof p);
    p.set_text(0, "Emulated MI300X");
    p.set(288, (size_t)memory_total());
    p.set(296, (size_t)MAX_SHARED);
    p.set(304, 65536);            // regsPerBlock
    p.set(308, (int)GRT_WAVE);    // warpSize
    p.set(320, 1024);             // maxThreadsPerBlock
    p.set(324, 1024);             // maxThreadsDim
    p.set(328, 1024);
    p.set(332, 1024);
    p.set(336, 2147483647);       // maxGridSize
    p.set(340, 65535);
    p.set(344, 65535);
    p.set(348, 2100000);          // clockRate
    p.set(360, 9);                // major
    p.set(364, 4);                // minor
    p.set(388, 304);              // multiProcessorCount
    p.set(608, 1300000);          // memoryClockRate
    p.set(612, 8192);             // memoryBusWidth
    p.set(616, 4194304);          // l2CacheSize
    p.set(624, 2048);             // maxThreadsPerMultiProcessor
    p.set(640, (size_t)MAX_SHARED);  // sharedMemPerMultiprocessor
    p.set_text(1160, "gfx942:sramecc+:xnack-");  // gcnArchName
}

#pragma GCC visibility push(default)
extern "C" {
int hipInit(unsigned) { return driver_init(); }
int hipDriverGetVersion(int* v) {
    if (int failed = enter_always("hipDriverGetVersion")) return failed;
    *v = driver_version(60443482);
    return SUCCESS;
}
const char* hipGetErrorName(int code) {
    static std::string name[1024];
    if (code < 0 || code >= 1024 || !code_name(code)) return "hipErrorUnknown";
    std::string& text = name[code];
    text = code ? "hipError" : "hip";
    // OUT_OF_MEMORY becomes OutOfMemory
    bool capital = true;
    for (const char* c = code_name(code); *c; c++) {
        if (*c != '_') text += capital ? *c : (char)(*c - 'A' + 'a');
        capital = *c == '_';
    }
    return text.c_str();
}
const char* hipGetErrorString(int code) {
    const char* text = code_text(code);
    return text ? text : "unknown error";
}
int hipGetDeviceCount(int* n) {
    if (int failed = enter("hipGetDeviceCount")) return failed;
    *n = device_count();
    return *n ? SUCCESS : NO_DEVICE;
}
int hipDeviceGet(int* device, int ordinal) {
    if (int failed = enter("hipDeviceGet")) return failed;
    if (ordinal < 0 || ordinal >= device_count()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
int hipDeviceGetName(char* name, int bytes, int) {
    if (int failed = enter("hipDeviceGetName")) return failed;
    strncpy(name, "Emulated MI300X", (size_t)bytes);
    if (bytes > 0) name[bytes - 1] = 0;
    return SUCCESS;
}
int hipDeviceTotalMem(size_t* bytes, int) {
    if (int failed = enter("hipDeviceTotalMem")) return failed;
    *bytes = memory_total();
    return SUCCESS;
}
int hipDeviceGetAttribute(int* value, int which, int) {
    if (int failed = enter("hipDeviceGetAttribute")) return failed;
    *value = attribute(which);
    return SUCCESS;
}
int hipGetDevicePropertiesR0600(Properties* p, int device) {
    if (int failed = enter("hipGetDevicePropertiesR0600")) return failed;
    if (device < 0 || device >= device_count()) return INVALID_DEVICE;
    fill_properties(*p);
    return SUCCESS;
}
int hipSetDevice(int device) {
    if (int failed = enter("hipSetDevice")) return failed;
    return device >= 0 && device < device_count() ? SUCCESS : INVALID_DEVICE;
}
int hipMemGetInfo(size_t* free, size_t* total) {
    if (int failed = enter("hipMemGetInfo")) return failed;
    return memory_free(free, total);
}
int hipMalloc(uint64_t* address, size_t bytes) {
    if (int failed = enter("hipMalloc")) return failed;
    return memory_alloc(address, bytes);
}
int hipFree(uint64_t address) {
    if (int failed = enter("hipFree")) return failed;
    return memory_release(address);
}
int hipHostMalloc(void** p, size_t bytes, unsigned) {
    if (int failed = enter("hipHostMalloc")) return failed;
    return host_alloc(p, bytes);
}
int hipHostFree(void* p) {
    if (int failed = enter("hipHostFree")) return failed;
    return host_release(p);
}
int hipMemcpyHtoDAsync(uint64_t to, const void* from, size_t bytes, Stream* s) {
    if (int failed = enter("hipMemcpyHtoDAsync")) return failed;
    return copy_in(to, from, bytes, s);
}
int hipMemcpyDtoHAsync(void* to, uint64_t from, size_t bytes, Stream* s) {
    if (int failed = enter("hipMemcpyDtoHAsync")) return failed;
    return copy_out(to, from, bytes, s);
}
int hipMemcpyDtoDAsync(uint64_t to, uint64_t from, size_t bytes, Stream* s) {
    if (int failed = enter("hipMemcpyDtoDAsync")) return failed;
    return copy_device(to, from, bytes, s);
}
int hipMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* s) {
    if (int failed = enter("hipMemsetD8Async")) return failed;
    return fill(to, value, bytes, s);
}
int hipStreamCreateWithFlags(Stream** s, unsigned) {
    if (int failed = enter("hipStreamCreateWithFlags")) return failed;
    return stream_new(s);
}
int hipStreamDestroy(Stream* s) {
    if (int failed = enter("hipStreamDestroy")) return failed;
    return stream_delete(s);
}
int hipStreamSynchronize(Stream* s) {
    if (int failed = enter("hipStreamSynchronize")) return failed;
    return stream_wait(s);
}
int hipStreamWaitEvent(Stream* s, Event* e, unsigned) {
    if (int failed = enter("hipStreamWaitEvent")) return failed;
    return stream_wait_event(s, e);
}
int hipEventCreateWithFlags(Event** e, unsigned) {
    if (int failed = enter("hipEventCreateWithFlags")) return failed;
    return event_new(e);
}
int hipEventDestroy(Event* e) {
    if (int failed = enter("hipEventDestroy")) return failed;
    return event_delete(e);
}
int hipEventRecord(Event* e, Stream* s) {
    if (int failed = enter("hipEventRecord")) return failed;
    return event_record(e, s);
}
int hipEventSynchronize(Event* e) {
    if (int failed = enter("hipEventSynchronize")) return failed;
    return event_wait(e);
}
int hipEventElapsedTime(float* ms, Event* begin, Event* end) {
    if (int failed = enter("hipEventElapsedTime")) return failed;
    return event_elapsed(ms, begin, end);
}
int hipModuleLoadData(Module** m, const void* image) {
    if (int failed = enter("hipModuleLoadData")) return failed;
    return module_load(m, image);
}
int hipModuleUnload(Module* m) {
    if (int failed = enter("hipModuleUnload")) return failed;
    return module_unload(m);
}
int hipModuleGetFunction(Function** f, Module* m, const char* name) {
    if (int failed = enter("hipModuleGetFunction")) return failed;
    return module_function(f, m, name);
}
int hipFuncSetAttribute(Function* f, int which, int value) {
    if (int failed = enter("hipFuncSetAttribute")) return failed;
    // hipFuncAttributeMaxDynamicSharedMemorySize
    return which == 8 ? function_limit_shared(f, value) : (int)SUCCESS;
}
int hipFuncGetAttribute(int* value, int which, Function* f) {
    if (int failed = enter("hipFuncGetAttribute")) return failed;
    return function_attribute(value, which, f);
}
int hipModuleLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned tx,
                          unsigned ty, unsigned tz, unsigned shared, Stream* s, void** params,
                          void** extra) {
    if (int failed = enter("hipModuleLaunchKernel")) return failed;
    return launch_kernel(f, {{gx, gy, gz}, {tx, ty, tz}, shared}, s, params, extra);
}
int hipStreamBeginCapture(Stream* s, int) {
    if (int failed = enter("hipStreamBeginCapture")) return failed;
    return capture_begin(s);
}
int hipStreamEndCapture(Stream* s, Graph** g) {
    if (int failed = enter("hipStreamEndCapture")) return failed;
    return capture_end(s, g);
}
int hipGraphInstantiateWithFlags(Graph** executable, Graph* g, unsigned long long) {
    if (int failed = enter("hipGraphInstantiateWithFlags")) return failed;
    return graph_instantiate(executable, g);
}
int hipGraphLaunch(Graph* executable, Stream* s) {
    if (int failed = enter("hipGraphLaunch")) return failed;
    return graph_launch(executable, s);
}
int hipGraphDestroy(Graph* g) {
    if (int failed = enter("hipGraphDestroy")) return failed;
    return graph_delete(g);
}
int hipGraphExecDestroy(Graph* g) {
    if (int failed = enter("hipGraphExecDestroy")) return failed;
    return graph_delete(g);
}
}
#pragma GCC visibility pop
