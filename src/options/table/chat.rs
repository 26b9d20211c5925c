//! Options: chats that are answered once. Data, no logic.

use super::{CHAT, Opt, of};
use crate::options::Command::{Infer, Trace};
use crate::options::Kind::{Bool, List, Path, PathOrUrl, Text};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "prompt", kind: List(&Text), gathers: true,
        help: "Text of the user's message, after its images; several, or --prompt again, are asked one by one.", ..of(CHAT, &[Infer]) },
    Opt { name: "prompts", aliases: &["prompts_file"], kind: Path,
        help: "Data file of rows that are asked one by one, in any format of training data; answers are not needed.", ..of(CHAT, &[Infer]) },
    Opt { name: "image", aliases: &["images", "image_path"], kind: List(&PathOrUrl), gathers: true,
        help: "Images of the user's message: files, http(s) addresses; of a folder every picture is asked about by itself.", ..of(CHAT, &[Infer]) },
    Opt { name: "video", aliases: &["videos", "video_path"], kind: List(&Path),
        help: "Video files, or folders of frames, of the user's message.", ..of(CHAT, &[Infer]) },
    Opt { name: "messages", kind: Path, required: &[Trace],
        help: "JSON file with the messages of a chat; paths in it start from its folder.", ..of(CHAT, &[Infer, Trace]) },
    Opt { name: "stream", kind: Bool,
        help: "Print text as it comes (default: if the output is a terminal).", ..of(CHAT, &[Infer]) },
    Opt { name: "compare_adapter", kind: Bool, default: "false",
        help: "Answer twice, with the adapter on and off, side by side.", ..of(CHAT, &[Infer]) },
];
