//! What stands behind the question mark of a request, and in the body of a form. Pure.

use wtfs_proto::hf::decode_segment;

/// The pairs of a query or a form, decoded. Those that are not text are left out.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |part: &str| decode_segment(&part.replace('+', " "));
        Some((decode(key)?, decode(value)?))
    })
}

/// What the Hub's listings are asked for with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) recursive: Flag,
    pub(super) expand: Flag,
    /// Of an info: lengths and hashes of the files too.
    pub(super) blobs: Flag,
    pub(super) limit: Option<usize>,
    /// A number in listings of our own, anything in those that are passed on.
    pub(super) cursor: Option<String>,
    /// Of an info: only these fields.
    pub(super) fields: Vec<String>,
}

/// A boolean as clients write it: Python's `True` among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Flag {
    #[default]
    Off,
    On,
}

impl Flag {
    fn of(value: &str) -> Self {
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" => Self::On,
            _ => Self::Off,
        }
    }
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let mut found = Self::default();
        for (key, value) in pairs(query.unwrap_or_default()) {
            match key.as_str() {
                "recursive" => found.recursive = Flag::of(&value),
                "blobs" => found.blobs = Flag::of(&value),
                "limit" => found.limit = value.parse().ok(),
                "cursor" => found.cursor = Some(value),
                "expand" | "expand[]"
                    if matches!(value.to_ascii_lowercase().as_str(), "true" | "false" | "1" | "0") =>
                {
                    found.expand = Flag::of(&value);
                }
                "expand" | "expand[]" if found.fields.len() < 100 => found.fields.push(value),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_of_all_clients_are_read() {
        for text in ["recursive=True", "recursive=true", "x=1&recursive=1"] {
            assert_eq!(Query::parse(Some(text)).recursive, Flag::On, "{text}");
        }
        for text in ["", "recursive=False", "recursive=", "recursive"] {
            assert_eq!(Query::parse(Some(text)).recursive, Flag::Off, "{text}");
        }
        let query = Query::parse(Some("limit=7&cursor=14&expand=sha&expand[]=tags&limit=x&expand=True"));
        assert_eq!((query.limit, query.cursor, query.expand), (None, Some("14".to_owned()), Flag::On));
        assert_eq!(query.fields, ["sha", "tags"]);
    }

    #[test]
    fn a_form_is_decoded_once() {
        let form: Vec<_> = pairs("paths=a%20b&paths=c+d&paths=100%25&x&=y&z=%ff").collect();
        let expected = [("paths", "a b"), ("paths", "c d"), ("paths", "100%"), ("x", ""), ("", "y")];
        assert_eq!(form, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
