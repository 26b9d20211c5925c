//! Options: new models and data. Data, no logic.

use super::{COUNT, FAMILY_NAMES, MAKING, Opt, of};
use crate::options::Command::{ConvertVivqaX, Init, MakeShapes};
use crate::options::Kind::{Choice, Int, List, Path, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "family", kind: Choice(FAMILY_NAMES), default: "qwen2_5_vl",
        help: "Architecture of the new model.", ..of(MAKING, &[Init]) },
    Opt { name: "preset", kind: Word, default: "tiny",
        help: "Size of the new model.", ..of(MAKING, &[Init]) },
    Opt { name: "vocab_size", kind: Int { min: 300 }, default: "1024",
        help: "Size of the new tokenizer's vocabulary (256 bytes and the special tokens are always in it).", ..of(MAKING, &[Init]) },
    Opt { name: "text_files", kind: List(&Path),
        help: "Text files that the new tokenizer is trained on, beside the texts of dataset_name.", ..of(MAKING, &[Init]) },
    Opt { name: "input", aliases: &["input_files"], kind: List(&Path), required: &[ConvertVivqaX],
        help: "Published files to convert, each to rows of its own.", ..of(MAKING, &[ConvertVivqaX]) },
    Opt { name: "num_rows", kind: COUNT, default: "512",
        help: "Rows to make.", ..of(MAKING, &[MakeShapes]) },
    Opt { name: "image_size", kind: Int { min: 28 }, default: "56",
        help: "Width and height of the images.", ..of(MAKING, &[MakeShapes]) },
];
