//! From what a data set holds to what a model reads: images to patches, chats to token ids. Nothing
//! here runs a model.

pub mod chat; // messages to token ids with image spans
pub mod qwen_image; // images of Qwen2-VL and Qwen2.5-VL to patches
