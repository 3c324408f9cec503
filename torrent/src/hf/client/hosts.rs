//! Where a hub may send us: its own origin, the hosts of huggingface.co, and those that were configured. Pure.
//!
//! A hub's answers decide what this machine asks for, so a redirect (or the address of a listing's next page) to
//! anywhere else is refused before a connection is made. Addresses behind the names are checked by `http::reach`.

use url::{Host, Url};

use super::error::{UpstreamError, UpstreamSetupError};

/// Of huggingface.co: where it keeps files. HTTPS at the usual port alone.
const WELL_KNOWN: [Name<'static>; 4] = [
    Name::Whole("huggingface.co"),
    Name::Below("huggingface.co"),
    Name::Whole("hf.co"),
    Name::Below("hf.co"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    /// This host.
    Whole(&'a str),
    /// Any host below this domain.
    Below(&'a str),
}

impl Name<'_> {
    fn matches(self, url: &Url) -> bool {
        let Some(host) = url.host_str().map(|host| host.trim_end_matches('.')) else { return false };
        match self {
            Self::Whole(name) => host == name,
            // A number ends in no domain.
            Self::Below(domain) => {
                matches!(url.host(), Some(Host::Domain(_)))
                    && host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }
}

/// A configured host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Extra {
    name: String,
    is_domain: bool,
    port: Option<u16>,
}

/// The hosts that may be asked.
#[derive(Debug)]
pub(super) struct Hosts {
    endpoint: Url,
    extras: Vec<Extra>,
}

impl Hosts {
    /// Those of this hub and the configured ones.
    ///
    /// # Errors
    /// [`UpstreamSetupError::Host`] for a configured one that is none.
    pub(super) fn new(endpoint: &Url, allowed: &[String]) -> Result<Self, UpstreamSetupError> {
        let extras = allowed
            .iter()
            .map(|text| Extra::parse(text).ok_or_else(|| UpstreamSetupError::Host { text: text.clone() }));
        Ok(Self { endpoint: endpoint.clone(), extras: extras.collect::<Result<_, _>>()? })
    }

    /// Whether `url` is the hub's own: the one place that a token is for.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Why `url` is not asked; `None` if it may be.
    pub(super) fn refuses(&self, url: &Url) -> Option<&'static str> {
        if !matches!(url.scheme(), "http" | "https") {
            return Some("its scheme is neither http nor https");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Some("it holds a user's name or password");
        }
        if self.is_own(url) || self.extras.iter().any(|extra| extra.matches(url)) {
            return None;
        }
        let is_usual = url.scheme() == "https" && url.port().is_none();
        if is_usual && WELL_KNOWN.iter().any(|name| name.matches(url)) {
            return None;
        }
        Some(UpstreamError::NOT_ALLOWED)
    }

    /// URLs of the configured hosts that are named whole: those may be private.
    pub(super) fn whole_names(&self) -> impl Iterator<Item = String> {
        self.extras.iter().filter(|extra| !extra.is_domain).map(|extra| format!("http://{}/", extra.name))
    }
}

impl Extra {
    fn parse(text: &str) -> Option<Self> {
        let (text, is_domain) = match text.trim().strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (text.trim(), false),
        };
        // A port that is the scheme's usual one would be dropped when parsed with it: no scheme has port 1 as its own.
        let has_port = text.rsplit_once(':').is_some_and(|(host, port)| {
            (!host.contains(':') || host.ends_with(']')) && port.parse::<u16>().is_ok()
        });
        let url = Url::parse(&format!("ftp://{text}/")).ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
        if !plain || text.contains(['/', '?', '#', '@', ' ', '*']) || text.is_empty() {
            return None;
        }
        let port = if has_port { text.rsplit_once(':')?.1.parse().ok() } else { None };
        let is_number = !matches!(url.host()?, Host::Domain(_));
        if is_domain && is_number {
            return None;
        }
        let name = url.host_str()?.trim_end_matches('.').to_owned();
        Some(Self { name, is_domain, port })
    }

    fn matches(&self, url: &Url) -> bool {
        let name = if self.is_domain { Name::Below(&self.name) } else { Name::Whole(&self.name) };
        let is_port = match self.port {
            Some(port) => url.port_or_known_default() == Some(port),
            // `url` drops a port that is the usual one.
            None => url.port().is_none(),
        };
        is_port && name.matches(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect(text)
    }

    fn hosts(endpoint: &str, allowed: &[&str]) -> Hosts {
        let allowed: Vec<String> = allowed.iter().map(|text| (*text).to_owned()).collect();
        Hosts::new(&url(endpoint), &allowed).expect("they are hosts")
    }

    #[test]
    fn the_hosts_of_the_hub_are_allowed_and_nothing_that_looks_like_them() {
        let hosts = hosts("https://huggingface.co", &[]);
        for allowed in [
            "https://huggingface.co/x",
            "https://hf.co/x",
            "https://cdn-lfs-us-1.hf.co/x?Signature=y",
            "https://us.gcp.cdn.hf.co/x",
            "https://cas-bridge.xethub.hf.co/x",
            "https://cdn-lfs.huggingface.co/x",
            "https://HF.CO./x",
        ] {
            assert_eq!(hosts.refuses(&url(allowed)), None, "{allowed}");
        }
        for refused in [
            "http://huggingface.co/x",
            "https://huggingface.co:8443/x",
            "https://evilhf.co/x",
            "https://hf.co.evil.example/x",
            "https://user@hf.co/x",
            "https://user:pw@huggingface.co/x",
            "https://169.254.169.254/x",
            "https://127.0.0.1/x",
            "http://localhost/x",
            "https://[::1]/x",
            "file:///etc/passwd",
            "ftp://hf.co/x",
            "gopher://hf.co/x",
            "https://.hf.co/x",
        ] {
            let Ok(parsed) = Url::parse(refused) else { continue };
            assert!(hosts.refuses(&parsed).is_some(), "{refused}");
        }
    }

    #[test]
    fn a_configured_host_is_allowed_at_its_port_and_a_domain_for_its_names() {
        let hosts = hosts(
            "http://127.0.0.1:8000/hf",
            &["127.0.0.1:9001", "CDN.example", "*.files.example", "[::1]:443"],
        );
        for allowed in [
            "http://127.0.0.1:8000/other",
            "http://127.0.0.1:9001/x",
            "https://cdn.example/x",
            "http://cdn.example/x",
            "https://a.b.files.example/x",
            "https://[::1]/x",
        ] {
            assert_eq!(hosts.refuses(&url(allowed)), None, "{allowed}");
        }
        for refused in [
            "http://127.0.0.1:9002/x",
            "http://127.0.0.1/x",
            "https://127.0.0.1:8000/x",
            "https://cdn.example:8443/x",
            "https://files.example/x",
            "https://xfiles.example/x",
            "http://[::1]/x",
        ] {
            assert!(hosts.refuses(&url(refused)).is_some(), "{refused}");
        }
        assert!(hosts.is_own(&url("http://127.0.0.1:8000/x")));
        assert!(!hosts.is_own(&url("http://127.0.0.1:9001/x")));
        let whole: Vec<String> = hosts.whole_names().collect();
        assert_eq!(whole, ["http://127.0.0.1/", "http://cdn.example/", "http://[::1]/"]);
    }

    #[test]
    fn what_is_no_host_is_not_taken_for_one() {
        for text in ["", "http://x", "a/b", "a@b", "a b", "*.", "*", "*.127.0.0.1", "a:99999", "a?b"] {
            let allowed = [text.to_owned()];
            assert!(Hosts::new(&url("https://hf.co"), &allowed).is_err(), "{text}");
        }
    }
}
