//! Floor 5: vision-language models: configuration, weights, blocks, processors and families.

pub mod config; // config.json in the layouts of transformers 4 and 5
pub mod families; // one short file each: wiring only
pub mod processor; // images to patches, chats to token ids
