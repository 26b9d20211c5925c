//! The compiled kernels that `build.rs` embeds in the program, and the choice among them. Data only:
//! nothing here loads a library or needs a device, and a program built without kernel compilers has
//! the same code and a shorter table.

use super::Vendor;
use crate::base::{Error, Result};

/// One module of kernels, compiled for one architecture or several.
#[derive(Debug)]
pub struct Image {
    /// Name of the source file without its ending: `kernels/common/norms.cu` is `norms`.
    pub module: &'static str,
    /// Whose driver loads it.
    pub vendor: Vendor,
    /// `fatbin` (the driver picks by itself), `sm_90`, `gfx942`, ...
    pub arch: &'static str,
    /// What the driver gets; begins at a multiple of 64.
    pub bytes: &'static [u8],
}

/// What compiled the images of one vendor, or why nothing did. Holds no path.
#[derive(Debug)]
pub struct Compiler {
    /// Whose kernels it compiles.
    pub vendor: Vendor,
    /// `nvcc 13.0.88 for sm_80, ...`, or the reason.
    pub outcome: std::result::Result<&'static str, &'static str>,
}

/// Environment variables that build.rs reads: no options of the program.
pub const BUILD_VARIABLES: &[&str] = &[
    "GRPO_RT_KERNELS",
    "GRPO_RT_NVCC",
    "GRPO_RT_HIP_CLANG",
    "GRPO_RT_CUDA_ARCHS",
    "GRPO_RT_HIP_ARCHS",
];

/// Drivers read headers of 8-byte fields in place.
#[allow(dead_code)] // not constructed by a build without compilers, whose table is empty
#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The bytes of the image of `module` for a device whose architecture is `arch` (`sm_90`, `gfx942`; feature
/// suffixes as in `gfx942:sramecc+` are ignored): the one made for exactly it, else the fatbin.
///
/// # Errors
/// A device error that lists what is embedded, and how to rebuild with what is missing.
pub fn find(vendor: Vendor, arch: &str, module: &str) -> Result<&'static [u8]> {
    choose(IMAGES, COMPILERS, vendor, arch, module).map(|i| i.bytes)
}

fn choose<'a>(
    images: &'a [Image],
    compilers: &[Compiler],
    vendor: Vendor,
    arch: &str,
    module: &str,
) -> Result<&'a Image> {
    let bare = arch.split(':').next().unwrap_or(arch);
    let of_module = || images.iter().filter(|i| i.vendor == vendor && i.module == module);
    let exact = of_module().find(|i| i.arch == bare);
    exact.or_else(|| of_module().find(|i| i.arch == "fatbin")).ok_or_else(|| {
        let mut embedded: Vec<String> = images
            .iter()
            .filter(|i| i.vendor == vendor)
            .map(|i| format!("{} ({})", i.module, i.arch))
            .collect();
        embedded.sort();
        let compiler = compilers.iter().find(|c| c.vendor == vendor).map(|c| c.outcome);
        let (found, variable) = match (vendor, embedded.is_empty(), compiler) {
            (_, true, Some(Err(why))) => (format!("none: at build time, {why}"), None),
            (_, true, _) => ("none".to_string(), None),
            (Vendor::Cuda, ..) => (embedded.join(", "), Some("GRPO_RT_CUDA_ARCHS")),
            (Vendor::Hip, ..) => (embedded.join(", "), Some("GRPO_RT_HIP_ARCHS")),
        };
        let mut hint = "run tools/setup/kernel_compilers.sh, then build again with \
                        GRPO_RT_KERNELS=require"
            .to_string();
        if let Some(variable) = variable {
            hint += &format!(" ({variable} names the architectures)");
        }
        Error::device(format!("this program has no kernels of module `{module}` for {arch}"))
            .expected(format!("an image for {bare}"))
            .found(format!("embedded: {found}"))
            .hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn image(module: &'static str, vendor: Vendor, arch: &'static str) -> Image {
        Image { module, vendor, arch, bytes: &[] }
    }

    const TABLE: &[Image] = &[
        image("norms", Vendor::Cuda, "fatbin"),
        image("norms", Vendor::Hip, "gfx90a"),
        image("norms", Vendor::Hip, "gfx942"),
        image("matmul", Vendor::Cuda, "fatbin"),
        image("matmul", Vendor::Cuda, "sm_90"),
    ];

    #[test]
    fn the_exact_architecture_comes_first() {
        let arch = |vendor, arch, module| choose(TABLE, &[], vendor, arch, module).unwrap().arch;
        assert_eq!(arch(Vendor::Cuda, "sm_90", "norms"), "fatbin");
        assert_eq!(arch(Vendor::Cuda, "sm_90", "matmul"), "sm_90");
        assert_eq!(arch(Vendor::Cuda, "sm_80", "matmul"), "fatbin");
        assert_eq!(arch(Vendor::Hip, "gfx942:sramecc+:xnack-", "norms"), "gfx942");
        assert_eq!(arch(Vendor::Hip, "gfx90a", "norms"), "gfx90a");
    }

    #[test]
    fn what_is_missing_says_what_is_there_and_how_to_rebuild() {
        let error = choose(TABLE, &[], Vendor::Hip, "gfx1100", "norms").unwrap_err();
        let text = error.to_string();
        for part in ["norms", "gfx1100", "norms (gfx90a), norms (gfx942)", "GRPO_RT_HIP_ARCHS"] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
        let none = [Compiler { vendor: Vendor::Cuda, outcome: Err("no nvcc was found") }];
        let text = choose(&[], &none, Vendor::Cuda, "sm_90", "norms").unwrap_err().to_string();
        assert!(text.contains("no nvcc was found"), "{text}");
        assert!(text.contains("tools/setup/kernel_compilers.sh"), "{text}");
    }

    #[test]
    fn embedded_images_are_whole() {
        for image in IMAGES {
            let name = format!("{} ({})", image.module, image.arch);
            // The first bytes of a fatbin, and of an ELF file.
            let magic: &[u8] = match image.vendor {
                Vendor::Cuda => &[0x50, 0xed, 0x55, 0xba],
                Vendor::Hip => b"\x7fELF",
            };
            assert!(image.bytes.starts_with(magic), "{name} is no image");
            assert_eq!(image.bytes.as_ptr() as usize % 64, 0, "{name} is not aligned");
        }
        let compiled = COMPILERS.iter().filter(|c| c.outcome.is_ok()).map(|c| c.vendor);
        let embedded: Vec<Vendor> = IMAGES.iter().map(|i| i.vendor).collect();
        assert!(embedded.iter().all(|v| compiled.clone().any(|c| c == *v)));
    }
}
