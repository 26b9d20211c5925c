//! Options: one chat. Data, no logic.

use super::{CHAT, Opt, of};
use crate::train::options::Command::{Infer, Trace};
use crate::train::options::Kind::{List, Path, Text};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "prompt", kind: Text,
        help: "Text of the user's message, after its images.", ..of(CHAT, &[Infer]) },
    Opt { name: "image", aliases: &["images"], kind: List(&Path),
        help: "Image files of the user's message.", ..of(CHAT, &[Infer]) },
    Opt { name: "video", aliases: &["videos"], kind: List(&Path),
        help: "Video files, or folders of frames, of the user's message.", ..of(CHAT, &[Infer]) },
    Opt { name: "messages", kind: Path, required: &[Trace],
        help: "JSON file with the messages of a chat; paths in it start from its folder.", ..of(CHAT, &[Infer, Trace]) },
];
