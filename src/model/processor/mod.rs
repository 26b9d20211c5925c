//! (to be written)

pub mod chat;
