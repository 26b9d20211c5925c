//! SentencePiece models (`tokenizer.model` of InternLM2): BPE whose merges follow from the scores of
//! its pieces. Fields of the message that decide nothing here are skipped, not checked.

use std::collections::{HashMap, HashSet};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::Prepend;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer, decoders, normalizers};

use super::added_tokens::AddedTokens;
use super::protobuf::{Fields, Value};
use crate::base::{Error, Result};

/// Tag of `ModelProto.pieces` (field 1, with a length), with which every model begins.
pub(super) const FIRST_BYTE: u8 = 0x0A;

/// U+2581 stands for a space in pieces.
const SPACE: &str = "\u{2581}";

/// `SentencePiece.Type` of sentencepiece_model.proto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// What a model file says, with the defaults of sentencepiece_model.proto.
#[derive(Debug)]
struct Model {
    pieces: Vec<Piece>,
    /// `TrainerSpec.model_type`: 1 unigram, 2 BPE, 3 words, 4 characters.
    algorithm: u64,
    unknown: usize,
    spaces_are_suffixes: bool,
    /// Has `NormalizerSpec.precompiled_charsmap` any rules (Unicode normalisation)?
    maps_characters: bool,
    prefix_space: bool,
    squeezes_spaces: bool,
    escapes_spaces: bool,
}

/// Builds the tokenizer of a model file. A piece whose id `added` names takes that name: InternLM2
/// gives reserved pieces their names in tokenizer_config.json (its `InternLM2Converter`).
///
/// # Errors
/// A damaged message (with the byte), or a model that is not BPE.
pub(super) fn parse(bytes: &[u8], added: &AddedTokens) -> Result<Tokenizer> {
    let mut model = read_model(bytes)?;
    check(&model)?;
    let merges = merges(&model.pieces);
    for (id, piece) in model.pieces.iter_mut().enumerate() {
        if let Some(token) = added.at(id as u32) {
            piece.text.clone_from(&token.content);
        }
    }
    build(&model, merges)
}

fn build(model: &Model, merges: Merges) -> Result<Tokenizer> {
    let ids = model.pieces.iter().enumerate();
    let vocab: Vocab = ids.map(|(id, piece)| (piece.text.clone(), id as u32)).collect();
    if vocab.len() != model.pieces.len() {
        return Err(Error::data("a token occurs twice in the vocabulary")
            .expected(format!("{} different pieces", model.pieces.len()))
            .found(format!("{} different pieces", vocab.len()))
            .hint("tokenizer_config.json may belong to another model"));
    }
    let failed =
        |e: tokenizers::Error| Error::data("cannot build the tokenizer").found(e.to_string());
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(model.pieces[model.unknown].text.clone())
        .fuse_unk(true)
        .byte_fallback(model.pieces.iter().any(|p| p.kind == Kind::Byte))
        .build()
        .map_err(failed)?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_normalizer(Some(normalizer(model).map_err(failed)?)).map_err(failed)?;
    tokenizer.with_decoder(Some(decoder(model).map_err(failed)?));
    let outside = model.pieces.iter().filter_map(|p| match p.kind {
        Kind::Control => Some(AddedToken::from(p.text.clone(), true)),
        Kind::UserDefined => Some(AddedToken::from(p.text.clone(), false).normalized(false)),
        _ => None,
    });
    tokenizer.add_tokens(outside.collect::<Vec<_>>()).map_err(failed)?;
    Ok(tokenizer)
}

/// The steps of `NormalizerSpec`, in the order in which SentencePiece takes them.
fn normalizer(model: &Model) -> tokenizers::Result<NormalizerWrapper> {
    let replace = |pattern: ReplacePattern, with: &str| {
        Replace::new(pattern, with).map(NormalizerWrapper::Replace)
    };
    let mut steps = Vec::new();
    if model.squeezes_spaces {
        steps.push(replace(ReplacePattern::Regex(format!("^ +|[ {SPACE}]+$")), "")?);
        steps.push(replace(ReplacePattern::Regex(" {2,}".to_owned()), " ")?);
    }
    if model.prefix_space {
        steps.push(NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned())));
    }
    steps.push(replace(ReplacePattern::String(" ".to_owned()), SPACE)?);
    Ok(NormalizerWrapper::Sequence(normalizers::Sequence::new(steps)))
}

fn decoder(model: &Model) -> tokenizers::Result<DecoderWrapper> {
    let spaces = Replace::new(ReplacePattern::String(SPACE.to_owned()), " ")?;
    let mut steps = vec![
        DecoderWrapper::Replace(spaces),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    if model.prefix_space {
        steps.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    Ok(DecoderWrapper::Sequence(decoders::sequence::Sequence::new(steps)))
}

/// Every way to make a piece of two pieces, best score first (`generate_merges` of transformers:
/// equal scores by the lengths of the halves, longest first). Only pieces that text can be made of
/// take part: SentencePiece never builds a control piece or a byte out of letters.
fn merges(pieces: &[Piece]) -> Merges {
    let ids: HashMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .filter(|(_, p)| matches!(p.kind, Kind::Normal | Kind::UserDefined | Kind::Unused))
        .map(|(id, p)| (p.text.as_str(), id))
        .collect();
    let mut all = Vec::new();
    for piece in pieces.iter().filter(|p| ids.contains_key(p.text.as_str())) {
        let first = all.len();
        let ways = piece.text.char_indices().enumerate().skip(1);
        let count = piece.text.chars().count();
        for (chars, (at, _)) in ways {
            let (left, right) = piece.text.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                all.push((piece.score, chars, count - chars, (*l, *r), (left, right)));
            }
        }
        all[first..].sort_by_key(|way| way.3);
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((b.1, b.2).cmp(&(a.1, a.2))));
    all.into_iter().map(|(.., (l, r))| (l.to_owned(), r.to_owned())).collect()
}

fn read_model(bytes: &[u8]) -> Result<Model> {
    let mut model = Model {
        pieces: Vec::new(),
        algorithm: 1,
        unknown: 0,
        spaces_are_suffixes: false,
        maps_characters: false,
        prefix_space: true,
        squeezes_spaces: true,
        escapes_spaces: true,
    };
    for field in Fields::new(bytes, 0) {
        match field? {
            (1, Value::Bytes(at, piece)) => model.pieces.push(read_piece(at, piece)?),
            (2, Value::Bytes(at, trainer)) => read_trainer(&mut model, at, trainer)?,
            (3, Value::Bytes(at, spec)) => read_normalizer(&mut model, at, spec)?,
            _ => {}
        }
    }
    Ok(model)
}

fn read_piece(at: usize, bytes: &[u8]) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    for field in Fields::new(bytes, at) {
        match field? {
            (1, Value::Bytes(at, text)) => {
                piece.text = String::from_utf8(text.to_vec()).map_err(|e| {
                    Error::data("a piece is not UTF-8")
                        .at(format!("byte {at}"))
                        .found(e.to_string())
                })?;
            }
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Number(kind)) => piece.kind = kind_of(kind, at)?,
            _ => {}
        }
    }
    Ok(piece)
}

fn kind_of(number: u64, at: usize) -> Result<Kind> {
    Ok(match number {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        other => {
            return Err(Error::data("a piece has an unknown type")
                .at(format!("byte {at}"))
                .expected("a type from 1 to 6")
                .found(other.to_string()));
        }
    })
}

fn read_trainer(model: &mut Model, at: usize, bytes: &[u8]) -> Result<()> {
    for field in Fields::new(bytes, at) {
        match field? {
            (3, Value::Number(n)) => model.algorithm = n,
            (24, Value::Number(n)) => model.spaces_are_suffixes = n != 0,
            (40, Value::Number(n)) => model.unknown = usize::try_from(n).unwrap_or(usize::MAX),
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer(model: &mut Model, at: usize, bytes: &[u8]) -> Result<()> {
    for field in Fields::new(bytes, at) {
        match field? {
            (2, Value::Bytes(_, map)) => model.maps_characters = !map.is_empty(),
            (3, Value::Number(n)) => model.prefix_space = n != 0,
            (4, Value::Number(n)) => model.squeezes_spaces = n != 0,
            (5, Value::Number(n)) => model.escapes_spaces = n != 0,
            _ => {}
        }
    }
    Ok(())
}

/// What the file must be for the rest of this module.
fn check(model: &Model) -> Result<()> {
    let wrong = |expected: &str, found: String| {
        Error::data("cannot use the SentencePiece model").expected(expected).found(found).hint(
            "if transformers reads it: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) \
             writes a tokenizer.json, which goes first",
        )
    };
    if model.algorithm != 2 {
        return Err(wrong("a BPE model (model_type 2)", format!("model_type {}", model.algorithm)));
    }
    if model.spaces_are_suffixes || !model.escapes_spaces {
        let found = "treat_whitespace_as_suffix or no escape_whitespaces".to_owned();
        return Err(wrong("spaces at the beginning of words, written as U+2581", found));
    }
    if model.maps_characters {
        // The `tokenizers` crate maps clusters of letters, SentencePiece the longest match: ids differ.
        let found = "precompiled_charsmap".to_owned();
        return Err(wrong("text as it is (normalization_rule_name identity)", found));
    }
    if model.unknown >= model.pieces.len() {
        let found = format!("id {} of {} pieces", model.unknown, model.pieces.len());
        return Err(wrong("an unknown piece (unk_id) among the pieces", found));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = model.pieces.iter().find(|p| !seen.insert(p.text.as_str())) {
        return Err(wrong("different pieces", format!("{:?} twice", twice.text)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, content.len() as u8];
        out.extend(content);
        out
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let mut out = field(1, text.as_bytes());
        out.push(2 << 3 | 5);
        out.extend(score.to_le_bytes());
        out.extend([3 << 3, kind]);
        field(1, &out)
    }

    fn tiny(algorithm: u8) -> Vec<u8> {
        let mut out = piece("<unk>", 0.0, 2);
        out.extend(piece("<s>", 0.0, 3));
        for (text, score) in [("ab", -0.0), ("abc", -1.0), ("bc", -2.0), ("a", -3.0), ("b", -4.0)] {
            out.extend(piece(text, score, 1));
        }
        out.extend(piece("c", -5.0, 1));
        out.extend(field(2, &[3 << 3, algorithm]));
        out.extend(field(3, &[3 << 3, 0, 4 << 3, 0]));
        out
    }

    #[test]
    fn merges_follow_the_scores() {
        let model = read_model(&tiny(2)).unwrap();
        let merges = merges(&model.pieces);
        let want = [("a", "b"), ("ab", "c"), ("a", "bc"), ("b", "c")];
        assert_eq!(merges, want.map(|(l, r)| (l.to_owned(), r.to_owned())));
        let t = parse(&tiny(2), &AddedTokens::default()).unwrap();
        let ids = |text: &str| t.encode(text, false).unwrap().get_ids().to_vec();
        assert_eq!(ids("abcbc<s>xa"), [3, 4, 1, 0, 5]);
    }

    #[test]
    fn damaged_models_are_named_with_the_byte() {
        let good = tiny(2);
        let e = parse(&good[..35], &AddedTokens::default()).unwrap_err();
        assert!(e.to_string().contains("byte"), "{e}");
        let mut text = good.clone();
        text[4] = 0xFF;
        assert!(parse(&text, &AddedTokens::default()).unwrap_err().to_string().contains("UTF-8"));
        let e = parse(&tiny(1), &AddedTokens::default()).unwrap_err();
        assert!(e.to_string().contains("model_type 1"), "{e}");
        let mut mapped = good.clone();
        mapped.extend(field(3, &field(2, b"map")));
        let e = parse(&mapped, &AddedTokens::default()).unwrap_err();
        assert!(e.to_string().contains("precompiled_charsmap"), "{e}");
        for end in 0..good.len() {
            // No prefix of a file may panic.
            let _ = parse(&good[..end], &AddedTokens::default());
        }
    }
}
