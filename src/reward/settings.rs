//! What rewards can be told: one struct per matter, filled from the options of a run. Computes nothing.

use super::boxes::BoxSpace;
use std::path::PathBuf;
use std::time::Duration;

/// What the built-in rewards of a run are told.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardSettings {
    /// `--max_completion_length`, in tokens.
    pub max_completion_length: usize,
    /// Where a completion has its reasoning and its answer.
    pub answer_format: AnswerFormat,
    /// `accuracy` demands the marks of the answer. When false, a completion without them is judged whole.
    pub answer_tag: bool,
    /// Whose published behaviour is reproduced, holes and all.
    pub compat: Compat,
    /// How `accuracy` compares; a row's column `accu_reward_method` goes before it.
    pub accuracy_method: String,
    /// Coordinates that the model's boxes are in.
    pub box_space: BoxSpace,
    /// Rewards of length and repetition.
    pub length: LengthSettings,
    /// Rewards that compare reasoning steps and explanations.
    pub steps: StepSettings,
    /// The language model that is asked, if any.
    pub judge: Option<JudgeSettings>,
    /// Rewards that other programs compute.
    pub process: ProcessSettings,
    /// Where every scored completion is written in VLM-R1's form (`DEBUG_MODE=true`, `LOG_PATH`).
    pub debug_log: Option<PathBuf>,
}

/// Where a completion has its reasoning and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnswerFormat {
    /// `<think>…</think><answer>…</answer>` (DeepSeek-R1, VLM-R1).
    #[default]
    ThinkAnswer,
    /// `<reasoning>…</reasoning><answer>…</answer>`.
    ReasoningAnswer,
    /// `<answer>…</answer><explain>…</explain>`, after `<think>…</think>` if there is any.
    AnswerExplain,
    /// `{"reasoning_steps": [...], "answer": "..."}`, in a Markdown fence or bare.
    Json,
}

/// Names of [`AnswerFormat`] in options.
pub const ANSWER_FORMATS: [(&str, AnswerFormat); 4] = [
    ("think_answer", AnswerFormat::ThinkAnswer),
    ("reasoning_answer", AnswerFormat::ReasoningAnswer),
    ("answer_explain", AnswerFormat::AnswerExplain),
    ("json", AnswerFormat::Json),
];

/// Whose published rewards are reproduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compat {
    /// Nobody's: the holes that are known are closed.
    #[default]
    None,
    /// VLM-R1's (`open_r1/grpo_jsonl.py` and its `vlm_modules`).
    VlmR1,
    /// Those of `mllm_evaluator` in the waybarrios fork of VLM-R1.
    MllmEvaluator,
    /// TRL's (`trl/rewards`).
    Trl,
}

/// Names of [`Compat`] in options.
pub const COMPATS: [(&str, Compat); 4] = [
    ("none", Compat::None),
    ("vlm_r1", Compat::VlmR1),
    ("mllm_evaluator", Compat::MllmEvaluator),
    ("trl", Compat::Trl),
];

/// Rewards of length and repetition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthSettings {
    /// Tokens before the limit from which on `length` and `soft_overlong` punish. None: a fifth of
    /// `max_completion_length`, the proportion of DAPO (4096 of 20480).
    pub soft_overlong_cache: Option<usize>,
    /// Tokens at which `cosine_scaled` ends; None: `max_completion_length`.
    pub cosine_max_length: Option<usize>,
    /// `cosine_scaled` of a wrong answer: at no length, at full length.
    pub cosine_wrong: [f64; 2],
    /// `cosine_scaled` of a correct answer: at no length, at full length.
    pub cosine_correct: [f64; 2],
    /// Words of an n-gram of `repetition`.
    pub repetition_n_grams: usize,
    /// `repetition` of a text that only repeats.
    pub repetition_max_penalty: f64,
}

impl Default for LengthSettings {
    fn default() -> Self {
        LengthSettings {
            soft_overlong_cache: None,
            cosine_max_length: None,
            // TRL's `get_cosine_scaled_reward`: wrong −1 to −0.5, correct 1 to 0.5.
            cosine_wrong: [-1.0, -0.5],
            cosine_correct: [1.0, 0.5],
            repetition_n_grams: 3,
            repetition_max_penalty: -1.0,
        }
    }
}

/// Rewards that compare reasoning steps and explanations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepSettings {
    /// Folder of a sentence encoder; without one words are compared.
    pub sentence_encoder: Option<PathBuf>,
    /// Similarity above which two steps match; None: the encoder's own.
    pub match_threshold: Option<f64>,
    /// Share of Match-F1 that depends on the order of the steps; 0 leaves order out.
    pub match_order_weight: f64,
}

/// A language model behind an OpenAI-compatible endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgeSettings {
    /// Base address, such as `http://localhost:11434/v1`.
    pub url: String,
    /// Name of the model.
    pub model: String,
    /// Variable of the environment that holds the key, if the endpoint wants one.
    pub key_variable: String,
    /// Most time of one question, all attempts together.
    pub time_limit: Duration,
    /// Attempts after the first.
    pub retries: usize,
    /// Questions that are open at a time.
    pub concurrency: usize,
}

/// Rewards that other programs compute.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessSettings {
    /// The Python program.
    pub python: PathBuf,
    /// Processes per reward.
    pub workers: usize,
    /// Most time of one completion.
    pub time_limit: Duration,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        ProcessSettings {
            python: "python3".into(),
            workers: 1,
            time_limit: Duration::from_secs(30),
        }
    }
}

impl Default for RewardSettings {
    fn default() -> Self {
        RewardSettings {
            max_completion_length: 512,
            answer_format: AnswerFormat::default(),
            answer_tag: true,
            compat: Compat::default(),
            accuracy_method: "default".into(),
            box_space: BoxSpace::default(),
            length: LengthSettings::default(),
            steps: StepSettings::default(),
            judge: None,
            process: ProcessSettings::default(),
            debug_log: None,
        }
    }
}
