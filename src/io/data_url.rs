//! Images inside text: data URLs (RFC 2397) and their base64 (RFC 4648). Decodes no image.

use base64::DecodeError;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine as _};

/// Written with padding, read with or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The bytes of an image in base64; line ends are passed over.
///
/// # Errors
/// What is not base64, and where.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, DecodeError> {
    let digits: Vec<u8> = text.bytes().filter(|c| !matches!(c, b'\n' | b'\r')).collect();
    BASE64.decode(digits)
}

/// An image as a data URL of type `image/<kind>`.
pub fn data_url(kind: &str, bytes: &[u8]) -> String {
    format!("data:image/{kind};base64,{}", encode_base64(bytes))
}

/// Base64 with padding.
pub fn encode_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The base64 of a data URL (RFC 2397).
pub fn data_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("data:")?;
    let (kind, data) = rest.split_once(',')?;
    (kind.len() < 100 && kind.ends_with(";base64")).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zg", "f"), ("Zm9v\nYmFy", "foobar")] {
            assert_eq!(decode_base64(text).unwrap(), bytes.as_bytes(), "{text}");
        }
        for text in ["Z", "Zg!=", "Z g="] {
            assert!(decode_base64(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_holds_what_it_was_made_of() {
        let url = data_url("png", &[0, 250, 255]);
        assert_eq!(url, "data:image/png;base64,APr/");
        assert_eq!(decode_base64(data_of(&url).unwrap()).unwrap(), [0, 250, 255]);
        assert_eq!(data_of("https://example.com/a.png"), None);
    }
}
