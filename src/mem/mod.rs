//! Floor 2: every tensor of a step gets its place before the step runs.

pub mod arena;
pub mod plan;
pub mod recompute;

pub use arena::{Arena, Region};
pub use plan::{Lifetime, Plan, plan_offsets};
pub use recompute::Recompute;
