//! Video files by way of the `ffmpeg` and `ffprobe` programs of this machine: what a file holds, and
//! its frames through a pipe. File names never become options, no shell is started, only formats of
//! video files are opened (no playlist, no network), and a program that hangs is ended.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{Take, VideoInfo};
use crate::base::{Error, Result};
use crate::io::image::{Image, MAX_PIXELS};

/// Names the `ffmpeg` program, or the folder with it and `ffprobe`; otherwise `PATH` is searched.
pub const VARIABLE: &str = "GRPO_RT_FFMPEG";
/// How long a program may work on one video.
pub const TIME_LIMIT: Duration = Duration::from_secs(600);

/// Demuxers of files that hold a video themselves. Not here: playlists and scripts that open other
/// files (hls, concat, dash), text art (tty), single pictures.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,\
                       hevc,obu,av1,ivf,flv,asf,asf_o,ogg,nut,mxf,wtv,dv,rm,vc1,yuv4mpegpipe";
/// Codecs with one frame in each packet, so that counting packets counts frames. Of others (VP8 has
/// packets that show nothing) frames are counted by decoding.
const FRAME_PER_PACKET: &[&str] = &[
    "h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg", "png", "ffv1", "rawvideo", "prores", "dnxhd",
    "huffyuv", "ffvhuff", "utvideo",
];
/// What `ffprobe` says of a file that stops in the middle; its exit code is 0 then.
const TRUNCATED: &[&str] = &["ended prematurely", "partial file", "runcated"];
/// Longest line that is read from a program, in bytes.
const LONGEST_LINE: u64 = 1 << 16;
/// Lines of a program's complaints that an error repeats.
const LAST_LINES: usize = 4;

/// The two programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ffmpeg {
    /// Decodes.
    pub ffmpeg: PathBuf,
    /// Describes.
    pub ffprobe: PathBuf,
    /// How long each may work on one video.
    pub limit: Duration,
}

impl Ffmpeg {
    /// The programs that [`VARIABLE`] names, or the first of `PATH`.
    ///
    /// # Errors
    /// Of kind data (it concerns the row with the video alone), if there are none.
    pub fn find() -> Result<Ffmpeg> {
        Self::find_in(std::env::var_os(VARIABLE), std::env::var_os("PATH"))
    }

    /// [`Ffmpeg::find`] with given values of the two variables.
    ///
    /// # Errors
    /// As [`Ffmpeg::find`].
    pub fn find_in(variable: Option<OsString>, path: Option<OsString>) -> Result<Ffmpeg> {
        let file = |name: &str| format!("{name}{}", std::env::consts::EXE_SUFFIX);
        let in_folder = |folder: &Path| {
            let (ffmpeg, ffprobe) = (folder.join(file("ffmpeg")), folder.join(file("ffprobe")));
            let both = ffmpeg.is_file() && ffprobe.is_file();
            both.then_some(Ffmpeg { ffmpeg, ffprobe, limit: TIME_LIMIT })
        };
        let missing =
            Error::data("no ffmpeg program was found to decode the video with").hint(format!(
                "install ffmpeg, or name it in the variable {VARIABLE}; or give the video as a \
                 folder of frames, an animated GIF or WebP"
            ));
        if let Some(named) = variable.filter(|v| !v.is_empty()).map(PathBuf::from) {
            let found = match named.is_dir() {
                true => in_folder(&named),
                false => {
                    let ffprobe = named.with_file_name(file("ffprobe"));
                    let both = named.is_file() && ffprobe.is_file();
                    both.then_some(Ffmpeg { ffmpeg: named.clone(), ffprobe, limit: TIME_LIMIT })
                }
            };
            return found.ok_or_else(|| {
                missing
                    .expected(format!("ffmpeg, and ffprobe beside it, where {VARIABLE} says"))
                    .found(format!("{} without both", named.display()))
            });
        }
        let folders = path.unwrap_or_default();
        // An empty entry of PATH would be the folder the user happens to be in.
        let mut folders = std::env::split_paths(&folders).filter(|f| f.is_absolute());
        folders.find_map(|f| in_folder(&f)).ok_or_else(|| {
            missing.expected("ffmpeg and ffprobe in one folder of PATH").found("neither")
        })
    }

    /// What a file holds. The number of frames is counted, not taken from the header, so that it is
    /// what a full decode gives.
    ///
    /// # Errors
    /// A file that is no video, is truncated, or has no frame.
    pub fn probe(&self, file: &Path) -> Result<VideoInfo> {
        let described = self.describe(file, &[])?;
        let packets_do = FRAME_PER_PACKET.contains(&described.text("codec_name"))
            && matches!(described.text("field_order"), "" | "unknown" | "progressive");
        let frames = match packets_do {
            true => described.packets,
            false => {
                let counted = self.describe(file, &["-count_frames"])?;
                counted.text("nb_read_frames").parse().unwrap_or(0)
            }
        };
        let number = |key: &str| described.text(key).parse::<f64>().ok().filter(|n| *n > 0.0);
        let rate = |key: &str| ratio(described.text(key));
        let duration = number("duration");
        // A file with one frame may say 0/0.
        let fps = rate("avg_frame_rate")
            .or_else(|| rate("r_frame_rate"))
            .or_else(|| Some(frames as f64 / duration?))
            .unwrap_or(0.0);
        let side = |key: &str| number(key).map_or(0, |n| n as usize);
        let (width, height) = (side("width"), side("height"));
        let turned = described.text("rotation").parse::<f64>().is_ok_and(|r| r % 180.0 != 0.0);
        Ok(VideoInfo {
            frames,
            fps,
            width: if turned { height } else { width },
            height: if turned { width } else { height },
            duration: duration.unwrap_or(frames as f64 / fps),
        })
    }

    fn describe(&self, file: &Path, more: &[&str]) -> Result<Described> {
        let mut command = Command::new(&self.ffprobe);
        command
            .args(["-hide_banner", "-v", "error"])
            .args(SAFE)
            .args(["-format_whitelist", FORMATS]);
        command.args(["-select_streams", "V:0"]).args(more);
        command.args([
            "-show_entries",
            "packet=flags:stream=codec_name,width,height,field_order,avg_frame_rate,r_frame_rate,\
             duration,nb_frames,nb_read_frames:stream_side_data=rotation:format=duration",
            "-of",
            "compact=print_section=1:nokey=0",
            "-i",
        ]);
        command.arg(protocol_path(file)?);
        let (described, complaints) = Running::start(command, self.limit)?.read_all(|stdout| {
            let mut described = Described::default();
            let mut lines = BufReader::new(stdout);
            let mut line = Vec::new();
            while bounded_line(&mut lines, &mut line) {
                described.add(&String::from_utf8_lossy(&line));
            }
            described
        })?;
        let held = described.text("nb_frames").parse::<usize>().unwrap_or(0);
        let short = described.packets + described.dropped < held;
        if short || complaints.iter().any(|l| TRUNCATED.iter().any(|t| l.contains(t))) {
            return Err(Error::data("the video is truncated")
                .expected(match held {
                    0 => "a complete video file".into(),
                    n => format!("a complete video file of {n} frames"),
                })
                .found(format!("an end after {} frames", described.packets))
                .hint("replace the file, or remove its row from the data set"));
        }
        if described.text("width").is_empty() || described.packets == 0 {
            return Err(Error::data("this is not a video that can be read")
                .expected("a file with a video stream and at least one frame")
                .found(said(&complaints, "no frame of a video stream"))
                .hint("replace the file, or remove its row from the data set"));
        }
        Ok(described)
    }

    /// Decodes up to the last of the wanted frames (ascending numbers) and gives them to `take`.
    ///
    /// # Errors
    /// A file that is damaged or ends early, a program that takes too long, or what `take` says.
    pub(super) fn each_frame(
        &self,
        file: &Path,
        info: &VideoInfo,
        wanted: &[usize],
        take: Take<'_>,
    ) -> Result<()> {
        // Since ffmpeg 5.1 the option for "every frame once" has a name that older ones do not know.
        match self.decode(file, info, wanted, "-fps_mode", take)? {
            Ended::Done => Ok(()),
            Ended::Early(0, complaints) if complaints.iter().any(|l| l.contains("fps_mode")) => {
                match self.decode(file, info, wanted, "-vsync", take)? {
                    Ended::Done => Ok(()),
                    Ended::Early(at, complaints) => Err(early(at, info, &complaints)),
                }
            }
            Ended::Early(at, complaints) => Err(early(at, info, &complaints)),
        }
    }

    fn decode(
        &self,
        file: &Path,
        info: &VideoInfo,
        wanted: &[usize],
        frame_option: &str,
        take: Take<'_>,
    ) -> Result<Ended> {
        let (width, height) = (info.width, info.height);
        let mut command = Command::new(&self.ffmpeg);
        command.args(["-hide_banner", "-nostdin", "-v", "error", "-threads", "2"]).args(SAFE);
        command.args(["-format_whitelist", FORMATS]);
        command.args(["-max_pixels", &MAX_PIXELS.to_string(), "-i"]);
        command.arg(protocol_path(file)?);
        command.args(["-map", "0:V:0", frame_option, "passthrough"]);
        // All frames get the size of the first, whatever the stream does later.
        command.args(["-vf", &format!("scale={width}:{height}:flags=bilinear")]);
        command.args(["-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"]);
        let mut running = Running::start(command, self.limit)?;
        let frames = pipe_frames(running.stdout()?, width * height * 3, wanted.to_vec());
        loop {
            match frames.recv_timeout(running.left()) {
                Ok(Piped::Frame(index, rgb)) => take(index, Image::new(width, height, rgb)?)?,
                Ok(Piped::Done) => return Ok(Ended::Done),
                Ok(Piped::Early(at)) => return Ok(Ended::Early(at, running.finish()?)),
                Err(RecvTimeoutError::Timeout) => return Err(running.too_long()),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("the reader of the decoded video ended"));
                }
            }
        }
    }
}

/// Only files: no network, and nothing that a file might name.
const SAFE: [&str; 2] = ["-protocol_whitelist", "file,pipe"];

/// How a decode went.
enum Ended {
    Done,
    /// After this many frames, with the last complaints.
    Early(usize, Vec<String>),
}

fn early(at: usize, info: &VideoInfo, complaints: &[String]) -> Error {
    Error::data("the video cannot be decoded to the end")
        .expected(format!("{} frames of {} x {}", info.frames, info.width, info.height))
        .found(said(complaints, &format!("an end after {at} frames")))
        .hint("the file is damaged; encode it again, or remove its row from the data set")
}

/// The complaints in one line, or `otherwise`.
fn said(complaints: &[String], otherwise: &str) -> String {
    match complaints {
        [] => otherwise.to_owned(),
        lines => format!("{otherwise}; ffmpeg: {}", lines.join(" | ")),
    }
}

/// The file as an argument that no program takes for an option, a pattern or an address.
fn protocol_path(file: &Path) -> Result<OsString> {
    let whole =
        std::path::absolute(file).map_err(|e| Error::io("cannot name the video", file, &e))?;
    let mut argument = OsString::from("file:");
    argument.push(whole);
    Ok(argument)
}

/// A ratio such as `30000/1001`; `None` for `0/0` and what is none.
fn ratio(text: &str) -> Option<f64> {
    let (over, under) = text.split_once('/')?;
    let value = over.parse::<f64>().ok()? / under.parse::<f64>().ok()?;
    (value.is_finite() && value > 0.0).then_some(value)
}

/// What `ffprobe` printed.
#[derive(Debug, Default)]
struct Described {
    /// Packets that are shown.
    packets: usize,
    /// Packets that the file says to drop (an edit list cuts them off).
    dropped: usize,
    /// Keys and values of stream and file; the stream's come first.
    values: Vec<(String, String)>,
}

impl Described {
    /// Reads a line such as `stream|width=64|height=48`.
    fn add(&mut self, line: &str) {
        let mut fields = line.trim_end().split('|');
        match fields.next() {
            Some("packet") => {
                let drop =
                    fields.any(|f| f.strip_prefix("flags=").is_some_and(|f| f.contains('D')));
                *(if drop { &mut self.dropped } else { &mut self.packets }) += 1;
            }
            Some("stream" | "format") if self.values.len() < 64 => {
                let pairs = fields.filter_map(|f| f.split_once('='));
                let known = pairs.filter(|(_, v)| *v != "N/A" && !v.is_empty());
                self.values.extend(known.map(|(k, v)| (k.to_owned(), v.to_owned())));
            }
            _ => {}
        }
    }

    /// The first value of a key; empty if there is none.
    fn text(&self, key: &str) -> &str {
        self.values.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }
}

/// Reads a line of bounded length; false at the end.
fn bounded_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> bool {
    line.clear();
    matches!(from.by_ref().take(LONGEST_LINE).read_until(b'\n', line), Ok(n) if n > 0)
}

/// What comes out of a decoder's pipe.
enum Piped {
    Frame(usize, Vec<u8>),
    /// All wanted frames came.
    Done,
    /// The pipe ended after this many whole frames.
    Early(usize),
}

/// Reads frames of `size` bytes on a thread of its own and sends the wanted ones, at most one ahead.
fn pipe_frames(mut stdout: ChildStdout, size: usize, wanted: Vec<usize>) -> Receiver<Piped> {
    let (send, frames) = sync_channel(1);
    thread::spawn(move || {
        let mut frame = vec![0; size];
        let mut at = 0;
        for index in wanted {
            while at <= index {
                if stdout.read_exact(&mut frame).is_err() {
                    let _ = send.send(Piped::Early(at)); // nobody waits after an error
                    return;
                }
                at += 1;
            }
            // A receiver that is gone wants no more frames.
            if send.send(Piped::Frame(index, frame.clone())).is_err() {
                return;
            }
        }
        let _ = send.send(Piped::Done);
    });
    frames
}

/// A program at work: it has until a time, and ends when this is dropped.
struct Running {
    child: Child,
    complaints: Receiver<Vec<String>>,
    program: PathBuf,
    limit: Duration,
    start: Instant,
}

impl Running {
    fn start(mut command: Command, limit: Duration) -> Result<Running> {
        let program = PathBuf::from(command.get_program());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| {
            Error::data("the program for videos cannot be started")
                .expected("an ffmpeg that runs on this machine")
                .found(format!("{}: {e}", program.display()))
        })?;
        let (send, complaints) = sync_channel(1);
        if let Some(stderr) = child.stderr.take() {
            thread::spawn(move || send.send(last_lines(stderr)));
        }
        Ok(Running { child, complaints, program, limit, start: Instant::now() })
    }

    fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().ok_or_else(|| Error::internal("a program without a pipe"))
    }

    /// Time that the program still has.
    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }

    fn too_long(&self) -> Error {
        let name = self.program.file_name().unwrap_or(OsStr::new("ffmpeg"));
        Error::data("decoding the video took too long")
            .expected(format!("at most {} s", self.limit.as_secs_f64()))
            .found(format!("{} still working", name.to_string_lossy()))
            .hint("make the video shorter or smaller, or give its frames as a folder")
    }

    /// Reads the whole output on a thread of its own; also the last complaints.
    fn read_all<T: Send + 'static>(
        mut self,
        read: impl FnOnce(ChildStdout) -> T + Send + 'static,
    ) -> Result<(T, Vec<String>)> {
        let stdout = self.stdout()?;
        let (send, result) = sync_channel(1);
        thread::spawn(move || send.send(read(stdout)));
        let result = result.recv_timeout(self.left()).map_err(|_| self.too_long())?;
        Ok((result, self.finish()?))
    }

    /// The last complaints, after the output has ended.
    fn finish(&mut self) -> Result<Vec<String>> {
        self.complaints.recv_timeout(self.left()).map_err(|_| self.too_long())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines that a program complained in.
fn last_lines(stderr: ChildStderr) -> Vec<String> {
    let mut reader = BufReader::new(stderr);
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    while bounded_line(&mut reader, &mut line) {
        let text: String = String::from_utf8_lossy(&line).trim().chars().take(300).collect();
        if !text.is_empty() {
            lines.push(text);
        }
        if lines.len() > LAST_LINES {
            lines.remove(0);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_no_options() {
        for name in ["-y", "-i.mp4", "http:a.mp4", "a b.mp4"] {
            let argument = protocol_path(Path::new(name)).unwrap().into_string().unwrap();
            let path = argument.strip_prefix("file:").unwrap();
            assert!(Path::new(path).is_absolute() && path.ends_with(name), "{argument}");
        }
    }

    #[test]
    fn descriptions_are_read() {
        let mut d = Described::default();
        for line in [
            "packet|flags=K_",
            "packet|flags=__",
            "packet|flags=_D",
            "stream|codec_name=h264|width=64|height=48|duration=N/A|side_data|rotation=-90",
            "format|duration=1.5|width=9",
            "stray",
        ] {
            d.add(line);
        }
        assert_eq!((d.packets, d.dropped), (2, 1));
        assert_eq!((d.text("width"), d.text("rotation"), d.text("duration")), ("64", "-90", "1.5"));
        assert_eq!(d.text("nb_frames"), "");
        assert_eq!(ratio("30000/1001"), Some(30000.0 / 1001.0));
        assert!(["0/0", "5/0", "x/1", "5", "-1/2"].iter().all(|t| ratio(t).is_none()));
    }
}
