//! The rewards that come with the program, one file each. None of them starts a process or opens
//! a connection.

mod accuracy;
mod exact;
mod format;
mod length;

pub use accuracy::Accuracy;
pub use exact::Exact;
pub use format::Format;
pub use length::Length;
