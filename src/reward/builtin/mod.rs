//! The rewards that come with the program, one file each. None of them starts a process or opens
//! a connection.

mod accuracy;
mod exact;
mod explanation;
mod format;
mod length;
mod reasoning;

pub use accuracy::Accuracy;
pub use exact::Exact;
pub use explanation::Explanation;
pub use format::Format;
pub use length::Length;
pub use reasoning::Reasoning;
