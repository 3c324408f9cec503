//! STUN and TURN servers: how they are written, and what a session does with them.
//!
//! Owns the text's grammar. Invariant: an [`IceServer`] is one that can be asked, but for a password that may be missing;
//! and neither its `Display` nor its `Debug` says who we are there.

use std::fmt;
use std::str::FromStr;

/// The port of both where none is said (RFC 7064, RFC 7065).
const DEFAULT_PORT: u16 = 3478;

/// A server that helps peers over WebRTC to reach each other, over UDP.
///
/// Written `stun:HOST[:PORT]` (RFC 7064) or `turn:USER[:PASSWORD]@HOST[:PORT][?transport=udp]` (RFC 7065, with the account
/// where URLs have it). User and password may be percent-encoded; a colon in the user has to be.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    host: String,
    port: u16,
    account: Option<Account>,
}

/// Who we are at a TURN server.
#[derive(Clone, PartialEq, Eq)]
struct Account {
    user: String,
    password: Option<String>,
}

/// Whether data may go from peer to peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayPolicy {
    /// It goes by a TURN server where there is no other way.
    IfNeeded,
    /// It goes by a TURN server always, so that no peer over WebRTC learns our address. Without one there are no such
    /// peers.
    Only,
}

/// Why a text names no server. Says nothing of the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IceServerError {
    /// Neither kind of server.
    #[error("it is neither stun:HOST[:PORT] nor turn:USER:PASSWORD@HOST[:PORT]")]
    Form,
    /// `stuns`, `turns`, or a transport that is not UDP.
    #[error("servers are asked over UDP alone, so neither stuns: nor turns: nor ?transport=tcp works")]
    Transport,
    /// No host, or one that cannot be.
    #[error("it names no host")]
    Host,
    /// Not a port.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// A TURN server without a user.
    #[error("a TURN server wants a user: turn:USER:PASSWORD@HOST[:PORT]")]
    NoUser,
    /// A STUN server with a user.
    #[error("a STUN server takes no user")]
    User,
    /// `%` without two hexadecimal digits, or what they say is not UTF-8.
    #[error("its user or password is not percent-encoded as it should be: a % itself is %25")]
    Encoding,
}

impl IceServer {
    /// The host's name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it passes data on (TURN, RFC 8656).
    pub fn is_relay(&self) -> bool {
        self.account.is_some()
    }

    /// Who we are there; for TURN alone.
    pub fn user(&self) -> Option<&str> {
        self.account.as_ref().map(|account| account.user.as_str())
    }

    /// The password, if the text had one.
    pub fn password(&self) -> Option<&str> {
        self.account.as_ref()?.password.as_deref()
    }

    /// Whether a password is wanted and missing.
    pub fn lacks_password(&self) -> bool {
        self.is_relay() && self.password().is_none()
    }

    /// The same, with this password if one is missing.
    #[must_use]
    pub fn or_password(mut self, password: &str) -> Self {
        if let Some(account) = &mut self.account {
            account.password.get_or_insert_with(|| password.to_owned());
        }
        self
    }

    /// The URL as browsers want it, where the account stands beside it.
    pub fn url(&self) -> String {
        let transport = if self.is_relay() { "?transport=udp" } else { "" };
        format!("{self}{transport}")
    }

    /// A text that was to name a server, without what may be secret in it: for messages.
    pub fn without_password(text: &str) -> String {
        let Some((account, place)) = text.rsplit_once('@') else { return text.to_owned() };
        let known = ["stun", "stuns", "turn", "turns"];
        match account
            .split_once(':')
            .filter(|(scheme, _)| known.contains(&scheme.to_ascii_lowercase().as_str()))
        {
            Some((scheme, account)) => {
                let user = account.split_once(':').map_or(account, |(user, _)| user);
                format!("{scheme}:{user}@{place}")
            }
            None => format!("...@{place}"),
        }
    }
}

impl FromStr for IceServer {
    type Err = IceServerError;

    fn from_str(text: &str) -> Result<Self, IceServerError> {
        let (scheme, rest) = text.split_once(':').ok_or(IceServerError::Form)?;
        let is_relay = match scheme.to_ascii_lowercase().as_str() {
            "stun" => false,
            "turn" => true,
            "stuns" | "turns" => return Err(IceServerError::Transport),
            _ => return Err(IceServerError::Form),
        };
        // The last one: nobody has to encode it in a password.
        let (account, place) = match rest.rsplit_once('@') {
            Some((account, place)) => (Some(account), place),
            None => (None, rest),
        };
        let (place, query) = place.split_once('?').unwrap_or((place, "transport=udp"));
        if !query.eq_ignore_ascii_case("transport=udp") {
            return Err(IceServerError::Transport);
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(IceServerError::Host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| IceServerError::Host)?;
                (host, (!after.is_empty()).then_some(after))
            }
            None => place.find(':').map_or((place, None), |at| (&place[..at], Some(&place[at..]))),
        };
        let is_host = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(IceServerError::Host);
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port != 0)
                .ok_or(IceServerError::Port)?,
        };
        let account = match (is_relay, account) {
            (false, None) => None,
            (false, Some(_)) => return Err(IceServerError::User),
            (true, account) => Some(Account::parse(account.unwrap_or_default())?),
        };
        Ok(Self { host: host.to_owned(), port, account })
    }
}

impl Account {
    fn parse(text: &str) -> Result<Self, IceServerError> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (text, None),
        };
        let user = decoded(user)?;
        if user.is_empty() {
            return Err(IceServerError::NoUser);
        }
        let password = password.filter(|password| !password.is_empty()).map(decoded).transpose()?;
        Ok(Self { user, password })
    }
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Result<String, IceServerError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(IceServerError::Encoding);
                };
                u8::try_from(high * 16 + low).map_err(|_| IceServerError::Encoding)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| IceServerError::Encoding)
}

impl fmt::Display for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        let scheme = if self.is_relay() { "turn" } else { "stun" };
        if host.contains(':') {
            write!(f, "{scheme}:[{host}]:{port}")
        } else {
            write!(f, "{scheme}:{host}:{port}")
        }
    }
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> IceServer {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn servers_are_read_as_people_write_them() {
        for (text, shown, user, password) in [
            ("stun:stun.example.org", "stun:stun.example.org:3478", None, None),
            ("STUN:[::1]:99", "stun:[::1]:99", None, None),
            ("turn:ada:secret@10.0.0.1", "turn:10.0.0.1:3478", Some("ada"), Some("secret")),
            ("turn:ada@relay:5349?transport=UDP", "turn:relay:5349", Some("ada"), None),
            ("turn:ada:@[2001:db8::1]", "turn:[2001:db8::1]:3478", Some("ada"), None),
            ("turn:a%3Ab:p@ss:w%25rd@h:1", "turn:h:1", Some("a:b"), Some("p@ss:w%rd")),
        ] {
            let server = server(text);
            assert_eq!(server.to_string(), shown, "{text}");
            assert_eq!((server.user(), server.password()), (user, password), "{text}");
            assert_eq!(server.is_relay(), user.is_some(), "{text}");
        }
    }

    #[test]
    fn what_no_server_can_be_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", IceServerError::Form),
            ("stun.example.org", IceServerError::Form),
            ("http://10.0.0.1", IceServerError::Form),
            ("stuns:10.0.0.1", IceServerError::Transport),
            ("turns:ada:secret@10.0.0.1", IceServerError::Transport),
            ("turn:ada:secret@10.0.0.1?transport=tcp", IceServerError::Transport),
            ("stun:", IceServerError::Host),
            ("stun://10.0.0.1", IceServerError::Host),
            ("stun:[10.0.0.1]", IceServerError::Host),
            ("stun:[::1", IceServerError::Host),
            ("turn:ada:secret@", IceServerError::Host),
            ("stun:a:port", IceServerError::Port),
            ("stun:a:0", IceServerError::Port),
            ("stun:a:70000", IceServerError::Port),
            ("stun:[::1]99", IceServerError::Port),
            ("turn:10.0.0.1", IceServerError::NoUser),
            ("turn::secret@10.0.0.1", IceServerError::NoUser),
            ("stun:ada@10.0.0.1", IceServerError::User),
            ("turn:ada:%@10.0.0.1", IceServerError::Encoding),
            ("turn:%ff:secret@10.0.0.1", IceServerError::Encoding),
        ] {
            assert_eq!(text.parse::<IceServer>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn what_is_shown_of_a_server_holds_no_password() {
        let relay = server("turn:ada:secret@10.0.0.1");
        assert!(!format!("{relay} {relay:?} {}", relay.url()).contains("secret"));
        for text in ["turn:ada:secret@host:x", "turns:ada:sec@ret@host", "secret@host", "ada:secret@host"] {
            assert!(!IceServer::without_password(text).contains("secret@"), "{text}");
        }
        assert_eq!(IceServer::without_password("turn:ada:secret@host:x"), "turn:ada@host:x");
        assert_eq!(IceServer::without_password("stun:host"), "stun:host");
    }

    #[test]
    fn a_password_given_apart_is_for_servers_that_lack_one() {
        let late = server("turn:ada@host");
        assert!(late.lacks_password());
        assert_eq!(late.or_password("later").password(), Some("later"));
        assert_eq!(server("turn:ada:first@host").or_password("later").password(), Some("first"));
        let stun = server("stun:host").or_password("later");
        assert!(!stun.lacks_password() && stun.password().is_none());
    }
}
