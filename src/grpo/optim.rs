//! The optimizer step as a tape: norm of all gradients, clip coefficient, AdamW on every trained
//! parameter (Loshchilov and Hutter, arXiv 1711.05101; torch's form), and zeroing.

use crate::base::{DType, Result};
use crate::mem::Arena;
use crate::model::params::{Param, ParamStore};
use crate::model::spec::Part;
use crate::ops::adamw::AdamW;
use crate::ops::blend::Blend;
use crate::ops::grad_norm::GradNorm;
use crate::ops::zero::Zero;
use crate::ops::{Emit, Slot};
use crate::tape::Tape;
use std::sync::Arc;

/// Settings that do not change over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Decoupled decay of matrices; vectors (biases, norms) are not decayed.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; 0 does not clip.
    pub max_grad_norm: f64,
}

/// Learning rates of one step, by part of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Of the language model and its head.
    pub language: f64,
    /// Of the vision tower.
    pub vision: f64,
    /// Of what lies between the two.
    pub connector: f64,
}

impl Rates {
    /// One rate for all parts.
    pub fn all(rate: f64) -> Self {
        Rates { language: rate, vision: rate, connector: rate }
    }

    /// The rate of a part.
    pub fn of(&self, part: Part) -> f64 {
        match part {
            Part::Vision => self.vision,
            Part::Connector => self.connector,
            Part::Language | Part::Head => self.language,
        }
    }
}

fn slot(tape: &mut Tape, p: &Param, region: crate::mem::Region) -> Slot {
    tape.fixed(region, &[1, p.len()])
}

/// Sets all gradients to zero.
///
/// # Errors
/// None that a correct program can meet.
pub fn zero_gradients(params: &ParamStore, arena: &Arena) -> Result<()> {
    let mut tape = Tape::on(DType::F32, arena.target());
    for p in params.trained() {
        if let Some(g) = p.place.grad {
            let g = slot(&mut tape, p, g);
            tape.emit_into(Arc::new(Zero), &[], &[g])?;
        }
    }
    let plan = tape.plan();
    tape.run(&plan, arena, arena.shared_base())?;
    Ok(())
}

/// One AdamW step, number `step` counted from 1. Returns the norm of the gradients before clipping.
///
/// # Errors
/// None that a correct program can meet.
pub fn optimizer_step(
    params: &ParamStore,
    arena: &Arena,
    s: &OptimizerSettings,
    rates: Rates,
    step: usize,
) -> Result<f64> {
    let (tape, clip) = optimizer_tape(params, s, rates, step)?;
    let plan = tape.plan();
    let run = tape.run(&plan, arena, arena.shared_base())?;
    Ok(f64::from(run.f32(clip)?[0]))
}

/// Moves a reference, a frozen copy of `params`, towards them: `ref ← (1 − share)·ref + share·θ` (TR-DPO,
/// arXiv 2404.09656, eq. 5; TRL 1.16 `sync_ref_model`). Parts that are not trained are shared and stay.
///
/// # Errors
/// None that a correct program can meet.
pub fn sync_reference(
    reference: &ParamStore,
    params: &ParamStore,
    arena: &Arena,
    share: f64,
) -> Result<()> {
    let mut tape = Tape::on(params.float_type(), arena.target());
    for p in params.trained() {
        let to = slot(&mut tape, p, reference.need(&p.name)?.place.value);
        let from = slot(&mut tape, p, p.place.value);
        tape.emit_into(Arc::new(Blend { share }), &[from], &[to])?;
    }
    let plan = tape.plan();
    tape.run(&plan, arena, arena.shared_base())?;
    Ok(())
}

/// Bytes above the shared base that [`optimizer_step`] takes.
///
/// # Errors
/// None that a correct program can meet.
pub fn optimizer_bytes(params: &ParamStore, s: &OptimizerSettings) -> Result<usize> {
    Ok(optimizer_tape(params, s, Rates::all(0.0), 1)?.0.plan().peak)
}

/// The tape of a step, and the slot with the norm.
fn optimizer_tape(
    params: &ParamStore,
    s: &OptimizerSettings,
    rates: Rates,
    step: usize,
) -> Result<(Tape, Slot)> {
    let mut tape = Tape::on(DType::F32, params.target());
    let grads: Vec<Slot> = params
        .trained()
        .filter_map(|p| p.place.grad.map(|g| (p, g)))
        .map(|(p, g)| slot(&mut tape, p, g))
        .collect();
    let clip = tape.op(GradNorm { max_norm: s.max_grad_norm }, &grads)?;
    tape.keep(clip);
    for (p, g) in params.trained().zip(&grads) {
        let Some([m, v]) = p.moments else { continue };
        let value = slot(&mut tape, p, p.master.unwrap_or(p.place.value));
        let (m, v) = (slot(&mut tape, p, m), slot(&mut tape, p, v));
        let op = AdamW {
            lr: rates.of(p.part),
            beta1: s.beta1,
            beta2: s.beta2,
            eps: s.epsilon,
            weight_decay: if p.shape.len() > 1 { s.weight_decay } else { 0.0 },
            step: step as u32,
        };
        let mut updated = vec![value, m, v];
        updated.extend(p.master.map(|_| slot(&mut tape, p, p.place.value)));
        tape.emit_into(Arc::new(op), &[*g, clip], &updated)?;
    }
    Ok((tape, clip))
}
