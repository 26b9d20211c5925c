//! The rewards that come with the program, one file each. None of them starts a process or opens
//! a connection.

pub mod accuracy;
#[cfg(test)]
mod answer_table;
mod correctness;
mod exact;
mod format;
mod length;
mod math;
mod mcq;
mod yes_no;

pub use accuracy::Accuracy;
pub use correctness::Correctness;
pub use exact::Exact;
pub use format::Format;
pub use length::Length;
pub use math::Math;
pub use mcq::Mcq;
pub use yes_no::YesNo;
