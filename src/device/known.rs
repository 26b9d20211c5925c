//! Accelerators by name, with the figures that plans and shares of limits are made from: memory,
//! bandwidth, peak rate. A table of published numbers; it never asks a driver, so a plan for one of
//! these can be made on a machine that has none.

/// What is known of an accelerator without having it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KnownDevice {
    /// As it is given to `--device`.
    pub name: &'static str,
    /// As people call it.
    pub title: &'static str,
    /// Bytes of device memory that the driver reports for a whole, unpartitioned device.
    pub memory: usize,
    /// Bytes per second of that memory, by the data sheet.
    pub bytes_per_second: f64,
    /// Floating-point operations per second in bfloat16, dense, by the data sheet.
    pub bf16_flops: f64,
}

const MIB: usize = 1 << 20;

/// Bytes of a device that are not planned with: the driver's context, the modules of the kernels and
/// the stacks of their threads. Contexts of present drivers take 0.3 to 0.6 GiB; the rest is margin.
pub const RESERVED: usize = 1 << 30;

/// The devices that can be planned for. Memory is the total that `nvidia-smi` or `rocm-smi` shows
/// (81,559, 143,771 and 196,592 MiB); it is less than the capacity on the box where error correction
/// and firmware keep a part. Rates are those of NVIDIA's H100 and H200 data sheets (SXM, without
/// sparsity) and of AMD's Instinct MI300X data sheet.
pub static KNOWN_DEVICES: &[KnownDevice] = &[
    KnownDevice {
        name: "h100",
        title: "H100 SXM, 80 GB HBM3",
        memory: 81_559 * MIB,
        bytes_per_second: 3.35e12,
        bf16_flops: 989.4e12,
    },
    KnownDevice {
        name: "h200",
        title: "H200 SXM, 141 GB HBM3e",
        memory: 143_771 * MIB,
        bytes_per_second: 4.8e12,
        bf16_flops: 989.4e12,
    },
    KnownDevice {
        name: "mi300x",
        title: "MI300X, 192 GB HBM3",
        memory: 196_592 * MIB,
        bytes_per_second: 5.3e12,
        bf16_flops: 1307.4e12,
    },
];

impl KnownDevice {
    /// The device of a name.
    pub fn named(name: &str) -> Option<&'static KnownDevice> {
        KNOWN_DEVICES.iter().find(|d| d.name == name)
    }

    /// The device that a driver's name is of: `NVIDIA H100 80GB HBM3`.
    pub fn recognised(name: &str) -> Option<&'static KnownDevice> {
        let name = name.to_lowercase();
        KNOWN_DEVICES.iter().find(|d| name.contains(d.name))
    }

    /// Bytes that can be planned with.
    pub fn usable(&self) -> usize {
        self.memory - RESERVED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_name_and_are_of_the_size_that_is_sold() {
        for (name, gigabytes) in [("h100", 80.0), ("h200", 141.0), ("mi300x", 192.0)] {
            let device = KnownDevice::named(name).unwrap();
            let decimal = device.memory as f64 / 1e9;
            // 80 and 192 count in powers of two, 141 in powers of ten and rounded down.
            assert!(decimal > gigabytes && decimal < 1.1 * gigabytes, "{name}: {decimal}");
            assert_eq!(device.usable() + RESERVED, device.memory);
            assert!(device.bf16_flops > 100.0 * device.bytes_per_second, "{name}");
        }
        assert_eq!(KnownDevice::named("cpu"), None);
    }
}
