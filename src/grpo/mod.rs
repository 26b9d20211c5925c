//! Floor 7: the algorithm: advantages of groups, how tokens are weighed, packing into
//! micro-batches, the reference, the optimizer and its schedule.

pub mod advantage; // rewards of a group to advantages
pub mod control; // coefficients that follow KL and entropy
pub mod optim; // gradient norm, clipping, AdamW, a reference that follows
pub mod pack; // groups to one decoder pass
pub mod schedule; // learning rate over steps
pub mod stats; // clip fractions, KL and entropy of a step
pub mod update; // forward, loss and backward of a micro-batch
pub mod weigh; // what each token counts: loss types as data
