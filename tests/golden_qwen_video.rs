//! Videos of the Qwen-VL families against transformers (`tools/golden/families`): pixel values, token
//! ids and positions of whole prompts exactly, with the frames that its processors choose.

use grpo_rt::base::HostTensor;
use grpo_rt::io::dataset::{Message, Part};
use grpo_rt::io::image::Image;
use grpo_rt::io::safetensors::Checkpoint;
use grpo_rt::io::text::Tokenizer;
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::processor::chat::ChatEncoder;
use grpo_rt::model::processor::qwen_video::{
    ChosenFrames, QwenProcessor, QwenVideoProcessor, VideoStyle,
};
use grpo_rt::model::processor::{ImageBackend, ProcessorOptions, Visual, VisualProcessor};
use grpo_rt::model::prompt::Prompt;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder, the style of its family, and which frames transformers took.
const FOLDERS: &[(&str, VideoStyle, &[usize])] = &[
    ("qwen2_vl/tied", VideoStyle::Frames, &FRAMES_OF_5),
    ("qwen2_vl/untied", VideoStyle::Frames, &FRAMES_OF_7),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families").join(name)
}
