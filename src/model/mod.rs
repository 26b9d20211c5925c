//! Floor 5: vision-language models: configuration, weights, blocks, processors and families.

pub mod config; // config.json in the layouts of transformers 4 and 5
pub mod create; // a new model with random weights, as a folder
pub mod families; // one short file each: wiring only
pub mod lora; // low-rank adapters: which modules, PEFT's files
pub mod net; // layers of a model on a tape
pub mod panels; // packed weights, for decoding
pub mod params; // every parameter's place in the arena
pub mod processor; // images to patches, chats to token ids
pub mod prompt; // a chat as the decoder reads it
pub mod vision_store; // features of images, kept
pub mod vlm; // a model: configuration, parameters, folder
