//! `length` and `soft_overlong`: a length penalty, the soft overlong punishment of DAPO (Yu et al. 2025,
//! equation 13). It counts tokens, never characters, and never pays a positive amount.

use super::super::{Compat, Reward, RewardSettings, Sample};
use crate::base::{Error, Result};

/// With `n` tokens, limit `L` and cache `C`:
///
/// ```text
/// n <= L - C        0
/// L - C < n <= L    ((L - C) - n) / C
/// n > L             -1
/// ```
///
/// Rollout stops at `L`, so a completion that was cut off earns -1.
///
/// With `compat` VLM-R1's, `length` is what that project calls so (`cosine_rewards` of
/// `grpo_jsonl.py`): `1 - 0.25 (1 - cos(pi n / 1024))`, n without the end token, every answer taken for
/// a right one, and rising again beyond 1024 tokens.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    name: &'static str,
    curve: Curve,
}

#[derive(Debug, Clone, Copy)]
enum Curve {
    Overlong { limit: usize, cache: usize },
    VlmR1Cosine,
}

impl Length {
    /// From `max_completion_length` and `soft_overlong_cache` (default: a fifth of the limit).
    ///
    /// # Errors
    /// If the cache is longer than the limit.
    pub fn new(name: &'static str, settings: &RewardSettings) -> Result<Self> {
        if settings.compat == Compat::VlmR1 && name == "length" {
            return Ok(Length { name, curve: Curve::VlmR1Cosine });
        }
        let limit = settings.max_completion_length;
        let cache = settings.length.soft_overlong_cache.unwrap_or((limit / 5).max(1));
        if cache == 0 || cache > limit {
            return Err(Error::usage(format!("the reward `{name}` cannot punish over this range"))
                .key("soft_overlong_cache")
                .expected(format!("1 to {limit} tokens (max_completion_length)"))
                .found(cache.to_string())
                .hint("leave it out to punish over the last fifth of max_completion_length"));
        }
        Ok(Length { name, curve: Curve::Overlong { limit, cache } })
    }

    /// Of `n` tokens, the end token included if there is one.
    fn of_tokens(&self, n: usize, ended: bool) -> f64 {
        match self.curve {
            Curve::Overlong { limit, cache } if n <= limit => {
                let past = n.saturating_sub(limit - cache);
                // 0 and not -0: a metric of many of them would carry the sign.
                if past == 0 { 0.0 } else { -(past as f64) / cache as f64 }
            }
            Curve::Overlong { .. } => -1.0,
            Curve::VlmR1Cosine => {
                let n = n.saturating_sub(usize::from(ended));
                let turned = (n as f64 * std::f64::consts::PI / 1024.0).cos();
                1.0 - (1.0 - 0.5) * (1.0 - turned) / 2.0
            }
        }
    }
}

impl Reward for Length {
    fn name(&self) -> &str {
        self.name
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        let one = |s: &Sample<'_>| Ok(Some(self.of_tokens(s.completion_ids.len(), !s.truncated)));
        samples.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::settings::LengthSettings;
    use crate::reward::test_sample;
    use serde_json::{Map, Value};

    /// Rows `{limit, cache, tokens, reward}` of TRL's `get_soft_overlong_punishment`, made by
    /// `tools/golden/rewards.py`.
    const GOLDEN: &str = include_str!("../../../tests/data/rewards/length.jsonl");

    fn settings(limit: usize, cache: Option<usize>) -> RewardSettings {
        RewardSettings {
            max_completion_length: limit,
            length: LengthSettings { soft_overlong_cache: cache, ..LengthSettings::default() },
            ..RewardSettings::default()
        }
    }

    #[test]
    fn equals_trl() {
        let (columns, mut rows) = (Map::new(), 0);
        for line in GOLDEN.lines() {
            let row: Map<String, Value> = serde_json::from_str(line).unwrap();
            let n = |k: &str| row[k].as_u64().unwrap() as usize;
            let reward = Length::new("length", &settings(n("limit"), Some(n("cache")))).unwrap();
            let ids = vec![7; n("tokens")];
            let got = reward.score(&[test_sample("", "", &ids, &columns)]);
            assert_eq!(*got[0].as_ref().unwrap(), row["reward"].as_f64(), "{line}");
            rows += 1;
        }
        assert!(rows >= 20);
    }

    #[test]
    fn length_of_vlm_r1_is_its_cosine() {
        let settings = RewardSettings { compat: Compat::VlmR1, ..settings(100, None) };
        let l = Length::new("length", &settings).unwrap();
        let close = |n, ended, want: f64| (l.of_tokens(n, ended) - want).abs() < 1e-12;
        // grpo_jsonl.py, cosine_reward: 0, 512, 1024 and 2048 tokens of text.
        assert!(close(1, true, 1.0) && close(0, false, 1.0) && close(512, false, 0.75));
        assert!(close(1025, true, 0.5) && close(2048, false, 1.0));
        let overlong = Length::new("soft_overlong", &settings).unwrap();
        assert_eq!(overlong.of_tokens(90, true), -0.5);
    }

    #[test]
    fn default_cache_and_bad_caches() {
        let l = Length::new("length", &settings(100, None)).unwrap();
        assert_eq!([80, 90, 100].map(|n| l.of_tokens(n, true)), [0.0, -0.5, -1.0]);
        assert!(Length::new("length", &settings(1, None)).is_ok());
        for cache in [0, 101] {
            assert_eq!(
                Length::new("length", &settings(100, Some(cache))).unwrap_err().exit_code(),
                2
            );
        }
    }
}
