//! Losses, their gradients, clip statistics and advantages against the numbers that TRL 1.16's own
//! code computed (`tools/golden/trl_loss.py`), through the op on a tape. Loss types that this
//! program does not have are skipped by name.

use grpo_rt::base::{DType, HostTensor};
use grpo_rt::grpo::advantage::{ScaleRewards, advantages};
use grpo_rt::grpo::stats::token_stats;
use grpo_rt::grpo::weigh::{Counted, LossType, token_weights};
use grpo_rt::mem::Arena;
use grpo_rt::ops::ParamRef;
use grpo_rt::ops::grpo_loss::GrpoLoss;
use grpo_rt::tape::Tape;
use serde_json::Value;

/// TRL's loss types that this program does not have.
const SKIPPED_TYPES: [&str; 3] = ["bnpo", "dr_grpo", "cispo"];
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
        let c = Counted { tokens: if own == 0 { width } else { own }, counted: own > 0 };
        at.extend((0..c.tokens).map(|t| r * width + t));
        advantage.extend(vec![row_advantage[r] as f32; c.tokens]);
        completions.push(c);
    }
    let column = |name: &str| -> Vec<f32> {
        let all = numbers(&inputs[name]);
        at.iter().map(|&i| all[i] as f32).collect()
    };
    let (logp, old, reference) = (column("logps"), column("old"), column("ref"));
    Batch { at, completions, advantage, logp, old, reference }
}

fn loss_op(case: &Value) -> GrpoLoss {
    GrpoLoss {
        epsilon: number(&case["epsilon"]),
        epsilon_high: number(&case["epsilon_high"]),
        beta: number(&case["beta"]),
        kl_ratio: case["use_bias_correction_kl"].as_bool().expect("true or false"),
    }
}

/// Weight of every token. TRL's normalizers say what else is in the optimizer step beside the
/// golden's rows; here those completions are there.
fn weights(case: &Value, b: &Batch) -> Vec<f32> {
    let accumulation = number(&case["gradient_accumulation_steps"]);
    let mut step = b.completions.clone();
    let mut factor = 1.0;
    let loss_type = match case["loss_type"].as_str() {
        Some("grpo") => {
            let others = (accumulation as usize - 1) * step.len();
            step.extend(vec![Counted { tokens: 3, counted: true }; others]);
            LossType::Grpo
        }
        Some("dapo") => {
            // TRL spreads the tokens of the generation batch evenly over its optimizer steps.
            let share = accumulation / number(&case["steps_per_generation"]);
            let normalizer = number(&case["num_items_in_batch"]) * share;
            let own: usize = step.iter().filter(|c| c.counted).map(|c| c.tokens).sum();
            if normalizer >= own as f64 {
                let others = normalizer as usize - own;
                step.push(Counted { tokens: others, counted: true });
            } else {
                factor = own as f64 / normalizer;
            }
            LossType::Dapo
        }
        other => panic!("unknown loss type {other:?}"),
    };
    let per_completion = token_weights(&step, loss_type);
    let own = b.completions.iter().zip(per_completion);
    own.flat_map(|(c, w)| vec![(w * factor) as f32; c.tokens]).collect()
}

/// Loss and its gradient with respect to the log-probabilities, by the op on a tape.
fn loss_and_gradient(case: &Value, b: &Batch) -> (f64, Vec<f64>) {
    let n = b.logp.len();
    let mut arena = Arena::reserve(1 << 20).unwrap();
    let value = arena.persist(n, DType::F32).unwrap();
    let grad = arena.persist(n, DType::F32).unwrap();
    arena.write(value, &b.logp).unwrap();
    let mut tape = Tape::new(DType::F32);
    let logp = tape.param(ParamRef { value, grad: Some(grad) }, &[n, 1]);
    let column = |tape: &mut Tape, v: &[f32]| tape.input(HostTensor::f32([v.len(), 1], v.to_vec()));
    // As in training: without sampled log-probabilities the policy is compared with itself.
    let on_policy = case["old_logps"] == false;
    let old = if on_policy { logp } else { column(&mut tape, &b.old) };
    let advantage = column(&mut tape, &b.advantage);
    let weight = column(&mut tape, &weights(case, b));
    let mut inputs = vec![logp, old, advantage, weight];
    let op = loss_op(case);
    if op.beta != 0.0 {
        inputs.push(column(&mut tape, &b.reference));
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

fn label(case: &Value) -> String {
    let mut case = case.clone();
    let map = case.as_object_mut().expect("a case is an object");
    for result in ["loss", "grad", "metrics"] {
        map.remove(result);
    }
    case.to_string()
}

/// True for the cases that GRPO at token level without a second clip bound covers.
fn token_level(case: &Value) -> bool {
    case["importance_sampling_level"] == "token" && case["delta"].is_null()
}

#[test]
fn losses_and_gradients_are_those_of_trl() {
    let golden = golden();
    let b = batch(&golden);
    let (mut compared, mut kl_ratios, mut worst) = (0, 0, 0.0f64);
    for case in golden["losses"].as_array().expect("a list") {
        let skipped = SKIPPED_TYPES.iter().any(|t| case["loss_type"] == *t);
        if skipped || !token_level(case) {
            continue;
        }
        let (loss, grad) = loss_and_gradient(case, &b);
        let want = number(&case["loss"]);
        worst = worst.max((loss - want).abs());
        kl_ratios += usize::from(case["use_bias_correction_kl"] == true);
        assert!((loss - want).abs() < TOLERANCE, "loss {loss}, TRL {want}: {}", label(case));
        let mut padded = vec![0.0; numbers(&case["grad"]).len()];
        b.at.iter().zip(&grad).for_each(|(&i, g)| padded[i] = *g);
        for (i, (got, want)) in padded.iter().zip(numbers(&case["grad"])).enumerate() {
            worst = worst.max((got - want).abs());
            let close = (got - want).abs() < TOLERANCE;
            assert!(close, "gradient {i} is {got}, TRL {want}: {}", label(case));
        }
        compared += 1;
    }
    println!("{compared} cases, largest difference {worst:.1e}");
    assert!(compared >= 32 && kl_ratios >= 16, "only {compared} cases, {kl_ratios} with the ratio");
}

#[test]
fn clip_fractions_and_kl_are_those_of_trl() {
    let golden = golden();
    let b = batch(&golden);
    let tokens: Vec<usize> = b.completions.iter().map(|c| c.tokens).collect();
    let counted: Vec<bool> = b.completions.iter().map(|c| c.counted).collect();
    let entropy = vec![0.5; b.logp.len()];
    let mut compared = 0;
    for case in golden["losses"].as_array().expect("a list") {
        if case["loss_type"] == "cispo" || !token_level(case) {
            continue;
        }
        let op = loss_op(case);
        let old = if case["old_logps"] == false { &b.logp } else { &b.old };
        let reference = (op.beta != 0.0).then_some(b.reference.as_slice());
        let s =
            token_stats(&op, &b.logp, old, reference, &b.advantage, &entropy, &tokens, &counted);
        assert_eq!(s.entropy, 0.5);
        let mut ours = s.named();
        ours.retain(|(name, _)| name != "entropy");
        let theirs = case["metrics"].as_object().expect("a table");
        assert_eq!(ours.len(), theirs.len(), "another set of metrics: {}", label(case));
        for (name, got) in ours {
            let want = number(&theirs[&name]);
            assert!((got - want).abs() < 1e-6, "{name} {got}, TRL {want}: {}", label(case));
        }
        compared += 1;
    }
    assert!(compared >= 48, "only {compared} cases were compared");
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
        let got = advantages(&rewards, n, scale);
        let want = numbers(&case["advantages"]);
        assert_eq!(got.values.len(), want.len());
        for (i, (got, want)) in got.values.iter().zip(&want).enumerate() {
            // TRL's `nanstd` corrects the variance by a ratio of single precision.
            let close = (got - want).abs() < 1e-7;
            assert!(close, "{} {scale:?}: advantage {i} is {got}, TRL {want}", case["name"]);
        }
        if scale == ScaleRewards::Group {
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
