//! Names of tensors in files and adapters, as pairs of prefixes: module path (canonical, after
//! `base_model.model.` in PEFT adapters) and name on disk. Where a family has one scheme, both are the
//! same.

use crate::base::{Error, Result};

/// Name prefix of PEFT adapters: `base_model.model.<canonical module>.lora_A.weight`.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// (prefix of module paths, prefix on disk), the longer disk prefixes first where one begins another.
pub type NamePairs = &'static [(&'static str, &'static str)];

/// A class of transformers with `model.visual` and `model.language_model`, saved as it is.
pub const AS_MODULES: NamePairs = &[
    ("model.visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("lm_head.", "lm_head."),
];

/// How the tensors of a checkpoint are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Module paths: the canonical names.
    Module,
    /// Names of the published checkpoints, which `save_pretrained` of transformers writes too.
    Checkpoint,
}

/// The canonical name of a tensor or module that is named in either scheme; None for a name that
/// belongs to neither.
pub fn canonical_name(pairs: NamePairs, name: &str) -> Option<String> {
    if pairs.iter().any(|(module, _)| name.starts_with(module)) {
        return Some(name.into());
    }
    pairs.iter().find_map(|(module, disk)| Some(format!("{module}{}", name.strip_prefix(disk)?)))
}

/// The name of a canonical tensor or module in `naming`.
pub fn name_in(pairs: NamePairs, naming: Naming, canonical: &str) -> String {
    let on_disk =
        || pairs.iter().find_map(|(m, disk)| Some(format!("{disk}{}", canonical.strip_prefix(m)?)));
    match naming {
        Naming::Module => canonical.into(),
        Naming::Checkpoint => on_disk().unwrap_or_else(|| canonical.into()),
    }
}

/// The naming scheme of a checkpoint, from all its tensor names.
///
/// # Errors
/// If no name belongs to this family, or if both schemes occur.
pub fn detect_naming<S: AsRef<str>>(
    pairs: NamePairs,
    names: impl IntoIterator<Item = S>,
) -> Result<Naming> {
    let (mut module, mut checkpoint, mut either) = (None, None, false);
    let mut last = String::from("no tensor");
    for name in names {
        let name = name.as_ref();
        match canonical_name(pairs, name) {
            Some(canonical) if name_in(pairs, Naming::Checkpoint, &canonical) == canonical => {
                either = true; // the same in both
            }
            Some(canonical) if canonical == name => module = Some(name.to_string()),
            Some(_) => checkpoint = Some(name.to_string()),
            None => last = name.to_string(),
        }
    }
    let list = |of: fn(&(&'static str, &'static str)) -> &'static str| {
        pairs.iter().map(|pair| format!("`{}*`", of(pair))).collect::<Vec<_>>().join(", ")
    };
    match (module, checkpoint) {
        (Some(_), None) => Ok(Naming::Module),
        (None, Some(_)) => Ok(Naming::Checkpoint),
        (None, None) if either => Ok(Naming::Checkpoint),
        (Some(a), Some(b)) => Err(Error::data("tensor names of two schemes in one checkpoint")
            .expected(format!("either {} or {}", list(|p| p.0), list(|p| p.1)))
            .found(format!("`{a}` and `{b}`"))),
        (None, None) => Err(Error::data("tensor names are not those of this family")
            .expected(format!("{}, or {}", list(|p| p.1), list(|p| p.0)))
            .found(last)
            .hint("config.json and weights are not of one model; fetch both again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::families::{Family, qwen2_5_vl::Qwen25Vl};

    #[test]
    fn names_convert_both_ways() {
        let pairs = Qwen25Vl.names();
        for (canonical, old) in [
            ("model.visual.blocks.0.attn.qkv.bias", "visual.blocks.0.attn.qkv.bias"),
            ("model.language_model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj"),
            ("model.language_model.norm.weight", "model.norm.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(name_in(pairs, Naming::Checkpoint, canonical), old);
            assert_eq!(name_in(pairs, Naming::Module, canonical), canonical);
            assert_eq!(canonical_name(pairs, old).as_deref(), Some(canonical));
            assert_eq!(canonical_name(pairs, canonical).as_deref(), Some(canonical));
        }
        assert_eq!(canonical_name(pairs, "model.vision_tower.x"), None);
        let error = detect_naming(pairs, ["transformer.h.0"]).unwrap_err().to_string();
        assert!(error.contains("transformer"), "{error}");
        let two = ["model.norm.weight", "model.visual.merger.ln_q.weight"];
        assert!(detect_naming(pairs, two).is_err());
    }
}
