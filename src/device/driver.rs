//! One function table for both vendors' drivers. `libcuda` and `libamdhip64` differ in names, not in
//! what the functions take: each row below gives both names, and everything above the table is
//! written once. Opened at run time; a library or symbol that is missing is an error with a hint, and
//! several tables (a real device and an emulated one) can be open side by side.

use super::Vendor;
use crate::base::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, c_char, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;

/// Result code of a driver call; 0 is success.
pub type Code = i32;
/// A context, stream, event, module, function or graph of a driver.
pub type Handle = *mut c_void;

/// NVIDIA's context functions and AMD's, which have none: a device is chosen per thread.
#[derive(Debug, Clone, Copy)]
pub enum Context {
    /// Retain the device's primary context, and make it the thread's.
    Primary {
        /// `cuDevicePrimaryCtxRetain`
        retain: unsafe extern "C" fn(*mut Handle, i32) -> Code,
        /// `cuCtxSetCurrent`
        set: unsafe extern "C" fn(Handle) -> Code,
    },
    /// `hipSetDevice`
    Device(unsafe extern "C" fn(i32) -> Code),
}

/// How a driver names a result code.
#[derive(Debug, Clone, Copy)]
pub enum ErrorName {
    /// Through a pointer (`cuGetErrorName`).
    Written(unsafe extern "C" fn(i32, *mut *const c_char) -> Code),
    /// As a result (`hipGetErrorName`).
    Returned(unsafe extern "C" fn(i32) -> *const c_char),
}

type Launch = unsafe extern "C" fn(
    Handle,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    Handle,
    *mut *mut c_void,
    *mut *mut c_void,
) -> Code;

/// The functions that the program calls. Addresses are 64-bit numbers in both interfaces.
#[allow(missing_docs)] // named as in the drivers' manuals
#[derive(Debug)]
pub struct Driver {
    pub vendor: Vendor,
    pub context: Context,
    pub error_name: ErrorName,
    pub init: unsafe extern "C" fn(u32) -> Code,
    pub version: unsafe extern "C" fn(*mut i32) -> Code,
    pub device_count: unsafe extern "C" fn(*mut i32) -> Code,
    pub device_get: unsafe extern "C" fn(*mut i32, i32) -> Code,
    pub device_name: unsafe extern "C" fn(*mut c_char, i32, i32) -> Code,
    pub device_memory: unsafe extern "C" fn(*mut usize, i32) -> Code,
    pub device_attribute: unsafe extern "C" fn(*mut i32, i32, i32) -> Code,
    pub memory_info: unsafe extern "C" fn(*mut usize, *mut usize) -> Code,
    pub malloc: unsafe extern "C" fn(*mut u64, usize) -> Code,
    pub free: unsafe extern "C" fn(u64) -> Code,
    pub copy_to_device: unsafe extern "C" fn(u64, *const c_void, usize, Handle) -> Code,
    pub copy_to_host: unsafe extern "C" fn(*mut c_void, u64, usize, Handle) -> Code,
    pub copy_on_device: unsafe extern "C" fn(u64, u64, usize, Handle) -> Code,
    pub fill: unsafe extern "C" fn(u64, u8, usize, Handle) -> Code,
    pub stream_create: unsafe extern "C" fn(*mut Handle, u32) -> Code,
    pub stream_synchronize: unsafe extern "C" fn(Handle) -> Code,
    pub event_create: unsafe extern "C" fn(*mut Handle, u32) -> Code,
    pub event_destroy: unsafe extern "C" fn(Handle) -> Code,
    pub event_record: unsafe extern "C" fn(Handle, Handle) -> Code,
    pub event_elapsed: unsafe extern "C" fn(*mut f32, Handle, Handle) -> Code,
    pub module_load: unsafe extern "C" fn(*mut Handle, *const c_void) -> Code,
    pub module_function: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> Code,
    pub function_attribute: unsafe extern "C" fn(Handle, i32, i32) -> Code,
    pub launch: Launch,
    pub capture_begin: unsafe extern "C" fn(Handle, i32) -> Code,
    pub capture_end: unsafe extern "C" fn(Handle, *mut Handle) -> Code,
    pub graph_instantiate: unsafe extern "C" fn(*mut Handle, Handle, u64) -> Code,
    pub graph_launch: unsafe extern "C" fn(Handle, Handle) -> Code,
    pub graph_destroy: unsafe extern "C" fn(Handle) -> Code,
    pub graph_exec_destroy: unsafe extern "C" fn(Handle) -> Code,
    /// Where the device is, for the tools that tell of it.
    pub device_bus: Option<unsafe extern "C" fn(*mut c_char, i32, i32) -> Code>,
    /// `hipGetDevicePropertiesR0600`: the struct of ROCm 6 and later.
    pub properties: Option<unsafe extern "C" fn(*mut c_void, i32) -> Code>,
    /// Emulator only: the address ranges that the next launch may touch.
    pub emulator_allow: Option<unsafe extern "C" fn(*const u64, i32)>,
    /// Emulator only: what was wrong with the last launch.
    pub emulator_error: Option<unsafe extern "C" fn() -> *const c_char>,
    /// Keeps the functions above valid. Never closed: drivers have threads of their own, which would
    /// go on running in code that is gone.
    _library: ManuallyDrop<Library>,
}

// SAFETY: the drivers' functions may be called from any thread; handles are only passed to them.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

/// Names under which a vendor's driver is installed, newest first.
pub fn library_names(vendor: Vendor) -> &'static [&'static str] {
    match vendor {
        Vendor::Cuda => &["libcuda.so.1", "libcuda.so"],
        Vendor::Hip => &["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so"],
    }
}

/// What the system's loader says.
pub(super) fn why(e: &libloading::Error) -> String {
    std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string)
}

/// An open library whose symbols are looked up under one of two names.
struct Symbols<'l> {
    library: &'l Library,
    name: &'l str,
    vendor: Vendor,
}

impl Symbols<'_> {
    fn optional<T: Copy>(&self, symbol: &str) -> Option<T> {
        // SAFETY: the types in `Driver` are those of the vendors' headers.
        unsafe { self.library.get::<T>(symbol) }.ok().map(|s| *s)
    }

    /// A function by NVIDIA's and AMD's name.
    fn get<T: Copy>(&self, cuda: &str, hip: &str) -> Result<T> {
        let symbol = match self.vendor {
            Vendor::Cuda => cuda,
            Vendor::Hip => hip,
        };
        self.optional(symbol).ok_or_else(|| {
            Error::device("the driver lacks a function that the program needs")
                .at(self.name.to_string())
                .expected(symbol.to_string())
                .found("a library without it: an old driver, or a stub that a container brings")
                .hint("update the driver; in a container, mount the host's driver library over the stub")
        })
    }
}

impl Driver {
    /// Whether a library of a vendor's driver is there, fit for use or not.
    pub fn is_there(vendor: Vendor) -> bool {
        // SAFETY: as in `installed`.
        library_names(vendor).iter().any(|name| unsafe { Library::new(*name) }.is_ok())
    }

    /// Opens the installed driver of a vendor.
    ///
    /// # Errors
    /// Kind device: not installed, or too old.
    pub fn installed(vendor: Vendor) -> Result<Self> {
        let mut reason = String::new();
        for name in library_names(vendor) {
            // SAFETY: loading a vendor's driver runs its initialisers, which is what it is for.
            match unsafe { Library::new(*name) } {
                Ok(library) => return Self::bind(vendor, library, name),
                Err(e) if reason.is_empty() => reason = why(&e),
                Err(_) => {}
            }
        }
        Err(Error::device(format!("no {} driver is installed", vendor.name()))
            .expected(library_names(vendor).join(" or "))
            .found(reason)
            .hint("install the driver, or use --device cpu"))
    }

    /// Opens a driver at a path (the emulator).
    ///
    /// # Errors
    /// Kind device: it cannot be opened, or a function is missing.
    pub fn at(vendor: Vendor, path: &Path) -> Result<Self> {
        // SAFETY: as in `installed`.
        let library = unsafe { Library::new(path) }.map_err(|e| {
            Error::device("cannot open a driver library")
                .file(path)
                .expected(format!("a library with the functions of {}", library_names(vendor)[0]))
                .found(why(&e))
                .hint("build the emulator anew with kernels/emu/build.sh")
        })?;
        Self::bind(vendor, library, &path.display().to_string())
    }

    fn bind(vendor: Vendor, library: Library, name: &str) -> Result<Self> {
        let s = Symbols { library: &library, name, vendor };
        let context = match vendor {
            Vendor::Cuda => Context::Primary {
                retain: s.get("cuDevicePrimaryCtxRetain", "")?,
                set: s.get("cuCtxSetCurrent", "")?,
            },
            Vendor::Hip => Context::Device(s.get("", "hipSetDevice")?),
        };
        let error_name = match vendor {
            Vendor::Cuda => ErrorName::Written(s.get("cuGetErrorName", "")?),
            Vendor::Hip => ErrorName::Returned(s.get("", "hipGetErrorName")?),
        };
        Ok(Driver {
            vendor,
            context,
            error_name,
            init: s.get("cuInit", "hipInit")?,
            version: s.get("cuDriverGetVersion", "hipDriverGetVersion")?,
            device_count: s.get("cuDeviceGetCount", "hipGetDeviceCount")?,
            device_get: s.get("cuDeviceGet", "hipDeviceGet")?,
            device_name: s.get("cuDeviceGetName", "hipDeviceGetName")?,
            device_memory: s.get("cuDeviceTotalMem_v2", "hipDeviceTotalMem")?,
            device_attribute: s.get("cuDeviceGetAttribute", "hipDeviceGetAttribute")?,
            memory_info: s.get("cuMemGetInfo_v2", "hipMemGetInfo")?,
            malloc: s.get("cuMemAlloc_v2", "hipMalloc")?,
            free: s.get("cuMemFree_v2", "hipFree")?,
            copy_to_device: s.get("cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync")?,
            copy_to_host: s.get("cuMemcpyDtoHAsync_v2", "hipMemcpyDtoHAsync")?,
            copy_on_device: s.get("cuMemcpyDtoDAsync_v2", "hipMemcpyDtoDAsync")?,
            fill: s.get("cuMemsetD8Async", "hipMemsetD8Async")?,
            stream_create: s.get("cuStreamCreate", "hipStreamCreateWithFlags")?,
            stream_synchronize: s.get("cuStreamSynchronize", "hipStreamSynchronize")?,
            event_create: s.get("cuEventCreate", "hipEventCreateWithFlags")?,
            event_destroy: s.get("cuEventDestroy_v2", "hipEventDestroy")?,
            event_record: s.get("cuEventRecord", "hipEventRecord")?,
            event_elapsed: s.get("cuEventElapsedTime", "hipEventElapsedTime")?,
            module_load: s.get("cuModuleLoadData", "hipModuleLoadData")?,
            module_function: s.get("cuModuleGetFunction", "hipModuleGetFunction")?,
            function_attribute: s.get("cuFuncSetAttribute", "hipFuncSetAttribute")?,
            launch: s.get("cuLaunchKernel", "hipModuleLaunchKernel")?,
            capture_begin: s.get("cuStreamBeginCapture_v2", "hipStreamBeginCapture")?,
            capture_end: s.get("cuStreamEndCapture", "hipStreamEndCapture")?,
            graph_instantiate: s
                .get("cuGraphInstantiateWithFlags", "hipGraphInstantiateWithFlags")?,
            graph_launch: s.get("cuGraphLaunch", "hipGraphLaunch")?,
            graph_destroy: s.get("cuGraphDestroy", "hipGraphDestroy")?,
            graph_exec_destroy: s.get("cuGraphExecDestroy", "hipGraphExecDestroy")?,
            device_bus: s.optional(match vendor {
                Vendor::Cuda => "cuDeviceGetPCIBusId",
                Vendor::Hip => "hipDeviceGetPCIBusId",
            }),
            properties: s.optional("hipGetDevicePropertiesR0600"),
            emulator_allow: s.optional("grt_emu_allow"),
            emulator_error: s.optional("grt_emu_last_error"),
            _library: ManuallyDrop::new(library),
        })
    }

    /// The driver's name for a result code.
    pub fn name_of(&self, code: Code) -> Option<String> {
        let text = match self.error_name {
            ErrorName::Written(f) => {
                let mut p = std::ptr::null();
                // SAFETY: the function writes one pointer.
                unsafe { f(code, &raw mut p) };
                p
            }
            // SAFETY: a pure lookup.
            ErrorName::Returned(f) => unsafe { f(code) },
        };
        // SAFETY: the drivers return static texts, or null for codes they do not know.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}
