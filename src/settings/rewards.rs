//! Which rewards a run pays, and what they are told. Builds none.

use crate::reward::RewardSettings as Told;

/// Rewards and their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardSettings {
    /// Names, each once.
    pub names: Vec<String>,
    /// One weight per name.
    pub weights: Vec<f64>,
    /// What they are told.
    pub told: Told,
}
