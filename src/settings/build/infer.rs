//! The settings of `infer`: which chats are answered, and what contradicts them. Opens no file.

use super::*;

impl InferSettings {
    /// Checks the options of `infer` against each other.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Infer);
        let all = o.text("run_id") == Some("all");
        if all {
            let why = "every run has its own model";
            useless(o, &["adapter"], why, "leave it out, or name one run")?;
        }
        Ok(InferSettings {
            model: model_or_run(o)?,
            run: o.text("run_id").map(|id| (id.to_string(), path(o, "output_dir"))),
            chat: chat(o)?,
            compare: o.flag("compare_adapter"),
            stream: o.choice_of_bool("stream"),
            sampling: sampling(o)?,
            num_samples: num_samples(o)?,
            out: o.path("out"),
            seed: seed(o),
            machine: machine(o)?,
        })
    }
}

/// One of a file of messages, a file of rows, and texts with images.
fn chat(o: &Options) -> Result<ChatSettings> {
    let system = o.text("system_prompt").map(str::to_string);
    let (messages, rows, texts) = (o.path("messages"), o.path("prompts"), o.texts("prompt"));
    if let Some(file) = messages {
        let why = "the chat is that of `messages`";
        let others = ["prompt", "prompts", "image", "video", "system_prompt"];
        useless(o, &others, why, "put it into the file")?;
        return Ok(ChatSettings::Messages(file));
    }
    if let Some(file) = rows {
        let why = "the chats are the rows of `prompts`";
        useless(o, &["prompt", "image", "video"], why, "put it into the rows")?;
        return Ok(ChatSettings::Rows { system, file });
    }
    if texts.is_empty() {
        return Err(Error::usage("there is nothing to answer")
            .expected("prompt (with image or video), prompts, or messages")
            .hint("add --prompt \"What is this?\" --image a.png, or --messages chat.json"));
    }
    let (images, videos) = (o.texts("image"), o.paths("video"));
    Ok(ChatSettings::Questions { system, images, videos, texts })
}
