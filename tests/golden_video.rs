//! Which frames are taken of a video, against transformers and qwen-vl-utils
//! (`tools/golden/video_sampling.py`). No video is decoded here.

use std::path::Path;

use grpo_rt::io::video::VideoInfo;
use grpo_rt::io::video::sampling::{FrameCount, FrameSampling};
use serde_json::Value;

fn cases(rule: &str) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/video/sampling.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    all[rule].as_array().unwrap().clone()
}

fn size(v: &Value) -> Option<usize> {
    v.as_u64().map(|n| n as usize)
}

fn info(case: &Value) -> VideoInfo {
    let (frames, fps) = (size(&case["frames"]).unwrap(), case["fps"].as_f64().unwrap());
    VideoInfo { frames, fps, width: 64, height: 48, duration: frames as f64 / fps }
}

/// `fps`, or the number under `name`.
fn count(rate: &Value, name: &str) -> FrameCount {
    match size(&rate[name]) {
        Some(n) => FrameCount::Number(n),
        None => FrameCount::PerSecond(rate["fps"].as_f64().unwrap_or(2.0)),
    }
}

/// Compares a rule with its golden; a refusal there must be an error here.
fn agree(rule: &str, least: usize, sampling: impl Fn(&Value) -> FrameSampling, part: &str) {
    let cases = cases(rule);
    assert!(cases.len() >= least);
    for case in &cases {
        let (start, end) = match part {
            "ele" => (case["ele"]["video_start"].as_f64(), case["ele"]["video_end"].as_f64()),
            _ => (case["bound"][0].as_f64(), case["bound"][1].as_f64()),
        };
        let have = sampling(case).indices_within(&info(case), start, end);
        match case["indices"].as_array() {
            // OpenGVLab's rule may leave the video where a part begins at its end.
            Some(list) if list.iter().all(|i| i.as_u64() < case["frames"].as_u64()) => {
                let want: Vec<usize> = list.iter().filter_map(size).collect();
                assert_eq!(have.unwrap(), want, "{rule} {case}");
            }
            _ => assert_eq!(have.expect_err(&case.to_string()).exit_code(), 3),
        }
    }
}

#[test]
fn qwen2_vl_takes_the_frames_of_transformers() {
    let sampling = |c: &Value| FrameSampling::Qwen2Vl {
        count: count(&c["rate"], "num_frames"),
        min_frames: size(&c["min_frames"]).unwrap(),
        max_frames: size(&c["max_frames"]).unwrap(),
        temporal_patch_size: size(&c["temporal_patch_size"]).unwrap(),
    };
    agree("qwen2_vl", 130, sampling, "");
}

#[test]
fn qwen_vl_utils_takes_its_frames() {
    let sampling = |c: &Value| FrameSampling::QwenVlUtils {
        count: count(&c["ele"], "nframes"),
        min_frames: size(&c["ele"]["min_frames"]).unwrap_or(4),
        max_frames: size(&c["ele"]["max_frames"]),
    };
    agree("qwen_vl_utils", 170, sampling, "ele");
}

#[test]
fn qwen3_vl_takes_the_frames_of_transformers() {
    let sampling = |c: &Value| FrameSampling::Qwen3Vl {
        count: count(&c["rate"], "num_frames"),
        min_frames: size(&c["min_frames"]).unwrap(),
        max_frames: size(&c["max_frames"]).unwrap(),
    };
    agree("qwen3_vl", 130, sampling, "");
}

#[test]
fn glm4v_takes_the_frames_of_transformers() {
    let sampling = |c: &Value| FrameSampling::Glm4v {
        fps: c["rate"].as_f64().unwrap(),
        max_duration: c["max_duration"].as_f64().unwrap(),
    };
    agree("glm4v", 130, sampling, "");
}

#[test]
fn internvl_takes_the_frames_of_both_layouts() {
    let whole = |c: &Value| FrameSampling::InternVl { count: count(&c["rate"], "num_frames") };
    agree("internvl", 110, whole, "");
    let segments = |c: &Value| FrameSampling::InternVlSegments {
        num_segments: size(&c["num_segments"]).unwrap(),
    };
    agree("internvl_segments", 110, segments, "bound");
}

#[test]
fn clips_follow_their_length_within_limits() {
    let of = |frames: usize, dynamic: Option<FrameCount>| {
        let clip = FrameSampling::Clip { min_frames: 4, max_frames: 8, dynamic };
        let info = VideoInfo { frames, fps: 10.0, width: 8, height: 8, duration: 0.0 };
        clip.indices(&info).unwrap()
    };
    assert_eq!(of(26, None), [0, 4, 7, 11, 14, 18, 21, 25]);
    assert_eq!(of(26, Some(FrameCount::Number(6))), [0, 5, 10, 15, 20, 25]);
    assert_eq!(of(26, Some(FrameCount::Number(26))).len(), 8);
    assert_eq!(of(26, Some(FrameCount::PerSecond(2.0))), [0, 6, 12, 19, 25]);
    assert_eq!(of(26, Some(FrameCount::PerSecond(0.1))).len(), 4);
    assert_eq!(of(3, Some(FrameCount::Number(26))), [0, 1, 2]);
}

#[test]
fn numbers_that_cannot_be_used_are_errors() {
    let good = VideoInfo { frames: 100, fps: 25.0, width: 8, height: 8, duration: 4.0 };
    let rate = |fps| FrameSampling::Glm4v { fps, max_duration: 300.0 };
    for fps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        assert!(rate(fps).indices(&good).unwrap_err().to_string().contains("frames per second"));
        let info = VideoInfo { fps, ..good.clone() };
        let least = FrameSampling::Qwen2Vl {
            count: FrameCount::PerSecond(2.0),
            min_frames: 4,
            max_frames: 768,
            temporal_patch_size: 2,
        };
        // A rate of a file that is merely absurd bounds nothing: the least number is taken.
        let result = least.indices(&info);
        assert!(if fps == 1e9 { result.unwrap() == [0, 25, 50, 75] } else { result.is_err() });
    }
    for n in [0, usize::MAX] {
        let all = [
            FrameSampling::InternVlSegments { num_segments: n },
            FrameSampling::InternVl { count: FrameCount::Number(n) },
            FrameSampling::Qwen3Vl { count: FrameCount::Number(n), min_frames: 1, max_frames: 9 },
        ];
        for sampling in all {
            assert_eq!(sampling.indices(&good).unwrap_err().exit_code(), 3, "{sampling:?}");
        }
    }
    let none = VideoInfo { frames: 0, ..good.clone() };
    assert!(FrameSampling::All.indices(&none).is_err());
    assert_eq!(FrameSampling::All.indices(&good).unwrap().len(), 100);
}
