//! Floor 5: vision-language models: configuration, weights, blocks, processors and families. And the
//! sentence encoders that rewards compare texts with.

pub mod companions; // files beside the weights
pub mod config; // config.json: which family, and keys that families share
pub mod create; // a new model with random weights, as a folder
pub mod decoder; // the language model of every family: one list of ops, differences as data
pub mod encoder; // sentences to vectors, for rewards
pub mod families; // one short file each: wiring only
pub mod lora; // low-rank adapters: which modules, PEFT's files
pub mod merge; // an adapter made part of its base
pub mod net; // layers of a model on a tape
pub mod panels; // packed weights, for decoding
pub mod params; // every parameter's place in the arena
pub mod positions; // where tokens stand, by the rules of the families
pub mod processor; // images to patches, chats to token ids
pub mod prompt; // a chat as the decoder reads it
pub mod rope; // rotary tables
pub mod spec; // which parameters a model has
pub mod vision_store; // features of images, kept
pub mod vlm; // a model: configuration, parameters, folder
