//! Repositories of the Hugging Face hub on this machine: names (`org/name`), the client's cache as it
//! lies on disk, and the user's own client (`hf`) for what is not there. Speaks to no server itself,
//! and never changes the cache.
//!
//! Layout of the cache: huggingface_hub's guide "Understand caching"
//! (`models--org--name/{refs,blobs,snapshots}`); variables: its guide "Environment variables".

mod client;

pub use client::Client;

use crate::base::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// A model: config.json and weights.
    Model,
    /// A model without its weights: enough to plan with and to make prompts.
    Settings,
    /// A LoRA adapter: adapter_config.json and its weights.
    Adapter,
    /// Rows.
    Dataset,
}

impl RepoKind {
    /// Beginning of the folder's name in the cache.
    fn prefix(self) -> &'static str {
        match self {
            RepoKind::Dataset => "datasets--",
            _ => "models--",
        }
    }
    fn noun(self) -> &'static str {
        match self {
            RepoKind::Model | RepoKind::Settings => "model",
            RepoKind::Adapter => "adapter",
            RepoKind::Dataset => "data set",
        }
    }
}

/// A repository's name on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// Reads `org/name`; `None` for what can only be a path. The rules are those of huggingface_hub's
    /// `validate_repo_id`; names without an owner, which a few old models have, are taken for paths.
    pub fn parse(text: &str) -> Option<RepoId> {
        let (owner, name) = text.split_once('/')?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let word = |w: &str| {
            !w.is_empty()
                && w.chars().all(allowed)
                && !w.starts_with(['-', '.'])
                && !w.ends_with(['-', '.'])
        };
        let whole = word(owner) && word(name) && text.len() <= 96;
        let odd = text.contains("--") || text.contains("..") || text.ends_with(".git");
        (whole && !odd).then(|| RepoId(text.to_string()))
    }
    /// As it is typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    fn folder(&self, kind: RepoKind) -> String {
        format!("{}{}", kind.prefix(), self.0.replace('/', "--"))
    }
}

/// The name and commit of a repository from the path of a snapshot in a cache.
pub fn repo_of_snapshot(path: &Path) -> Option<(RepoId, String)> {
    let mut up = path.iter().rev().filter_map(|part| part.to_str());
    let (commit, snapshots, folder) = (up.next()?, up.next()?, up.next()?);
    let name = RepoKind::Model.prefix();
    let name = folder.strip_prefix(name).or_else(|| folder.strip_prefix("datasets--"))?;
    let id = RepoId::parse(&name.replacen("--", "/", 1))?;
    (snapshots == "snapshots" && !commit.is_empty()).then(|| (id, commit.to_string()))
}

/// Where repositories are looked for, and who fetches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// Folder of the cache.
    pub cache: PathBuf,
    /// The user wants no network.
    pub offline: bool,
    /// The client, if one is installed.
    pub client: Option<Client>,
}

/// What a cache has of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cached {
    /// All that this program reads of it.
    Complete(PathBuf),
    /// A folder that lacks files.
    Incomplete {
        /// The snapshot.
        dir: PathBuf,
        /// Names in it that are not there.
        missing: Vec<String>,
    },
    /// Nothing of this revision.
    Absent,
}

impl Hub {
    /// The hub as the environment has it.
    pub fn from_env() -> Hub {
        let get = |name: &str| std::env::var(name).ok();
        let (cache, offline) = places(&get);
        Hub { cache, offline, client: Client::on_path(std::env::var_os("PATH")) }
    }

    /// The folder of a repository that is of one of these kinds (at least one): the cache's, or else
    /// fetched into it by the client.
    ///
    /// # Errors
    /// If it is not in the cache and cannot be fetched: there is no client, the user is offline, the
    /// client failed, or what it left is not complete. The hint has the command to type.
    pub fn resolve(
        &self,
        id: &RepoId,
        kinds: &[RepoKind],
        revision: Option<&str>,
    ) -> Result<PathBuf> {
        let kind = kinds[0];
        let before = match self.complete(id, kinds, revision)? {
            Ok(dir) => return Ok(dir),
            Err(state) => state,
        };
        let absent = |what: String, cached: &Cached| self.absent(id, kind, what, cached);
        let command = Client::download_words(id, kind, revision).join(" ");
        if self.offline {
            return Err(absent(format!("this {} is not on this machine", kind.noun()), &before)
                .hint(format!(
                    "HF_HUB_OFFLINE is set: unset it, or fetch it elsewhere: hf {command}"
                )));
        }
        let Some(client) = &self.client else {
            return Err(absent(format!("this {} is not on this machine", kind.noun()), &before)
                .hint(format!(
                    "fetch it first: hf {command}; the client is installed by: pip install -U huggingface_hub"
                )));
        };
        client.download(id, kind, revision)?;
        match self.complete(id, kinds, revision)? {
            Ok(dir) => Ok(dir),
            Err(after) => {
                Err(absent(format!("the {} was not fetched completely", kind.noun()), &after)
                    .hint(format!("see what the client said, then try again: hf {command}")))
            }
        }
    }

    /// The snapshot of a repository, if the cache has all of it; nothing is fetched.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn resolve_offline(&self, id: &RepoId, kind: RepoKind) -> Result<Option<PathBuf>> {
        Ok(self.complete(id, &[kind], None)?.ok())
    }

    /// The snapshot if it is complete as one of the kinds, else what there is of the first.
    fn complete(
        &self,
        id: &RepoId,
        kinds: &[RepoKind],
        revision: Option<&str>,
    ) -> Result<std::result::Result<PathBuf, Cached>> {
        let mut first = None;
        for kind in kinds {
            match self.cached(id, *kind, revision)? {
                Cached::Complete(dir) => return Ok(Ok(dir)),
                state => first = first.or(Some(state)),
            }
        }
        Ok(Err(first.unwrap_or(Cached::Absent)))
    }

    fn absent(&self, id: &RepoId, kind: RepoKind, what: String, cached: &Cached) -> Error {
        let place = self.cache.join(id.folder(kind));
        let error = Error::usage(what).at(id.as_str()).expected(format!(
            "a snapshot with all files below {}, or a folder of that name here",
            place.display()
        ));
        match cached {
            Cached::Incomplete { dir, missing } => {
                error.found(format!("{} without {}", dir.display(), some_of(missing)))
            }
            _ => error.found("none"),
        }
    }

    /// What the cache has of a revision (a branch, a tag, a commit; `main` if none is named).
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn cached(&self, id: &RepoId, kind: RepoKind, revision: Option<&str>) -> Result<Cached> {
        let repo = self.cache.join(id.folder(kind));
        let revision = revision.unwrap_or("main");
        let Some(dir) = snapshot_of(&repo, revision)? else { return Ok(Cached::Absent) };
        let mut missing = match kind {
            RepoKind::Model => [lacking_settings(&dir), lacking_weights(&dir)?].concat(),
            RepoKind::Settings => lacking_settings(&dir),
            RepoKind::Adapter => {
                lacking(&dir, &["adapter_config.json", "adapter_model.safetensors"])
            }
            RepoKind::Dataset => lacking_rows(&dir)?,
        };
        // A link to a blob that is not there is a file that has not arrived.
        let torn = broken_links(&dir)?;
        missing.retain(|m| !torn.iter().any(|t| m.split(' ').next() == Some(t)));
        missing.extend(torn);
        let missing: Vec<String> =
            missing.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Ok(match missing.is_empty() {
            true => Cached::Complete(dir),
            false => Cached::Incomplete { dir, missing },
        })
    }
}

fn some_of(names: &[String]) -> String {
    const NAMED: usize = 5;
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// The cache and whether the user is offline, from variables.
fn places(get: &dyn Fn(&str) -> Option<String>) -> (PathBuf, bool) {
    let given = |name: &str| get(name).filter(|v| !v.is_empty());
    let home = given("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let expanded = |text: String| match text.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(text),
    };
    let named = given("HF_HUB_CACHE").or_else(|| given("HUGGINGFACE_HUB_CACHE")).map(&expanded);
    let above = given("HF_HOME").map(&expanded);
    let shared = given("XDG_CACHE_HOME").map(&expanded);
    let cache = named.unwrap_or_else(|| {
        let huggingface = || shared.unwrap_or_else(|| home.join(".cache")).join("huggingface");
        above.unwrap_or_else(huggingface).join("hub")
    });
    let yes = |v: String| matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
    let offline =
        given("HF_HUB_OFFLINE").or_else(|| given("TRANSFORMERS_OFFLINE")).is_some_and(yes);
    (cache, offline)
}

/// The folder of a revision. Names that would lead out of the cache are no revisions.
fn snapshot_of(repo: &Path, revision: &str) -> Result<Option<PathBuf>> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !revision.split('/').all(plain) || Path::new(revision).is_absolute() {
        return Err(Error::usage("this is no revision of a repository")
            .key("model_revision")
            .expected("a branch, a tag or a commit, such as main")
            .found(revision)
            .hint("leave --model_revision out for the newest"));
    }
    let direct = repo.join("snapshots").join(revision);
    if direct.is_dir() {
        return Ok(Some(direct));
    }
    let file = repo.join("refs").join(revision);
    let commit = match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().to_string(),
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("cannot read the hub's cache", &file, &e)),
    };
    let dir = repo.join("snapshots").join(&commit);
    Ok((plain(&commit) && !commit.contains('/') && dir.is_dir()).then_some(dir))
}

fn lacking(dir: &Path, names: &[&str]) -> Vec<String> {
    names.iter().filter(|n| !dir.join(n).is_file()).map(|n| n.to_string()).collect()
}

/// What a model's folder lacks of its configuration and its tokenizer.
fn lacking_settings(dir: &Path) -> Vec<String> {
    const TOKENIZERS: [&str; 4] =
        ["tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"];
    let mut missing = lacking(dir, &["config.json"]);
    if TOKENIZERS.iter().all(|n| !dir.join(n).is_file()) {
        missing.push("tokenizer.json".into());
    }
    missing
}

/// What a model's folder lacks of its weights.
fn lacking_weights(dir: &Path) -> Result<Vec<String>> {
    const INDEX: &str = "model.safetensors.index.json";
    let mut missing = Vec::new();
    let index = dir.join(INDEX);
    if dir.join("model.safetensors").is_file() {
        // An index beside it is not read.
    } else if index.is_file() {
        let text = std::fs::read_to_string(&index)
            .map_err(|e| Error::io("cannot read the index of the weights", &index, &e))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| {
            Error::data("the index of the weights is not JSON").file(&index).found(e.to_string())
        })?;
        let shards: BTreeSet<&str> = json["weight_map"]
            .as_object()
            .into_iter()
            .flat_map(|m| m.values())
            .filter_map(|v| v.as_str())
            .collect();
        missing.extend(lacking(dir, &shards.into_iter().collect::<Vec<_>>()));
    } else {
        missing.push(format!("model.safetensors (or {INDEX})"));
    }
    Ok(missing)
}

/// A data set has at least one file that is not its card.
fn lacking_rows(dir: &Path) -> Result<Vec<String>> {
    let fail = |e: std::io::Error| Error::io("cannot read the hub's cache", dir, &e);
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && name != "README.md" {
            return Ok(Vec::new());
        }
    }
    Ok(vec!["any data file".into()])
}

/// Links below a folder that lead nowhere, by their names in it.
fn broken_links(dir: &Path) -> Result<Vec<String>> {
    let fail = |e: std::io::Error| Error::io("cannot read the hub's cache", dir, &e);
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(fail)?);
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_symlink() && !path.exists() {
                let name = path.strip_prefix(dir).unwrap_or(&path);
                found.push(name.display().to_string());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_told_from_paths() {
        for good in ["Qwen/Qwen2.5-VL-3B-Instruct", "a/b", "o_1/x.y-z"] {
            assert_eq!(RepoId::parse(good).unwrap().as_str(), good);
        }
        for path in [
            "model", "a/b/c", "./a", "../a", "/a/b", "a/", "/a", "a b/c", "a--b/c", "a/b.git",
            "a/..", "a/-b",
        ] {
            assert_eq!(RepoId::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_snapshot_knows_its_repository() {
        let path = Path::new("/c/hub/models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/abc123");
        let (id, commit) = repo_of_snapshot(path).unwrap();
        assert_eq!((id.as_str(), commit.as_str()), ("Qwen/Qwen2.5-VL-3B-Instruct", "abc123"));
        for other in ["/models/x", "snapshots/a", "/c/models--a--b/blobs/x"] {
            assert_eq!(repo_of_snapshot(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_cache_is_where_the_variables_say() {
        let at = |pairs: &[(&str, &str)]| {
            let get = |name: &str| pairs.iter().find(|p| p.0 == name).map(|p| p.1.to_string());
            places(&get)
        };
        let cache = |pairs: &[(&str, &str)]| at(pairs).0.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        let home = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/f")];
        assert_eq!(cache(&home), "/h/f/hub");
        assert_eq!(cache(&[&home[..], &[("HUGGINGFACE_HUB_CACHE", "/o")]].concat()), "/o");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/n"), ("HUGGINGFACE_HUB_CACHE", "/o")]), "/n");
        for (value, offline) in
            [("1", true), ("true", true), ("ON", true), ("0", false), ("", false)]
        {
            assert_eq!(at(&[("HF_HUB_OFFLINE", value)]).1, offline, "{value}");
        }
        assert!(at(&[("TRANSFORMERS_OFFLINE", "1")]).1);
    }
}
