//! Devices that tests run on: the emulated ones, built by their script when a test first asks, and
//! those of this machine that `GRPO_RT_TEST_DEVICES` names. Asserts nothing about results.

use grpo_rt::device::{Device, DeviceSpec, Vendor, open};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

/// Builds the emulator, or says why that failed.
pub fn build_emulator() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/emu/build.sh");
        let out = Command::new("bash").arg(script).output().expect("bash runs");
        assert!(
            out.status.success(),
            "the emulator does not build (it needs a C++ compiler, such as g++):\n{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    });
}

/// The emulated device of a vendor; one for the whole process.
#[allow(dead_code)] // not every test file asks for every kind
pub fn emulated(vendor: Vendor) -> Arc<dyn Device> {
    static DEVICES: [OnceLock<Arc<dyn Device>>; 2] = [const { OnceLock::new() }; 2];
    let device = &DEVICES[usize::from(vendor == Vendor::Hip)];
    device
        .get_or_init(|| {
            build_emulator();
            let device = open(DeviceSpec::Emulated(vendor)).expect("the emulator opens");
            device.expect("it is not the CPU")
        })
        .clone()
}

/// Devices of this machine that the tests are asked to use: `GRPO_RT_TEST_DEVICES=cuda:0,hip:0`.
#[allow(dead_code)] // not every test file asks for every kind
pub fn present() -> Vec<Arc<dyn Device>> {
    let names = std::env::var("GRPO_RT_TEST_DEVICES").unwrap_or_default();
    names
        .split(',')
        .filter(|n| !n.is_empty())
        .map(|n| open(n.parse().unwrap()).unwrap().expect("a device, not the CPU"))
        .collect()
}
