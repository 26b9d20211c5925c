// The driver's semantics: memory with an inaccessible page after each allocation, streams, events,
// modules, graphs, injected failures. After a failed kernel every call fails, as in a real context,
// until grt_emu_reset. Never talks to a device.
#include "driver.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <chrono>
#include <map>
#include <mutex>

namespace emu {

static const size_t PAGE = 4096;
// Fresh memory is poisoned up to this size; larger blocks keep their pages untouched.
static const size_t POISONED = 64 << 20;
// What the device claims to have.
static const uint64_t DEFAULT_MEMORY = 4ull << 30;

struct Allocation {
    size_t bytes;
    void* map;
    size_t map_bytes;
};

// An injected failure: the n-th call of the symbol, from 1.
struct Injection {
    std::string symbol;
    int call, code;
};

struct Driver {
    std::recursive_mutex mutex;
    bool initialised = false;
    int broken = 0;
    std::string last_error;
    std::map<uint64_t, Allocation> allocations;
    size_t used = 0;
    std::vector<Injection> injections;
    std::map<std::string, int> calls;
    bool allow_next = false;
    std::vector<Range> allowed;
    int num_captures = 0;
};

static Driver& driver() {
    static Driver* d = new Driver();
    return *d;
}

static long long number(const char* variable, long long otherwise) {
    const char* text = getenv(variable);
    return text && *text ? strtoll(text, nullptr, 0) : otherwise;
}

static int say(int code, const std::string& why) {
    driver().last_error = why;
    return code;
}

static void read_injections(Driver& d) {
    d.injections.clear();
    d.calls.clear();
    const char* list = getenv("GRT_EMU_FAIL");
    std::string text = list ? list : "";
    for (size_t at = 0; at < text.size();) {
        size_t end = text.find(',', at);
        if (end == std::string::npos) end = text.size();
        std::string item = text.substr(at, end - at);
        size_t first = item.find(':'), second = item.find(':', first + 1);
        if (first != std::string::npos && second != std::string::npos)
            d.injections.push_back({item.substr(0, first),
                                    atoi(item.substr(first + 1, second - first - 1).c_str()),
                                    atoi(item.substr(second + 1).c_str())});
        at = end + 1;
    }
}

int enter_always(const char* symbol) {
    Driver& d = driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    if (d.injections.empty()) return SUCCESS;
    int call = ++d.calls[symbol];
    for (const Injection& i : d.injections)
        if (i.call == call && i.symbol == symbol)
            return say(i.code, "injected failure of " + std::string(symbol));
    return SUCCESS;
}

int enter(const char* symbol) {
    Driver& d = driver();
    if (!d.initialised) return NOT_INITIALIZED;
    if (d.broken) return d.broken;
    return enter_always(symbol);
}

int driver_init() {
    Driver& d = driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    read_injections(d);
#if GRT_WAVE == 32
    int failed = enter_always("cuInit");
#else
    int failed = enter_always("hipInit");
#endif
    if (failed) return failed;
    if (device_count() == 0) return NO_DEVICE;
    d.initialised = true;
    return d.broken;
}

int driver_version(int otherwise) { return (int)number("GRT_EMU_DRIVER_VERSION", otherwise); }
int device_count() { return (int)number("GRT_EMU_DEVICES", 1); }
uint64_t memory_total() { return (uint64_t)number("GRT_EMU_MEMORY", (long long)DEFAULT_MEMORY); }

int memory_free(size_t* free, size_t* total) {
    Driver& d = driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    *total = memory_total();
    *free = *total - d.used;
    return SUCCESS;
}

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

int memory_alloc(uint64_t* address, size_t bytes) {
    Driver& d = driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    if (!address || bytes == 0) return INVALID_VALUE;
    if (d.num_captures) return say(CAPTURE_UNSUPPORTED, "an allocation while a stream captures");
    if (bytes > memory_total() - d.used)
        return say(OUT_OF_MEMORY, std::to_string(bytes) + " bytes asked, " +
                                      std::to_string(memory_total() - d.used) + " free");
    size_t room = round_up(bytes, 256), pages = round_up(room, PAGE);
    void* map = mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect((char*)map + pages, PAGE, PROT_NONE);
    *address = (uint64_t)(uintptr_t)map + (pages - room);
    if (bytes <= POISONED) memset((void*)(uintptr_t)*address, 0xCD, room);
    d.allocations[*address] = {bytes, map, pages + PAGE};
    d.used += bytes;
    return SUCCESS;
}

int memory_release(uint64_t address) {
    Driver& d = driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    if (address == 0) return SUCCESS;
    auto found = d.allocations.find(address);
    if (found == d.allocations.end()) return say(INVALID_VALUE, "no allocation begins there");
    munmap(found->second.map, found->second.map_bytes);
    d.used -= found->second.bytes;
    d.allocations.erase(found);
    return SUCCESS;
}

// The range lies in one allocation, or is empty.
static bool is_device(uint64_t address, size_t bytes) {
    if (bytes == 0) return true;
    Driver& d = driver();
    auto after = d.allocations.upper_bound(address);
    if (after == d.allocations.begin()) return false;
    --after;
    return address + bytes <= after->first + after->second.bytes;
}

int host_alloc(void** p, size_t bytes) {
    if (!p || bytes == 0) return INVALID_VALUE;
    return posix_memalign(p, PAGE, bytes) ? OUT_OF_MEMORY : SUCCESS;
}
int host_release(void* p) {
    free(p);
    return SUCCESS;
}

// Does the work now, or keeps it for the graph that the stream captures.
static int submit(Stream* s, Work work) {
    Driver& d = driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    if (!s || !s->capture) return work();
    if (s->invalidated) return CAPTURE_INVALIDATED;
    s->capture->nodes.push_back(std::move(work));
    return SUCCESS;
}

int copy_in(uint64_t to, const void* from, size_t bytes, Stream* s) {
    return submit(s, [=] {
        if (!is_device(to, bytes)) return say(INVALID_VALUE, "a copy beyond an allocation");
        memcpy((void*)(uintptr_t)to, from, bytes);
        return (int)SUCCESS;
    });
}
int copy_out(void* to, uint64_t from, size_t bytes, Stream* s) {
    return submit(s, [=] {
        if (!is_device(from, bytes)) return say(INVALID_VALUE, "a copy beyond an allocation");
        memcpy(to, (const void*)(uintptr_t)from, bytes);
        return (int)SUCCESS;
    });
}
int copy_device(uint64_t to, uint64_t from, size_t bytes, Stream* s) {
    return submit(s, [=] {
        if (!is_device(from, bytes) || !is_device(to, bytes))
            return say(INVALID_VALUE, "a copy beyond an allocation");
        memmove((void*)(uintptr_t)to, (const void*)(uintptr_t)from, bytes);
        return (int)SUCCESS;
    });
}
int fill(uint64_t to, unsigned char value, size_t bytes, Stream* s) {
    return submit(s, [=] {
        if (!is_device(to, bytes)) return say(INVALID_VALUE, "a fill beyond an allocation");
        memset((void*)(uintptr_t)to, value, bytes);
        return (int)SUCCESS;
    });
}

int stream_new(Stream** s) {
    if (!s) return INVALID_VALUE;
    *s = new Stream();
    return SUCCESS;
}
int stream_delete(Stream* s) {
    delete s;
    return SUCCESS;
}
int stream_wait(Stream* s) {
    if (!s || !s->capture) return SUCCESS;
    s->invalidated = true;
    return say(CAPTURE_UNSUPPORTED, "a wait for a stream that captures");
}
// All streams execute at once, so what the event stands for has happened.
int stream_wait_event(Stream*, Event* e) { return e ? SUCCESS : INVALID_HANDLE; }

int event_new(Event** e) {
    if (!e) return INVALID_VALUE;
    *e = new Event();
    return SUCCESS;
}
int event_delete(Event* e) {
    delete e;
    return SUCCESS;
}
int event_record(Event* e, Stream* s) {
    if (!e) return INVALID_HANDLE;
    return submit(s, [=] {
        using namespace std::chrono;
        e->at = duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
        return (int)SUCCESS;
    });
}
int event_wait(Event* e) { return e ? SUCCESS : INVALID_HANDLE; }
int event_elapsed(float* ms, Event* begin, Event* end) {
    if (!ms || !begin || !end) return INVALID_VALUE;
    if (begin->at < 0 || end->at < 0) return say(INVALID_HANDLE, "an event that was never recorded");
    *ms = (float)(end->at - begin->at);
    return SUCCESS;
}

int module_load(Module** m, const void* image) {
    if (!m || !image) return INVALID_VALUE;
    *m = new Module();
    return SUCCESS;
}
int module_unload(Module* m) {
    if (!m) return INVALID_HANDLE;
    for (Function* f : m->functions) delete f;
    delete m;
    return SUCCESS;
}
int module_function(Function** f, Module* m, const char* name) {
    if (!f || !m || !name) return INVALID_VALUE;
    Kernel* k = find_kernel(name);
    if (!k) return say(NOT_FOUND, std::string("no kernel is called ") + name);
    *f = new Function{k};
    m->functions.push_back(*f);
    return SUCCESS;
}
int function_limit_shared(Function* f, int bytes) {
    if (!f || bytes < 0 || (size_t)bytes > MAX_SHARED)
        return say(INVALID_VALUE, std::to_string(bytes) + " bytes of shared memory, a block has " +
                                      std::to_string(MAX_SHARED));
    f->dynamic_shared_limit = (size_t)bytes;
    return SUCCESS;
}
// Numbers of the attributes: CUfunction_attribute, hipFunction_attribute. What only a compiler knows
// is zero.
int function_attribute(int* value, int attribute, Function* f) {
    if (!value || !f) return INVALID_VALUE;
    *value = attribute == 0   ? f->kernel->max_threads
             : attribute == 8 ? (int)f->dynamic_shared_limit
                              : 0;
    return attribute >= 0 && attribute <= 15 ? SUCCESS : INVALID_VALUE;
}

// The argument struct: either the only kernel parameter, or a buffer with its size in `extra`.
static int read_args(const Kernel* k, void** params, void** extra, std::vector<uint64_t>& args) {
    const void* from = nullptr;
    size_t size = k->args_size;
    if (params) {
        from = params[0];
    } else if (extra) {
        for (void** e = extra; *e && (uintptr_t)*e != 3; e += 2) {
            if ((uintptr_t)*e == 1) from = e[1];
            else if ((uintptr_t)*e == 2) size = *(size_t*)e[1];
        }
    }
    if (!from || size != k->args_size)
        return say(INVALID_VALUE, std::string("kernel ") + k->name + " takes " +
                                      std::to_string(k->args_size) + " bytes of arguments");
    args.resize((size + 7) / 8);
    memcpy(args.data(), from, size);
    return SUCCESS;
}

static int run_now(const Launch& base, const std::vector<uint64_t>& args,
                   const std::vector<Range>* allowed) {
    Driver& d = driver();
    Launch l = base;
    l.args = args.data();
    l.seed = seed();
    if (allowed) {
        l.ranges = *allowed;
    } else {
        for (const auto& a : d.allocations) l.ranges.push_back({a.first, a.first + a.second.bytes});
    }
    Failure f = run(std::move(l));
    if (f.kind == FailureKind::NONE) return SUCCESS;
    d.last_error = f.message;
    if (f.kind == FailureKind::BAD_LAUNCH) return INVALID_VALUE;
#if GRT_WAVE == 32
    int misaligned = MISALIGNED_ADDRESS;
#else
    int misaligned = ILLEGAL_ADDRESS;
#endif
    d.broken = f.kind == FailureKind::ADDRESS      ? (int)ILLEGAL_ADDRESS
               : f.kind == FailureKind::MISALIGNED ? misaligned
                                                   : (int)LAUNCH_FAILED;
    return d.broken;
}

int launch_kernel(Function* f, const LaunchShape& shape, Stream* s, void** params, void** extra) {
    Driver& d = driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    if (!f) return INVALID_HANDLE;
    std::vector<uint64_t> args;
    if (int bad = read_args(f->kernel, params, extra, args)) return bad;
    if (shape.threads.y != 1 || shape.threads.z != 1)
        return say(INVALID_VALUE, "kernels have blocks of one dimension");
#if GRT_WAVE == 32
    if (shape.dynamic_shared > f->dynamic_shared_limit)
        return say(INVALID_VALUE,
                   std::string("kernel ") + f->kernel->name + ": " +
                       std::to_string(shape.dynamic_shared) + " bytes of dynamic shared memory, " +
                       "cuFuncSetAttribute allowed " + std::to_string(f->dynamic_shared_limit));
#endif
    Launch base;
    base.kernel = f->kernel;
    base.grid = shape.grid;
    base.threads = shape.threads.x;
    base.dynamic_shared = shape.dynamic_shared;
    bool limited = d.allow_next;
    std::vector<Range> allowed = std::move(d.allowed);
    d.allow_next = false;
    d.allowed.clear();
    return submit(s, [=] { return run_now(base, args, limited ? &allowed : nullptr); });
}

int capture_begin(Stream* s) {
    if (!s) return say(CAPTURE_UNSUPPORTED, "the default stream cannot capture");
    if (s->capture) return INVALID_VALUE;
    s->capture = new Graph();
    s->invalidated = false;
    driver().num_captures++;
    return SUCCESS;
}
int capture_end(Stream* s, Graph** g) {
    if (!s || !g) return INVALID_VALUE;
    if (!s->capture) return say(CAPTURE_UNMATCHED, "the stream does not capture");
    *g = s->capture;
    s->capture = nullptr;
    driver().num_captures--;
    if (!s->invalidated) return SUCCESS;
    delete *g;
    *g = nullptr;
    return CAPTURE_INVALIDATED;
}
int graph_instantiate(Graph** executable, Graph* g) {
    if (!executable || !g) return INVALID_VALUE;
    *executable = new Graph(*g);
    return SUCCESS;
}
int graph_launch(Graph* executable, Stream* s) {
    if (!executable) return INVALID_VALUE;
    for (const Work& node : executable->nodes)
        if (int code = submit(s, node)) return code;
    return SUCCESS;
}
int graph_delete(Graph* g) {
    delete g;
    return SUCCESS;
}

struct CodeText {
    int code;
    const char *name, *text;
};
static const CodeText CODES[] = {
    {SUCCESS, "SUCCESS", "no error"},
    {INVALID_VALUE, "INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "NO_DEVICE", "no device is detected"},
    {INVALID_DEVICE, "INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "NOT_FOUND", "named symbol not found"},
    {ILLEGAL_ADDRESS, "ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_OUT_OF_RESOURCES, "LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {MISALIGNED_ADDRESS, "MISALIGNED_ADDRESS", "misaligned address"},
    {LAUNCH_FAILED, "LAUNCH_FAILED", "unspecified launch failure"},
    {CAPTURE_UNSUPPORTED, "STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "STREAM_CAPTURE_INVALIDATED", "the capture failed because of an earlier error"},
    {CAPTURE_UNMATCHED, "STREAM_CAPTURE_UNMATCHED", "the capture was not begun in this stream"},
};
static const CodeText* find_code(int code) {
    for (const CodeText& c : CODES)
        if (c.code == code) return &c;
    return nullptr;
}
const char* code_name(int code) {
    const CodeText* c = find_code(code);
    return c ? c->name : nullptr;
}
const char* code_text(int code) {
    const CodeText* c = find_code(code);
    return c ? c->text : nullptr;
}

}  // namespace emu

// The emulator's own calls, beside the driver's.
#pragma GCC visibility push(default)
extern "C" {
// The next launch may touch these (begin, end) pairs and nothing else; n pairs, 0 for nothing.
void grt_emu_allow(const uint64_t* pairs, int n) {
    emu::Driver& d = emu::driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    d.allow_next = true;
    d.allowed.clear();
    for (int i = 0; i < n; i++)
        if (pairs[2 * i] < pairs[2 * i + 1]) d.allowed.push_back({pairs[2 * i], pairs[2 * i + 1]});
}
// Why the last call that failed did so. Valid until the next one fails.
const char* grt_emu_last_error() { return emu::driver().last_error.c_str(); }
void grt_emu_set_seed(uint32_t seed) { emu::set_seed(seed); }
// Makes a broken context whole again.
void grt_emu_reset() {
    emu::Driver& d = emu::driver();
    std::lock_guard<std::recursive_mutex> lock(d.mutex);
    d.broken = 0;
    d.last_error.clear();
    d.allow_next = false;
    d.allowed.clear();
}
}
#pragma GCC visibility pop
