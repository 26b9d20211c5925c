//! The rewards that come with the program, one file each. None of them starts a process or opens
//! a connection.

mod accuracy;
mod action_iou;
mod cosine_scaled;
mod detection;
mod exact;
mod format;
mod iou;
mod length;
mod repetition;
mod soft_format;
mod strict_format;
mod think_answer_graded;
mod xmlcount;

pub use accuracy::Accuracy;
pub use action_iou::ActionIou;
pub use cosine_scaled::CosineScaled;
pub use detection::{Detection, DetectionMethod};
pub use exact::Exact;
pub use format::Format;
pub use iou::Iou;
pub use length::Length;
pub use repetition::Repetition;
pub use soft_format::SoftFormat;
pub use strict_format::StrictFormat;
pub use think_answer_graded::ThinkAnswerGraded;
pub use xmlcount::XmlCount;
