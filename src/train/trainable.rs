//! What a run trains, as a table: parameters of each part, those that move, and the modules that carry
//! adapters (`--print_trainable`). Reads shapes only.

use crate::model::families::Part;
use crate::model::params::{Param, ParamStore};
use std::collections::BTreeMap;
use std::fmt::Write;

const PARTS: [(Part, &str); 4] = [
    (Part::Vision, "vision"),
    (Part::Connector, "connector"),
    (Part::Language, "language"),
    (Part::Head, "head"),
];

/// The table, with a line end after every row.
pub fn trainable_table(params: &ParamStore) -> String {
    let count = |keep: &dyn Fn(&Param) -> bool| -> usize {
        params.all().iter().filter(|p| keep(p)).map(|p| p.len()).sum()
    };
    let mut out = format!("{:<11}{:>16}{:>16}{:>9}\n", "part", "parameters", "trained", "share");
    let mut row = |name: &str, all: usize, trained: usize| {
        let share = 100.0 * trained as f64 / all.max(1) as f64;
        let _ =
            writeln!(out, "{name:<11}{:>16}{:>16}{share:>8.2}%", grouped(all), grouped(trained));
    };
    for (part, name) in PARTS {
        let all = count(&|p| p.part == part);
        if all > 0 {
            row(name, all, count(&|p| p.part == part && p.trained()));
        }
    }
    row("all", count(&|_| true), count(&|p| p.trained()));
    for (module, (matrices, elements)) in adapted(params) {
        let _ =
            writeln!(out, "adapter on {module}: {matrices} x, {} parameters", grouped(elements));
    }
    out
}

/// Modules with adapters by name, layers taken together: how many, and elements of their factors.
fn adapted(params: &ParamStore) -> BTreeMap<String, (usize, usize)> {
    let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for p in params.all() {
        let Some((module, factor)) = p.name.split_once(".lora_") else { continue };
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let part = |part| if number(part) { "*" } else { part };
        let kind = module.split('.').map(part).collect::<Vec<_>>().join(".");
        let entry = kinds.entry(kind).or_default();
        entry.0 += usize::from(factor.starts_with('A'));
        entry.1 += p.len();
    }
    kinds
}

/// A number with a comma between thousands.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;
    use crate::mem::Arena;
    use crate::model::families::ParamSpec;
    use crate::model::lora::{LoraConfig, Targets};
    use crate::model::params::Training;

    #[test]
    fn parts_and_adapters_are_counted() {
        let spec = |name: &str, part, linear| ParamSpec {
            name: name.into(),
            shape: vec![40, 50],
            part,
            linear,
        };
        let specs = [
            spec("a.visual.fc.weight", Part::Vision, true),
            spec("a.layers.0.q.weight", Part::Language, true),
            spec("a.layers.1.q.weight", Part::Language, true),
        ];
        let lora = LoraConfig {
            r: 2,
            lora_alpha: 4.0,
            lora_dropout: 0.0,
            target_modules: Targets::Names(vec!["q".into()]),
            exclude_modules: None,
        };
        let mut arena = Arena::reserve(1 << 20).unwrap();
        let params =
            ParamStore::place(&specs, &Training::Lora(lora), DType::F32, &mut arena).unwrap();
        let table = trainable_table(&params);
        assert!(table.contains("adapter on a.layers.*.q: 2 x, 360 parameters"), "{table}");
        let line = |name: &str| table.lines().find(|l| l.starts_with(name)).unwrap().to_string();
        assert!(line("vision").contains("2,000") && line("vision").ends_with("0.00%"), "{table}");
        assert!(line("language").contains("4,360"), "{table}");
        assert!(line("all").ends_with("5.66%") && !table.contains("head"), "{table}");
    }
}
