//! Tests of videos: the frames of folders, animations and files are those that were put in, and what
//! is broken or hostile is an error. Tests of files need ffmpeg and say so where it is missing.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ::image::codecs::gif::GifEncoder;
use ::image::codecs::webp::WebPEncoder;
use ::image::{Delay, ExtendedColorType, Frame, RgbaImage};

use super::frames::natural;
use super::*;
use crate::io::image::encode_png;

const WIDTH: usize = 20;
const HEIGHT: usize = 14;

/// Picture number `i`: four colours, so that every codec here keeps it exactly.
fn picture(i: usize) -> Image {
    let shade = (i % 40) as u8;
    let colors = [[255, 0, 0], [0, 255, shade * 6], [shade * 5, 0, 255], [9, 9, shade]];
    let pixel = |p: usize| colors[(p % WIDTH + p / WIDTH * 3 + i) % 11 % 4];
    Image::new(WIDTH, HEIGHT, (0..WIDTH * HEIGHT).flat_map(pixel).collect()).unwrap()
}

fn pictures(indices: &[usize]) -> Vec<Image> {
    indices.iter().map(|i| picture(*i)).collect()
}

fn open(path: impl Into<PathBuf>) -> Result<Video> {
    Video::open(&VideoSource::Path(path.into()), None)
}

fn said(result: Result<Video>, parts: &[&str]) {
    let e = result.unwrap_err();
    assert!([3, 4].contains(&e.exit_code()), "{e}");
    for part in parts {
        assert!(e.to_string().contains(part), "`{part}` is not in\n{e}");
    }
}

fn rgba(i: usize) -> RgbaImage {
    let pixels = picture(i).rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    RgbaImage::from_raw(WIDTH as u32, HEIGHT as u32, pixels).unwrap()
}

fn gif(frames: impl Iterator<Item = RgbaImage>, milliseconds: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    let delay = Delay::from_numer_denom_ms(milliseconds, 1);
    encoder.encode_frames(frames.map(|f| Frame::from_parts(f, 0, 0, delay))).unwrap();
    drop(encoder);
    bytes
}

/// An animated WebP file of lossless frames, 40 ms each (the container of RFC 9649).
fn webp(count: usize) -> Vec<u8> {
    let u24 = |n: usize| [n as u8, (n >> 8) as u8, (n >> 16) as u8];
    let chunk = |name: &[u8], body: &[u8]| {
        let mut out = [name, &(body.len() as u32).to_le_bytes(), body].concat();
        out.resize(out.len().next_multiple_of(2), 0);
        out
    };
    let size = [u24(WIDTH - 1), u24(HEIGHT - 1)].concat();
    let mut body = b"WEBP".to_vec();
    body.extend(chunk(b"VP8X", &[&[2, 0, 0, 0], size.as_slice()].concat()));
    body.extend(chunk(b"ANIM", &[0; 6]));
    for i in 0..count {
        let mut still = Vec::new();
        let encoder = WebPEncoder::new_lossless(&mut still);
        let (w, h) = (WIDTH as u32, HEIGHT as u32);
        encoder.encode(&picture(i).rgb, w, h, ExtendedColorType::Rgb8).unwrap();
        let head = [[0; 6].as_slice(), &size, &u24(40), &[2]].concat(); // 2: nothing is blended
        body.extend(chunk(b"ANMF", &[head.as_slice(), &still[12..]].concat()));
    }
    chunk(b"RIFF", &body)
}

#[test]
fn folders_are_in_the_order_of_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["f1.png", "f2.PNG", "f003.png", "f10.png", "f10b.png", "g.png"];
    for (i, name) in names.iter().enumerate() {
        std::fs::write(dir.path().join(name), encode_png(&picture(i)).unwrap()).unwrap();
    }
    for other in ["notes.txt", ".f0.png"] {
        std::fs::write(dir.path().join(other), "no picture").unwrap();
    }
    std::fs::create_dir(dir.path().join("f0.png")).unwrap();
    let video = open(dir.path()).unwrap();
    let info = VideoInfo { frames: 6, fps: LIST_FPS, width: WIDTH, height: HEIGHT, duration: 3.0 };
    assert_eq!(video.info, info);
    assert_eq!(video.frames(&[4, 0, 4, 2]).unwrap(), pictures(&[4, 0, 4, 2]));
    assert!(video.frames(&[]).unwrap().is_empty());
    assert!(video.frames(&[6]).unwrap_err().to_string().contains("numbers up to 5"));
    let list = VideoSource::Frames(vec![dir.path().join("g.png"), dir.path().join("f1.png")]);
    let video = Video::open(&list, Some(8.0)).unwrap();
    assert_eq!((video.info.fps, video.info.duration), (8.0, 0.25));
    assert_eq!(video.frames(&[0, 1]).unwrap(), pictures(&[5, 0]));
    list.check().unwrap();
}

#[test]
fn natural_order_is_total() {
    let sorted = ["", "1", "01", "2", "10", "a", "a0", "a00", "a1", "a1b", "a2", "a10", "b"];
    for (i, a) in sorted.iter().enumerate() {
        for (k, b) in sorted.iter().enumerate() {
            let (have, back) = (natural(a, b), natural(b, a));
            assert_eq!(have, back.reverse());
            let zeros = |s: &str| s.replace('0', "");
            if zeros(a) != zeros(b) {
                assert_eq!(have, i.cmp(&k), "{a} {b}");
            }
        }
    }
    let long = "9".repeat(60);
    assert_eq!(natural(&format!("f{long}"), &format!("f1{long}")), std::cmp::Ordering::Less);
}

#[test]
fn folders_and_lists_without_usable_frames() {
    let dir = tempfile::tempdir().unwrap();
    said(open(dir.path()), &["no frames", "0 other entries"]);
    said(Video::open(&VideoSource::Frames(Vec::new()), None), &["no frames"]);
    said(open(dir.path().join("none.mp4")), &["none.mp4", "cannot read"]);
    let one = dir.path().join("1.png");
    std::fs::write(&one, "text").unwrap();
    said(open(dir.path()), &["first frame", "1.png"]);
    said(open(&one), &["1.png"]);
    std::fs::write(&one, encode_png(&picture(0)).unwrap()).unwrap();
    said(open(&one), &["still picture", "`image`"]);
    let small = Image::new(1, 1, vec![0; 3]).unwrap();
    std::fs::write(dir.path().join("2.png"), encode_png(&small).unwrap()).unwrap();
    let e = open(dir.path()).unwrap().frames(&[0, 1]).unwrap_err().to_string();
    assert!(e.contains("differ in size") && e.contains("2.png") && e.contains("1 x 1"), "{e}");
    let empty = dir.path().join("empty.mp4");
    std::fs::write(&empty, "").unwrap();
    said(open(&empty), &["empty file"]);
    assert!(VideoSource::Path(empty).check().unwrap_err().to_string().contains("an empty file"));
    let missing = VideoSource::Frames(vec![one, dir.path().join("3.png")]).check().unwrap_err();
    assert!(missing.to_string().contains("3.png") && missing.to_string().contains("image_folders"));
}

#[test]
fn animations_give_their_frames() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gif");
    for (delay, fps) in [(50, 20.0), (0, 10.0)] {
        std::fs::write(&path, gif((0..6).map(rgba), delay)).unwrap();
        let video = open(&path).unwrap();
        assert_eq!((video.info.frames, video.info.fps), (6, fps));
        assert_eq!((video.info.width, video.info.height), (WIDTH, HEIGHT));
        assert_eq!(video.frames(&[5, 1, 1]).unwrap(), pictures(&[5, 1, 1]));
    }
    // The ending says nothing: the first bytes do.
    let path = dir.path().join("b.mp4");
    std::fs::write(&path, webp(4)).unwrap();
    let video = open(&path).unwrap();
    assert_eq!((video.info.frames, video.info.fps, video.info.duration), (4, 25.0, 0.16));
    assert!(video.frames(&[0, 1, 2, 3]).unwrap() == pictures(&[0, 1, 2, 3]));
}

#[test]
fn transparent_parts_of_animations_are_white() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.gif");
    let mut clear = rgba(0);
    clear.pixels_mut().for_each(|p| p.0 = [0, 0, 0, 0]);
    clear.put_pixel(1, 0, ::image::Rgba([1, 2, 3, 255]));
    std::fs::write(&path, gif(std::iter::once(clear), 50)).unwrap();
    let frame = open(&path).unwrap().frames(&[0]).unwrap().remove(0);
    assert_eq!(frame.rgb[..9], [255, 255, 255, 1, 2, 3, 255, 255, 255]);
}

#[test]
fn damaged_animations_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for (name, whole) in [("a.gif", gif((0..4).map(rgba), 50)), ("b.webp", webp(3))] {
        let path = dir.path().join(name);
        for cut in (16..whole.len() - 1).step_by(23) {
            std::fs::write(&path, &whole[..cut]).unwrap();
            said(open(&path), &[name]);
        }
        // Another size of the WebP's canvas (bytes 24 to 29) is valid, and slow to draw when huge.
        for at in (0..whole.len().min(400)).filter(|at| !(24..30).contains(at)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&path, bytes).unwrap();
            // What is decoded all the same is something with its own length.
            if let Ok(video) = Video::open_file(&path, Some(no_programs())) {
                let last = video.info.frames - 1;
                assert!(video.frames(&[last]).is_ok_and(|f| f.len() == 1), "{name} {at}");
            }
        }
    }
    let mut huge = gif((0..2).map(rgba), 50);
    huge[6..10].fill(0xff); // 65535 x 65535
    let path = dir.path().join("huge.gif");
    std::fs::write(&path, huge).unwrap();
    said(open(&path), &["65535 x 65535"]);
    let mut still = Vec::new();
    let (w, h) = (WIDTH as u32, HEIGHT as u32);
    let encoder = WebPEncoder::new_lossless(&mut still);
    encoder.encode(&picture(0).rgb, w, h, ExtendedColorType::Rgb8).unwrap();
    std::fs::write(&path, still).unwrap();
    said(open(&path), &["still picture"]);
}

/// Programs that are not there.
fn no_programs() -> Ffmpeg {
    let none = PathBuf::from("no/such/program");
    Ffmpeg { ffmpeg: none.clone(), ffprobe: none, limit: Duration::from_secs(1) }
}

#[test]
fn programs_are_found_or_missed_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let here = || Some(dir.path().as_os_str().to_owned());
    let fails = |variable, search, parts: &[&str]| {
        let e = Ffmpeg::find_in(variable, search).unwrap_err();
        assert_eq!(e.exit_code(), 3);
        for part in parts.iter().chain(&["install ffmpeg", "folder of frames"]) {
            assert!(e.to_string().contains(part), "{e}");
        }
    };
    fails(None, None, &["PATH"]);
    std::fs::write(path("ffmpeg"), "").unwrap();
    fails(None, here(), &["PATH"]);
    fails(here(), None, &[ffmpeg::VARIABLE]);
    fails(Some(path("ffmpeg").into()), None, &["without both"]);
    std::fs::write(path("ffprobe"), "").unwrap();
    for (variable, search) in [
        (None, here()),
        (here(), None),
        (Some(path("ffmpeg").into()), None),
        (Some("".into()), here()),
    ] {
        let found = Ffmpeg::find_in(variable, search).unwrap();
        assert_eq!((found.ffmpeg, found.ffprobe), (path("ffmpeg"), path("ffprobe")));
    }
    let file = dir.path().join("v.mp4");
    std::fs::write(&file, "not a picture").unwrap();
    said(Video::open_file(&file, Some(no_programs())), &["cannot be started", "v.mp4"]);
}

/// Programs of tests/data/video/programs that play ffmpeg, and a file for them.
#[cfg(unix)]
fn played(name: &str, limit: Duration) -> (tempfile::TempDir, Result<Video>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/video/programs").join(name);
    let programs = Ffmpeg { limit, ..Ffmpeg::find_in(Some(folder.into()), None).unwrap() };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("v.mp4");
    std::fs::write(&file, "played").unwrap();
    let video = Video::open_file(&file, Some(programs));
    (dir, video)
}

#[cfg(unix)]
#[test]
fn programs_that_misbehave_are_errors() {
    let minute = Duration::from_secs(60);
    said(played("huge", minute).1, &["100000 x 100000", "v.mp4"]);
    said(played("endless", Duration::from_millis(200)).1, &["too long", "ffprobe still working"]);

    let (_dir, video) = played("short", minute);
    let video = video.unwrap();
    assert_eq!((video.info.frames, video.info.duration), (5, 0.5));
    assert_eq!(video.frames(&[1]).unwrap()[0].rgb, [0; 24]);
    let e = video.frames(&[0, 4]).unwrap_err().to_string();
    assert!(e.contains("after 2 frames") && e.contains("the rest is noise"), "{e}");

    let (_dir, video) = played("old", minute);
    assert_eq!(video.unwrap().frames(&[0, 4]).unwrap().len(), 2);

    let (_dir, video) = played("hangs", Duration::from_secs(2));
    let e = video.unwrap().frames(&[0]).unwrap_err().to_string();
    assert!(e.contains("too long") && e.contains("ffmpeg still working"), "{e}");
}

/// The programs of this machine, or a line that says what is not tested.
fn programs() -> Option<Ffmpeg> {
    Ffmpeg::find().inspect_err(|e| eprintln!("not tested: {}", e.what())).ok()
}

/// Encodes pictures 0..count at 10 per second; false if this ffmpeg has no such encoder.
fn encode(programs: &Ffmpeg, count: usize, codec: &[&str], to: &Path) -> bool {
    let raw = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..count).flat_map(|i| picture(i).rgb).collect();
    std::fs::write(raw.path(), bytes).unwrap();
    let mut command = Command::new(&programs.ffmpeg);
    command.args(["-v", "error", "-nostdin", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]);
    command.args(["-s", &format!("{WIDTH}x{HEIGHT}"), "-r", "10", "-i"]).arg(raw.path());
    let mut target = std::ffi::OsString::from("file:");
    target.push(to);
    let made = command.args(codec).arg(target).output().unwrap();
    if !made.status.success() {
        eprintln!("not tested: {codec:?}: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    made.status.success()
}

const LOSSLESS: &[(&str, &[&str])] = &[
    ("a.mp4", &["-c:v", "libx264rgb", "-qp", "0", "-bf", "2"]),
    ("-y %03d:b.mkv", &["-c:v", "png"]),
    ("c d'.avi", &["-c:v", "png"]),
    ("e.mov", &["-c:v", "png"]),
];

#[test]
fn files_give_the_frames_that_were_encoded() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut tested = 0;
    for (name, codec) in LOSSLESS {
        let path = dir.path().join(name);
        if !encode(&programs, 17, codec, &path) {
            continue;
        }
        tested += 1;
        let video = open(&path).unwrap();
        assert_eq!((video.info.frames, video.info.fps), (17, 10.0), "{name}");
        assert_eq!((video.info.width, video.info.height), (WIDTH, HEIGHT));
        assert!((video.info.duration - 1.7).abs() < 0.01, "{name}: {}", video.info.duration);
        for wanted in [vec![0], vec![16, 3, 3, 9], (0..17).collect()] {
            assert!(video.frames(&wanted).unwrap() == pictures(&wanted), "{name} {wanted:?}");
        }
        let mut seen = Vec::new();
        let note = |i, frame| {
            seen.push((i, frame == picture(i)));
            Ok(())
        };
        video.each_frame(&[8, 2, 8], note).unwrap();
        assert_eq!(seen, [(2, true), (8, true)]);
        let stop = video.each_frame(&[1, 2], |_, _| Err(Error::data("enough"))).unwrap_err();
        assert!(stop.to_string().contains("enough"));
    }
    assert!(tested >= 3, "png is built into every ffmpeg");
}

#[test]
fn frames_are_counted_as_a_decode_gives_them() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    // Reordered frames; packets that show nothing; two frames in a packet's bytes.
    let lossy: [(&str, &[&str]); 3] = [
        ("a.mp4", &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "3"]),
        ("b.webm", &["-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "12", "-b:v", "1M"]),
        ("c.avi", &["-c:v", "mpeg4", "-bf", "2"]),
    ];
    for (name, codec) in lossy {
        let path = dir.path().join(name);
        if !encode(&programs, 40, codec, &path) {
            continue;
        }
        let video = open(&path).unwrap();
        assert_eq!(video.info.frames, 40, "{name}");
        let all = video.frames(&(0..40).collect::<Vec<_>>()).unwrap();
        assert!(video.frames(&[39]).unwrap()[0] == all[39]);
        assert!(video.frames(&[21, 20]).unwrap() == [all[21].clone(), all[20].clone()]);
    }
    // A file that was cut without decoding names frames that are not shown.
    let (whole, cut) = (dir.path().join("a.mp4"), dir.path().join("cut.mp4"));
    if whole.is_file() {
        let mut command = Command::new(&programs.ffmpeg);
        command.args(["-v", "error", "-nostdin", "-ss", "1.5", "-i"]).arg(&whole);
        assert!(command.args(["-c", "copy"]).arg(&cut).status().unwrap().success());
        let video = open(&cut).unwrap();
        assert!(video.info.frames < 40);
        assert_eq!(video.frames(&[video.info.frames - 1]).unwrap().len(), 1);
    }
}

#[test]
fn files_that_are_no_whole_videos_are_errors() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("a.mp4"), "this is a text file\n".repeat(300)).unwrap();
    said(open(path("a.mp4")), &["not a video", "a.mp4"]);
    assert!(encode(&programs, 30, &["-c:v", "png"], &path("whole.mkv")));
    let whole = std::fs::read(path("whole.mkv")).unwrap();
    std::fs::write(path("cut.mkv"), &whole[..whole.len() * 2 / 3]).unwrap();
    said(open(path("cut.mkv")), &["truncated", "cut.mkv"]);
    let codec = ["-c:v", "png", "-movflags", "+faststart"];
    assert!(encode(&programs, 30, &codec, &path("whole.mov")));
    let whole = std::fs::read(path("whole.mov")).unwrap();
    std::fs::write(path("cut.mov"), &whole[..whole.len() * 2 / 3]).unwrap();
    said(open(path("cut.mov")), &["truncated", "30 frames"]);
    for cut in [1, 9, 40, 300, 700] {
        std::fs::write(path("head.mov"), &whole[..cut]).unwrap();
        said(open(path("head.mov")), &["head.mov"]);
    }
    // Sound alone, and lists that name other files.
    let mut command = Command::new(&programs.ffmpeg);
    command.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", "anullsrc", "-t", "0.1"]);
    assert!(command.arg(path("sound.mkv")).status().unwrap().success());
    said(open(path("sound.mkv")), &["not a video"]);
    std::fs::write(path("list.mp4"), "ffconcat version 1.0\nfile whole.mkv\n").unwrap();
    said(open(path("list.mp4")), &["not a video"]);
    let list = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nwhole.mkv\n#EXT-X-ENDLIST\n";
    std::fs::write(path("list.m3u8"), list).unwrap();
    said(open(path("list.m3u8")), &["not a video"]);
}
