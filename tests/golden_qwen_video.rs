//! Videos of the Qwen-VL families against transformers (`tools/golden/families`): pixel values, token
//! ids and positions of whole chats exactly, with the frames that its processors take at two a second.

use grpo_rt::base::HostTensor;
use grpo_rt::io::dataset::{Message, Part};
use grpo_rt::io::image::{self, Image};
use grpo_rt::io::safetensors::Checkpoint;
use grpo_rt::io::text::Tokenizer;
use grpo_rt::io::video::VideoInfo;
use grpo_rt::io::video::sampling::{FrameCount, FrameSampling};
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::processor::chat::ChatEncoder;
use grpo_rt::model::processor::qwen_video::{
    ChosenFrames, QwenProcessor, QwenVideoSettings, VideoStyle,
};
use grpo_rt::model::processor::{ImageBackend, ProcessorOptions, Visual, VisualProcessor};
use grpo_rt::model::prompt::Prompt;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FOLDERS: &[(&str, VideoStyle)] = &[
    ("qwen2_vl/tied", VideoStyle::Frames),
    ("qwen2_vl/untied", VideoStyle::Frames),
    ("qwen2_5_vl_video/windows", VideoStyle::Clock { tokens_per_second: 2 }),
    ("qwen3_vl/tied", VideoStyle::Timestamps),
    ("qwen3_vl/untied", VideoStyle::Timestamps),
    ("qwen3_vl_moe/sparse", VideoStyle::Timestamps),
];

/// Frames that the class takes with `fps=2`, as the goldens were made.
fn sampling(s: &QwenVideoSettings) -> FrameSampling {
    let (min_frames, max_frames) = (s.min_frames, s.max_frames);
    let count = FrameCount::PerSecond(2.0);
    match s.style {
        VideoStyle::Timestamps => FrameSampling::Qwen3Vl { count, min_frames, max_frames },
        _ => {
            let temporal_patch_size = s.pixels.temporal_patch_size;
            FrameSampling::Qwen2Vl { count, min_frames, max_frames, temporal_patch_size }
        }
    }
}

/// The visual of a part of a message.
fn visual(folder: &Path, part: &Value, processor: &QwenProcessor) -> Visual {
    if let Some(name) = part["image"].as_str() {
        return processor.image(&image::open(folder.join(name)).unwrap()).unwrap();
    }
    let frames = std::fs::read_dir(folder.join(part["video"].as_str().unwrap())).unwrap();
    let mut frames: Vec<PathBuf> = frames.map(|f| f.unwrap().path()).collect();
    frames.sort();
    let (total, fps) = (frames.len(), part["fps"].as_f64().unwrap());
    let first = image::open(&frames[0]).unwrap();
    let (width, height) = (first.width, first.height);
    let info = VideoInfo { frames: total, fps, width, height, duration: total as f64 / fps };
    let indices = sampling(processor.videos.settings()).indices(&info).unwrap();
    let images: Vec<Image> = indices.iter().map(|&i| image::open(&frames[i]).unwrap()).collect();
    let chosen = ChosenFrames { images: &images, indices: &indices, fps: Some(fps), total };
    let made = processor.videos.process(&chosen).unwrap();
    let planned = processor.videos.shape(&indices, total, fps, (width, height)).unwrap();
    assert_eq!((planned.grid_thw, planned.runs), (made.grid_thw, made.runs.clone()));
    made
}

fn compare(name: &str, style: VideoStyle) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families").join(name);
    let options =
        ProcessorOptions { backend: Some(ImageBackend::Pillow), ..ProcessorOptions::default() };
    let processor = QwenProcessor::from_dir(&folder, style, &options).unwrap();
    let config = VlmConfig::from_dir(&folder).unwrap();
    let text = std::fs::read_to_string(folder.join("messages_video.json")).unwrap();
    let messages: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut visuals = Vec::new();
    let messages: Vec<Message> = messages
        .iter()
        .map(|m| {
            let content = match &m["content"] {
                Value::String(text) => vec![Part::Text(text.clone())],
                parts => parts
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|p| part(&folder, p, &mut visuals, &processor))
                    .collect(),
            };
            Message { role: m["role"].as_str().unwrap().into(), content }
        })
        .collect();
    let template = config.family.template(&folder, &config).unwrap();
    let tokenizer = Tokenizer::from_dir(&folder).unwrap();
    let chat =
        ChatEncoder::new(tokenizer, template, &config.tokens, config.family.end_of_turn()).unwrap();
    let texts: Vec<_> = visuals.iter().map(|v| processor.text(v)).collect();
    let encoded = chat.encode(&messages, &texts, false).unwrap();
    let prompt =
        Prompt::new(encoded.ids, visuals, encoded.starts, config.positions, encoded.text).unwrap();
    let golden = Checkpoint::open(folder.join("expected_video.safetensors")).unwrap();
    let want = |name: &str| golden.read(name).unwrap();
    let ids: Vec<i64> = prompt.ids.iter().map(|&i| i64::from(i)).collect();
    assert_eq!(ids, want("input_ids").to_i64_vec().unwrap(), "{name}");
    let positions: Vec<i64> =
        (0..3).flat_map(|axis| prompt.positions.iter().map(move |p| i64::from(p[axis]))).collect();
    assert_eq!(positions, want("position_ids").to_i64_vec().unwrap(), "{name}");
    let video = prompt.visuals.iter().find(|v| !v.seconds.is_empty()).unwrap();
    let grid = video.grid_thw.map(|n| n as i64);
    assert_eq!(grid.to_vec(), want("video_grid_thw").to_i64_vec().unwrap(), "{name}");
    let pixels: HostTensor = want("pixel_values_videos");
    assert!(video.patches == pixels.as_f32().unwrap(), "{name}: pixel values differ");
}

fn part(
    folder: &Path,
    part: &Value,
    visuals: &mut Vec<Arc<Visual>>,
    processor: &QwenProcessor,
) -> Part {
    if let Some(text) = part["text"].as_str() {
        return Part::Text(text.into());
    }
    visuals.push(Arc::new(visual(folder, part, processor)));
    let number = visuals.len() - 1;
    if part["image"].is_string() { Part::Image(number) } else { Part::Video(number) }
}

#[test]
fn videos_are_those_of_transformers() {
    for (name, style) in FOLDERS {
        compare(name, *style);
    }
}
