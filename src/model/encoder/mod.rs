//! Sentence encoders: texts to vectors whose cosine says how much alike they are (Reimers and Gurevych,
//! "Sentence-BERT", arXiv 1908.10084). Folders of sentence-transformers with BERT's or RoBERTa's layers,
//! computed in single precision on the CPU by the program's own ops, in an arena of their own. Rewards
//! compare reasoning steps with it; it is never trained and never sees a device.

mod cache; // vectors of texts seen before
mod config; // the files of a folder
mod net; // the layers as ops

pub use config::{EncoderConfig, Places, Pooling};

use crate::base::{DType, Error, Result, Target};
use crate::io::safetensors::{Checkpoint, INDEX_FILE, SINGLE_FILE};
use crate::io::text::SentenceTokenizer;
use crate::mem::Arena;
use crate::mem::plan::aligned;
use crate::model::net::Net;
use crate::model::params::{Param, ParamStore, Training};
use crate::tape::{Place, Tape};
use cache::Cache;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// Tokens of one pass; a longer sentence has a pass of its own.
const TOKENS_PER_PASS: usize = 512;
/// Only the beginning of a longer text is read, in bytes: it is cut off at a few hundred tokens anyway.
const LONGEST_TEXT: usize = 1 << 20;
/// Texts whose vectors are kept.
const KEPT_TEXTS: usize = 16384;
/// Longer texts are computed anew each time, in bytes.
const LONGEST_KEPT_TEXT: usize = 4096;

/// Prefixes that tensors may have: of a bare encoder, or of one inside a class with a head.
const PREFIXES: [&str; 4] = ["", "bert.", "roberta.", "model."];

/// Encoders that are open, by folder: rewards that name the same folder share one.
static OPEN: Mutex<Vec<(PathBuf, Weak<SentenceEncoder>)>> = Mutex::new(Vec::new());

/// A sentence encoder with its weights.
///
/// A text's vector is a function of the text alone: not of the texts beside it, of threads, or of what
/// was asked before.
#[derive(Debug)]
pub struct SentenceEncoder {
    folder: PathBuf,
    config: EncoderConfig,
    tokenizer: SentenceTokenizer,
    params: ParamStore,
    /// One pass at a time.
    arena: Mutex<Arena>,
    /// Threads of its own: see [`SentenceEncoder::pass`].
    threads: rayon::ThreadPool,
    cache: Mutex<Cache>,
}

impl SentenceEncoder {
    /// Reads a folder as `SentenceTransformer(...).save(DIR)` of sentence-transformers writes it.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the encoder is of a kind that is not supported.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(Error::data("the sentence encoder is not there")
                .file(dir)
                .key("sentence_encoder")
                .expected("a folder")
                .found(if dir.exists() { "a file" } else { "nothing" })
                .hint("save one with sentence-transformers: SentenceTransformer(\"all-MiniLM-L6-v2\").save(DIR)"));
        }
        let folder = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let config = EncoderConfig::from_dir(dir)?;
        let (tokenizer, longest) = read_tokenizer(&config)?;
        let file = open_weights(&config.folder)?;
        let specs = net::parameters(&config);
        let bytes = ParamStore::bytes(&specs, &Training::None, DType::F32);
        let mut planned = Arena::planned(usize::MAX / 2, Target::Cpu);
        let store = ParamStore::place(&specs, &Training::None, DType::F32, &mut planned)?;
        let room = most_bytes_of_a_pass(&config, &store, longest)?;
        let mut arena = Arena::reserve(bytes + room)?;
        let params = ParamStore::place(&specs, &Training::None, DType::F32, &mut arena)?;
        params.load(&mut arena, &file, |p| Some(name_in(&file, p)))?;
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(rayon::current_num_threads())
            .thread_name(|i| format!("encoder-{i}"))
            .build()
            .map_err(|e| Error::device("cannot start threads").found(e.to_string()))?;
        Ok(SentenceEncoder {
            folder,
            config,
            tokenizer,
            params,
            arena: Mutex::new(arena),
            threads,
            cache: Mutex::new(Cache::new(KEPT_TEXTS, LONGEST_KEPT_TEXT)),
        })
    }

    /// The encoder of a folder: the one that is open already, as long as anybody holds it.
    ///
    /// # Errors
    /// As [`SentenceEncoder::open`].
    pub fn shared(dir: impl AsRef<Path>) -> Result<Arc<Self>> {
        let dir = dir.as_ref();
        let folder = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let mut open = lock(&OPEN);
        open.retain(|(_, encoder)| encoder.strong_count() > 0);
        if let Some(encoder) =
            open.iter().find(|(f, _)| *f == folder).and_then(|(_, encoder)| encoder.upgrade())
        {
            return Ok(encoder);
        }
        let encoder = Arc::new(Self::open(dir)?);
        open.push((folder, Arc::downgrade(&encoder)));
        Ok(encoder)
    }

    /// The folder that it came from, without links.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What its files say.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Ids of a text, cut off at the longest input.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.ids(beginning(text))
    }

    /// One vector of `hidden_size` numbers per text, in order.
    ///
    /// # Errors
    /// A text that the tokenizer refuses, or one of whose tokens the encoder has no row.
    pub fn embed<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Arc<[f32]>>> {
        let mut vectors: Vec<Option<Arc<[f32]>>> = {
            let mut cache = lock(&self.cache);
            texts.iter().map(|text| cache.get(text.as_ref())).collect()
        };
        let mut new: Vec<&str> = Vec::new();
        for (text, vector) in texts.iter().zip(&vectors) {
            if vector.is_none() {
                new.push(text.as_ref());
            }
        }
        new.sort_unstable();
        new.dedup();
        let made = self.compute(&new)?;
        let mut cache = lock(&self.cache);
        for (text, vector) in new.iter().zip(&made) {
            cache.put(text, vector.clone());
        }
        for (text, vector) in texts.iter().zip(&mut vectors) {
            if vector.is_none() {
                let at = new.binary_search(&text.as_ref());
                *vector = at.ok().map(|at| made[at].clone());
            }
        }
        Ok(vectors.into_iter().flatten().collect())
    }

    /// Vectors of distinct texts.
    fn compute(&self, texts: &[&str]) -> Result<Vec<Arc<[f32]>>> {
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| self.ids(text)).collect::<Result<_>>()?;
        let rows = self.config.vocab_size as u32;
        if let Some(id) = ids.iter().flatten().find(|id| **id >= rows) {
            return Err(Error::data("the sentence encoder has no row for a token")
                .file(&self.folder)
                .expected(format!("ids below {rows}, vocab_size of config.json"))
                .found(id.to_string())
                .hint("the tokenizer is of another model"));
        }
        // Sentences of about the same length go together.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(ids[i].len()));
        let mut vectors: Vec<Arc<[f32]>> = vec![Arc::default(); ids.len()];
        let mut rest = &order[..];
        while let Some(&first) = rest.first() {
            let count = (TOKENS_PER_PASS / ids[first].len()).clamp(1, rest.len());
            let sentences: Vec<&[u32]> = rest[..count].iter().map(|&i| &ids[i][..]).collect();
            let values = self.pass(&sentences)?;
            for (&i, vector) in rest.iter().zip(values.chunks(self.config.hidden_size)) {
                vectors[i] = vector.into();
            }
            rest = &rest[count..];
        }
        Ok(vectors)
    }

    /// Vectors of sentences that go together, one after another.
    ///
    /// The pass runs on threads of its own, and whoever asks sleeps until it is done. On the program's
    /// threads, one that waits for a part of this pass could take up other work that asks the encoder
    /// again, and would wait for itself.
    fn pass(&self, sentences: &[&[u32]]) -> Result<Vec<f32>> {
        let arena = lock(&self.arena);
        let run = || {
            let mut tape = self.params.tape();
            let out = net::encode(&mut Net::new(&mut tape, &self.params), &self.config, sentences)?;
            tape.keep(out);
            let plan = tape.plan();
            tape.run(&plan, &arena, arena.shared_base())?.f32(out)
        };
        let done = std::thread::scope(|scope| scope.spawn(|| self.threads.install(run)).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What is behind the lock; the state that a panic leaves is complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The part of a text that is read.
fn beginning(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The tokenizer, and the tokens at which it cuts off.
fn read_tokenizer(config: &EncoderConfig) -> Result<(SentenceTokenizer, usize)> {
    let mut tokenizer = SentenceTokenizer::from_dir(&config.folder)?;
    if config.lower_case {
        tokenizer.lower_case()?;
    }
    // As sentence-transformers: without a word about it, what tokenizer and table of places allow.
    let longest = tokenizer.model_max_length().map_or(config.room(), |l| l.min(config.room()));
    let tokens = config.max_tokens.unwrap_or(longest);
    if tokens > config.room() {
        return Err(Error::data("the encoder's longest input has more tokens than places")
            .file(&config.folder)
            .key("max_seq_length")
            .expected(format!("at most {}, by config.json", config.room()))
            .found(tokens.to_string()));
    }
    tokenizer.limit(tokens).map_err(|e| e.file(&config.folder))?;
    Ok((tokenizer, tokens))
}

fn open_weights(folder: &Path) -> Result<Checkpoint> {
    let there = |name: &str| folder.join(name).is_file();
    if there("pytorch_model.bin") && !there(SINGLE_FILE) && !there(INDEX_FILE) {
        let path = folder.display();
        return Err(Error::data("the weights of the sentence encoder are pickled")
            .file(folder)
            .expected(SINGLE_FILE)
            .found("pytorch_model.bin")
            .hint(format!(
                "convert them: python -c \"from sentence_transformers import SentenceTransformer; SentenceTransformer('{path}').save('{path}-safetensors')\""
            )));
    }
    Checkpoint::open(folder)
}

/// Name of a parameter in the file. Old files call the parameters of norms gamma and beta.
fn name_in(file: &Checkpoint, p: &Param) -> String {
    let older = p
        .name
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta");
    let names = PREFIXES
        .iter()
        .flat_map(|prefix| [format!("{prefix}{}", p.name), format!("{prefix}{older}")]);
    names.into_iter().find(|name| file.contains(name)).unwrap_or_else(|| p.name.clone())
}

/// Bytes that no pass exceeds: every tensor of the largest at the same time. The arena reserves them;
/// memory is what the plan of a pass touches, a fraction of it.
fn most_bytes_of_a_pass(
    config: &EncoderConfig,
    params: &ParamStore,
    longest: usize,
) -> Result<usize> {
    // No tensor of a pass grows faster than with the number of tokens, or of sentences times tokens of
    // the longest, and neither exceeds `tokens`.
    let tokens = TOKENS_PER_PASS.max(longest);
    let sentences = vec![&[0u32][..]; tokens];
    let mut tape: Tape = params.tape();
    net::encode(&mut Net::new(&mut tape, params), config, &sentences)?;
    let planned =
        tape.slots().iter().filter(|s| matches!(s.place, Place::Planned | Place::Input(_)));
    Ok(planned.map(|s| aligned(s.ty.len() * s.ty.dtype.size())).sum())
}

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<SentenceEncoder>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_texts_are_cut_between_characters() {
        assert_eq!(beginning("đỏ"), "đỏ");
        let long = "đ".repeat(LONGEST_TEXT);
        assert_eq!(beginning(&long).len(), LONGEST_TEXT);
        assert_eq!(beginning(&format!("x{long}")).len(), LONGEST_TEXT - 1);
    }
}
