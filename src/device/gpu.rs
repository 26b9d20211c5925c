//! A device behind a driver's function table: memory, one stream, kernels by name, graphs. Modules are
//! loaded when one of their kernels is first launched. Nothing here knows an op, and nothing here
//! differs by vendor but the choice of a context.

use super::blas::{Blas, MatmulImpl};
use super::command::{Command, DevicePtr, Launch};
use super::driver::{Code, Context, Driver, Handle};
use super::graph::{Advice, Graphs};
use super::{Device, Properties, Vendor, fault, images};
use crate::base::{Error, Result};
use cudarc::driver::sys::CUdevice_attribute_enum as CudaAttribute;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Attributes of a device by NVIDIA's and AMD's number (`hipDeviceAttribute_t` of ROCm 5 and later;
/// `tests/driver_constants.rs` holds them against hip-sys).
#[derive(Debug, Clone, Copy)]
pub enum Attribute {
    /// Streaming multiprocessors or compute units.
    Units,
    /// Threads that run in step.
    Wave,
    /// Bytes of shared memory that a block can have if it asks for them.
    Shared,
    /// Major number of the compute capability.
    Major,
    /// Minor number of it.
    Minor,
}

impl Attribute {
    /// The number that a vendor's driver knows it by.
    pub fn number(self, vendor: Vendor) -> i32 {
        let (cuda, hip) = match self {
            Attribute::Units => (CudaAttribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 63),
            Attribute::Wave => (CudaAttribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 87),
            Attribute::Shared => {
                (CudaAttribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 74)
            }
            Attribute::Major => (CudaAttribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 23),
            Attribute::Minor => (CudaAttribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 61),
        };
        if vendor == Vendor::Cuda { cuda as i32 } else { hip }
    }
}

/// Shared memory that a kernel may have without asking: on AMD all there is, where the function to ask
/// with takes no kernel of a module.
fn shared_without_asking(vendor: Vendor) -> u32 {
    match vendor {
        Vendor::Cuda => 48 << 10,
        Vendor::Hip => 64 << 10,
    }
}
/// Held from the announcement of an emulated launch's ranges to the launch.
static EMULATOR: Mutex<()> = Mutex::new(());

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES` and its twin.
pub const MAX_DYNAMIC_SHARED: i32 = 8;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL` and its twin: other threads may go on calling the driver.
pub const CAPTURE_OF_THREAD: i32 = 1;
/// `CU_STREAM_NON_BLOCKING` and its twin.
pub const NON_BLOCKING: u32 = 1;
/// Where `gcnArchName` lies in the properties struct of ROCm 6 and later.
const ARCH_NAME_AT: usize = 1160;

/// Kernels that have been launched before.
#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<&'static str, usize>,
    kernels: HashMap<&'static str, usize>,
    /// Dynamic shared memory that a kernel was allowed.
    shared: HashMap<&'static str, u32>,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Gpu {
    /// Before the driver, which its memory is of.
    blas: Option<Blas>,
    driver: Driver,
    properties: Properties,
    number: i32,
    context: usize,
    stream: usize,
    loaded: Mutex<Loaded>,
    graphs: Mutex<Graphs>,
    /// Held by whoever calls the stream, loads a module, allocates or frees: a capture would take another
    /// thread's calls for its own, or refuse them.
    turn: Mutex<()>,
}

/// Makes a call an error if its code says so.
fn check(driver: &Driver, spec: &str, call: &str, code: Code) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let mut e = fault::error(spec, call, code, driver.name_of(code).as_deref());
    if let Some(last) = driver.emulator_error {
        // SAFETY: returns a text that lives until the next launch, or null.
        let text = unsafe { last() };
        if !text.is_null() {
            // SAFETY: as above.
            let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
            if !text.is_empty() {
                e = e.at(text.into_owned());
            }
        }
    }
    Err(e)
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens device `number` of a driver that is initialised; `spec` is how the user names it.
    ///
    /// # Errors
    /// Kind device if the driver refuses.
    pub fn open(driver: Driver, number: i32, spec: &str) -> Result<Self> {
        let done = |call: &str, code| check(&driver, spec, call, code);
        let mut device = 0;
        // SAFETY: these calls write to the places given, which live long enough.
        done("device get", unsafe { (driver.device_get)(&raw mut device, number) })?;
        let mut context: Handle = std::ptr::null_mut();
        match driver.context {
            Context::Primary { retain, set } => {
                // SAFETY: as above.
                done("context retain", unsafe { retain(&raw mut context, device) })?;
                // SAFETY: as above.
                done("context set", unsafe { set(context) })?;
            }
            // SAFETY: as above.
            Context::Device(set) => done("set device", unsafe { set(number) })?,
        }
        let properties = properties(&driver, device, spec)?;
        let mut stream: Handle = std::ptr::null_mut();
        // SAFETY: as above.
        let code = unsafe { (driver.stream_create)(&raw mut stream, NON_BLOCKING) };
        done("stream create", code)?;
        Ok(Gpu {
            properties,
            number,
            context: context as usize,
            stream: stream as usize,
            loaded: Mutex::default(),
            graphs: Mutex::default(),
            turn: Mutex::default(),
            blas: None,
            driver,
        })
    }

    /// Has the vendor's library compute the products of linear layers: the installed one, or the one at
    /// `path` (tests).
    ///
    /// # Errors
    /// Kind device if it cannot be used.
    pub fn use_vendor_matmul(&mut self, path: Option<&Path>) -> Result<()> {
        self.enter()?;
        self.blas = Some(Blas::open(&self.driver, &self.properties.spec, path)?);
        self.properties.matmul = MatmulImpl::Vendor;
        self.properties.available = super::Device::memory(self)?.0;
        Ok(())
    }

    fn done(&self, call: &str, code: Code) -> Result<()> {
        check(&self.driver, &self.properties.spec, call, code)
    }

    fn stream(&self) -> Handle {
        self.stream as Handle
    }

    /// Makes the device the calling thread's: the drivers keep that per thread.
    fn enter(&self) -> Result<()> {
        let code = match self.driver.context {
            // SAFETY: the context was retained in `open`.
            Context::Primary { set, .. } => unsafe { set(self.context as Handle) },
            // SAFETY: the number was good in `open`.
            Context::Device(set) => unsafe { set(self.number) },
        };
        self.done("context set", code)
    }

    /// The kernel, loaded if need be, allowed the shared memory that it asks for.
    fn kernel(&self, l: &Launch) -> Result<Handle> {
        let mut loaded = locked(&self.loaded);
        let function = match loaded.kernels.get(l.kernel) {
            Some(&f) => f,
            None => {
                let module = self.module(&mut loaded, l.module)?;
                let name =
                    CString::new(l.kernel).map_err(|_| Error::internal("a kernel's name"))?;
                let mut f: Handle = std::ptr::null_mut();
                // SAFETY: a module of this context and a text that ends in zero.
                let code = unsafe {
                    (self.driver.module_function)(&raw mut f, module as Handle, name.as_ptr())
                };
                self.done(&format!("get kernel {} of {}", l.kernel, l.module), code)?;
                loaded.kernels.insert(l.kernel, f as usize);
                f as usize
            }
        };
        let free = shared_without_asking(self.properties.vendor);
        let allowed = loaded.shared.get(l.kernel).copied().unwrap_or(free);
        if l.shared > allowed {
            let bytes = l.shared as i32;
            // SAFETY: a function of this context.
            let code = unsafe {
                (self.driver.function_attribute)(function as Handle, MAX_DYNAMIC_SHARED, bytes)
            };
            self.done(&format!("allow {} {bytes} bytes of shared memory", l.kernel), code)?;
            loaded.shared.insert(l.kernel, l.shared);
        }
        Ok(function as Handle)
    }

    fn module(&self, loaded: &mut Loaded, name: &'static str) -> Result<usize> {
        if let Some(&m) = loaded.modules.get(name) {
            return Ok(m);
        }
        let p = &self.properties;
        // The emulator carries its kernels with it and reads no image.
        let image: &[u8] =
            if p.emulated { b"emulated\0" } else { images::find(p.vendor, &p.arch, name)? };
        let mut m: Handle = std::ptr::null_mut();
        // SAFETY: the image is a whole file of the kind the driver loads, and lives for ever.
        let code =
            unsafe { (self.driver.module_load)(&raw mut m, image.as_ptr().cast::<c_void>()) };
        self.done(&format!("load the kernels of {name}"), code)?;
        loaded.modules.insert(name, m as usize);
        Ok(m as usize)
    }

    fn launch(&self, l: &Launch) -> Result<()> {
        let function = self.kernel(l)?;
        // The ranges are those of the next launch, whichever thread's it is.
        let _alone = self.driver.emulator_allow.map(|_| locked(&EMULATOR));
        if let Some(allow) = self.driver.emulator_allow {
            // SAFETY: pairs of addresses, read before the call returns.
            unsafe { allow(l.ranges.as_ptr().cast(), l.ranges.len() as i32) };
        }
        // The drivers copy the argument struct before they return; they want it aligned.
        let mut words = vec![0u64; l.args.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..l.args.len()].copy_from_slice(&l.args);
        let mut params = [words.as_mut_ptr().cast::<c_void>()];
        let [x, y, z] = l.grid;
        // SAFETY: the kernel takes one struct by value, of the size of `args` (asserted where both
        // sides define it); addresses in it are of the arena and bounded by the plan.
        let code = unsafe {
            (self.driver.launch)(
                function,
                x,
                y,
                z,
                l.threads,
                1,
                1,
                l.shared,
                self.stream(),
                params.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.done(&format!("launch {} ({x}x{y}x{z} blocks of {})", l.kernel, l.threads), code)
    }

    fn run(&self, command: &Command) -> Result<()> {
        match command {
            Command::Launch(l) => self.launch(l),
            Command::Matmul(g) => match &self.blas {
                Some(blas) => blas.run(g, self.stream()),
                None => Err(Error::internal("the vendor's matrix products are not open")),
            },
            Command::Fill { to, byte, bytes } => {
                // SAFETY: a range of the arena.
                let code = unsafe { (self.driver.fill)(to.0, *byte, *bytes, self.stream()) };
                self.done("fill", code)
            }
            Command::Copy { to, from, bytes } => {
                // SAFETY: two ranges of the arena.
                let code =
                    unsafe { (self.driver.copy_on_device)(to.0, from.0, *bytes, self.stream()) };
                self.done("copy", code)
            }
        }
    }

    /// Runs the commands and keeps them as a graph.
    fn capture(&self, commands: &[Command]) -> Result<()> {
        // A module cannot be loaded while launches are captured.
        for c in commands {
            if let Command::Launch(l) = c {
                self.kernel(l)?;
            }
        }
        let stream = self.stream();
        // SAFETY: the stream is ours, and this thread's turn lasts until the capture ends.
        let code = unsafe { (self.driver.capture_begin)(stream, CAPTURE_OF_THREAD) };
        self.done("begin to capture", code)?;
        let enqueued: Result<()> = commands.iter().try_for_each(|c| self.run(c));
        let mut graph: Handle = std::ptr::null_mut();
        // SAFETY: ends the capture begun above, whatever happened in between.
        let code = unsafe { (self.driver.capture_end)(stream, &raw mut graph) };
        enqueued?;
        self.done("end a capture", code)?;
        let mut exec: Handle = std::ptr::null_mut();
        // SAFETY: a graph that was just made.
        let code = unsafe { (self.driver.graph_instantiate)(&raw mut exec, graph, 0) };
        self.done("make a graph", code)?;
        // SAFETY: the executable graph does not need it any more.
        unsafe { (self.driver.graph_destroy)(graph) };
        if let Some(old) = locked(&self.graphs).keep(commands, exec) {
            self.wait()?;
            // SAFETY: it is kept nowhere any more, and has run to its end.
            unsafe { (self.driver.graph_exec_destroy)(old) };
        }
        self.replay(exec)
    }

    fn replay(&self, exec: Handle) -> Result<()> {
        // SAFETY: a graph of this device that is still kept.
        let code = unsafe { (self.driver.graph_launch)(exec, self.stream()) };
        self.done("replay a graph", code)
    }

    /// Waits for everything that the stream has taken.
    fn wait(&self) -> Result<()> {
        // SAFETY: our stream.
        let code = unsafe { (self.driver.stream_synchronize)(self.stream()) };
        self.done("wait for the device", code)
    }

    fn event(&self) -> Result<Handle> {
        let mut e: Handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        self.done("event create", unsafe { (self.driver.event_create)(&raw mut e, 0) })?;
        Ok(e)
    }
}

/// Asks a driver what its device is.
fn properties(driver: &Driver, device: i32, spec: &str) -> Result<Properties> {
    let done = |call: &str, code| check(driver, spec, call, code);
    let attribute = |a: Attribute| -> Result<i32> {
        let mut v = 0;
        let number = a.number(driver.vendor);
        // SAFETY: writes one number.
        let code = unsafe { (driver.device_attribute)(&raw mut v, number, device) };
        done(&format!("attribute {a:?}"), code).map(|()| v)
    };
    let mut name = [0 as std::ffi::c_char; 256];
    // SAFETY: the length given is that of the array.
    done("device name", unsafe { (driver.device_name)(name.as_mut_ptr(), 256, device) })?;
    name[255] = 0;
    // SAFETY: ends in zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let (mut memory, mut version, mut free, mut total) = (0, 0, 0, 0);
    // SAFETY: writes two numbers.
    done("memory info", unsafe { (driver.memory_info)(&raw mut free, &raw mut total) })?;
    // SAFETY: writes one number.
    done("device memory", unsafe { (driver.device_memory)(&raw mut memory, device) })?;
    // SAFETY: writes one number.
    done("driver version", unsafe { (driver.version)(&raw mut version) })?;
    let arch = match driver.vendor {
        Vendor::Cuda => {
            format!("sm_{}{}", attribute(Attribute::Major)?, attribute(Attribute::Minor)?)
        }
        Vendor::Hip => arch_name(driver, device, spec)?,
    };
    Ok(Properties {
        spec: spec.to_string(),
        name,
        arch,
        vendor: driver.vendor,
        driver: version,
        bus: bus(driver, device),
        wave: attribute(Attribute::Wave)? as usize,
        units: attribute(Attribute::Units)? as usize,
        memory,
        available: free,
        shared: attribute(Attribute::Shared)? as usize,
        emulated: driver.emulator_allow.is_some(),
        matmul: MatmulImpl::Own,
    })
}

/// The PCI address of a device, if the driver says it.
fn bus(driver: &Driver, device: i32) -> Option<String> {
    let mut text = [0 as std::ffi::c_char; 32];
    // SAFETY: the length given is that of the array.
    let code = unsafe { driver.device_bus?(text.as_mut_ptr(), 32, device) };
    text[31] = 0;
    // SAFETY: ends in zero.
    (code == 0).then(|| unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}

/// `gfx942` of `gfx942:sramecc+:xnack-`.
fn arch_name(driver: &Driver, device: i32, spec: &str) -> Result<String> {
    let Some(properties) = driver.properties else {
        return Err(Error::device("the driver is too old to say what its device is")
            .at(spec.to_string())
            .expected("hipGetDevicePropertiesR0600: ROCm 6 or later")
            .hint("update ROCm"));
    };
    // The struct has grown with the versions and is below 2 KiB in all.
    let mut bytes = vec![0u64; 1024];
    // SAFETY: more room than any version writes.
    let code = unsafe { properties(bytes.as_mut_ptr().cast(), device) };
    check(driver, spec, "device properties", code)?;
    let text = &bytemuck::cast_slice::<u64, u8>(&bytes)[ARCH_NAME_AT..];
    let end = text.iter().position(|&b| b == 0 || b == b':').unwrap_or(0);
    Ok(String::from_utf8_lossy(&text[..end]).into_owned())
}

impl Device for Gpu {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn load(&self, module: &'static str) -> Result<()> {
        self.enter()?;
        let _turn = locked(&self.turn);
        self.module(&mut locked(&self.loaded), module).map(|_| ())
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr> {
        self.enter()?;
        let _turn = locked(&self.turn);
        let mut p = 0;
        // SAFETY: writes one address.
        let code = unsafe { (self.driver.malloc)(&raw mut p, bytes) };
        self.done(&format!("allocate {bytes} bytes"), code)?;
        Ok(DevicePtr(p))
    }

    fn free(&self, block: DevicePtr) {
        // A device that failed cannot free; there is nobody left to tell.
        if self.enter().is_ok() {
            let _turn = locked(&self.turn);
            // SAFETY: the block came from `allocate`; whoever drops it uses it no more.
            unsafe { (self.driver.free)(block.0) };
        }
    }

    fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        let _turn = locked(&self.turn);
        let from = bytes.as_ptr().cast();
        // SAFETY: reads the slice; from pageable memory the drivers copy before they return.
        let code = unsafe { (self.driver.copy_to_device)(to.0, from, bytes.len(), self.stream()) };
        self.done("copy to the device", code)
    }

    fn download(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        let _turn = locked(&self.turn);
        let (to, n) = (bytes.as_mut_ptr().cast(), bytes.len());
        // SAFETY: writes the slice, which is borrowed until the stream has come there.
        let code = unsafe { (self.driver.copy_to_host)(to, from.0, n, self.stream()) };
        self.done("copy from the device", code)?;
        self.wait()
    }

    fn submit(&self, commands: &[Command]) -> Result<()> {
        self.enter()?;
        let _turn = locked(&self.turn);
        let advice = locked(&self.graphs).advise(commands);
        match advice {
            Advice::Launch => commands.iter().try_for_each(|c| self.run(c)),
            Advice::Capture => self.capture(commands),
            Advice::Replay(exec) => self.replay(exec as Handle),
        }
    }

    fn time(&self, commands: &[Command]) -> Result<Vec<f64>> {
        self.enter()?;
        let _turn = locked(&self.turn);
        let (start, end) = (self.event()?, self.event()?);
        let mut seconds = Vec::with_capacity(commands.len());
        for c in commands {
            // SAFETY: events and stream of this device.
            self.done("event", unsafe { (self.driver.event_record)(start, self.stream()) })?;
            self.run(c)?;
            // SAFETY: as above.
            self.done("event", unsafe { (self.driver.event_record)(end, self.stream()) })?;
            self.wait()?;
            let mut ms = 0f32;
            // SAFETY: both events have happened.
            let code = unsafe { (self.driver.event_elapsed)(&raw mut ms, start, end) };
            self.done("event time", code)?;
            seconds.push(f64::from(ms) * 1e-3);
        }
        for e in [start, end] {
            // SAFETY: used no more.
            unsafe { (self.driver.event_destroy)(e) };
        }
        Ok(seconds)
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        let _turn = locked(&self.turn);
        self.wait()
    }

    fn memory(&self) -> Result<(usize, usize)> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        let code = unsafe { (self.driver.memory_info)(&raw mut free, &raw mut total) };
        self.done("memory info", code)?;
        Ok((free, total))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Stream and modules go with the process; the context is shared with whoever opens it next.
        if self.enter().is_ok() {
            for exec in locked(&self.graphs).drain() {
                // SAFETY: kept nowhere any more.
                unsafe { (self.driver.graph_exec_destroy)(exec) };
            }
        }
    }
}
