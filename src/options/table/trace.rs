//! Options: one pass. Data, no logic.

use super::{Opt, TRACING, of};
use crate::options::Command::Trace;
use crate::options::Kind::Bool;

#[rustfmt::skip] // one option is one paragraph; a field per line would triple the file
pub(super) const OPTIONS: &[Opt] = &[
    Opt { name: "grad", kind: Bool, default: "false",
        help: "Run the backward pass too and write every gradient.", ..of(TRACING, &[Trace]) },
];
