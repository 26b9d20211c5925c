//! Control tokens of each family and what its configuration files say about them. A table; code that
//! makes a model from scratch picks a row by name and nothing here depends on the model.

use super::byte_level::{GLM4_SPLIT, QWEN2_SPLIT, WordSplit};
use crate::base::{Error, Result};

/// The control tokens of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Name of the family, as [`SpecialTokens::of`] takes it.
    pub family: &'static str,
    /// Control tokens in the order of their ids in the published vocabulary; in a trained one they
    /// follow the letters in this order.
    pub tokens: &'static [&'static str],
    /// Ends a text; also fills up batches.
    pub end_of_text: &'static str,
    /// Ends the assistant's turn (`eos_token`).
    pub end_of_turn: &'static str,
    /// How text is cut into words.
    pub split: WordSplit,
    /// Name of the chat template in [`super::builtin`].
    pub template: &'static str,
    /// `tokenizer_class` of tokenizer_config.json. transformers builds `Qwen2Tokenizer` with Qwen's
    /// word split whatever tokenizer.json says; other splits need the general class.
    pub tokenizer_class: &'static str,
    /// `processor_class` of tokenizer_config.json, if transformers has one.
    pub processor_class: Option<&'static str>,
    /// Names under which a processor asks its tokenizer for tokens (`extra_special_tokens`).
    pub roles: &'static [(&'static str, &'static str)],
}

/// Qwen2-VL, Qwen2.5-VL and Qwen3-VL (tokenizer_config.json, `added_tokens_decoder`, 151643 ff.).
pub const QWEN_TOKENS: [&str; 14] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
];

/// InternVL's tokens (added_tokens.json of the published folders), with Qwen's chat marks before them; the
/// last marks videos, and only transformers' processor knows it.
const INTERNVL_TOKENS: &[&str] = &[
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<video>",
];
/// Those of InternVL's own layout.
const INTERNVL_CHAT_TOKENS: &[&str] = INTERNVL_TOKENS.split_at(12).0;

/// What `InternVLProcessor` reads from its tokenizer.
const INTERNVL_ROLES: [(&str, &str); 4] = [
    ("context_image_token", "<IMG_CONTEXT>"),
    ("end_image_token", "</img>"),
    ("start_image_token", "<img>"),
    ("video_token", "<video>"),
];

/// GLM-4.1V: those of glm-4v-9b, then one placeholder each for images and videos (151343 and 151344, the
/// `image_token_id` and `video_token_id` of its config.json).
const GLM4V_TOKENS: &[&str] = &[
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
];
/// glm-4v-9b (its tokenizer_config.json, 151329 ff.).
const GLM_4V_9B_TOKENS: &[&str] = GLM4V_TOKENS.split_at(14).0;

const QWEN2_5_VL: SpecialTokens = SpecialTokens {
    family: "qwen2_5_vl",
    tokens: &QWEN_TOKENS,
    end_of_text: "<|endoftext|>",
    end_of_turn: "<|im_end|>",
    split: QWEN2_SPLIT,
    template: "qwen2_5_vl",
    tokenizer_class: "Qwen2Tokenizer",
    processor_class: Some("Qwen2_5_VLProcessor"),
    roles: &[],
};

const GLM4V: SpecialTokens = SpecialTokens {
    family: "glm4v",
    tokens: GLM4V_TOKENS,
    // The assistant's turn has no mark of its own at its end: the text ends, or the user speaks.
    end_of_turn: "<|endoftext|>",
    split: GLM4_SPLIT,
    template: "glm4v",
    tokenizer_class: "PreTrainedTokenizerFast",
    processor_class: Some("Glm4vProcessor"),
    ..QWEN2_5_VL
};

/// All families.
pub const FAMILIES: [SpecialTokens; 8] = [
    QWEN2_5_VL,
    SpecialTokens {
        family: "qwen2_vl",
        template: "qwen2_vl",
        processor_class: Some("Qwen2VLProcessor"),
        ..QWEN2_5_VL
    },
    SpecialTokens {
        family: "qwen3_vl",
        template: "qwen3_vl",
        processor_class: Some("Qwen3VLProcessor"),
        ..QWEN2_5_VL
    },
    SpecialTokens {
        family: "qwen3_vl_moe",
        template: "qwen3_vl",
        processor_class: Some("Qwen3VLProcessor"),
        ..QWEN2_5_VL
    },
    SpecialTokens {
        family: "internvl",
        tokens: INTERNVL_TOKENS,
        template: "internvl",
        processor_class: Some("InternVLProcessor"),
        roles: &INTERNVL_ROLES,
        ..QWEN2_5_VL
    },
    SpecialTokens {
        family: "internvl_chat",
        tokens: INTERNVL_CHAT_TOKENS,
        template: "internvl2_5",
        processor_class: None,
        ..QWEN2_5_VL
    },
    GLM4V,
    SpecialTokens {
        family: "glm4v_9b",
        tokens: GLM_4V_9B_TOKENS,
        template: "glm-4v-9b",
        processor_class: None,
        ..GLM4V
    },
];

impl SpecialTokens {
    /// The control tokens of a family.
    ///
    /// # Errors
    /// A name that is not in [`FAMILIES`].
    pub fn of(family: &str) -> Result<&'static SpecialTokens> {
        FAMILIES.iter().find(|f| f.family == family).ok_or_else(|| {
            let names: Vec<&str> = FAMILIES.iter().map(|f| f.family).collect();
            Error::usage("there is no list of control tokens for the family")
                .expected(format!("one of: {}", names.join(", ")))
                .found(family)
        })
    }

    /// The smallest vocabulary: every byte and the control tokens.
    pub const fn min_vocab_size(&self) -> usize {
        256 + self.tokens.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::text::ChatTemplate;

    #[test]
    fn rows_are_complete_and_names_find_them() {
        for row in &FAMILIES {
            assert_eq!(SpecialTokens::of(row.family).unwrap(), row);
            assert!(ChatTemplate::builtin(row.template).is_ok(), "{}", row.family);
            let mut tokens = row.tokens.to_vec();
            tokens.extend([row.end_of_text, row.end_of_turn]);
            tokens.extend(row.roles.iter().map(|(_, token)| token));
            tokens.sort_unstable();
            tokens.dedup();
            assert_eq!(tokens.len(), row.tokens.len(), "{}", row.family);
        }
        let e = SpecialTokens::of("qwen9").unwrap_err();
        assert!(e.to_string().contains("glm4v") && e.exit_code() == 2, "{e}");
    }
}
