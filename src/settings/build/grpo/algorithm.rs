//! Options of the loss, the penalty, the advantages and the entropy, checked against each other: an
//! option that the chosen loss does not read is refused. Computes nothing.

use super::super::*;
use crate::grpo::advantage::{Estimator, ScaleRewards};
use crate::grpo::control::{EntropyControl, KlControl};
use crate::ops::grpo_loss::{
    Correction, CorrectionLevel, GrpoLoss, KlEstimator, KlTerm, Level, Surrogate,
};

/// The range of ratios where the user gives none, and gmpo's, which is one of logarithms.
const EPSILON: f64 = 0.2;
const EPSILON_LOG: f64 = 0.4;
/// The cap of cispo where the user gives none (ScaleRL, arXiv 2510.13786, recommends it; TRL's default
/// of 0.2 would scale every gradient by 0.2).
const CISPO_CAP: f64 = 5.0;

/// The loss by name.
pub fn loss_type(o: &Options) -> LossType {
    match o.text("loss_type") {
        Some("grpo") => LossType::Grpo,
        Some("bnpo") => LossType::Bnpo,
        Some("dr_grpo") => LossType::DrGrpo,
        Some("cispo") => LossType::Cispo,
        Some("sapo") => LossType::Sapo,
        Some("vespo") => LossType::Vespo,
        Some("luspo") => LossType::Luspo,
        Some("gmpo") => LossType::Gmpo,
        Some("reward_weighted") => LossType::RewardWeighted,
        _ => LossType::Dapo,
    }
}

/// Whether a loss clips the ratio of PPO.
fn clips(l: LossType) -> bool {
    use LossType::{Bnpo, Dapo, DrGrpo, Grpo, Luspo};
    matches!(l, Dapo | Grpo | Bnpo | DrGrpo | Luspo)
}

/// Refuses options that belong to another loss.
pub fn check_loss_options(o: &Options, l: LossType) -> Result<()> {
    let name = o.text("loss_type").unwrap_or("dapo");
    let why = format!("loss_type {name} does not read it");
    let absolute = l == LossType::Cispo && o.text("cispo_clip") != Some("relative");
    let clipped = clips(l) || matches!(l, LossType::Gmpo | LossType::Cispo);
    let rows: [(bool, &[&str], &str); 7] = [
        (
            clips(l),
            &["delta", "dual_clip_ratio"],
            "a clipped loss: dapo, grpo, bnpo, dr_grpo, luspo",
        ),
        (clipped, &["epsilon_high"], "a clipped loss, cispo or gmpo"),
        (clipped && !absolute, &["epsilon"], "a clipped loss, cispo_clip relative, or gmpo"),
        (l == LossType::Cispo, &["cispo_clip"], "--loss_type cispo"),
        (
            l == LossType::Sapo,
            &["sapo_temperature_pos", "sapo_temperature_neg"],
            "--loss_type sapo",
        ),
        (
            l == LossType::Vespo,
            &["vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"],
            "--loss_type vespo",
        ),
        (l == LossType::RewardWeighted, &["grpo_alpha"], "--loss_type reward_weighted"),
    ];
    for (reads, names, reader) in rows {
        if !reads {
            useless(o, names, &why, &format!("it is for {reader}"))?;
        }
    }
    let unread = match l {
        LossType::Gmpo => "gmpo takes a mean over the completion in its own way",
        LossType::RewardWeighted => "reward_weighted has no ratio",
        _ => return Ok(()),
    };
    useless(o, &["importance_sampling_level"], unread, "leave it out")?;
    useless(
        o,
        &["use_bias_correction_kl"],
        &format!("{unread}: its KL term has none"),
        "leave it out",
    )
}

/// Over what the ratio is taken.
fn level(o: &Options, l: LossType) -> Result<Level> {
    let given = o.text("importance_sampling_level");
    if l == LossType::Luspo && given.is_some_and(|g| g != "sequence") {
        return Err(o
            .wrong("importance_sampling_level", "luspo weighs completions by their length")
            .expected("sequence")
            .hint("leave it out; dr_grpo is the sum over tokens with a ratio each"));
    }
    Ok(match given {
        Some("sequence") => Level::Sequence,
        Some("sequence_token") => Level::SequenceToken,
        None if l == LossType::Luspo => Level::Sequence,
        _ => Level::Token,
    })
}

fn surrogate(o: &Options, l: LossType) -> Result<Surrogate> {
    let default = if l == LossType::Gmpo { EPSILON_LOG } else { EPSILON };
    let low = o.float("epsilon").unwrap_or(default);
    let high = o.float("epsilon_high").unwrap_or(low);
    let (delta, dual) = (o.float("delta"), o.float("dual_clip_ratio"));
    if delta.is_some() && dual.is_some() {
        return Err(o
            .wrong("dual_clip_ratio", "`delta` and `dual_clip_ratio` both cap the ratio")
            .hint("give one of the two"));
    }
    if dual.is_some_and(|c| c <= 1.0 + high) {
        return Err(o
            .wrong("dual_clip_ratio", "the cap lies inside the range of the ratio")
            .expected(format!("above 1 + epsilon_high, {}", 1.0 + high)));
    }
    Ok(match l {
        LossType::Cispo => match o.text("cispo_clip") {
            Some("relative") => Surrogate::Cispo { low: 1.0 - low, high: 1.0 + high },
            _ => Surrogate::Cispo {
                low: f64::NEG_INFINITY,
                high: o.float("epsilon_high").unwrap_or(CISPO_CAP),
            },
        },
        LossType::Sapo => Surrogate::Sapo {
            positive: above_zero(o, "sapo_temperature_pos")?,
            negative: above_zero(o, "sapo_temperature_neg")?,
        },
        LossType::Vespo => Surrogate::Vespo {
            positive: [float(o, "vespo_k_pos"), float(o, "vespo_lambda_pos")],
            negative: [float(o, "vespo_k_neg"), float(o, "vespo_lambda_neg")],
        },
        LossType::Gmpo => Surrogate::Geometric { low: -low, high },
        LossType::RewardWeighted => Surrogate::Plain,
        _ => Surrogate::Clip {
            low: 1.0 - low,
            high: 1.0 + high,
            cap_positive: delta.unwrap_or(f64::INFINITY),
            cap_negative: delta.or(dual).unwrap_or(f64::INFINITY),
        },
    })
}

fn correction(o: &Options, l: LossType) -> Result<Option<Correction>> {
    let names = [
        "vllm_importance_sampling_mode",
        "vllm_importance_sampling_clip_max",
        "vllm_importance_sampling_clip_min",
    ];
    if !o.flag("vllm_importance_sampling_correction") {
        let hint = "add --vllm_importance_sampling_correction";
        useless(o, &names, "samples are not weighed", hint)?;
        return Ok(None);
    }
    let mode = o.text(names[0]).unwrap_or_default();
    let level = match mode.starts_with("token") {
        true => CorrectionLevel::Token,
        false => CorrectionLevel::Sequence,
    };
    if l == LossType::Vespo && level == CorrectionLevel::Sequence {
        return Err(o
            .wrong(names[0], "vespo takes ratios of tokens into its weight")
            .expected("token_truncate or token_mask"));
    }
    let (min, max) = (o.float(names[2]).unwrap_or(f64::NEG_INFINITY), float(o, names[1]));
    if min > max {
        return Err(o
            .wrong(names[2], "the least ratio is above the largest")
            .expected(format!("at most vllm_importance_sampling_clip_max, {max}")));
    }
    Ok(Some(Correction { level, mask: mode.ends_with("mask"), min, max }))
}

/// What a token adds to the loss.
pub fn loss(o: &Options, l: LossType, kl: Option<&KlSettings>, keep: bool) -> Result<GrpoLoss> {
    let correction = correction(o, l)?;
    let ratio =
        !matches!(l, LossType::Gmpo | LossType::RewardWeighted) && o.flag("use_bias_correction_kl");
    let in_loss = kl.filter(|k| !k.in_reward);
    Ok(GrpoLoss {
        surrogate: surrogate(o, l)?,
        level: level(o, l)?,
        kl: in_loss.map(|k| KlTerm { beta: k.beta, estimator: k.estimator, ratio }),
        off_policy: o.float("off_policy_mask_threshold"),
        correction,
        sampled: correction.is_some(),
        keep,
    })
}

/// The penalty.
pub fn kl(o: &Options) -> Result<Option<KlSettings>> {
    let beta = float(o, "beta");
    if beta == 0.0 {
        let names = ["kl_estimator", "kl_in", "kl_target", "kl_horizon", "use_bias_correction_kl"];
        useless(o, &names, "`beta` is 0, so there is no KL term", "add --beta")?;
        return Ok(None);
    }
    let in_reward = o.text("kl_in") == Some("reward");
    if in_reward {
        let hint = "leave it out, or take --kl_in loss";
        useless(o, &["use_bias_correction_kl"], "a KL in the reward has no ratio", hint)?;
    }
    let target = o.float("kl_target");
    if target.is_none() {
        useless(o, &["kl_horizon"], "beta does not follow the KL", "add --kl_target")?;
    }
    Ok(Some(KlSettings {
        beta,
        estimator: match o.text("kl_estimator") {
            Some("k1") => KlEstimator::K1,
            Some("k2") => KlEstimator::K2,
            Some("k3") => KlEstimator::K3,
            _ if in_reward => KlEstimator::K1,
            _ => KlEstimator::K3,
        },
        in_reward,
        control: match target {
            None => None,
            Some(_) => Some(KlControl {
                target: above_zero(o, "kl_target")?,
                horizon: above_zero(o, "kl_horizon")?,
            }),
        },
    }))
}

/// What rewards are compared with, and whether each is normalised by itself.
pub fn estimator(o: &Options, l: LossType, kl: Option<&KlSettings>) -> Result<(Estimator, bool)> {
    let scale = match o.text("scale_rewards") {
        Some("batch") => ScaleRewards::Batch,
        Some("none") => ScaleRewards::None,
        None if l == LossType::RewardWeighted => ScaleRewards::None,
        _ => ScaleRewards::Group,
    };
    let name = o.text("advantage_estimator").unwrap_or("grpo");
    let decoupled = o.text("multi_objective_aggregation") == Some("normalize_then_sum");
    let estimator = match name {
        "rloo" => Estimator::Rloo,
        "reinforce_plus_plus" => Estimator::ReinforcePlusPlus,
        "reinforce_plus_plus_baseline" => Estimator::ReinforcePlusPlusBaseline,
        "pass_k" => Estimator::PassK(scale),
        _ => Estimator::Grpo(scale),
    };
    if decoupled && name != "grpo" {
        return Err(o
            .wrong("multi_objective_aggregation", "GDPO is an estimator of its own")
            .expected("advantage_estimator grpo, or sum_then_normalize"));
    }
    if decoupled && kl.is_some_and(|k| k.in_reward) {
        return Err(o
            .wrong("kl_in", "rewards that are normalised one by one have no sum to take a KL off")
            .expected("loss, or multi_objective_aggregation sum_then_normalize"));
    }
    if decoupled || !matches!(name, "grpo" | "pass_k") {
        let why = format!("{} normalises in its own way", if decoupled { "GDPO" } else { name });
        useless(o, &["scale_rewards"], &why, "leave it out")?;
    }
    Ok((estimator, decoupled))
}

/// What is done about entropy.
pub fn entropy(o: &Options) -> Result<EntropySettings> {
    let adaptive = o.flag("use_adaptive_entropy");
    if !adaptive {
        let names =
            ["entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"];
        useless(o, &names, "entropy_coef stays", "add --use_adaptive_entropy")?;
    }
    let (min, max) = (float(o, "entropy_coef_min"), float(o, "entropy_coef_max"));
    if min > max {
        return Err(o
            .wrong("entropy_coef_min", "the least coefficient is above the largest")
            .expected(format!("at most entropy_coef_max, {max}")));
    }
    Ok(EntropySettings {
        coef: float(o, "entropy_coef"),
        control: match adaptive {
            false => None,
            true => Some(EntropyControl {
                target: float(o, "entropy_target"),
                delta: float(o, "entropy_coef_delta"),
                min,
                max,
            }),
        },
        top_quantile: above_zero(o, "top_entropy_quantile")?,
    })
}

/// Whether and how the reference follows the policy.
pub fn sync(o: &Options, penalised: bool) -> Result<Option<ReferenceSync>> {
    if !o.flag("sync_ref_model") {
        let names = ["ref_model_mixup_alpha", "ref_model_sync_steps"];
        useless(o, &names, "the reference stays", "add --sync_ref_model")?;
        return Ok(None);
    }
    if !penalised {
        return Err(o
            .wrong("sync_ref_model", "`beta` is 0, so there is no reference")
            .hint("add --beta, or leave out --sync_ref_model"));
    }
    let share = above_zero(o, "ref_model_mixup_alpha")?;
    Ok(Some(ReferenceSync { share, steps: count(o, "ref_model_sync_steps") }))
}
