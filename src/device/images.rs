//! Kernels that the program carries.

use super::Vendor;
use crate::base::{Error, Result};

/// The image of a module for an architecture.
///
/// # Errors
/// Kind device if there is none.
pub fn find(vendor: Vendor, arch: &str, module: &str) -> Result<&'static [u8]> {
    Err(Error::device(format!("no {} kernels of {module} for {arch}", vendor.name())))
}
