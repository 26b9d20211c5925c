//! Losses, their gradients, statistics and advantages against the numbers that TRL 1.16's own code
//! computed (`tools/golden/trl_loss.py`), through the op on a tape; and those that TRL lacks against
//! their formulas, which the same script has in plain torch.

use grpo_rt::base::{DType, HostTensor};
use grpo_rt::grpo::advantage::{Estimator, ScaleRewards, advantages, decoupled_advantages};
use grpo_rt::grpo::stats::{TokenColumns, token_stats};
use grpo_rt::grpo::weigh::{Average, Counted, entropy_threshold, token_weights};
use grpo_rt::mem::Arena;
use grpo_rt::ops::ParamRef;
use grpo_rt::ops::grpo_loss::{
    Correction, CorrectionLevel, GrpoLoss, KlEstimator, KlTerm, Level, Surrogate,
};
use grpo_rt::tape::Tape;
use serde_json::Value;

/// Allowed distance of losses and gradients, which are of order 0.1 to 1.
const TOLERANCE: f64 = 1e-6;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/trl/grpo.json");
    let text = std::fs::read_to_string(path).expect("the golden file is in the tree");
    serde_json::from_str(&text).expect("the golden file is JSON")
}

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("{v} is no number"))
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().expect("a list").iter().map(number).collect()
}

/// The tokens of the golden batch, completion after completion.
struct Batch {
    /// Position of each token in the padded matrices.
    at: Vec<usize>,
    completions: Vec<Counted>,
    advantage: Vec<f32>,
    logp: Vec<f32>,
    old: Vec<f32>,
    reference: Vec<f32>,
    sampled: Vec<f32>,
    entropy: Vec<f32>,
}

/// Row 0 of the golden is a truncated completion, masked as a whole: here it has all its tokens
/// and is not counted. Of the others only the tokens exist, no padding.
fn batch(golden: &Value) -> Batch {
    let width = number(&golden["tokens"]) as usize;
    let inputs = &golden["inputs"];
    let mask = numbers(&inputs["mask"]);
    let row_advantage = numbers(&inputs["advantages"]);
    let (mut at, mut completions, mut advantage) = (Vec::new(), Vec::new(), Vec::new());
    for (r, row) in mask.chunks(width).enumerate() {
        let own = row.iter().filter(|m| **m == 1.0).count();
        let tokens = if own == 0 { width } else { own };
        at.extend((0..tokens).map(|t| r * width + t));
        advantage.extend(vec![row_advantage[r] as f32; tokens]);
        completions.push(Counted { tokens, counted: own > 0, dropped: false });
    }
    let column = |name: &str| -> Vec<f32> {
        let all = numbers(&inputs[name]);
        at.iter().map(|&i| all[i] as f32).collect()
    };
    let (logp, old, reference) = (column("logps"), column("old"), column("ref"));
    let (sampled, entropy) = (column("sampled"), column("entropies"));
    Batch { at, completions, advantage, logp, old, reference, sampled, entropy }
}

impl Batch {
    fn tokens(&self) -> Vec<usize> {
        self.completions.iter().map(|c| c.tokens).collect()
    }

    fn counted(&self) -> Vec<bool> {
        self.completions.iter().map(|c| c.counted).collect()
    }

    /// Whether each token's completion counts.
    fn valid(&self) -> Vec<bool> {
        self.completions.iter().flat_map(|c| vec![c.counted; c.tokens]).collect()
    }

    /// The tokens that have the highest entropy among those that count: the share `quantile`.
    fn keep(&self, quantile: f64) -> Vec<f32> {
        let valid = self.valid();
        let among: Vec<f32> =
            self.entropy.iter().zip(&valid).filter(|(_, v)| **v).map(|(e, _)| *e).collect();
        let threshold = entropy_threshold(among, quantile).unwrap();
        let kept = |(e, v): (&f32, &bool)| f32::from(u8::from(*v && *e >= threshold));
        self.entropy.iter().zip(&valid).map(kept).collect()
    }
}

fn surrogate(case: &Value) -> Surrogate {
    let (low, high) = (number(&case["epsilon"]), number(&case["epsilon_high"]));
    match case["loss_type"].as_str() {
        Some("cispo") => Surrogate::Cispo { low: f64::NEG_INFINITY, high },
        Some("sapo") => Surrogate::Sapo { positive: 1.0, negative: 1.05 },
        Some("vespo") => Surrogate::Vespo { positive: [2.0, 3.0], negative: [3.0, 2.0] },
        Some("gmpo") => Surrogate::Geometric { low: -low, high },
        _ => {
            let cap = case["delta"].as_f64().unwrap_or(f64::INFINITY);
            let (low, high) = (1.0 - low, 1.0 + high);
            Surrogate::Clip { low, high, cap_positive: cap, cap_negative: cap }
        }
    }
}

fn loss_op(case: &Value) -> GrpoLoss {
    let beta = number(&case["beta"]);
    let ratio = case["use_bias_correction_kl"].as_bool().expect("true or false");
    let correction = case["correction"].as_str().map(|mode| {
        let range = &case["correction_range"];
        Correction {
            level: match mode.starts_with("token") {
                true => CorrectionLevel::Token,
                false => CorrectionLevel::Sequence,
            },
            mask: mode.ends_with("mask"),
            min: range[0].as_f64().unwrap_or(f64::NEG_INFINITY),
            max: number(&range[1]),
        }
    });
    GrpoLoss {
        surrogate: surrogate(case),
        level: match case["importance_sampling_level"].as_str() {
            Some("sequence") => Level::Sequence,
            _ => Level::Token,
        },
        kl: (beta != 0.0).then_some(KlTerm { beta, estimator: KlEstimator::K3, ratio }),
        off_policy: case["off_policy"].as_f64(),
        correction,
        sampled: correction.is_some(),
        keep: number(&case["top_entropy_quantile"]) < 1.0,
    }
}

/// Weight of every token. TRL's normalizers say what else is in the optimizer step beside the
/// golden's rows; here those completions are there.
fn weights(case: &Value, b: &Batch) -> Vec<f32> {
    let accumulation = number(&case["gradient_accumulation_steps"]);
    let mut step = b.completions.clone();
    let mut factor = 1.0;
    let average = match case["loss_type"].as_str() {
        Some("grpo" | "sapo" | "gmpo") => Average::Completions,
        Some("bnpo") => Average::Batches(step.len()),
        Some("dr_grpo") => Average::Longest(number(&case["max_completion_length"]) as usize),
        Some("luspo") => Average::Sums,
        Some("dapo" | "cispo" | "vespo") => Average::Tokens,
        other => panic!("unknown loss type {other:?}"),
    };
    if average == Average::Tokens {
        // TRL spreads the tokens of the generation batch evenly over its optimizer steps.
        let share = accumulation / number(&case["steps_per_generation"]);
        let normalizer = number(&case["num_items_in_batch"]) * share;
        let own: usize = step.iter().filter(|c| c.counted).map(|c| c.tokens).sum();
        if normalizer >= own as f64 {
            let others = normalizer as usize - own;
            step.push(Counted { tokens: others, counted: true, dropped: false });
        } else {
            factor = own as f64 / normalizer;
        }
    } else {
        let others = (accumulation as usize - 1) * step.len();
        step.extend(vec![Counted { tokens: 3, counted: true, dropped: false }; others]);
    }
    let per_completion = token_weights(&step, average);
    let own = b.completions.iter().zip(per_completion);
    own.flat_map(|(c, w)| vec![(w * factor) as f32; c.tokens]).collect()
}

/// Loss and its gradient with respect to the log-probabilities, by the op on a tape.
fn run(op: GrpoLoss, b: &Batch, weight: &[f32], keep: &[f32], on_policy: bool) -> (f64, Vec<f64>) {
    let n = b.logp.len();
    let mut arena = Arena::reserve(1 << 20).unwrap();
    let value = arena.persist(n, DType::F32).unwrap();
    let grad = arena.persist(n, DType::F32).unwrap();
    arena.write(value, &b.logp).unwrap();
    let mut tape = Tape::new(DType::F32);
    let logp = tape.param(ParamRef { value, grad: Some(grad) }, &[n, 1]);
    let column = |tape: &mut Tape, v: &[f32]| tape.input(HostTensor::f32([v.len(), 1], v.to_vec()));
    // As in training: without sampled log-probabilities the policy is compared with itself.
    let old = if on_policy { logp } else { column(&mut tape, &b.old) };
    let advantage = column(&mut tape, &b.advantage);
    let weight = column(&mut tape, weight);
    let mut inputs = vec![logp, old, advantage, weight];
    if op.kl.is_some() {
        inputs.push(column(&mut tape, &b.reference));
    }
    if op.sampled {
        inputs.push(column(&mut tape, &b.sampled));
    }
    if op.keep {
        inputs.push(column(&mut tape, keep));
    }
    if op.needs_starts() {
        let mut starts = vec![0];
        starts.extend(b.tokens().iter().scan(0, |end, n| {
            *end += *n as i32;
            Some(*end)
        }));
        inputs.push(tape.indices(starts));
    }
    let loss = tape.op(op, &inputs).unwrap();
    tape.keep(loss);
    let one = column(&mut tape, &[1.0]);
    tape.backward(&[(loss, one)]).unwrap();
    let plan = tape.plan();
    let result = {
        let run = tape.run(&plan, &arena, arena.shared_base()).unwrap();
        f64::from(run.f32(loss).unwrap()[0])
    };
    (result, arena.read::<f32>(grad).unwrap().into_iter().map(f64::from).collect())
}

/// What the entropy of each token is rewarded with.
fn bonuses(case: &Value, b: &Batch, keep: &[f32]) -> Vec<f64> {
    let accumulation = number(&case["gradient_accumulation_steps"]);
    let mut at = 0;
    let kept = b.completions.iter().map(|c| {
        at += c.tokens;
        let kept = keep[at - c.tokens..at].iter().filter(|k| **k == 1.0).count();
        Counted { tokens: kept, ..*c }
    });
    let kept: Vec<Counted> = kept.collect();
    let per_completion = token_weights(&kept, Average::Batches(kept.len()));
    let coef = number(&case["entropy_coef"]) / accumulation;
    let own = b.completions.iter().zip(per_completion);
    let own = own.flat_map(|(c, w)| vec![w * coef; c.tokens]).zip(keep);
    own.map(|(w, k)| w * f64::from(*k)).collect()
}

fn label(case: &Value) -> String {
    let mut case = case.clone();
    let map = case.as_object_mut().expect("a case is an object");
    for result in ["loss", "grad", "metrics", "entropy_grad"] {
        map.remove(result);
    }
    case.to_string()
}

/// Compares a loss and the gradient of each token; returns the largest distance.
fn compare(case: &Value, at: &[usize], loss: f64, grad: &[f64]) -> f64 {
    let want = number(&case["loss"]);
    let mut worst = (loss - want).abs();
    assert!(worst < TOLERANCE, "loss {loss}, golden {want}: {}", label(case));
    let golden = numbers(&case["grad"]);
    let mut padded = vec![0.0; golden.len()];
    at.iter().zip(grad).for_each(|(&i, g)| padded[i] = *g);
    for (i, (got, want)) in padded.iter().zip(golden).enumerate() {
        worst = worst.max((got - want).abs());
        let close = (got - want).abs() < TOLERANCE;
        assert!(close, "gradient {i} is {got}, golden {want}: {}", label(case));
    }
    worst
}

#[test]
fn losses_and_gradients_are_those_of_trl() {
    let golden = golden();
    let b = batch(&golden);
    let (mut compared, mut worst) = (0, 0.0f64);
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for case in golden["losses"].as_array().expect("a list") {
        let op = loss_op(case);
        let keep = b.keep(number(&case["top_entropy_quantile"]));
        let bonus = bonuses(case, &b, &keep);
        let on_policy = case["old_logps"] == false;
        let (loss, grad) = run(op, &b, &weights(case, &b), &keep, on_policy);
        let mut paid: f64 = bonus.iter().zip(&b.entropy).map(|(w, e)| w * f64::from(*e)).sum();
        if case["loss_type"] == "gmpo" {
            // TRL gives a completion of which nothing counts the ratio 1: a number without a gradient.
            let step = number(&case["gradient_accumulation_steps"]) * b.completions.len() as f64;
            paid += f64::from(b.advantage[0]) / step;
        }
        worst = worst.max(compare(case, &b.at, loss - paid, &grad));
        if let Some(theirs) = case.get("entropy_grad") {
            let theirs = numbers(theirs);
            for (&i, w) in b.at.iter().zip(&bonus) {
                assert!((theirs[i] + w).abs() < TOLERANCE, "entropy {i}: {}", label(case));
            }
            *kinds.entry("entropy".into()).or_default() += 1;
        }
        *kinds.entry(case["loss_type"].as_str().unwrap().into()).or_default() += 1;
        compared += 1;
    }
    println!("{compared} cases, largest difference {worst:.1e}: {kinds:?}");
    assert!(compared >= 240 && kinds.len() == 10, "only {compared} cases: {kinds:?}");
}

#[test]
fn statistics_are_those_of_trl() {
    let golden = golden();
    let b = batch(&golden);
    let (tokens, counted) = (b.tokens(), b.counted());
    let all = counted.len() as f64;
    let count = counted.iter().filter(|c| **c).count() as f64;
    let mut compared = 0;
    for case in golden["losses"].as_array().expect("a list") {
        let op = loss_op(case);
        let keep = b.keep(number(&case["top_entropy_quantile"]));
        let columns = TokenColumns {
            logp: &b.logp,
            old: if case["old_logps"] == false { &b.logp } else { &b.old },
            reference: op.kl.is_some().then_some(b.reference.as_slice()),
            sampled: op.sampled.then_some(b.sampled.as_slice()),
            keep: op.keep.then_some(keep.as_slice()),
            advantage: &b.advantage,
            entropy: &vec![0.5; b.logp.len()],
            completions: &tokens,
            counted: &counted,
        };
        let s = token_stats(&op, &columns);
        assert_eq!(s.entropy, 0.5);
        let mut ours = s.named();
        ours.retain(|(name, _)| name != "entropy" && !name.starts_with("sampling/"));
        let theirs = case["metrics"].as_object().expect("a table");
        let theirs: Vec<(&String, f64)> = theirs
            .iter()
            .filter(|(name, _)| *name != "policy_loss" && *name != "entropy_coef")
            .map(|(name, v)| (name, number(v)))
            .collect();
        assert_eq!(ours.len(), theirs.len(), "another set of metrics: {}", label(case));
        let whole = op.level == Level::Sequence;
        for (name, want) in theirs {
            let (_, got) = ours.iter().find(|(n, _)| n == name).expect("the same names");
            // TRL counts masked completions where a completion has one ratio: as 1, never clipped.
            let got =
                match name.as_str() {
                    "vespo/phi_seq_mean" => (got * count + (all - count)) / all,
                    "kl" => *got,
                    "clip_ratio/low_min" | "clip_ratio/high_max" if whole => {
                        if name.ends_with("min") { got.min(0.0) } else { *got }
                    }
                    _ if whole => got * count / all,
                    _ => *got,
                };
            assert!((got - want).abs() < 1e-6, "{name} {got}, TRL {want}: {}", label(case));
        }
        compared += 1;
    }
    assert!(compared >= 240, "only {compared} cases were compared");
}

#[test]
fn losses_that_trl_lacks_are_their_formulas() {
    let golden = golden();
    let b = batch(&golden);
    let weights: Vec<f32> = token_weights(&b.completions, Average::Tokens)
        .iter()
        .zip(&b.completions)
        .flat_map(|(w, c)| vec![*w as f32; c.tokens])
        .collect();
    let cases = golden["written"].as_array().expect("a list");
    let mut worst = 0.0f64;
    for case in cases {
        let clip = GrpoLoss::clipped(0.2, 0.28);
        let mut advantages = 1.0;
        let op = match case["name"].as_str().expect("a name") {
            "gspo_token" => GrpoLoss { level: Level::SequenceToken, ..clip },
            "cispo_relative" => GrpoLoss::of(Surrogate::Cispo { low: 0.8, high: 1.28 }),
            "dual_clip" => GrpoLoss::of(Surrogate::Clip {
                low: 0.8,
                high: 1.28,
                cap_positive: f64::INFINITY,
                cap_negative: 1.4,
            }),
            "clipped" => clip,
            "reward_weighted" => {
                advantages = 0.5;
                GrpoLoss::of(Surrogate::Plain)
            }
            other => panic!("unknown case {other}"),
        };
        let kl = case["kl"].as_str().map(|k| KlTerm {
            beta: number(&case["beta"]),
            estimator: match k {
                "k1" => KlEstimator::K1,
                "k2" => KlEstimator::K2,
                _ => KlEstimator::K3,
            },
            ratio: case["ratio"] == true,
        });
        let scaled = Batch {
            advantage: b.advantage.iter().map(|a| a * advantages).collect(),
            ..batch(&golden)
        };
        let (loss, grad) = run(GrpoLoss { kl, ..op }, &scaled, &weights, &[], false);
        worst = worst.max(compare(case, &b.at, loss, &grad));
    }
    println!("{} cases, largest difference {worst:.1e}", cases.len());
    assert!(cases.len() >= 15);
}

#[test]
fn advantages_are_those_of_trl() {
    let golden = golden();
    let cases = golden["advantages"].as_array().expect("a list");
    assert!(cases.len() >= 12);
    for case in cases {
        let scale = match case["scale_rewards"].as_str() {
            Some("group") => ScaleRewards::Group,
            Some("batch") => ScaleRewards::Batch,
            Some("none") => ScaleRewards::None,
            other => panic!("unknown scale {other:?}"),
        };
        let weights = numbers(&case["reward_weights"]);
        let total = |row: &Value| -> Option<f64> {
            let scores = row.as_array().expect("a list").iter().zip(&weights);
            scores
                .filter(|(s, _)| !s.is_null())
                .map(|(s, w)| w * number(s))
                .fold(None, |sum, x| Some(sum.unwrap_or(0.0) + x))
        };
        let rows = case["rewards"].as_array().expect("a list");
        let rewards: Vec<Option<f64>> = rows.iter().map(total).collect();
        let n = number(&case["num_generations"]) as usize;
        let decoupled = case["aggregation"] == "normalize_then_sum";
        let got = match decoupled {
            true => {
                let column = |r: usize| rows.iter().map(|row| row[r].as_f64()).collect();
                let columns: Vec<Vec<Option<f64>>> = (0..weights.len()).map(column).collect();
                decoupled_advantages(&columns, &weights, &rewards, n)
            }
            false => advantages(&rewards, n, Estimator::Grpo(scale)),
        };
        let want = numbers(&case["advantages"]);
        assert_eq!(got.values.len(), want.len());
        for (i, (got, want)) in got.values.iter().zip(&want).enumerate() {
            // TRL's `nanstd` corrects the variance by a ratio of single precision.
            let close = (got - want).abs() < 1e-7;
            assert!(close, "{} {scale:?}: advantage {i} is {got}, TRL {want}", case["name"]);
        }
        if scale == ScaleRewards::Group && !decoupled {
            for (i, flat) in case["is_std_zero"].as_array().expect("a list").iter().enumerate() {
                let known = rewards[i / n * n..][..n].iter().flatten().count();
                if known < 2 {
                    continue; // has no spread: not a number there, 0 here
                }
                let ours = got.group_std[i / n] < 1e-8;
                assert_eq!(
                    Some(ours),
                    flat.as_bool(),
                    "{}: spread of completion {i}",
                    case["name"]
                );
            }
        }
    }
}

#[test]
fn advantages_that_trl_lacks_are_their_formulas() {
    let golden = golden();
    let rewards = [1.0, 0.0, 0.5, 2.0, 3.0, 3.0, 3.0, 3.0, 0.25, 1.0, -1.0, 1.0].map(Some);
    let cases = golden["written_advantages"].as_array().expect("a list");
    for case in cases {
        let estimator = match case["name"].as_str().expect("a name") {
            "rloo" => Estimator::Rloo,
            "reinforce_plus_plus" => Estimator::ReinforcePlusPlus,
            "reinforce_plus_plus_baseline" => Estimator::ReinforcePlusPlusBaseline,
            "pass_k" => Estimator::PassK(ScaleRewards::Group),
            other => panic!("unknown estimator {other}"),
        };
        let got = advantages(&rewards, 4, estimator).values;
        for (got, want) in got.iter().zip(numbers(&case["advantages"])) {
            assert!((got - want).abs() < 1e-9, "{estimator:?}: {got}, not {want}");
        }
    }
    assert_eq!(cases.len(), 4);
}
