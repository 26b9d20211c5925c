//! Text in and out: tokenizers of the Hugging Face format, chat templates and the training of a
//! small byte-level BPE. Nothing here knows an image's pixels or a model's weights.

pub mod bpe; // trains a small tokenizer for models made from scratch
pub mod template; // chat_template.jinja through minijinja
mod template_json; // tojson of templates
pub mod tokenizer; // tokenizer.json, streams of text

pub use bpe::{TrainedTokenizer, train_bpe};
pub use template::ChatTemplate;
pub use tokenizer::{DecodeStream, Tokenizer};
