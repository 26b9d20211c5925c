//! Options of the algorithm: what each loss reads, and what contradicts what. Trains nothing.

use grpo_rt::grpo::advantage::{Estimator, ScaleRewards};
use grpo_rt::grpo::weigh::Average;
use grpo_rt::ops::grpo_loss::{KlEstimator, Level, Surrogate};

use super::{refused, says, settings};

#[test]
fn a_loss_says_what_a_token_adds_and_how_tokens_are_averaged() {
    let of = |flags: &str| settings(flags).unwrap().grpo;
    let g = of("--loss_type cispo");
    assert_eq!(g.loss.surrogate, Surrogate::Cispo { low: f64::NEG_INFINITY, high: 5.0 });
    let g = of("--loss_type cispo --cispo_clip relative --epsilon_high 0.28");
    assert_eq!(g.loss.surrogate, Surrogate::Cispo { low: 0.8, high: 1.28 });
    let g = of("--loss_type luspo");
    assert_eq!((g.loss.level, g.average), (Level::Sequence, Average::Sums));
    let g = of("--loss_type dr_grpo --max_completion_length 77");
    assert_eq!(g.average, Average::Longest(77));
    let g = of("--loss_type bnpo --batch_size 24 --num_generations 8");
    assert_eq!(g.average, Average::Batches(24));
    let g = of("--loss_type gmpo --beta 0.1");
    assert_eq!(g.loss.surrogate, Surrogate::Geometric { low: -0.4, high: 0.4 });
    assert!(!g.loss.kl.unwrap().ratio);
    let g = of("--loss_type reward_weighted --grpo_beta 0.1 --kl_estimator k1");
    assert_eq!((g.alpha, g.loss.surrogate), (0.5, Surrogate::Plain));
    assert_eq!(g.estimator, Estimator::Grpo(ScaleRewards::None));
    let g = of("--beta 0.1 --kl_in reward");
    assert_eq!((g.loss.kl, g.kl.unwrap().estimator), (None, KlEstimator::K1));
    let g = of("--dual_clip_ratio 3 --importance_sampling_level sequence_token");
    let Surrogate::Clip { cap_positive, cap_negative, .. } = g.loss.surrogate else { panic!() };
    assert_eq!((cap_positive, cap_negative), (f64::INFINITY, 3.0));
    assert_eq!(g.loss.level, Level::SequenceToken);
}

#[test]
fn options_that_another_loss_reads_or_that_contradict_each_other_are_refused() {
    let cases: &[(&str, &[&str])] = &[
        (
            "--loss_type luspo --importance_sampling_level token",
            &["importance_sampling_level", "luspo"],
        ),
        ("--loss_type gmpo --importance_sampling_level sequence", &["importance_sampling_level"]),
        ("--loss_type sapo --epsilon 0.1", &["epsilon", "sapo does not read it"]),
        ("--loss_type cispo --epsilon 0.1", &["epsilon", "cispo_clip relative"]),
        ("--cispo_clip relative", &["cispo_clip", "--loss_type cispo"]),
        ("--vespo_k_neg 1", &["vespo_k_neg", "--loss_type vespo"]),
        ("--grpo_alpha 1", &["grpo_alpha", "reward_weighted"]),
        ("--delta 3 --dual_clip_ratio 3", &["dual_clip_ratio", "delta"]),
        ("--dual_clip_ratio 1.1", &["dual_clip_ratio", "above 1 + epsilon_high, 1.2"]),
        ("--sync_ref_model", &["sync_ref_model", "--beta"]),
        ("--beta 0.1 --ref_model_sync_steps 3", &["ref_model_sync_steps", "--sync_ref_model"]),
        ("--kl_estimator k1", &["kl_estimator", "--beta"]),
        ("--beta 0.1 --kl_horizon 10", &["kl_horizon", "--kl_target"]),
        ("--beta 0.1 --kl_in reward --no_use_bias_correction_kl", &["use_bias_correction_kl"]),
        ("--entropy_target 0.1", &["entropy_target", "--use_adaptive_entropy"]),
        ("--use_adaptive_entropy --entropy_coef_min 2", &["entropy_coef_min", "at most"]),
        ("--top_entropy_quantile 0", &["top_entropy_quantile", "above 0"]),
        ("--dynamic_sampling_max_batches 2", &["dynamic_sampling_max_batches"]),
        ("--advantage_estimator rloo --scale_rewards none", &["scale_rewards", "rloo"]),
        (
            "--advantage_estimator rloo --multi_objective_aggregation normalize_then_sum",
            &["multi_objective_aggregation", "GDPO"],
        ),
        (
            "--multi_objective_aggregation normalize_then_sum --beta 1 --kl_in reward",
            &["kl_in", "sum_then_normalize"],
        ),
        (
            "--advantage_estimator reinforce_plus_plus --drop_dead_groups",
            &["drop_dead_groups", "reinforce_plus_plus_baseline"],
        ),
        ("--vllm_importance_sampling_clip_max 2", &["vllm_importance_sampling_clip_max"]),
        (
            "--loss_type vespo --rollout_importance_sampling_correction",
            &["vllm_importance_sampling_mode", "token_truncate"],
        ),
    ];
    for (flags, words) in cases {
        says(settings(flags).unwrap_err(), flags, words);
    }
}

#[test]
fn groups_must_fit_into_the_generation_batch() {
    let s = settings("--batch_size 4 --gradient_accumulation_steps 6 --num_generations 8").unwrap();
    assert_eq!((s.grpo.generation_batch_size, s.grpo.prompts_per_generation), (24, 3));
    let s = settings("--batch_size 8 --gradient_accumulation_steps 2 --steps_per_generation 4");
    assert_eq!(s.unwrap().grpo.prompts_per_generation, 4);
    refused(
        "--batch_size 8 --gradient_accumulation_steps 6 --steps_per_generation 1",
        &["straddle", "such as 6"],
    );
    refused(
        "--batch_size 6 --steps_per_generation 2 --num_generations 8",
        &["6 x 2 = 12, by 8", "per_device_train_batch_size 4 or 8", "num_generations 6 or 12"],
    );
    refused(
        "--num_generations 999999999 --steps_per_generation 1",
        &["a multiple of num_generations"],
    );
    let one = "--batch_size 1 --steps_per_generation 1";
    refused(one, &["per_device_train_batch_size 8 would work"]);
    // Where nobody says how much is generated at a time, it is whole groups.
    let s = settings("--batch_size 4").unwrap();
    assert_eq!((s.grpo.steps_per_generation, s.grpo.prompts_per_generation), (2, 1));
    let s = settings("--batch_size 6 --gradient_accumulation_steps 2").unwrap();
    assert_eq!((s.grpo.steps_per_generation, s.grpo.generation_batch_size), (4, 24));
    let s = settings("--batch_size 1 --batch_unit prompts --num_generations 4").unwrap();
    assert_eq!((s.training.batch_size, s.grpo.steps_per_generation), (4, 1));
    let s = settings("--batch_size 4 --generation_batch_size 16").unwrap();
    assert_eq!(s.grpo.steps_per_generation, 4);
    refused("--batch_size 4 --generation_batch_size 18", &["a multiple of", "4"]);
    refused("--generation_batch_size 8 --steps_per_generation 1", &["give one of"]);
}
