//! Floor 0: what every other floor speaks in. No I/O, no threads, no vendor, ever.

pub mod dtype;
pub mod error;
pub mod rng;
pub mod target;
pub mod tensor;
pub mod tolerance;
pub mod utc;

pub use dtype::DType;
pub use error::{Error, ErrorKind, Result};
pub use rng::{Philox, RngDomain};
pub use target::Target;
pub use tensor::{HostTensor, TensorData};
pub use tolerance::Tolerance;
