//! Options: the chat endpoint. Data, no logic.

use super::{COUNT, NATURAL, Opt, SERVING, of};
use crate::options::Command::Serve;
use crate::options::Kind::{Bool, Bytes, Word};

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "served_model_name", kind: Word,
        help: "Name of the model for clients (default: that of the run or of the model's folder).", ..of(SERVING, &[Serve]) },
    Opt { name: "max_model_len", kind: COUNT,
        help: "Most tokens of a prompt and its completion (default: what the model has, up to 32768).", ..of(SERVING, &[Serve]) },
    Opt { name: "max_queue", kind: COUNT, default: "256",
        help: "Requests that wait or are answered at a time; more are told to come back.", ..of(SERVING, &[Serve]) },
    Opt { name: "max_connections", kind: COUNT, default: "512",
        help: "Connections at a time; more wait.", ..of(SERVING, &[Serve]) },
    Opt { name: "max_body", kind: Bytes, default: "32MiB",
        help: "Longest body of a request, images in base64 included.", ..of(SERVING, &[Serve]) },
    Opt { name: "drain_seconds", kind: NATURAL, default: "30",
        help: "Time that answers under way have when the server is stopped.", ..of(SERVING, &[Serve]) },
    Opt { name: "allow_image_urls", kind: Bool, default: "false",
        help: "Fetch images by http(s) addresses that clients send; not from this machine or private networks.", ..of(SERVING, &[Serve]) },
    Opt { name: "allow_private_urls", kind: Bool, default: "false",
        help: "With allow_image_urls: fetch from this machine and private networks too.", ..of(SERVING, &[Serve]) },
];
