//! The rewards that come with the program, one file each. None of them starts a process or opens
//! a connection.

pub mod accuracy;
mod action_iou;
#[cfg(test)]
mod answer_table;
mod box_format;
mod correctness;
mod cosine_scaled;
mod detection;
mod exact;
mod explanation;
mod format;
mod iou;
mod length;
mod math;
mod mcq;
mod reasoning;
mod repetition;
mod soft_format;
mod strict_format;
mod think_answer_graded;
mod xmlcount;
mod yes_no;

pub use accuracy::Accuracy;
pub use action_iou::ActionIou;
pub use box_format::BoxFormat;
pub use correctness::Correctness;
pub use cosine_scaled::CosineScaled;
pub use detection::{Detection, DetectionMethod};
pub use exact::Exact;
pub use explanation::Explanation;
pub use format::Format;
pub use iou::Iou;
pub use length::Length;
pub use math::Math;
pub use mcq::Mcq;
pub use reasoning::Reasoning;
pub use repetition::Repetition;
pub use soft_format::SoftFormat;
pub use strict_format::StrictFormat;
pub use think_answer_graded::ThinkAnswerGraded;
pub use xmlcount::XmlCount;
pub use yes_no::YesNo;
