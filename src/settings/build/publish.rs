//! Options of merging and publishing. Opens no file.

use super::*;
use crate::io::hub::RepoId;

impl MergeSettings {
    /// Takes over the options of `merge`.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Merge);
        Ok(MergeSettings {
            model: o.path("model_name_or_path"),
            adapter: path(o, "adapter"),
            output_dir: path(o, "output_dir"),
            overwrite: o.flag("overwrite_output_dir"),
            dtype: o.text("dtype").map(|name| match name {
                "bfloat16" => DType::BF16,
                _ => DType::F32,
            }),
            max_shard_bytes: count(o, "max_shard_size"),
            card: card(o),
            quiet: o.flag("quiet"),
        })
    }
}

impl PushSettings {
    /// Checks the options of `push`.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Push);
        Ok(PushSettings {
            folder: path(o, "folder"),
            repo: repo(o, o.text("hub_model_id").unwrap_or_default())?,
            private: o.flag("hub_private_repo"),
            commit_message: text(o, "commit_message"),
            dry_run: o.flag("dry_run"),
            card: card(o),
        })
    }
}

fn card(o: &Options) -> CardSettings {
    CardSettings { license: o.text("license").map(str::to_string), results: o.path("eval_results") }
}

fn repo(o: &Options, text: &str) -> Result<RepoId> {
    RepoId::parse(text).ok_or_else(|| {
        o.wrong("hub_model_id", "this is no name of a repository")
            .expected("org/name, of letters, digits, `-`, `_` and `.`")
    })
}

/// Where a run's model goes, if anywhere.
pub(super) fn hub(o: &Options) -> Result<Option<HubSettings>> {
    if !o.flag("push_to_hub") {
        let names = ["hub_model_id", "hub_private_repo", "hub_strategy"];
        useless(o, &names, "nothing is uploaded", "add --push_to_hub, or leave the option out")?;
        return Ok(None);
    }
    if o.text("hub_strategy") != Some("end") {
        return Err(o
            .wrong("hub_strategy", "uploads during a run are not made")
            .expected("hub_strategy end")
            .hint("checkpoints can be uploaded meanwhile: grpo-rt push --folder RUN/checkpoint-100 --hub_model_id ORG/NAME"));
    }
    let repo = o.text("hub_model_id").map(|text| repo(o, text)).transpose()?;
    Ok(Some(HubSettings { repo, private: o.flag("hub_private_repo") }))
}
