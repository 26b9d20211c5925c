//! (to be written)

pub mod qwen_image; // images of Qwen2-VL and Qwen2.5-VL to patches
