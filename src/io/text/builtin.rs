//! Chat templates that come with the program: for folders whose own template does not know images,
//! and for models made from scratch. A folder's own template always goes first; these are asked for
//! by name.
//!
//! Templates are written in our own words and render the text of the published ones for system, user
//! and assistant turns with images and videos. In the layouts of InternVL's own code an image part
//! becomes `<img><IMG_CONTEXT></img>` and a line end, as `<image>\n` before a question does there (and
//! as VLM-R1's module for InternVL writes image parts); a video part becomes `<video>` and a line
//! end, a marker that is replaced before tokenisation. The published code of glm-4v-9b takes one image
//! a chat; here several follow the same rule.

use crate::base::{Error, Result};

/// What InternVL's `conversation.py` says about one of its layouts (all of separator style `MPT`).
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Before the system message.
    system: &'static str,
    /// The system message of a chat that has none.
    default_system: &'static str,
    /// Before a user's message.
    user: &'static str,
    /// Before an assistant's message.
    assistant: &'static str,
    /// After every message.
    end: &'static str,
}

#[derive(Debug, Clone, Copy)]
struct Builtin {
    name: &'static str,
    source: &'static str,
    /// Set as the template's variable `layout`.
    layout: Option<Layout>,
}

const SYSTEM_2: &str = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。";
const SYSTEM_2_5: &str = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。";

const CHATML: Layout = Layout {
    system: "<|im_start|>system\n",
    default_system: SYSTEM_2,
    user: "<|im_start|>user\n",
    assistant: "<|im_start|>assistant\n",
    end: "<|im_end|>",
};

const PHI3: Layout = Layout {
    system: "<|system|>\n",
    user: "<|user|>\n",
    assistant: "<|assistant|>\n",
    end: "<|end|>",
    ..CHATML
};

const INTERNVL_2_5: Layout = Layout { default_system: SYSTEM_2_5, end: "<|im_end|>\n", ..CHATML };

const INTERNVL_CHAT: &str = include_str!("templates/internvl_chat.jinja");

const fn internvl(name: &'static str, layout: Layout) -> Builtin {
    Builtin { name, source: INTERNVL_CHAT, layout: Some(layout) }
}

const fn whole(name: &'static str, source: &'static str) -> Builtin {
    Builtin { name, source, layout: None }
}

const BUILTINS: [Builtin; 10] = [
    whole("qwen2_vl", include_str!("templates/qwen2_vl.jinja")),
    whole("qwen2_5_vl", include_str!("templates/qwen2_5_vl.jinja")),
    whole("qwen3_vl", include_str!("templates/qwen3_vl.jinja")),
    whole("internvl", include_str!("templates/internvl.jinja")),
    whole("glm4v", include_str!("templates/glm4v.jinja")),
    whole("glm-4v-9b", include_str!("templates/glm_4v_9b.jinja")),
    // Names of the key `template` in config.json of folders with InternVL's own code.
    internvl("internlm2-chat", CHATML),
    internvl("Hermes-2", CHATML),
    internvl("phi3-chat", PHI3),
    internvl("internvl2_5", INTERNVL_2_5),
];

/// Names of all built-in templates.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTINS.iter().map(|b| b.name)
}

/// The Jinja text of a built-in template, complete in itself.
///
/// # Errors
/// A name that is not in [`names`].
pub fn source(name: &str) -> Result<String> {
    let Some(builtin) = BUILTINS.iter().find(|b| b.name == name) else {
        return Err(Error::data("there is no built-in chat template of this name")
            .expected(format!("one of: {}", names().collect::<Vec<_>>().join(", ")))
            .found(name)
            .hint("put a chat_template.jinja into the model's folder"));
    };
    let variables = builtin.layout.map_or(String::new(), |l| {
        // Strings in Rust's quotes mean the same in Jinja for what stands in the table.
        format!(
            "{{%- set layout = {{'system': {:?}, 'default_system': {:?}, 'user': {:?}, \
             'assistant': {:?}, 'end': {:?}}} %}}\n",
            l.system, l.default_system, l.user, l.assistant, l.end
        )
    });
    Ok(variables + builtin.source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::text::ChatTemplate;
    use serde_json::{Map, Value, json};

    fn render(name: &str, messages: &Value, extra: &Value) -> Result<String> {
        let t = ChatTemplate::builtin(name)?;
        t.render(messages.as_array().unwrap(), true, extra.as_object().unwrap())
    }

    #[test]
    fn every_builtin_reads_parts_and_writes_a_placeholder() {
        let messages = json!([{"role": "user", "content": [
            {"type": "image"}, {"type": "text", "text": "q"}]}]);
        for name in names() {
            let t = ChatTemplate::builtin(name).unwrap();
            assert!(t.takes_parts(), "{name}");
            let text = t.render(messages.as_array().unwrap(), false, &Map::new()).unwrap();
            let markers = ["<|image_pad|>", "<IMG_CONTEXT>", "<|image|>", "<|endoftext|>"];
            let written: usize = markers.iter().map(|m| text.matches(m).count()).sum();
            assert_eq!(written, 1, "{name}: {text}");
        }
        let e = ChatTemplate::builtin("vicuna").unwrap_err();
        assert!(e.to_string().contains("Hermes-2"), "{e}");
    }

    #[test]
    fn internvl_takes_another_system_message_and_the_first_token_of_its_tokenizer() {
        let messages = json!([{"role": "user", "content": "q"}]);
        let text = render("Hermes-2", &messages, &json!({"default_system": "S"})).unwrap();
        let want =
            "<|im_start|>system\nS<|im_end|><|im_start|>user\nq<|im_end|><|im_start|>assistant\n";
        assert_eq!(text, want);
        let extra = json!({"default_system": "S", "bos_token": "<s>", "add_bos_token": true});
        assert_eq!(render("internlm2-chat", &messages, &extra).unwrap(), format!("<s>{want}"));
        let extra = json!({"default_system": "S", "bos_token": "<s>", "add_bos_token": false});
        assert_eq!(render("internlm2-chat", &messages, &extra).unwrap(), want);
        let tool = json!([{"role": "tool", "content": "q"}]);
        assert!(render("internvl2_5", &tool, &json!({})).unwrap_err().to_string().contains("tool"));
    }

    #[test]
    fn glm_4v_9b_writes_images_before_the_text() {
        let messages = json!([{"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}]);
        let text = render("glm-4v-9b", &messages, &json!({})).unwrap();
        let image = "<|begin_of_image|><|endoftext|><|end_of_image|>";
        assert_eq!(text, format!("[gMASK]<sop><|user|>\n{image}ab<|assistant|>"));
        let two = json!([{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}]);
        let text = render("glm-4v-9b", &two, &json!({})).unwrap();
        assert_eq!(text, format!("[gMASK]<sop><|user|>\n{image}{image}<|assistant|>"));
        let video = json!([{"role": "user", "content": [{"type": "video"}]}]);
        assert!(render("glm-4v-9b", &video, &json!({})).is_err());
    }
}
