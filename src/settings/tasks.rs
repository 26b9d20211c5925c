//! The tasks that `--task_type` names: what stands around a question, the form of an answer, and the rewards
//! that go with it. The texts are files in `configs/tasks/`, to be copied and changed. Reads no row.

use crate::base::{Error, Result};
use crate::reward::AnswerFormat;
use std::path::Path;

/// One task.
#[derive(Debug, PartialEq)]
pub struct Task {
    /// Its name in `--task_type`.
    pub name: &'static str,
    /// Text around every question (`configs/tasks/<name>/question.txt`).
    pub question: &'static str,
    /// System message (`configs/tasks/<name>/system.txt`).
    pub system: &'static str,
    /// Where a completion has its reasoning and its answer, without `--answer_format`.
    pub answer_format: AnswerFormat,
    /// Rewards, without `--reward_funcs`.
    pub rewards: &'static [(&'static str, f64)],
    /// What general names mean in `--reward_funcs` of this task, as in VLM-R1's modules of models.
    pub meanings: &'static [(&'static str, &'static str)],
}

/// Every task, in the order of the names of the option table. The forms of answers are those of the projects
/// that the tasks are from: `mllm_evaluator`, VLM-R1, ViVQA-X with InternVL, actions with Qwen-VL, MathVista.
pub static TASKS: [Task; 5] = [
    Task {
        name: "vqa",
        question: include_str!("../../configs/tasks/vqa/question.txt"),
        system: include_str!("../../configs/tasks/vqa/system.txt"),
        answer_format: AnswerFormat::Json,
        rewards: &[("format", 1.0), ("accuracy", 1.0), ("reasoning", 1.0)],
        meanings: &[],
    },
    Task {
        name: "rec",
        question: include_str!("../../configs/tasks/rec/question.txt"),
        system: include_str!("../../configs/tasks/rec/system.txt"),
        answer_format: AnswerFormat::ThinkAnswer,
        rewards: &[("iou", 1.0), ("box_format", 1.0)],
        meanings: &[("accuracy", "iou"), ("format", "box_format")],
    },
    Task {
        name: "vqa_nle",
        question: include_str!("../../configs/tasks/vqa_nle/question.txt"),
        system: include_str!("../../configs/tasks/vqa_nle/system.txt"),
        answer_format: AnswerFormat::AnswerExplain,
        rewards: &[("format", 1.0), ("accuracy", 1.0), ("explanation", 1.0)],
        meanings: &[],
    },
    Task {
        name: "video_actions",
        question: include_str!("../../configs/tasks/video_actions/question.txt"),
        system: include_str!("../../configs/tasks/video_actions/system.txt"),
        answer_format: AnswerFormat::ThinkAnswer,
        rewards: &[("think_answer_graded", 0.3), ("action_iou", 0.7)],
        meanings: &[],
    },
    Task {
        name: "math",
        question: include_str!("../../configs/tasks/math/question.txt"),
        system: include_str!("../../configs/tasks/math/system.txt"),
        answer_format: AnswerFormat::ReasoningAnswer,
        rewards: &[
            ("xmlcount", 1.0),
            ("soft_format", 1.0),
            ("strict_format", 1.0),
            ("correctness", 1.0),
        ],
        meanings: &[],
    },
];

/// The task of a name.
pub fn task_named(name: &str) -> Option<&'static Task> {
    TASKS.iter().find(|t| t.name == name)
}

/// Longest file of a prompt.
const MAX_PROMPT_FILE: u64 = 1 << 20;

/// Whether a value of `--system_prompt` or `--question_template` can only be meant as the name of a file.
pub fn names_a_file(text: &str) -> bool {
    let one_line = !text.contains('\n') && text.len() < 4096;
    let ending = Path::new(text).extension().and_then(|e| e.to_str());
    let no_sentence = !text.contains(' ') && matches!(ending, Some("txt" | "md" | "jinja"));
    one_line && (no_sentence || Path::new(text).is_file())
}

/// A text, or the content of the file that it names; the last line end of a file is not part of it.
///
/// # Errors
/// If it names a file that cannot be read as text.
pub fn text_or_file(key: &str, text: &str) -> Result<String> {
    if !names_a_file(text) {
        return Ok(text.to_owned());
    }
    let size = std::fs::metadata(text).map_err(|e| {
        Error::usage("the file of a prompt cannot be read").key(key).found(format!("{text}: {e}"))
    })?;
    if size.len() > MAX_PROMPT_FILE {
        return Err(Error::usage("the file of a prompt is too long")
            .key(key)
            .expected(format!("at most {MAX_PROMPT_FILE} bytes"))
            .found(format!("{text}: {} bytes", size.len())));
    }
    let content = std::fs::read_to_string(text).map_err(|e| {
        Error::usage("the file of a prompt cannot be read").key(key).found(format!("{text}: {e}"))
    })?;
    Ok(without_last_line_end(&content).to_owned())
}

/// The text of a file as a prompt.
pub fn without_last_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::TASK_NAMES;

    #[test]
    fn tasks_are_those_of_the_option_and_have_a_place_for_the_question() {
        assert_eq!(TASKS.each_ref().map(|t| t.name), TASK_NAMES);
        for task in &TASKS {
            assert!(task.question.contains("{question}"), "{}", task.name);
            assert!(!task.system.trim().is_empty() && !task.rewards.is_empty(), "{}", task.name);
        }
        // What the rewards read is shown to the model.
        let shown = |name: &str, part: &str| {
            let task = task_named(name).unwrap();
            format!("{}{}", task.system, task.question).contains(part)
        };
        for (name, part) in [
            ("vqa", "{\"reasoning_steps\": ["),
            ("vqa", "14 words"),
            ("vqa", "insufficient information"),
            ("rec", "bbox_2d"),
            ("vqa_nle", "<answer>...</answer><explain>...</explain>"),
            ("video_actions", "(1) Action 1 (2) Action 2"),
            ("math", "<reasoning>"),
        ] {
            assert!(shown(name, part), "{name}: {part}");
        }
    }

    #[test]
    fn a_prompt_is_a_text_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.txt");
        std::fs::write(&file, "Line one\n{question}\n").unwrap();
        let name = file.display().to_string();
        assert_eq!(text_or_file("system_prompt", &name).unwrap(), "Line one\n{question}");
        assert_eq!(text_or_file("system_prompt", "Be brief.").unwrap(), "Be brief.");
        let gone = text_or_file("system_prompt", "no/such.txt").unwrap_err();
        assert!(gone.exit_code() == 2 && gone.to_string().contains("no/such.txt"), "{gone}");
        std::fs::write(&file, [0xff]).unwrap();
        assert!(text_or_file("system_prompt", &name).is_err());
    }
}
