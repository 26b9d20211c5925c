//! Sizes, settings and errors of the image processor. Pixels are compared with transformers in
//! `tests/golden_image.rs`.

use super::*;
use crate::model::processor::settings_file::PREPROCESSOR_FILE;

fn fails(config: Value) -> String {
    ImageProcessorSettings::from_json(&config).unwrap_err().to_string()
}

#[test]
fn smart_resize_follows_pythons_rounding() {
    let resize = |h, w| smart_resize(h, w, 28, 3136, 12_845_056).unwrap();
    // Computed with transformers 5.23. 70 / 28 = 2.5 rounds to 2, 98 / 28 = 3.5 rounds to 4.
    assert_eq!(resize(70, 98), (56, 112));
    assert_eq!(resize(98, 70), (112, 56));
    assert_eq!(resize(480, 640), (476, 644));
    assert_eq!(resize(1, 200), (28, 812));
    assert_eq!(resize(10, 10), (56, 56));
    assert_eq!(smart_resize(480, 640, 28, 3136, 50_176).unwrap(), (168, 252));
    assert_eq!(smart_resize(4000, 30, 28, 1, 784).unwrap(), (308, 28));
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    let e = smart_resize(1, 201, 28, 3136, 12_845_056).unwrap_err().to_string();
    assert!(e.contains("201") && e.contains("200"), "{e}");
    assert!(smart_resize(0, 5, 28, 3136, 12_845_056).is_err());
    assert!(smart_resize(10, 10, 28, 0, 784).unwrap_err().to_string().contains("784"));
    assert_eq!(smart_resize(10, 10, 28, 1, 784).unwrap(), (28, 28));
}

#[test]
fn settings_are_read_from_both_layouts() {
    let read = |v| ImageProcessorSettings::from_json(&v).unwrap();
    let limits = |v| (read(v).min_pixels, read(json!({})).max_pixels);
    assert_eq!(limits(json!({"min_pixels": 5})), (5, 1_003_520));
    let both = json!({"size": {"shortest_edge": 7, "longest_edge": 9}, "min_pixels": 8});
    assert_eq!((read(both.clone()).min_pixels, read(both).max_pixels), (8, 9));
    let early = json!({"size": {"min_pixels": 7, "max_pixels": 9}});
    assert_eq!((read(early.clone()).min_pixels, read(early).max_pixels), (7, 9));
    let odd = read(json!({"patch_size": 16, "image_mean": 0.5, "resample": 2, "do_resize": false,
        "image_processor_type": "Qwen2VLImageProcessorFast", "merge_size": null}));
    assert_eq!((odd.patch_size, odd.merge_size, odd.image_mean), (16, 2, [0.5; 3]));
    assert!(!odd.do_resize && odd.resample == Filter::Bilinear);

    let dir = tempfile::tempdir().unwrap();
    let e = QwenImageProcessor::from_dir(dir.path()).unwrap_err().to_string();
    assert!(e.contains("preprocessor_config.json"), "{e}");
    let settings = ImageProcessorSettings { max_pixels: 784 * 9, ..Default::default() };
    let text = settings.to_json("Qwen2_5_VLProcessor").to_string();
    std::fs::write(dir.path().join(PREPROCESSOR_FILE), text).unwrap();
    assert_eq!(QwenImageProcessor::from_dir(dir.path()).unwrap().settings(), &settings);
    let nested = json!({"image_processor": {"max_pixels": 12, "min_pixels": 3}});
    std::fs::write(dir.path().join("processor_config.json"), nested.to_string()).unwrap();
    let p = QwenImageProcessor::from_dir(dir.path()).unwrap();
    assert_eq!((p.settings().min_pixels, p.settings().max_pixels), (3, 12));
    let limits =
        |min_pixels, max_pixels| ProcessorOptions { min_pixels, max_pixels, ..Default::default() };
    let p = p.with_options(&limits(None, Some(99))).unwrap();
    assert_eq!((p.settings().min_pixels, p.settings().max_pixels), (3, 99));
    assert_eq!(p.with_options(&limits(Some(0), None)).unwrap_err().exit_code(), 2);
}

#[test]
fn settings_that_cannot_be_followed_are_named() {
    assert!(fails(json!([1])).contains("object"));
    assert!(fails(json!({"resample": 0})).contains("resample"));
    assert!(fails(json!({"image_std": [1, 2]})).contains("image_std"));
    assert!(fails(json!({"do_resize": "yes"})).contains("do_resize"));
    assert!(fails(json!({"size": {"shortest_edge": 7}})).contains("longest_edge"));
    assert!(fails(json!({"size": 224})).contains("size"));
    assert!(fails(json!({"image_processor_type": "CLIPImageProcessor"})).contains("CLIP"));
    let zero = ImageProcessorSettings { image_std: [0.0, 1.0, 1.0], ..Default::default() };
    assert!(QwenImageProcessor::new(zero).unwrap_err().to_string().contains("image_std"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), "{\n \"patch_size\": }").unwrap();
    let e = QwenImageProcessor::from_dir(dir.path()).unwrap_err().to_string();
    assert!(e.contains("preprocessor_config.json") && e.contains("line 2"), "{e}");
}

#[test]
fn patches_are_ordered_by_merged_blocks() {
    let settings = ImageProcessorSettings {
        patch_size: 1,
        temporal_patch_size: 2,
        merge_size: 2,
        do_resize: false,
        do_rescale: false,
        do_normalize: false,
        ..Default::default()
    };
    let p = QwenImageProcessor::new(settings).unwrap();
    let rgb: Vec<u8> = (0..8).flat_map(|i| [i, i + 100, i + 200]).collect();
    let out = p.process(&Image::new(4, 2, rgb).unwrap()).unwrap();
    assert_eq!((out.grid_thw, out.patch_dim, out.resized), ([1, 2, 4], 6, (4, 2)));
    let reds: Vec<f32> = out.patches.chunks(6).map(|c| c[0]).collect();
    assert_eq!(reds, [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    assert_eq!(out.patches[..6], [0.0, 0.0, 100.0, 100.0, 200.0, 200.0]);
    assert_eq!(p.num_image_tokens(out.grid_thw), 2);
    let odd = Image::new(3, 2, vec![0; 18]).unwrap();
    assert!(p.process(&odd).unwrap_err().to_string().contains("multiples of 2"));
}
