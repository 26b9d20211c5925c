//! Floor 11: models that leave: merged, with a card, uploaded by the user's own client of the hub. The
//! program speaks to no server and sees no token; what is uploaded is a folder of links to the files of
//! the model, so that data, completions and optimizer state stay here.

pub mod card; // README.md
mod curves; // curves.svg
pub mod merging; // an adapter into its base

use crate::base::{Error, Result};
use crate::io::hub::{Client, Hub, RepoId};
use crate::settings::{CardSettings, HubSettings, PushSettings};
use card::Card;
use std::path::{Path, PathBuf};

/// Names of a folder that are not uploaded: data, machine, state. Checkpoints and hidden files neither.
const KEPT_HERE: [&str; 12] = [
    "completions",
    "runs",
    "wandb",
    "samples.jsonl",
    "report.html",
    "config.resolved.yaml",
    "run.json",
    "run.lock",
    "trainer_state.json",
    "metrics.jsonl",
    "answers.jsonl",
    "infer.jsonl",
];

/// One file of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Path in the repository.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// What `push` did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Files that are uploaded.
    pub files: Vec<Upload>,
    /// Names of the folder that stay here.
    pub left: Vec<String>,
    /// The client's command line, the folder as the user named it.
    pub command: String,
    /// Whether it was run.
    pub done: bool,
}

/// Writes the card if the folder has none of the user's, and uploads.
///
/// # Errors
/// If the folder is no model, a file cannot be written, there is no client, nobody is logged in, or the
/// upload failed.
pub fn push(s: &PushSettings) -> Result<Pushed> {
    check_model(&s.folder)?;
    let client = if s.dry_run { None } else { Some(ready_client()?.0) };
    write_card(&s.folder, &s.card)?;
    let (names, left) = contents(&s.folder)?;
    let mut files = Vec::new();
    for name in &names {
        let meta = std::fs::metadata(s.folder.join(name))
            .map_err(|e| Error::io("cannot read the file", s.folder.join(name), &e))?;
        files.push(Upload { name: name.clone(), bytes: meta.len() });
    }
    let shown = words(&s.repo, &s.folder, s.private, &s.commit_message);
    let command = format!("hf {}", shown.join(" "));
    if let Some(client) = &client {
        let staged = Staged::of(&s.folder, &names)?;
        client.run(&words(&s.repo, &staged.dir, s.private, &s.commit_message))?;
    }
    Ok(Pushed { files, left, command, done: client.is_some() })
}

fn words(repo: &RepoId, folder: &Path, private: bool, message: &str) -> Vec<String> {
    let mut words = vec!["upload".to_string(), repo.as_str().to_string()];
    words.extend([folder.display().to_string(), ".".to_string()]);
    if private {
        words.push("--private".into());
    }
    words.extend(["--commit-message".to_string(), message.to_string()]);
    words
}

/// The client, if it is there and somebody is logged in; and who.
///
/// # Errors
/// If not; the hint has the command to type.
fn ready_client() -> Result<(Client, Option<String>)> {
    let hub = Hub::from_env();
    if hub.offline {
        return Err(Error::usage("nothing can be uploaded: HF_HUB_OFFLINE is set")
            .hint("unset it, or leave --push_to_hub out"));
    }
    let client = hub.client.ok_or_else(|| {
        Error::usage("the hub's client is not installed")
            .expected("a program `hf` on the PATH")
            .hint("install it: pip install -U huggingface_hub; then: hf auth login")
    })?;
    let user = client.account()?.user;
    Ok((client, user))
}

/// What a run that will be uploaded needs before its first step.
///
/// # Errors
/// If there is no client, nobody is logged in, or the repository has no name.
pub fn check(hub: Option<&HubSettings>, run_dir: &Path) -> Result<()> {
    hub.map_or(Ok(()), |hub| target(hub, run_dir).map(|_| ()))
}

/// Where a run's model goes.
fn target(hub: &HubSettings, run_dir: &Path) -> Result<RepoId> {
    let (_, user) = ready_client()?;
    if let Some(repo) = &hub.repo {
        return Ok(repo.clone());
    }
    let name = card::name_of(run_dir);
    user.and_then(|user| RepoId::parse(&format!("{user}/{name}"))).ok_or_else(|| {
        Error::usage("the repository on the hub has no name")
            .key("hub_model_id")
            .expected("org/name")
            .hint("add --hub_model_id ORG/NAME")
    })
}

/// The end of a run: its card, and the upload if the user asked for one.
///
/// # Errors
/// If the card cannot be written, or the upload fails: the model is saved by then, and the hint has
/// the command that uploads it.
pub fn finish(run_dir: &Path, hub: Option<&HubSettings>) -> Result<()> {
    write_card(run_dir, &CardSettings::default())?;
    let Some(hub) = hub else { return Ok(()) };
    let later = |e: Error| {
        let repo = hub.repo.as_ref().map_or("ORG/NAME", RepoId::as_str);
        e.hint(format!(
            "the model is saved; upload it later: grpo-rt push --folder {} --hub_model_id {repo}",
            run_dir.display()
        ))
    };
    let repo = target(hub, run_dir).map_err(later)?;
    let settings = PushSettings {
        folder: run_dir.to_path_buf(),
        repo,
        private: hub.private,
        commit_message: "End of training".into(),
        dry_run: false,
        card: CardSettings::default(),
    };
    push(&settings).map_err(later).map(|_| ())
}

/// Whether a README is a card of ours, and not somebody's own page.
pub fn is_card(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.contains(card::MARK))
}

/// Writes README.md and its curves, unless the README is the user's own.
fn write_card(folder: &Path, settings: &CardSettings) -> Result<()> {
    let file = folder.join(card::FILE);
    if file.exists() && !is_card(&file) {
        return Ok(());
    }
    // A merged model is described by what merged it; only results and licence can be added.
    if file.exists()
        && !folder.join("config.resolved.yaml").is_file()
        && *settings == CardSettings::default()
    {
        return Ok(());
    }
    let card = Card::of_folder(folder, settings)?;
    if let Some(svg) = &card.curves {
        crate::io::atomic::write_atomic(folder.join(card::CURVES), svg.as_bytes())?;
    }
    crate::io::atomic::write_atomic(&file, card.markdown().as_bytes())
}

/// Refuses a folder that holds neither a model nor an adapter.
fn check_model(folder: &Path) -> Result<()> {
    let has = |name: &str| folder.join(name).is_file();
    let weights = has("model.safetensors") || has("model.safetensors.index.json");
    if (has("config.json") && weights)
        || (has("adapter_config.json") && has("adapter_model.safetensors"))
    {
        return Ok(());
    }
    Err(Error::data("this folder is no model")
        .file(folder)
        .key("folder")
        .expected("config.json and model.safetensors, or adapter_config.json and adapter_model.safetensors")
        .hint("give the folder of a finished run, of a checkpoint, or what `merge` wrote"))
}

/// Files of a folder that are uploaded, and names that are not; both sorted.
fn contents(folder: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let fail = |e: std::io::Error| Error::io("cannot read the folder", folder, &e);
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stays = KEPT_HERE.contains(&name.as_str())
            || name.starts_with('.')
            || name.starts_with("grpo_rt_")
            || name.starts_with("checkpoint-")
            || !entry.path().is_file();
        if stays { left.push(name) } else { taken.push(name) }
    }
    taken.sort();
    left.sort();
    Ok((taken, left))
}

/// A folder of links that goes when it is dropped.
struct Staged {
    dir: PathBuf,
}

impl Staged {
    fn of(folder: &Path, names: &[String]) -> Result<Staged> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!(
            "grpo-rt-upload-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(unique);
        let fail = |e: std::io::Error| Error::io("cannot gather the files to upload", &dir, &e);
        std::fs::create_dir(&dir).map_err(fail)?;
        let staged = Staged { dir: dir.clone() };
        for name in names {
            let from = std::path::absolute(folder.join(name)).map_err(fail)?;
            let to = dir.join(name);
            #[cfg(unix)]
            let made = std::os::unix::fs::symlink(&from, &to);
            #[cfg(not(unix))]
            let made = std::fs::copy(&from, &to).map(|_| ());
            made.map_err(fail)?;
        }
        Ok(staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Links only; what is left of them is litter in the folder of temporary files.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_state_stay_here() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for name in [
            "config.json",
            "model.safetensors",
            "README.md",
            "samples.jsonl",
            ".hidden",
            "report.html",
            "grpo_rt_state.json",
        ] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        for name in ["checkpoint-3", "runs", "completions"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        check_model(dir).unwrap();
        let (taken, left) = contents(dir).unwrap();
        assert_eq!(taken, ["README.md", "config.json", "model.safetensors"]);
        assert_eq!(left.len(), 7);
        let staged = Staged::of(dir, &taken).unwrap();
        assert_eq!(std::fs::read_to_string(staged.dir.join("config.json")).unwrap(), "config.json");
        let place = staged.dir.clone();
        drop(staged);
        assert!(!place.exists() && dir.join("config.json").exists());
        assert!(check_model(&dir.join("runs")).unwrap_err().hint_text().is_some());
    }
}
