//! Options: what a plan assumes. Data, no logic.

use super::{COUNT, NATURAL, Opt, PLANNING, of};
use crate::options::Command::Plan;
use crate::options::Kind::Word;

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "prompt_tokens", kind: COUNT, default: "512",
        help: "Tokens of the assumed prompt beside those of its images (max_prompt_length decides, if given).",
        ..of(PLANNING, &[Plan]) },
    Opt { name: "prompt_images", kind: NATURAL, default: "1",
        help: "Images of the assumed prompt.", ..of(PLANNING, &[Plan]) },
    Opt { name: "prompt_image_size", kind: Word, default: "1024x768",
        help: "Width and height of each of them in pixels, before min_pixels and max_pixels.", ..of(PLANNING, &[Plan]) },
];
