//! The settings nearest to the user's that fit the memory: less of what changes no result first,
//! then less of what does, and the budget that would be enough. Whatever is named was planned.

use super::Need;
use crate::base::Result;
use crate::options::{Command, Options};
use crate::settings::TrainSettings;

/// Plans the heaviest step under some options.
pub type NeedOf<'a> = dyn Fn(&Options) -> Result<Need> + 'a;

/// New values of options.
type Changes = Vec<(&'static str, String)>;

/// Something that can be lowered: its values, nearest first.
struct Axis {
    values: Vec<Changes>,
}

/// A sentence with settings that fit.
pub fn hint(options: &Options, need: &NeedOf) -> Result<String> {
    let budget = format!("--memory_budget {}", enough(options, need)?);
    Ok(match nearest(options, need) {
        Some(flags) => format!("`{flags}` would fit, and so would `{budget}`"),
        None => format!("`{budget}` would fit; so may a smaller --max_pixels or a smaller model"),
    })
}

/// The flags nearest to the options with which they fit.
pub fn nearest(options: &Options, need: &NeedOf) -> Option<String> {
    let changes = nearest_changes(options, need)?;
    let flags: Vec<String> = changes.iter().map(|(n, v)| format!("--{n} {v}")).collect();
    Some(flags.join(" "))
}

/// The first combination of axes that fits, each moved as little as possible.
fn nearest_changes(options: &Options, need: &NeedOf) -> Option<Changes> {
    let fits = |changes: &Changes| {
        let changed = options.with(changes).ok()?;
        need(&changed).ok().filter(|n| n.fits()).map(|_| ())
    };
    let axes = axes(options);
    // What changes no result, alone and together; then what does, each with those before.
    const SETS: [&[usize]; 9] = [
        &[0],
        &[1],
        &[0, 1],
        &[0, 1, 2],
        &[0, 1, 3],
        &[0, 1, 2, 3],
        &[4],
        &[0, 1, 4],
        &[0, 1, 2, 3, 4],
    ];
    for set in SETS {
        let used: Vec<&Axis> = set.iter().map(|&a| &axes[a]).collect();
        if used.iter().all(|a| a.values.is_empty()) {
            continue;
        }
        // Place of each axis in its values, counted from 1; 0 leaves it as it is.
        let mut at: Vec<usize> = used.iter().map(|a| a.values.len()).collect();
        let changes = |at: &[usize]| -> Changes {
            let moved = used.iter().zip(at).filter(|(_, at)| **at > 0);
            moved.flat_map(|(a, at)| a.values[at - 1].clone()).collect()
        };
        if fits(&changes(&at)).is_none() {
            continue;
        }
        // What costs most to give up is moved back first.
        for i in (0..at.len()).rev() {
            for place in 0..at[i] {
                let mut tried = at.clone();
                tried[i] = place;
                if fits(&changes(&tried)).is_some() {
                    at = tried;
                    break;
                }
            }
        }
        return Some(changes(&at));
    }
    None
}

/// Micro-batch, recomputation, group size, completion length, adapter instead of weights.
fn axes(o: &Options) -> [Axis; 5] {
    let halves = |name: &'static str, least: usize| {
        let now = o.count(name).unwrap_or(0);
        let values = std::iter::successors(Some(now / 2), |v| Some(v / 2));
        let values = values.take_while(|v| *v >= least).map(|v| vec![(name, v.to_string())]);
        Axis { values: values.collect() }
    };
    let grpo = o.command() == Command::Train;
    let none = || Axis { values: Vec::new() };
    let recompute = match o.choice_of_bool("gradient_checkpointing") {
        Some(false) => vec![vec![("gradient_checkpointing", "true".to_string())]],
        _ => Vec::new(),
    };
    // Groups must fit into the batch.
    let allowed = |c: &Changes| o.with(c).is_ok_and(|o| TrainSettings::from_options(&o).is_ok());
    let generations = match o.count("num_generations").filter(|_| grpo) {
        Some(now) => {
            let fewer = (2..now).rev().map(|g| vec![("num_generations", g.to_string())]);
            fewer.filter(allowed).collect()
        }
        None => Vec::new(),
    };
    [
        halves("micro_batch_tokens", 64),
        Axis { values: recompute },
        Axis { values: generations },
        if grpo { halves("max_completion_length", 1) } else { none() },
        Axis { values: adapter(o).into_iter().collect() },
    ]
}

/// What turns a run that trains weights into one that trains an adapter.
fn adapter(o: &Options) -> Option<Changes> {
    if o.flag("use_peft") || o.path("adapter").is_some() {
        return None;
    }
    let mut changes: Changes = vec![("use_peft", "true".into())];
    for (name, default) in
        [("tune_mm_llm", "true"), ("tune_mm_vision", "false"), ("tune_mm_mlp", "false")]
    {
        if o.changed(name) {
            changes.push((name, default.into()));
        }
    }
    if o.choice_of_bool("freeze_vision_modules") == Some(false) {
        changes.push(("freeze_vision_modules", "true".into()));
    }
    Some(changes)
}

/// The budget that would be enough, as it would be typed. More memory lets more be done together,
/// which needs more, so what was found is asked again.
fn enough(options: &Options, need: &NeedOf) -> Result<String> {
    let mut bytes = need(options)?.total();
    loop {
        let (text, rounded) = typed(bytes);
        let found = need(&options.with(&[("memory_budget", text.clone())])?)?;
        if found.fits() {
            return Ok(text);
        }
        bytes = found.total().max(rounded + rounded / 64);
    }
}

/// Bytes rounded up to a number that is easily typed, and what that number means.
fn typed(bytes: usize) -> (String, usize) {
    const MIB: usize = 1 << 20;
    const GIB: usize = 1 << 30;
    if bytes <= GIB {
        let mib = bytes.div_ceil(MIB);
        return (format!("{mib}MiB"), mib * MIB);
    }
    // Quarters are exact in binary: the text means what was planned.
    let quarters = bytes.div_ceil(GIB / 4);
    (format!("{}GiB", quarters as f64 / 4.0), quarters * (GIB / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_budgets_are_not_below_what_is_needed() {
        for (bytes, text) in [
            (1, "1MiB"),
            (3 << 20, "3MiB"),
            ((3 << 20) + 1, "4MiB"),
            (1 << 30, "1024MiB"),
            ((1 << 30) + 1, "1.25GiB"),
            (24 << 30, "24GiB"),
        ] {
            let (typed, rounded) = typed(bytes);
            assert_eq!(typed, text);
            assert!(rounded >= bytes);
        }
    }
}
