//! `grpo-rt plan`: what memory a training run takes, by region and phase, and what of it fits a
//! device that need not be there. Prints the plan first and refuses afterwards, so that a run that
//! does not fit is shown too. Runs nothing and writes no file.

mod text; // tables and the timeline

use serde_json::{Value, json};

use super::Outcome;
use super::output::print;
use crate::base::Result;
use crate::grpo::update::MicroPlan;
use crate::options::Options;
use crate::settings::{PlanDevice, PlanSettings};
use crate::tape::Purpose;
use crate::train::plan::largest::Fitting;
use crate::train::plan::{Region, StepPlan};

/// Plans a run.
///
/// # Errors
/// Wrong options, a configuration that cannot be read, and a run that does not fit.
pub fn plan(options: &Options) -> Result<Outcome> {
    let settings = PlanSettings::from_options(options)?;
    let plan = StepPlan::of(&settings)?;
    let verdict = plan.check();
    if settings.json {
        let hint = verdict.as_ref().err().and_then(|e| e.hint_text().map(str::to_string));
        print(&format!("{:#}\n", to_json(&plan, hint)));
    } else {
        print(&text::of(&plan));
    }
    verdict.map(|()| Outcome::Done)
}

/// What a tensor is for, as it is called in the output.
fn purpose(p: Purpose) -> &'static str {
    match p {
        Purpose::Kept => "kept for the backward pass",
        Purpose::Head => "language-model head",
        Purpose::Input => "inputs and tables",
        Purpose::Working => "in use",
    }
}

/// The device as it is given to `--device`.
fn device_name(device: PlanDevice) -> String {
    match device {
        PlanDevice::Present(spec) => spec.to_string(),
        PlanDevice::Known(d) => d.name.to_string(),
    }
}

/// Share of the work of a micro-batch that is done twice.
fn repeated(plan: &MicroPlan) -> f64 {
    let once = plan.train.flops - plan.train.recomputed;
    if once > 0.0 { plan.train.recomputed / once } else { 0.0 }
}

fn to_json(p: &StepPlan, hint: Option<String>) -> Value {
    let region = |r: &Region| json!({"name": r.name, "bytes": r.bytes});
    let regions = |list: &[Region]| list.iter().map(region).collect::<Vec<_>>();
    let phases = p.phases.iter().map(|phase| {
        let end = p.base() + phase.bytes();
        json!({"name": phase.name, "bytes": phase.bytes(), "end": end,
               "parts": regions(&phase.parts)})
    });
    let fitting = |f: &Fitting| json!({"groups": f.groups, "tokens": f.rows, "more": f.more});
    let (m, l, g) = (&p.micro_batch, &p.layout, &p.settings.grpo);
    let busiest = m.plan.train.busiest.iter();
    let busiest: Vec<Value> =
        busiest.map(|(of, bytes)| json!({"name": purpose(*of), "bytes": bytes})).collect();
    json!({
        "model": {
            "family": p.config.family.model_type(),
            "parameters": p.parameters[0],
            "trained": p.parameters[1],
            "dtype": p.dtype.torch_name(),
        },
        "device": {
            "name": device_name(p.device),
            "title": p.machine.0,
            "memory_bytes": p.machine.1,
            "budget_bytes": p.budget,
        },
        "assumed": {
            "prompt_tokens": p.assumed.tokens,
            "images": p.assumed.images,
            "image_size": [p.assumed.size.0, p.assumed.size.1],
            "image_grid": p.assumed.grid,
            "image_tokens": p.assumed.image_tokens,
            "completion_tokens": p.settings.sampling.max_completion_length,
            "prompts": g.prompts_per_generation,
            "completions": g.generation_batch_size,
        },
        "regions": regions(&p.regions),
        "base_bytes": p.base(),
        "phases": phases.collect::<Vec<_>>(),
        "rollout": {
            "pages": l.limits.pages,
            "rows": l.limits.pages * crate::rollout::pages::PAGE_ROWS,
            "pages_useful": l.useful,
            "pages_least": l.least,
            "pages_that_fit": l.fit,
            "page_bytes": l.page_bytes,
            "pass_reserve_bytes": l.pass_bytes,
            "passes": p.rehearsal.map(|r| r.counts.passes),
            "preemptions": p.rehearsal.map(|r| r.counts.preemptions),
            "sequences": p.rehearsal.map(|r| r.counts.peak_sequences),
        },
        "micro_batch": {
            "groups": m.groups,
            "rows": m.rows,
            "tokens_in_loss": m.tokens,
            "peak_bytes": m.plan.peak(),
            "busiest": busiest,
            "flops": m.plan.train.flops,
            "recomputed_flops": m.plan.train.recomputed,
        },
        "largest": {
            "micro_batch": p.largest.kept.as_ref().map(fitting),
            "micro_batch_recomputed": p.largest.recomputed.as_ref().map(fitting),
            "kv_rows": p.largest.cache_rows,
            "kv_sequences": p.largest.cache_sequences,
        },
        "peak_bytes": p.peak(),
        "peak_phase": p.highest().name,
        "least_bytes": p.least(),
        "fits": p.fits(),
        "hint": hint,
    })
}
