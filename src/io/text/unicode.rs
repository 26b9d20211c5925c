//! Unicode normalisation of data that is converted. Texts of data sets are never normalised on their way
//! into a prompt: there they stay as they are.

use tokenizers::NormalizedString;

/// The text in Unicode's normalization form C: letters with their marks as single characters, wherever
/// there are such. Vietnamese is written in both forms, which look the same and have other tokens.
pub fn nfc(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut normal = NormalizedString::from(text);
    normal.nfc();
    normal.get().to_owned()
}

#[cfg(test)]
mod tests {
    use super::nfc;

    #[test]
    fn vietnamese_is_composed() {
        for (given, composed) in [
            ("plain", "plain"),
            ("Ti\u{65}\u{302}\u{301}ng Vi\u{65}\u{323}\u{302}t", "Ti\u{1ebf}ng Vi\u{1ec7}t"),
            // Marks in the other order are the same letter.
            ("\u{65}\u{302}\u{323}", "\u{1ec7}"),
            ("\u{111}\u{1b0}\u{1a1}\u{300}ng", "\u{111}\u{1b0}\u{1edd}ng"),
            ("\u{1ebf}", "\u{1ebf}"),
            ("", ""),
        ] {
            assert_eq!(nfc(given), composed, "{given}");
        }
    }
}
