//! Floor 7: the algorithm: advantages of groups, how tokens are weighed, packing into
//! micro-batches, the reference, the optimizer and its schedule.

pub mod advantage; // rewards of a group to advantages
pub mod optim; // gradient norm, clipping, AdamW
pub mod pack; // groups to one decoder pass
pub mod schedule; // learning rate over steps
pub mod stats; // figures of an update
pub mod update; // forward, loss and backward of a micro-batch
pub mod weigh; // what each token counts: loss types as data
