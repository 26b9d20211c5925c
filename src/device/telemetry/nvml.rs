//! NVIDIA's management library (`nvml.h`), a handful of functions of it, opened at run time. Only ever
//! asks; sets nothing.

use super::{Figure, Reading};
use crate::device::driver::why;
use libloading::Library;
use std::ffi::{CStr, CString, OsStr, c_char, c_uint, c_void};

/// Name under which the driver brings it.
pub const LIBRARY: &str = "libnvidia-ml.so.1";

/// `NVML_TEMPERATURE_GPU`: the sensor on the chip.
const ON_CHIP: c_uint = 0;

type Code = i32;
type Handle = *mut c_void;

/// `nvmlMemory_t`: bytes.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlUtilization_t`: percent of the time in which kernels ran, and in which memory was moved.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Utilization {
    kernels: c_uint,
    memory: c_uint,
}

type AskNumber = unsafe extern "C" fn(Handle, *mut c_uint) -> Code;

/// One device as the library sees it.
#[derive(Debug)]
pub struct Watched {
    device: usize,
    error_text: unsafe extern "C" fn(Code) -> *const c_char,
    memory: unsafe extern "C" fn(Handle, *mut Memory) -> Code,
    utilization: unsafe extern "C" fn(Handle, *mut Utilization) -> Code,
    power: AskNumber,
    temperature: unsafe extern "C" fn(Handle, c_uint, *mut c_uint) -> Code,
    driver_version: unsafe extern "C" fn(*mut c_char, c_uint) -> Code,
    /// Keeps the functions above valid.
    _library: Library,
}

/// A function of the library, by name.
fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: the types in `Watched` are those of nvml.h.
    let found = unsafe { library.get::<T>(name) };
    found.map(|s| *s).map_err(|_| format!("the management library has no {name}"))
}

impl Watched {
    /// Opens the library and finds the device at a PCI address (`0000:1b:00.0`).
    ///
    /// # Errors
    /// The reason why there will be no readings.
    pub fn open(library: impl AsRef<OsStr>, bus: &str) -> Result<Self, String> {
        let name = library.as_ref().to_string_lossy().into_owned();
        // SAFETY: loading the vendor's library runs its initialisers, which is what it is for.
        let library = unsafe { Library::new(library.as_ref()) }
            .map_err(|e| format!("the management library {name} cannot be opened: {}", why(&e)))?;
        let init: unsafe extern "C" fn() -> Code = symbol(&library, "nvmlInit_v2")?;
        let find: unsafe extern "C" fn(*const c_char, *mut Handle) -> Code =
            symbol(&library, "nvmlDeviceGetHandleByPciBusId_v2")?;
        let mut watched = Watched {
            device: 0,
            error_text: symbol(&library, "nvmlErrorString")?,
            memory: symbol(&library, "nvmlDeviceGetMemoryInfo")?,
            utilization: symbol(&library, "nvmlDeviceGetUtilizationRates")?,
            power: symbol(&library, "nvmlDeviceGetPowerUsage")?,
            temperature: symbol(&library, "nvmlDeviceGetTemperature")?,
            driver_version: symbol(&library, "nvmlSystemGetDriverVersion")?,
            _library: library,
        };
        // SAFETY: takes nothing.
        watched.told("nvmlInit_v2", unsafe { init() })?;
        let address = CString::new(bus).map_err(|_| "the PCI address holds a zero".to_string())?;
        let mut device: Handle = std::ptr::null_mut();
        // SAFETY: a text that ends in zero, and room for one handle.
        let code = unsafe { find(address.as_ptr(), &raw mut device) };
        watched.told(&format!("looking for {bus}"), code)?;
        watched.device = device as usize;
        Ok(watched)
    }

    /// Makes a code that is not success a reason.
    fn told(&self, call: &str, code: Code) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: a pure lookup, which returns a static text.
        let text = unsafe { (self.error_text)(code) };
        let text = match text.is_null() {
            true => "no text".into(),
            // SAFETY: just seen not to be null.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy(),
        };
        Err(format!("{call} returned {code} ({text})"))
    }

    fn handle(&self) -> Handle {
        self.device as Handle
    }

    /// Version of the driver package, such as `580.65.06`.
    ///
    /// # Errors
    /// The reason why it is not known.
    pub fn driver_version(&self) -> Result<String, String> {
        let mut text = [0 as c_char; 96];
        // SAFETY: the length given is that of the array.
        let code = unsafe { (self.driver_version)(text.as_mut_ptr(), 96) };
        self.told("nvmlSystemGetDriverVersion", code)?;
        text[95] = 0;
        // SAFETY: ends in zero.
        Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// What the device says now.
    pub fn read(&self) -> Reading {
        let mut memory = Memory::default();
        // SAFETY (all calls here): a handle of the library, and room for what it writes.
        let code = unsafe { (self.memory)(self.handle(), &raw mut memory) };
        let known = self.told("nvmlDeviceGetMemoryInfo", code);
        let mut rates = Utilization::default();
        // SAFETY: as above.
        let code = unsafe { (self.utilization)(self.handle(), &raw mut rates) };
        let utilization = self.told("nvmlDeviceGetUtilizationRates", code);
        Reading {
            memory_used: known.clone().map(|()| memory.used as f64),
            memory_total: known.map(|()| memory.total as f64),
            // Milliwatts.
            power: self.number("nvmlDeviceGetPowerUsage", self.power).map(|mw| mw * 1e-3),
            utilization: utilization.map(|()| f64::from(rates.kernels)),
            temperature: self.degrees(),
        }
    }

    fn number(&self, name: &str, ask: AskNumber) -> Figure {
        let mut n = 0;
        // SAFETY: a handle of the library, and room for one number.
        let code = unsafe { ask(self.handle(), &raw mut n) };
        self.told(name, code).map(|()| f64::from(n))
    }

    fn degrees(&self) -> Figure {
        let mut n = 0;
        // SAFETY: as above.
        let code = unsafe { (self.temperature)(self.handle(), ON_CHIP, &raw mut n) };
        self.told("nvmlDeviceGetTemperature", code).map(|()| f64::from(n))
    }
}
