//! grpo-rt trains vision-language models with GRPO in one native program.
//!
//! The modules are listed in floor order: a file imports only from the floors above it in this
//! list (`tests/tidy.rs` enforces it). `device` and `io` do not know each other, nor do `rollout`
//! and `reward`.
#![doc = include_str!("../ARCHITECTURE.md")]

pub mod base; // 0: error with hint, dtype, host tensor, Philox, tolerance
pub mod cli; // 11: commands
pub mod device; // 1: where bytes live and kernels run
pub mod grpo; // 7: groups, advantages, packing, loss, optimizer, schedule
pub mod io; // 1: files: safetensors, images, text, tables, events
pub mod mem; // 2: lifetimes to offsets, arena, budget
pub mod model; // 5: config, weights, LoRA, blocks, processors, families
pub mod ops; // 3: one file per op: reference, fast form, backward rule, cost, cases
pub mod reward; // 6: rewards of completions
pub mod rollout; // 6: sequences, KV cache, sampling, engine
pub mod runs; // 9: runs on disk: what there is, in which state, side by side
pub mod tape; // 4: list of op nodes over planned slots, reverse walk
pub mod train; // 8: options, loop, checkpoints, metrics, evaluation, report
pub mod web; // 10: HTTP: the chat endpoint and the pages of runs
