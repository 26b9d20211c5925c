//! grpo-rt trains vision-language models with GRPO in one native program.
//!
//! The number beside a module is its floor: a file imports only from floors with smaller numbers
//! (`tests/tidy.rs` enforces it). So `device` and `io` do not know each other, nor do `rollout` and
//! `reward`, nor `evaluate`, `infer`, `inspect` and `runs`.
#![doc = include_str!("../ARCHITECTURE.md")]

pub mod base; // 0: error with hint, dtype, host tensor, Philox, tolerance
pub mod cli; // 15: commands
pub mod device; // 1: where bytes live and kernels run
pub mod evaluate; // 13: models measured side by side
pub mod grpo; // 7: groups, advantages, packing, loss, optimizer, schedule
pub mod infer; // 13: answers to chats, without training
pub mod inspect; // 13: what a data set holds and what a model sees of it
pub mod io; // 1: files: safetensors, images, text, tables, events
pub mod mem; // 2: lifetimes to offsets, arena, budget
pub mod model; // 5: config, weights, LoRA, blocks, processors, families
pub mod ops; // 3: one file per op: reference, fast form, backward rule, cost, cases
pub mod options; // 8: the option table: flags, keys of files, help, docs, other programs' names
pub mod publish; // 11: models that leave: merged, with a card, to the hub
pub mod reward; // 6: rewards of completions
pub mod rollout; // 6: sequences, KV cache, sampling, engine
pub mod runs; // 13: runs on disk: what there is, in which state, side by side
pub mod settings; // 10: options, typed and checked against each other
pub mod tape; // 4: list of op nodes over planned slots, reverse walk
pub mod track; // 9: what a run tells: rows, samples, alerts, every sink, the report
pub mod train; // 12: run folder, checkpoints, loops, evaluation
pub mod web; // 14: HTTP: the chat endpoint and the pages of runs
