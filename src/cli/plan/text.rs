//! A plan as text: a table of regions and phases, a timeline of a step with a bar per phase, and what
//! would still fit. Plain ASCII, no line wider than 100 columns. Computes nothing but shares.

use super::{purpose, repeated};
use crate::cli::output::counted;
use crate::device::known::RESERVED;
use crate::model::params::Training;
use crate::rollout::pages::PAGE_ROWS;
use crate::settings::PlanDevice;
use crate::train::plan::largest::Fitting;
use crate::train::plan::{AGAIN, FEATURES, Phase, Region, StepPlan};
use crate::train::workspace::training_of;

/// Columns of a bar from nothing to the budget.
const BAR: usize = 56;

/// The whole plan.
pub fn of(p: &StepPlan) -> String {
    let mut out = heading(p);
    out += &table(p);
    out += &timeline(p);
    out += &largest(p);
    out + &verdict(p)
}

fn gib(bytes: usize) -> String {
    format!("{:.2}", bytes as f64 / (1u64 << 30) as f64)
}

/// A number with commas between thousands.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

fn heading(p: &StepPlan) -> String {
    let trained = match training_of(&p.settings.model, &p.config) {
        Ok(Training::Lora(l)) => format!("a LoRA adapter of rank {}", l.r),
        _ => "its own weights".into(),
    };
    let (title, memory) = &p.machine;
    let device = match p.device {
        PlanDevice::Known(_) => format!(
            "{title}: {} GiB, less {} GiB for the driver and the program",
            gib(*memory),
            gib(RESERVED)
        ),
        PlanDevice::Present(_) => title.clone(),
    };
    let mut lines = vec![
        (
            "model",
            format!(
                "{}, {} parameters, {}",
                p.config.family.model_type(),
                grouped(p.parameters[0]),
                p.dtype.torch_name()
            ),
        ),
        ("trains", format!("{trained}: {} parameters", grouped(p.parameters[1]))),
        ("device", device),
        ("budget", format!("{} bytes, {} GiB", grouped(p.budget), gib(p.budget))),
    ];
    lines.extend(assumed(p).into_iter().enumerate().map(|(i, text)| match i {
        0 => ("assumed", text),
        _ => ("", text),
    }));
    lines.iter().map(|(k, v)| format!("{k:<10}{v}\n")).collect()
}

/// What is assumed of the data, line by line.
fn assumed(p: &StepPlan) -> Vec<String> {
    let (a, g) = (&p.assumed, &p.settings.grpo);
    let text = a.tokens - a.images * a.image_tokens;
    let mut lines = vec![format!(
        "{} of {} tokens, {} each, all {} tokens long",
        counted(g.prompts_per_generation, "prompt"),
        grouped(a.tokens),
        counted(g.num_generations, "completion"),
        grouped(p.settings.sampling.max_completion_length)
    )];
    if a.images == 0 {
        lines.push("no images".into());
        return lines;
    }
    lines.push(format!(
        "a prompt has {} of {}x{}, {} patches and {} tokens each, and {} tokens beside",
        counted(a.images, "image"),
        a.size.0,
        a.size.1,
        grouped(a.grid.iter().product()),
        grouped(a.image_tokens),
        grouped(text)
    ));
    if a.default_limits {
        lines.push(
            "pixel limits of the published models, for want of preprocessor_config.json".into(),
        );
    }
    lines
}

fn table(p: &StepPlan) -> String {
    let row = |name: &str, bytes: usize| {
        let share = 100.0 * bytes as f64 / p.budget as f64;
        format!("{name:<58}{:>17}{:>10}{share:>8.1} %\n", grouped(bytes), gib(bytes))
    };
    let mut out = format!("\n{:<58}{:>17}{:>10}{:>10}\n", "memory", "bytes", "GiB", "budget");
    out += "stays for the whole run\n";
    for r in &p.regions {
        out += &row(&format!("  {}", r.name), r.bytes);
    }
    out += &row("  together", p.base());
    let (l, m) = (&p.layout, &p.micro_batch);
    out += "rollout\n";
    if l.panel_bytes > 0 {
        out += &row("  packed weights", l.panel_bytes);
    }
    let rows = l.limits.pages * PAGE_ROWS;
    let pages = format!("  KV cache: {} pages, {} rows", grouped(l.limits.pages), grouped(rows));
    out += &row(&pages, l.cache_bytes());
    match &p.rehearsal {
        None => out += &row("  largest pass, which does not fit", l.pass_bytes),
        Some(r) => {
            for (name, bytes) in [
                ("  encoding images", r.encode),
                ("  largest pass over prompts", r.prefill),
                ("  largest pass of next tokens", r.decode),
            ] {
                if bytes > 0 {
                    out += &row(name, bytes);
                }
            }
        }
    }
    let size = format!(
        "training: {}, {} tokens, {} of them in the loss\n",
        counted(m.groups, "group"),
        grouped(m.rows),
        grouped(m.tokens)
    );
    out += &size;
    if let Some(again) = p.phases.iter().find(|f| f.name == AGAIN) {
        out += &row("  encoding images again", again.bytes());
    }
    if m.plan.reference > 0 {
        out += &row("  reference pass", m.plan.reference);
    }
    out += &row("  forward and backward", m.plan.train.peak);
    for (of, bytes) in &m.plan.train.busiest {
        out += &row(&format!("    {}", purpose(*of)), *bytes);
    }
    if m.plan.train.gaps() > 0 {
        out += &row("    gaps between tensors", m.plan.train.gaps());
    }
    let optimizer = p.phases.last().map_or(0, Phase::bytes);
    out += "optimizer\n";
    out + &row("  norm and clipping", optimizer)
}

/// The letter of a region in a bar.
fn letter(name: &str) -> char {
    match name {
        "weights" => 'W',
        "adapter" => 'A',
        "frozen reference" => 'R',
        "packed weights" => 'P',
        "KV cache" => 'K',
        FEATURES => 'F',
        "gradients" | "optimizer moments" | "float32 masters" => 'O',
        _ => '#',
    }
}

/// Letters up to each region's end, rounded; the limit stands after [`BAR`] columns.
fn bar(regions: &[&Region], budget: usize) -> String {
    let column = |bytes: usize| (bytes as f64 / budget as f64 * BAR as f64).round() as usize;
    let (mut out, mut end) = (String::new(), 0);
    for r in regions {
        end += r.bytes;
        // What is far too much ends in a plus at the margin.
        let to = column(end).min(BAR + 8);
        while out.len() < to {
            out.push(letter(r.name));
        }
    }
    if out.len() <= BAR {
        return format!("{out:<BAR$}|");
    }
    out.insert(BAR, '|');
    if column(end) > BAR + 8 { out + "+" } else { out }
}

fn timeline(p: &StepPlan) -> String {
    let scale = p.budget as f64 / BAR as f64 / (1u64 << 30) as f64;
    let mut out = format!(
        "\ntimeline of a step; a column is {scale:.2} GiB, | is the budget\n  W weights, A adapter, \
         O gradients and optimizer, R reference, F image features,\n  P packed weights, K KV cache, \
         # activations\n"
    );
    let highest = p.highest();
    for f in &p.phases {
        let regions: Vec<&Region> = p.regions.iter().chain(&f.parts).collect();
        let mark = if std::ptr::eq(f, highest) { " <- highest" } else { "" };
        let size = gib(p.base() + f.bytes());
        out += &format!("{:<14} {} {size:>7}{mark}\n", f.name, bar(&regions, p.budget));
    }
    out
}

fn largest(p: &StepPlan) -> String {
    let of = |f: &Option<Fitting>| match f {
        None => "not even one group".to_string(),
        Some(f) => {
            let size = format!("{}, {} tokens", counted(f.groups, "group"), grouped(f.rows));
            if f.more { format!("at least {size}; no more were tried") } else { size }
        }
    };
    let again = match p.micro_batch.plan.train.recomputed {
        0.0 => "nothing is recomputed".to_string(),
        flops => format!(
            "{:.1} TFLOP are done twice, {:.0} % more work",
            flops / 1e12,
            100.0 * repeated(&p.micro_batch.plan)
        ),
    };
    let l = &p.layout;
    let sequences = p.rehearsal.map_or(0, |r| r.counts.peak_sequences);
    let wait = match p.rehearsal.map(|r| r.counts.preemptions) {
        Some(n) if n > 0 => {
            format!(", {} and computed again", counted(n as usize, "time preempted"))
        }
        _ => String::new(),
    };
    let lines = [
        ("micro-batch as set", again),
        ("  largest, nothing recomputed", of(&p.largest.kept)),
        ("  largest, all recomputed", of(&p.largest.recomputed)),
        (
            "KV cache as set",
            format!(
                "{} of {} useful pages, {} at a time{wait}",
                grouped(l.limits.pages),
                grouped(l.useful),
                counted(sequences, "completion")
            ),
        ),
        (
            "  largest",
            format!(
                "{} pages: {} completions of full length at a time",
                grouped(l.fit),
                grouped(p.largest.cache_sequences)
            ),
        ),
    ];
    let lines: String = lines.iter().map(|(k, v)| format!("{k:<32}{v}\n")).collect();
    format!("\nlargest that fits\n{lines}")
}

fn verdict(p: &StepPlan) -> String {
    let (peak, least) = (gib(p.peak()), gib(p.least()));
    if p.fits() {
        let left = p.budget.saturating_sub(p.peak());
        return format!(
            "\nfits: {peak} GiB at the highest, in {}; {} GiB are left, {least} GiB would do\n",
            p.highest().name,
            gib(left)
        );
    }
    let missing = p.least().saturating_sub(p.budget);
    format!("\ndoes not fit: {least} GiB at the least, {} GiB too much\n", gib(missing))
}
