//! Videos: what a file, an animated picture or a folder of frames says of itself, and the frames that
//! are wanted of it.

pub mod sampling;

/// What is known of a video before a pixel is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Frames that a full decode gives, at least 1.
    pub frames: usize,
    /// Frames per second, on average.
    pub fps: f64,
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Seconds.
    pub duration: f64,
}
