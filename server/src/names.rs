//! Names of strangers in URLs and headers: percent-encoding (RFC 3986) and `Content-Disposition` (RFC 6266, RFC 8187).
//! Pure.

use std::fmt::Write as _;

/// The bytes that a percent-encoded text stands for; `None` where an escape is broken.
pub(crate) fn percent_decode_bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    Some(bytes)
}

/// As [`percent_decode_bytes`], for text.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    String::from_utf8(percent_decode_bytes(text)?).ok()
}

/// One component of a path for a URL: all but the unreserved characters of RFC 3986 escaped.
pub(crate) fn percent_encode(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// `Content-Disposition` that saves a file under its name and never shows it. An old reader gets the name with all that
/// is not plain replaced, a new one the whole name.
pub(crate) fn attachment(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " -._()+,=@!#".contains(c);
    let fallback: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    if fallback == name {
        return format!("attachment; filename=\"{fallback}\"");
    }
    format!("attachment; filename=\"{fallback}\"; filename*=UTF-8''{}", percent_encode(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_broken_escape_is_no_text() {
        assert_eq!(percent_decode("a%20b%C3%BC").as_deref(), Some("a bü"));
        for text in ["%", "%2", "%zz", "a%+1", "%ff"] {
            assert_eq!(percent_decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_for_saving_ends_no_quotation_and_no_header() {
        assert_eq!(attachment("model-7b.gguf"), "attachment; filename=\"model-7b.gguf\"");
        assert_eq!(
            attachment("ü \"x\"\r\nSet-Cookie: a"),
            "attachment; filename=\"_ _x___Set-Cookie_ a\"; filename*=UTF-8''%C3%BC%20%22x%22%0D%0ASet-Cookie%3A%20a"
        );
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(name in "\\PC{0,40}") {
            let encoded = percent_encode(&name);
            prop_assert!(!encoded.contains(['/', ' ', '?', '#']));
            prop_assert_eq!(percent_decode(&encoded), Some(name));
        }

        #[test]
        fn every_name_makes_a_header(name in any::<String>()) {
            prop_assert!(axum::http::HeaderValue::from_str(&attachment(&name)).is_ok());
        }
    }
}
