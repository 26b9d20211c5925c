//! Text in and out: tokenizers as they are published, chat templates and the training of a small
//! byte-level BPE. Nothing here knows an image's pixels or a model's weights.

mod added_tokens; // tokens that side files name beside the vocabulary
pub mod bpe; // trains a small tokenizer for models made from scratch
pub mod builtin; // chat templates of each family, by name
pub mod byte_level; // word splits and the byte alphabet of byte-level BPE
mod contents; // bytes, text and JSON of files
mod files; // which files a tokenizer is made of
mod protobuf; // the wire format of protobuf messages
pub mod sentence; // whole sentences, as sentence encoders read them
mod sentencepiece; // tokenizer.model of InternLM2
pub mod special_tokens; // control tokens of each family, by name
pub mod template; // chat_template.jinja through minijinja
mod template_json; // tojson of templates
mod tiktoken; // tokenizer.model of GLM-4
pub mod tokenizer; // ids, text, streams of text
mod unicode; // composed characters
mod vocab_merges; // vocab.json with merges.txt

pub use added_tokens::added_ids;
pub use bpe::{TrainedTokenizer, train_bpe, train_bpe_for};
pub use sentence::SentenceTokenizer;
pub use special_tokens::SpecialTokens;
pub use template::ChatTemplate;
pub use tokenizer::{DecodeStream, Tokenizer};
pub use unicode::nfc;
