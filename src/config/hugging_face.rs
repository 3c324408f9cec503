//! How this process reaches Hugging Face as a client: the variables that its own tools use, so that one setting serves
//! all of them.
//!
//! `HF_ENDPOINT` says where the hub is. The token is `HF_TOKEN`, or stands in the file `HF_TOKEN_PATH`, in
//! `$HF_HOME/token`, or in `huggingface/token` of the cache directory, which is where `hf auth login` puts it. It is
//! read when it is needed, and shown nowhere.

use std::io::Read as _;
use std::path::PathBuf;

use wtfs_torrent::hf::{DEFAULT_ENDPOINT, Token};

use super::Environment;
use crate::exit::{Exit, OrEnd as _, ended};

/// No token's file is longer.
const TOKEN_FILE_BYTES_MAX: u64 = 16 << 10;

/// See the module's documentation.
#[derive(Clone, Default)]
pub(crate) struct HuggingFace {
    endpoint: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

impl std::fmt::Debug for HuggingFace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HuggingFace").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl HuggingFace {
    pub(super) fn from_environment(environment: &Environment) -> anyhow::Result<Self> {
        let cache = environment
            .path("XDG_CACHE_HOME")
            .or_else(|| environment.path("HOME").map(|home| home.join(".cache")));
        let home = environment.path("HF_HOME").or_else(|| cache.map(|cache| cache.join("huggingface")));
        Ok(Self {
            endpoint: environment.text("HF_ENDPOINT")?,
            token: environment.text("HF_TOKEN")?,
            token_file: environment.path("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token"))),
        })
    }

    /// The origin's address: what was typed, or `HF_ENDPOINT`, or the one that everybody means.
    pub(crate) fn endpoint(&self, typed: Option<&str>) -> String {
        typed.or(self.endpoint.as_deref()).unwrap_or(DEFAULT_ENDPOINT).trim_end_matches('/').to_owned()
    }

    /// Whether a person named the origin, who then knows where it is.
    pub(crate) fn is_named(&self, typed: Option<&str>) -> bool {
        self.endpoint(typed) != DEFAULT_ENDPOINT
    }

    /// In whose name to ask, if anybody's.
    ///
    /// # Errors
    /// What is set is no token, or its file cannot be read. The text is not repeated.
    pub(crate) fn token(&self) -> anyhow::Result<Option<Token>> {
        if let Some(text) = self.token.as_deref().filter(|text| !text.trim().is_empty()) {
            return Token::parse(text).map(Some).or_end(Exit::Usage, || "HF_TOKEN cannot be used".into());
        }
        let Some(path) = &self.token_file else { return Ok(None) };
        let place = || format!("the token in {} cannot be used", path.display());
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).or_end(Exit::Usage, place),
        };
        let mut text = String::new();
        file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).or_end(Exit::Usage, place)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Token::parse(&text).map(Some).map_err(|error| ended(Exit::Usage, format!("{}: {error}", place())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(text: &str) -> [u8; 32] {
        Token::parse(text).expect("a token").fingerprint()
    }

    #[test]
    fn the_token_is_where_the_other_tools_have_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir_all(dir.path().join("cache/huggingface")).expect("made");
        std::fs::create_dir_all(dir.path().join("home")).expect("made");
        std::fs::write(dir.path().join("cache/huggingface/token"), "hf_cache\n").expect("written");
        std::fs::write(dir.path().join("home/token"), "hf_home").expect("written");
        std::fs::write(dir.path().join("named"), " hf_named\n").expect("written");
        let (cache, home, named) = (at("cache"), at("home"), at("named"));
        let found = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let environment = Environment(variables.collect());
            let settings = HuggingFace::from_environment(&environment).expect("read");
            assert!(!format!("{settings:?}").contains("hf_"));
            settings.token().expect("read").map(|token| token.fingerprint())
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("XDG_CACHE_HOME", &cache)]), Some(fingerprint("hf_cache")));
        let both = [("XDG_CACHE_HOME", cache.as_str()), ("HF_HOME", &home)];
        assert_eq!(found(&both), Some(fingerprint("hf_home")));
        assert_eq!(found(&[("HF_HOME", &home), ("HF_TOKEN_PATH", &named)]), Some(fingerprint("hf_named")));
        assert_eq!(found(&[("HF_HOME", &home), ("HF_TOKEN", "hf_typed")]), Some(fingerprint("hf_typed")));
        assert_eq!(found(&[("HF_HOME", "/nonexistent")]), None);
    }

    #[test]
    fn a_token_that_is_none_is_not_repeated() {
        let environment = Environment::from([("HF_TOKEN", "not a token")]);
        let error = HuggingFace::from_environment(&environment).expect("read").token().expect_err("refused");
        assert!(!format!("{error:#}").contains("not a token"), "{error:#}");
    }

    #[test]
    fn what_was_typed_wins_over_the_variable() {
        let environment = Environment::from([("HF_ENDPOINT", "http://mirror:8080/hf/")]);
        let settings = HuggingFace::from_environment(&environment).expect("read");
        assert_eq!(settings.endpoint(None), "http://mirror:8080/hf");
        assert_eq!(settings.endpoint(Some("http://other")), "http://other");
        assert_eq!(HuggingFace::default().endpoint(None), "https://huggingface.co");
        assert!(settings.is_named(None) && !HuggingFace::default().is_named(None));
    }
}
