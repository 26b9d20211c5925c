//! What the result codes of a driver mean and what to do about them, as data. NVIDIA's and AMD's
//! drivers use the same numbers for the same faults (`cuda.h`, `hip_runtime_api.h`), so one table
//! serves both. Nothing here calls a driver.

use crate::base::Error;

/// A fault that people can do something about.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Result code.
    pub code: i32,
    /// What happened.
    pub what: &'static str,
    /// What to do.
    pub hint: &'static str,
}

/// The table.
pub static FAULTS: &[Fault] = &[
    Fault {
        code: 2,
        what: "the device has not enough free memory",
        hint: "lower --memory_budget, or end the other programs on the device; `grpo-rt plan` says what a run needs",
    },
    Fault {
        code: 3,
        what: "the driver could not start",
        hint: "load the kernel driver, or in a container pass the device through; `grpo-rt doctor` looks",
    },
    Fault {
        code: 34,
        what: "the driver library is a stub, which only serves to link programs",
        hint: "in a container, mount the host's driver library over the stub",
    },
    Fault {
        code: 46,
        what: "the device is in use exclusively, or is being reset",
        hint: "wait, or take another device",
    },
    Fault {
        code: 100,
        what: "there is no device",
        hint: "in a container, pass the device through",
    },
    Fault {
        code: 101,
        what: "there is no device of this number",
        hint: "`grpo-rt doctor` lists the devices",
    },
    Fault {
        code: 200,
        what: "the driver does not understand the kernel image",
        hint: "update the driver, or build with a compiler that is not newer than it (GRPO_RT_NVCC, GRPO_RT_HIP_CLANG)",
    },
    Fault {
        code: 209,
        what: "no kernel image is for this device",
        hint: "rebuild with its architecture in GRPO_RT_CUDA_ARCHS or GRPO_RT_HIP_ARCHS",
    },
    Fault {
        code: 214,
        what: "the device found an uncorrectable memory error",
        hint: "the device needs a reset; start again from the last checkpoint",
    },
    Fault {
        code: 222,
        what: "the driver is older than the compiler that built the kernels",
        hint: "update the driver, or rebuild with an older compiler (GRPO_RT_NVCC)",
    },
    Fault {
        code: 500,
        what: "the kernel image lacks a kernel",
        hint: "the program and its kernels are of two versions; rebuild with cargo clean -p grpo-rt",
    },
    Fault {
        code: 700,
        what: "a kernel touched memory that it must not",
        hint: "this is a defect of the program: please report the command and this message; a run goes on from its last checkpoint with --resume_from_checkpoint true",
    },
    Fault {
        code: 719,
        what: "a kernel failed",
        hint: "the device's state is lost; start again with --resume_from_checkpoint true, and report it if it repeats",
    },
    Fault {
        code: 802,
        what: "the devices are not ready yet",
        hint: "on a machine with NVSwitch, start nvidia-fabricmanager and wait for it",
    },
    Fault {
        code: 803,
        what: "the driver's library and its part in the kernel are of two versions",
        hint: "restart the machine after an update of the driver; in a container, use the host's library",
    },
    Fault {
        code: 999,
        what: "the device is lost",
        hint: "look at the system's log; start again with --resume_from_checkpoint true",
    },
];

/// The error for a failed call.
pub fn error(spec: &str, call: &str, code: i32, name: Option<&str>) -> Error {
    let name = name.unwrap_or("no name");
    let e = match FAULTS.iter().find(|f| f.code == code) {
        Some(fault) => Error::device(fault.what).hint(fault.hint),
        None => Error::device("a call to the driver failed")
            .hint("a run goes on from its last checkpoint with --resume_from_checkpoint true"),
    };
    e.at(spec.to_string()).found(format!("{call} returned {code} ({name})"))
}
