//! The user's own client of the hub, `hf` of huggingface_hub: how its command lines are made and run.
//! It logs in, keeps tokens and moves bytes; this program sees its exit code and passes on its words.

use super::{RepoId, RepoKind};
use crate::base::{Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The client's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    program: PathBuf,
}

/// Who the client says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What `hf version` says.
    pub version: String,
    /// The user's name on the hub, if it could be told from `hf auth whoami`.
    pub user: Option<String>,
}

impl Client {
    /// The first `hf` of a search path.
    pub fn on_path(path: Option<OsString>) -> Option<Client> {
        let path = path?;
        let program = std::env::split_paths(&path).map(|dir| dir.join("hf")).find(|p| runs(p))?;
        Some(Client { program })
    }

    /// The words of a download, after the program's name.
    pub fn download_words(id: &RepoId, kind: RepoKind, revision: Option<&str>) -> Vec<String> {
        let mut words = vec!["download".to_string(), id.as_str().to_string()];
        if kind == RepoKind::Dataset {
            words.extend(["--repo-type", "dataset"].map(String::from));
        }
        words.extend(revision.into_iter().flat_map(|r| ["--revision".into(), r.to_string()]));
        words
    }

    /// Fetches a repository into the cache; what the client prints goes to stderr.
    ///
    /// # Errors
    /// If it cannot be run or fails.
    pub fn download(&self, id: &RepoId, kind: RepoKind, revision: Option<&str>) -> Result<()> {
        eprintln!("{} is not in the cache: the hub's client fetches it", id.as_str());
        let words = Self::download_words(id, kind, revision);
        self.run(&words).map_err(|e| e.at(id.as_str()))
    }

    /// Runs the client on words; its output goes to stderr, for stdout is this program's.
    ///
    /// # Errors
    /// If it cannot be run or fails.
    pub fn run(&self, words: &[String]) -> Result<()> {
        let line = format!("hf {}", words.join(" "));
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::from(std::io::stderr()));
        let status = command.status().map_err(|e| self.cannot_run(&e))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::data("the hub's client failed")
            .expected("exit code 0")
            .found(format!("{status} of `{line}`"))
            .hint("its own words are above; `hf auth login` for repositories that ask who you are"))
    }

    /// Version and login of the client.
    ///
    /// # Errors
    /// If it cannot be run, is none that this program knows, or nobody is logged in.
    pub fn account(&self) -> Result<Account> {
        let version = self.ask(&["version"])?.ok_or_else(|| {
            Error::data("the hub's client does not say its version")
                .file(&self.program)
                .hint("install a newer one: pip install -U huggingface_hub")
        })?;
        let who = self.ask(&["auth", "whoami"])?.ok_or_else(|| {
            Error::usage("nobody is logged in to the hub")
                .file(&self.program)
                .expected("`hf auth whoami` that says who you are")
                .hint("log in first: hf auth login")
        })?;
        Ok(Account { version: version_in(&version), user: user_in(&who) })
    }

    /// What the client prints; `None` if it fails.
    fn ask(&self, words: &[&str]) -> Result<Option<String>> {
        let mut command = Command::new(&self.program);
        let done =
            command.args(words).stdin(Stdio::null()).output().map_err(|e| self.cannot_run(&e))?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        Ok(done.status.success().then_some(text))
    }

    fn cannot_run(&self, e: &std::io::Error) -> Error {
        Error::io("cannot run the hub's client", &self.program, e)
            .hint("install it again: pip install -U huggingface_hub")
    }
}

/// Whether a file is there and may be run.
fn runs(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    {
        path.is_file()
    }
}

/// A text without the colours of a terminal.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            out.push(c);
        }
    }
    out
}

/// The first word that begins like a version: clients say it bare, or after a label.
fn version_in(text: &str) -> String {
    let text = plain(text);
    let mut words = text.split_whitespace().map(|w| w.trim_start_matches("version="));
    words.find(|w| w.starts_with(|c: char| c.is_ascii_digit())).unwrap_or("unknown").to_string()
}

/// The user's name: clients print it alone on the first line, or after `user:` or `user=`.
fn user_in(text: &str) -> Option<String> {
    let text = plain(text);
    let mut labelled = text.split_whitespace().zip(text.split_whitespace().skip(1));
    let after = labelled.find(|(label, _)| *label == "user:").map(|(_, name)| name);
    let joined = text.split_whitespace().find_map(|w| w.strip_prefix("user="));
    let first = text.lines().next().map(str::trim).filter(|l| !l.contains(' '));
    let name = after.or(joined).or(first)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!name.is_empty() && name.chars().all(allowed)).then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_names_are_found_in_what_clients_print() {
        assert_eq!(version_in("\u{1b}[32m✓ hf version\u{1b}[0m\n  version: 2.4.0\n"), "2.4.0");
        assert_eq!(version_in("huggingface_hub version: 0.34.4\n"), "0.34.4");
        assert_eq!(version_in("version=1.2.3"), "1.2.3");
        assert_eq!(version_in("?"), "unknown");
        assert_eq!(
            user_in("\u{1b}[32m✓ Logged in\u{1b}[0m\n  user: julia\n  orgs: a\n").as_deref(),
            Some("julia")
        );
        assert_eq!(user_in("user=julia orgs=a,b").as_deref(), Some("julia"));
        assert_eq!(user_in("julia\norgs:  a\n").as_deref(), Some("julia"));
        assert_eq!(user_in("not logged in\n"), None);
    }

    #[test]
    fn downloads_name_kind_and_revision() {
        let id = RepoId::parse("a/b").unwrap();
        let words = |kind, revision| Client::download_words(&id, kind, revision).join(" ");
        assert_eq!(words(RepoKind::Model, None), "download a/b");
        let set = words(RepoKind::Dataset, Some("v1"));
        assert_eq!(set, "download a/b --repo-type dataset --revision v1");
    }
}
