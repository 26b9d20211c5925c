//! Stand-ins for the run modules so that the command line compiles alone; deleted when they arrive.

/// Stand-in.
pub mod grpo_run {
    use crate::base::{Error, Result};
    /// Stand-in.
    pub fn train(_: &crate::train::options::Options) -> Result<std::path::PathBuf> {
        Err(Error::internal("not in this build"))
    }
}
/// Stand-in.
pub mod sft_run {
    use crate::base::{Error, Result};
    /// Stand-in.
    pub fn sft(_: &crate::train::options::Options) -> Result<std::path::PathBuf> {
        Err(Error::internal("not in this build"))
    }
}
/// Stand-in.
pub mod evaluate {
    use crate::base::{Error, Result};
    /// Stand-in.
    #[derive(Debug, Clone, PartialEq)]
    pub struct EvalReport {
        /// Mean of the first reward.
        pub accuracy: f64,
        /// Mean by reward.
        pub per_reward: Vec<(String, f64)>,
        /// Completions.
        pub samples: usize,
        /// Tokens.
        pub mean_length: f64,
        /// Time.
        pub seconds: f64,
    }
    /// Stand-in.
    pub fn evaluate(_: &crate::train::options::Options) -> Result<EvalReport> {
        Err(Error::internal("not in this build"))
    }
}
/// Stand-in.
pub mod trace {
    use crate::base::{Error, Result};
    /// Stand-in.
    pub fn trace_to_file(_: &crate::train::settings::TraceSettings) -> Result<()> {
        Err(Error::internal("not in this build"))
    }
}
