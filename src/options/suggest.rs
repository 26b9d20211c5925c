//! "Did you mean": the names nearest to a misspelt one. A pure function of strings.

/// Up to three of `names` that are near `wrong`, nearest first, each once.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    if wrong.is_empty() {
        return Vec::new();
    }
    // A third of the letters may be wrong: `lerning_rat` is near `learning_rate`, `abc` is near
    // nothing.
    let limit = (wrong.chars().count() / 3).clamp(1, 5);
    let mut found: Vec<(usize, &str)> = Vec::new();
    for name in names {
        let distance = distance(&wrong, &name.replace('-', "_"));
        // A piece of a long name is a typical slip too: `batch`, `generations`.
        let part = wrong.len() >= 4 && (name.contains(&wrong) || wrong.contains(name));
        let score = match (distance <= limit, part) {
            (true, _) => distance,
            (false, true) => limit + 1,
            (false, false) => continue,
        };
        if !found.iter().any(|(_, n)| *n == name) {
            found.push((score, name));
        }
    }
    found.sort_by_key(|(score, _)| *score);
    found.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Edit distance that counts a swap of neighbours as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut table = vec![0usize; (a.len() + 1) * width];
    for (j, cell) in table[..width].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        table[i * width] = i;
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (table[(i - 1) * width + j] + 1)
                .min(table[i * width + j - 1] + 1)
                .min(table[(i - 1) * width + j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(table[(i - 2) * width + j - 2] + 1);
            }
            table[i * width + j] = best;
        }
    }
    table[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_definition() {
        for (a, b, d) in [("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 1), ("x", "x", 0)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn nearest_first_and_nothing_for_nonsense() {
        let names = ["learning_rate", "lora_r", "per_device_train_batch_size", "beta"];
        let near = |w: &str| nearest(w, names.into_iter());
        assert_eq!(near("lerning_rat"), ["learning_rate"]);
        assert_eq!(near("learning-rate"), ["learning_rate"]);
        assert_eq!(near("batch_size"), ["per_device_train_batch_size"]);
        assert!(near("qqq").is_empty());
        assert!(near("").is_empty());
    }
}
