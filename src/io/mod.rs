//! Floor 1: reading and writing files in the formats that the field uses. Nothing here knows a
//! device, a model or a loss.

pub mod atomic; // whole-file writes that are there or not
pub mod checkpoints; // folders of a run that hold one
pub mod completions; // parquet of completions, TRL's columns
pub mod data_url; // images inside text
pub mod dataset; // rows of questions, images and answers
pub mod html; // what pages are made of
pub mod hub; // repositories of the Hugging Face hub, as they lie on this machine
pub mod image; // decoding and Pillow-exact resizing
pub mod remote; // files on the network, within limits
pub mod safetensors; // sharded weights
pub mod text; // tokenizer, chat template, BPE training
pub mod tfevents; // TensorBoard events
pub mod video; // frames of video files, animations and folders
