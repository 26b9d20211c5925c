//! `results.json`: every figure of an evaluation with its settings and versions, for programs. Numbers that
//! are none are null.

use super::paired::Comparison;
use super::statistics::{Interval, Summary};
use super::tables::{ModelTable, Versus};
use serde_json::{Map, Value, json};

/// Figures that a model's rewards logged, by the model's name.
pub type Logged = Vec<(String, Vec<(String, f64)>)>;

/// All there is to say about an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// Options and their values.
    pub settings: Vec<(String, String)>,
    /// Confidence of the intervals.
    pub level: f64,
    /// Name of the model of the options.
    pub main: String,
    /// Rows that could not be read.
    pub skipped: usize,
    /// Models in the order in which they were measured.
    pub models: Vec<ModelTable>,
    /// Comparisons with the first of them.
    pub versus: Vec<Versus>,
    /// What else rewards had to say, by model.
    pub figures: Logged,
}

impl Results {
    /// As `results.json` has it.
    pub fn to_json(&self) -> Value {
        let settings: Map<String, Value> =
            self.settings.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|(model, list)| {
                let list: Map<String, Value> =
                    list.iter().map(|(name, v)| (name.clone(), json!(v))).collect();
                (model.clone(), Value::Object(list))
            })
            .collect();
        json!({
            "program": "grpo-rt",
            "version": env!("CARGO_PKG_VERSION"),
            "confidence_level": self.level,
            "main": self.main,
            "skipped_rows": self.skipped,
            "models": self.models.iter().map(model).collect::<Vec<_>>(),
            "comparisons": self.versus.iter().map(versus).collect::<Vec<_>>(),
            "figures": figures,
            "settings": settings,
        })
    }
}

fn summary(s: &Summary) -> Map<String, Value> {
    let mut map = ends(&s.interval);
    map.insert("mean".into(), json!(s.mean));
    map.insert("sd".into(), json!(s.sd));
    map.insert("judged".into(), json!(s.judged));
    map.insert("rows".into(), json!(s.rows));
    map
}

fn ends(interval: &Option<Interval>) -> Map<String, Value> {
    let value = json!({
        "low": interval.map(|i| i.low),
        "high": interval.map(|i| i.high),
        "interval": interval.map(|i| i.method),
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn named(name: &str, s: &Summary) -> Map<String, Value> {
    let mut map = Map::from_iter([("name".to_string(), json!(name))]);
    map.extend(summary(s));
    map
}

fn model(m: &ModelTable) -> Value {
    let names: Vec<&str> = m.rewards.iter().map(|r| r.name.as_str()).collect();
    let rewards: Vec<Value> = m
        .rewards
        .iter()
        .map(|r| {
            let mut map = named(&r.name, &r.summary);
            for (k, pass, vote) in &r.at_k {
                map.insert(format!("pass@{k}"), Value::Object(summary(pass)));
                map.insert(format!("majority@{k}"), Value::Object(summary(vote)));
            }
            Value::Object(map)
        })
        .collect();
    let group = |g: &super::tables::Group| {
        let rewards: Vec<Value> =
            names.iter().zip(&g.rewards).map(|(n, s)| Value::Object(named(n, s))).collect();
        json!({ "value": g.value, "rows": g.rows, "rewards": rewards })
    };
    let groups: Map<String, Value> = m
        .groups
        .iter()
        .map(|(column, list)| (column.clone(), list.iter().map(group).collect()))
        .collect();
    json!({
        "name": m.name,
        "rows": m.rows,
        "samples": m.samples,
        "rewards": rewards,
        "length": { "mean": m.length[0], "median": m.length[1], "percentile_95": m.length[2] },
        "truncated": summary(&m.truncated),
        "groups": groups,
    })
}

fn versus(v: &Versus) -> Value {
    let one = |(name, c): &(String, Comparison)| {
        let mut map = ends(&c.interval);
        let own = json!({
            "name": name, "pairs": c.pairs, "before": c.before, "after": c.after,
            "difference": c.after - c.before, "p": c.p, "test": c.test,
            "wins": c.wins, "losses": c.losses, "ties": c.ties,
        });
        if let Value::Object(own) = own {
            map.extend(own);
        }
        Value::Object(map)
    };
    let changed: Vec<Value> = v
        .changed
        .iter()
        .map(|(row, a, b)| json!({ "row": row, "before": a, "after": b }))
        .collect();
    json!({
        "before": v.models[0],
        "after": v.models[1],
        "rewards": v.rewards.iter().map(one).collect::<Vec<_>>(),
        "changed_rows": changed,
        "unpaired_rows": v.unpaired,
    })
}
