//! Answers that are yes or no. The whole answer is one word: "yes and no", "not yes" and sentences
//! are not taken apart.

use super::normalise;

/// Words for yes and no that belong together.
const LANGUAGES: [[&str; 2]; 3] = [["yes", "no"], ["có", "không"], ["true", "false"]];
/// Row of [`LANGUAGES`] with the words of booleans; a reference there may be answered with yes or no.
const BOOLEAN: usize = 2;

/// Which language a text answers in, and whether it says yes.
fn word(text: &str) -> Option<(usize, bool)> {
    let said = normalise(text);
    let find = |(i, words): (usize, &[&str; 2])| {
        words.iter().position(|w| *w == said).map(|side| (i, side == 0))
    };
    LANGUAGES.iter().enumerate().find_map(find)
}

/// Whether `said` says the same; None if the reference is neither yes nor no.
pub fn verdict(said: &str, reference: &str) -> Option<bool> {
    let (language, wanted) = word(reference)?;
    let same = word(said).is_some_and(|(theirs, yes)| {
        let understood = theirs == language || (language == BOOLEAN && theirs == 0);
        understood && yes == wanted
    });
    Some(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_in_the_language_of_the_reference() {
        for (said, reference, want) in [
            ("Yes.", "yes", Some(true)),
            ("no", "yes", Some(false)),
            ("yes and no", "yes", Some(false)),
            ("Không", "không", Some(true)),
            ("yes", "có", Some(false)),
            ("yes", "true", Some(true)),
            ("False", "false", Some(true)),
            ("true", "yes", Some(false)),
            ("", "no", Some(false)),
            ("yes", "red", None),
            ("yes", "", None),
        ] {
            assert_eq!(verdict(said, reference), want, "{said} / {reference}");
        }
    }
}
