//! The settings of `serve`: how requests are answered is theirs to say; what the engine bears is not. Opens
//! no file.

use super::*;
use std::time::Duration;

impl ServeSettings {
    /// Checks the options of `serve` against each other.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Serve);
        let port = u16::try_from(count(o, "port")).map_err(|_| {
            o.wrong("port", "there is no such port").expected("a number from 0 (any) to 65535")
        })?;
        if o.flag("allow_private_urls") && !o.flag("allow_image_urls") {
            let hint = "add --allow_image_urls, or leave it out";
            useless(o, &["allow_private_urls"], "no addresses are fetched", hint)?;
        }
        Ok(ServeSettings {
            model: model_or_run(o)?,
            run: o.text("run_id").map(|id| (id.to_string(), path(o, "output_dir"))),
            name: o.text("served_model_name").map(str::to_string),
            host: text(o, "host"),
            port,
            token: o.text("token").map(str::to_string),
            max_body: count(o, "max_body"),
            max_connections: count(o, "max_connections"),
            max_queue: count(o, "max_queue"),
            max_model_len: o.count("max_model_len"),
            drain: Duration::from_secs(count(o, "drain_seconds") as u64),
            allow_image_urls: o.flag("allow_image_urls"),
            allow_private_urls: o.flag("allow_private_urls"),
            sampling: served_sampling(o),
            seed: seed(o),
            machine: machine(o)?,
        })
    }
}

/// What requests that say nothing get, and the limits of the engine.
fn served_sampling(o: &Options) -> SamplingSettings {
    SamplingSettings {
        greedy: false,
        max_completion_length: count(o, "max_completion_length"),
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: None,
        repetition_penalty: 1.0,
        stop: Vec::new(),
        ignore_eos: false,
        max_num_seqs: count(o, "max_num_seqs"),
        max_num_batched_tokens: count(o, "max_num_batched_tokens"),
    }
}
