//! `length`: a length penalty, the soft overlong punishment of DAPO (Yu et al. 2025, equation 13).
//! It counts tokens, never characters, and never pays a positive amount.

use super::super::{Reward, RewardSettings, Sample};
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
#[derive(Debug, Clone, Copy)]
pub struct Length {
    limit: usize,
    cache: usize,
}

impl Length {
    /// From `max_completion_length` and `soft_overlong_cache` (default: a fifth of the limit).
    pub fn new(settings: &RewardSettings) -> Result<Self> {
        let limit = settings.max_completion_length;
        let cache = settings.length.soft_overlong_cache.unwrap_or((limit / 5).max(1));
        if cache == 0 || cache > limit {
            return Err(Error::usage("the reward `length` cannot punish over this range")
                .key("soft_overlong_cache")
                .expected(format!("1 to {limit} tokens (max_completion_length)"))
                .found(cache.to_string())
                .hint("leave it out to punish over the last fifth of max_completion_length"));
        }
        Ok(Length { limit, cache })
    }

    fn of_tokens(&self, n: usize) -> f64 {
        let free = self.limit - self.cache;
        if n <= free {
            0.0
        } else if n <= self.limit {
            -((n - free) as f64) / self.cache as f64
        } else {
            -1.0
        }
    }
}

impl Reward for Length {
    fn name(&self) -> &str {
        "length"
    }
    fn score(&self, samples: &[Sample<'_>]) -> Vec<Result<Option<f64>>> {
        samples.iter().map(|s| Ok(Some(self.of_tokens(s.completion_ids.len())))).collect()
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
            let reward = Length::new(&settings(n("limit"), Some(n("cache")))).unwrap();
            let ids = vec![7; n("tokens")];
            let got = reward.score(&[test_sample("", "", &ids, &columns)]);
            assert_eq!(*got[0].as_ref().unwrap(), row["reward"].as_f64(), "{line}");
            rows += 1;
        }
        assert!(rows >= 20);
    }

    #[test]
    fn default_cache_and_bad_caches() {
        let l = Length::new(&settings(100, None)).unwrap();
        assert_eq!([l.of_tokens(80), l.of_tokens(90), l.of_tokens(100)], [0.0, -0.5, -1.0]);
        assert!(Length::new(&settings(1, None)).is_ok());
        for cache in [0, 101] {
            assert_eq!(Length::new(&settings(100, Some(cache))).unwrap_err().exit_code(), 2);
        }
    }
}
