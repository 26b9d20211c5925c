//! The settings of `infer`: which chat is answered, and what contradicts it. Opens no file.

use super::*;

impl InferSettings {
    /// Checks the options of `infer` against each other.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Infer);
        Ok(InferSettings {
            model: model(o)?,
            chat: chat(o)?,
            sampling: sampling(o)?,
            num_samples: num_samples(o)?,
            out: o.path("out"),
            seed: seed(o),
            machine: machine(o)?,
        })
    }
}

/// One of a file of messages and a text with images.
fn chat(o: &Options) -> Result<ChatSettings> {
    match (o.path("messages"), o.text("prompt")) {
        (Some(file), _) => {
            let why = "the chat is that of `messages`";
            useless(
                o,
                &["prompt", "image", "video", "system_prompt"],
                why,
                "put it into the file",
            )?;
            Ok(ChatSettings::Messages(file))
        }
        (None, Some(text)) => Ok(ChatSettings::Question {
            system: o.text("system_prompt").map(str::to_string),
            images: o.paths("image"),
            videos: o.paths("video"),
            text: text.to_string(),
        }),
        (None, None) => Err(Error::usage("there is nothing to answer")
            .expected("prompt (with image or video), or messages")
            .hint("add --prompt \"What is this?\" --image a.png, or --messages chat.json")),
    }
}
