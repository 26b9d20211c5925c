//! Options of what evaluation makes of answers. Opens no file.

use super::*;

pub(super) fn measures(o: &Options) -> Result<MeasureSettings> {
    let confidence = float(o, "confidence_level");
    if !(0.5..=0.999).contains(&confidence) {
        return Err(o
            .wrong("confidence_level", "wrong value for `confidence_level`")
            .expected("a number from 0.5 to 0.999"));
    }
    let dir = o.path("out_dir");
    if dir.is_none() {
        let why = "nothing is written into a folder";
        useless(o, &["resume", "report_rows"], why, "add --out_dir")?;
    }
    Ok(MeasureSettings {
        baseline: o.path("baseline"),
        compare: o.paths("compare"),
        pass_at_k: pass_at_k(o)?,
        group_by: o.texts("group_by"),
        confidence,
        draws: count(o, "bootstrap_samples"),
        dir,
        report_rows: count(o, "report_rows"),
        resume: o.flag("resume"),
    })
}

/// The k of pass@k, ascending, once each.
fn pass_at_k(o: &Options) -> Result<Vec<usize>> {
    let mut all: Vec<usize> = match o.get("pass_at_k") {
        Value::List(items) => items
            .iter()
            .filter_map(|v| if let Value::Int(k) = v { usize::try_from(*k).ok() } else { None })
            .collect(),
        _ => Vec::new(),
    };
    all.sort_unstable();
    all.dedup();
    let samples = count(o, "num_samples");
    match all.last() {
        Some(k) if *k > samples => Err(o
            .wrong("pass_at_k", "pass@k needs at least k samples of every row")
            .expected(format!("numbers up to num_samples, {samples}"))
            .hint(format!("add --num_samples {k} --do_sample"))),
        _ => Ok(all),
    }
}
