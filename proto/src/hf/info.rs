//! What the Hub tells of a repository at a revision: the few fields that are acted on, and all of it to pass on.

use serde_json::Value;
use thiserror::Error;

use super::{Commit, FilePath, NameError, RepoId};

/// Keys by which the Hub tells clients to fetch by Xet instead of by HTTP. One left in an answer makes them go past us.
const XET_KEYS: &[&str] = &["xetHash", "xetEnabled", "xetAuth", "xetReconstruction"];

/// `GET /api/models/{id}/revision/{rev}`.
#[derive(Debug, Clone, PartialEq)]
pub struct RepoInfo {
    /// The id as the Hub has it now, whatever it was asked by.
    pub id: RepoId,
    /// The commit of the revision.
    pub commit: Commit,
    /// When it last changed (RFC 3339), as the Hub writes it.
    pub last_modified: Option<String>,
    /// Only some may see it.
    pub is_private: bool,
    /// Only some may read its content, though all may see what there is.
    pub is_gated: bool,
    /// The Hub took it down.
    pub is_disabled: bool,
    /// The whole answer, [cleaned](clean).
    pub json: Value,
}

/// Why an answer tells nothing of a repository.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InfoError {
    /// Not JSON, or nested beyond reason.
    #[error("it is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field that everything depends on is missing or of another type.
    #[error("it has no usable '{0}'")]
    Field(&'static str),
    /// The id is none.
    #[error("its 'id' is refused: {0}")]
    Id(#[from] NameError),
}

impl RepoInfo {
    /// Reads an answer.
    ///
    /// # Errors
    /// [`InfoError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InfoError> {
        let mut json: Value = serde_json::from_slice(bytes)?;
        clean(&mut json);
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        let id = text("id").or_else(|| text("modelId")).ok_or(InfoError::Field("id"))?;
        let sha = text("sha").ok_or(InfoError::Field("sha"))?;
        // `gated` is false, "auto" or "manual".
        let is =
            |key: &str| json.get(key).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
        Ok(Self {
            id: RepoId::parse(id)?,
            commit: sha.parse().map_err(|_| InfoError::Field("sha"))?,
            last_modified: text("lastModified").map(str::to_owned),
            is_private: is("private"),
            is_gated: is("gated"),
            is_disabled: is("disabled"),
            json,
        })
    }

    /// Whether anybody may read its content without saying who it is.
    pub fn is_public(&self) -> bool {
        !(self.is_private || self.is_gated || self.is_disabled)
    }
}

/// Takes out of an answer, at whatever depth, what tells clients to fetch by Xet, and files whose names no file may have:
/// clients make paths of them.
pub fn clean(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            fields.retain(|key, _| !XET_KEYS.contains(&key.as_str()));
            fields.values_mut().for_each(clean);
        }
        Value::Array(items) => {
            items.retain(|item| item.get("rfilename").is_none_or(is_file_name));
            items.iter_mut().for_each(clean);
        }
        _ => {}
    }
}

fn is_file_name(name: &Value) -> bool {
    name.as_str().is_some_and(|name| FilePath::parse(name).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn the_fields_that_matter_are_read_and_the_rest_is_kept_without_xet() {
        let text = format!(
            r#"{{"_id":"1","id":"org/name","sha":"{SHA}","private":false,"gated":"manual","lastModified":"2024-01-01T00:00:00.000Z",
                "xetEnabled":true,"siblings":[{{"rfilename":"a","xetHash":"x","size":1}}],"tags":["x"]}}"#
        );
        let info = RepoInfo::parse(text.as_bytes()).expect("read");
        assert_eq!((info.id.as_str(), info.commit.to_string().as_str()), ("org/name", SHA));
        assert!(info.is_gated && !info.is_private && !info.is_disabled && !info.is_public());
        let written = info.json.to_string();
        assert!(!written.contains("xet") && written.contains(r#""tags":["x"]"#), "{written}");
        assert_eq!(info.json["siblings"][0]["size"], 1);
    }

    #[test]
    fn files_whose_names_lead_out_are_not_told_of() {
        let names = ["../evil", "/etc/evil", "a/../../evil", "a//b", "nul\\u0000", "good/file.txt"];
        let siblings = names.map(|name| format!(r#"{{"rfilename":"{name}"}}"#)).join(",");
        let text = format!(r#"{{"id":"a/b","sha":"{SHA}","siblings":[{siblings},{{"rfilename":7}}]}}"#);
        let info = RepoInfo::parse(text.as_bytes()).expect("read");
        assert_eq!(info.json["siblings"], serde_json::json!([{ "rfilename": "good/file.txt" }]));
    }

    #[test]
    fn an_answer_that_names_no_repository_or_commit_is_refused() {
        for text in [
            "",
            "[]",
            "null",
            "<html>",
            r#"{"id":"a/b"}"#,
            r#"{"sha":"x","id":"a/b"}"#,
            r#"{"id":1,"sha":""}"#,
            &format!(r#"{{"id":"../x","sha":"{SHA}"}}"#),
            &"[".repeat(100_000),
        ] {
            assert!(RepoInfo::parse(text.as_bytes()).is_err(), "{text:.40}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_trouble(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = RepoInfo::parse(&bytes);
        }
    }
}
