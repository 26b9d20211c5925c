// The vendors' names of the driver functions that tests/driver.cpp calls, and all that must be there.
#pragma once

#if GRT_WAVE == 32
static const char* const INIT = "cuInit";
static const char* const DEVICE_COUNT = "cuDeviceGetCount";
static const char* const MEMORY_INFO = "cuMemGetInfo_v2";
static const char* const ALLOC = "cuMemAlloc_v2";
static const char* const FREE = "cuMemFree_v2";
static const char* const COPY_IN = "cuMemcpyHtoDAsync_v2";
static const char* const COPY_OUT = "cuMemcpyDtoHAsync_v2";
static const char* const FILL = "cuMemsetD8Async";
static const char* const STREAM_NEW = "cuStreamCreate";
static const char* const STREAM_FREE = "cuStreamDestroy_v2";
static const char* const STREAM_WAIT = "cuStreamSynchronize";
static const char* const STREAM_WAIT_EVENT = "cuStreamWaitEvent";
static const char* const EVENT_NEW = "cuEventCreate";
static const char* const EVENT_FREE = "cuEventDestroy_v2";
static const char* const EVENT_RECORD = "cuEventRecord";
static const char* const EVENT_WAIT = "cuEventSynchronize";
static const char* const EVENT_ELAPSED = "cuEventElapsedTime";
static const char* const MODULE_LOAD = "cuModuleLoadData";
static const char* const MODULE_FREE = "cuModuleUnload";
static const char* const FUNCTION = "cuModuleGetFunction";
[[maybe_unused]] static const char* const SET_ATTRIBUTE = "cuFuncSetAttribute";
static const char* const LAUNCH = "cuLaunchKernel";
static const char* const CAPTURE_BEGIN = "cuStreamBeginCapture_v2";
static const char* const CAPTURE_END = "cuStreamEndCapture";
static const char* const INSTANTIATE = "cuGraphInstantiateWithFlags";
static const char* const GRAPH_LAUNCH = "cuGraphLaunch";
static const char* const GRAPH_FREE = "cuGraphDestroy";
static const char* const EXEC_FREE = "cuGraphExecDestroy";
static const char* const ALL_NAMES[] = {
    "cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuDeviceGetCount",
    "cuDeviceGet", "cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2", "cuCtxSetCurrent",
    "cuMemGetInfo_v2", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostAlloc", "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemsetD8Async",
    "cuStreamCreate", "cuStreamDestroy_v2", "cuStreamSynchronize", "cuStreamWaitEvent",
    "cuEventCreate", "cuEventDestroy_v2", "cuEventRecord", "cuEventSynchronize",
    "cuEventElapsedTime", "cuModuleLoadData", "cuModuleUnload", "cuModuleGetFunction",
    "cuFuncSetAttribute", "cuFuncGetAttribute", "cuLaunchKernel", "cuStreamBeginCapture_v2",
    "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuGraphDestroy",
    "cuGraphExecDestroy",
};
#else
static const char* const INIT = "hipInit";
static const char* const DEVICE_COUNT = "hipGetDeviceCount";
static const char* const MEMORY_INFO = "hipMemGetInfo";
static const char* const ALLOC = "hipMalloc";
static const char* const FREE = "hipFree";
static const char* const COPY_IN = "hipMemcpyHtoDAsync";
static const char* const COPY_OUT = "hipMemcpyDtoHAsync";
static const char* const FILL = "hipMemsetD8Async";
static const char* const STREAM_NEW = "hipStreamCreateWithFlags";
static const char* const STREAM_FREE = "hipStreamDestroy";
static const char* const STREAM_WAIT = "hipStreamSynchronize";
static const char* const STREAM_WAIT_EVENT = "hipStreamWaitEvent";
static const char* const EVENT_NEW = "hipEventCreateWithFlags";
static const char* const EVENT_FREE = "hipEventDestroy";
static const char* const EVENT_RECORD = "hipEventRecord";
static const char* const EVENT_WAIT = "hipEventSynchronize";
static const char* const EVENT_ELAPSED = "hipEventElapsedTime";
static const char* const MODULE_LOAD = "hipModuleLoadData";
static const char* const MODULE_FREE = "hipModuleUnload";
static const char* const FUNCTION = "hipModuleGetFunction";
[[maybe_unused]] static const char* const SET_ATTRIBUTE = "hipFuncSetAttribute";
static const char* const LAUNCH = "hipModuleLaunchKernel";
static const char* const CAPTURE_BEGIN = "hipStreamBeginCapture";
static const char* const CAPTURE_END = "hipStreamEndCapture";
static const char* const INSTANTIATE = "hipGraphInstantiateWithFlags";
static const char* const GRAPH_LAUNCH = "hipGraphLaunch";
static const char* const GRAPH_FREE = "hipGraphDestroy";
static const char* const EXEC_FREE = "hipGraphExecDestroy";
[[maybe_unused]] static const char* const ALL_NAMES[] = {
    "hipInit", "hipDriverGetVersion", "hipGetErrorName", "hipGetErrorString", "hipGetDeviceCount",
    "hipDeviceGet", "hipDeviceGetName", "hipDeviceTotalMem", "hipDeviceGetAttribute",
    "hipGetDevicePropertiesR0600", "hipSetDevice", "hipMemGetInfo", "hipMalloc", "hipFree",
    "hipHostMalloc", "hipHostFree", "hipMemcpyHtoDAsync", "hipMemcpyDtoHAsync",
    "hipMemcpyDtoDAsync", "hipMemsetD8Async", "hipStreamCreateWithFlags", "hipStreamDestroy",
    "hipStreamSynchronize", "hipStreamWaitEvent", "hipEventCreateWithFlags", "hipEventDestroy",
    "hipEventRecord", "hipEventSynchronize", "hipEventElapsedTime", "hipModuleLoadData",
    "hipModuleUnload", "hipModuleGetFunction", "hipFuncSetAttribute", "hipFuncGetAttribute",
    "hipModuleLaunchKernel", "hipStreamBeginCapture", "hipStreamEndCapture",
    "hipGraphInstantiateWithFlags", "hipGraphLaunch", "hipGraphDestroy", "hipGraphExecDestroy",
};
#endif
