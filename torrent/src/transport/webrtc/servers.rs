//! STUN and TURN servers: their URLs, and the addresses of their names.
//!
//! The library looks names up within the task that also gathers, one after the other, so that one dead name server holds
//! up every candidate. Here all are looked up at once, under a deadline, and remembered; the library is given addresses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::policy::IceServer;

/// How long an answer is used again.
const KEPT: Duration = Duration::from_secs(300);

/// How long a name that was not found is left alone.
const FAILED_KEPT: Duration = Duration::from_secs(10);

/// The servers of a factory.
#[derive(Debug)]
pub(super) struct Servers {
    entries: Vec<Entry>,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone)]
struct Entry {
    scheme: Scheme,
    host: String,
    port: u16,
    username: String,
    credential: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Stun,
    Turn,
}

#[derive(Debug, Clone)]
struct Known {
    ips: Vec<IpAddr>,
    until: Instant,
}

impl Servers {
    /// Those that make no sense are left out, and said so.
    pub(super) fn new(servers: &[IceServer]) -> Self {
        let entries = servers
            .iter()
            .filter_map(|server| {
                let entry = parse(server);
                if entry.is_none() {
                    tracing::warn!(url = server.url, "not a STUN or TURN server over UDP; left out");
                }
                entry
            })
            .collect();
        Self { entries, known: Mutex::new(HashMap::new()) }
    }

    /// The servers with addresses in place of names, one of each family. A name not found by `deadline` is left out.
    pub(super) async fn resolved(&self, deadline: Duration) -> Vec<IceServer> {
        let lookups = self.entries.iter().map(async |entry| {
            let ips = self.look_up(&entry.host, deadline).await;
            ips.into_iter().map(|ip| entry.at(ip)).collect::<Vec<_>>()
        });
        futures_util::future::join_all(lookups).await.into_iter().flatten().collect()
    }

    async fn look_up(&self, host: &str, deadline: Duration) -> Vec<IpAddr> {
        if let Ok(ip) = host.parse() {
            return vec![ip];
        }
        if let Some(known) = self.lock().get(host).filter(|known| known.until > Instant::now()) {
            return known.ips.clone();
        }
        let found = tokio::time::timeout(deadline, tokio::net::lookup_host((host, 0))).await;
        let ips = match found {
            Ok(Ok(addrs)) => one_of_each_family(addrs),
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "server not found");
                Vec::new()
            }
            Err(_) => {
                tracing::debug!(host, "looking the server up takes too long");
                Vec::new()
            }
        };
        let kept = if ips.is_empty() { FAILED_KEPT } else { KEPT };
        let known = Known { ips: ips.clone(), until: Instant::now() + kept };
        self.lock().insert(host.to_owned(), known);
        ips
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn at(&self, ip: IpAddr) -> IceServer {
        let addr = SocketAddr::new(ip, self.port);
        let url = match self.scheme {
            Scheme::Stun => format!("stun:{addr}"),
            Scheme::Turn => format!("turn:{addr}?transport=udp"),
        };
        IceServer { url, username: self.username.clone(), credential: self.credential.clone() }
    }
}

fn one_of_each_family(addrs: impl Iterator<Item = SocketAddr>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in addrs.map(|addr| addr.ip()) {
        if !ips.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
            ips.push(ip);
        }
    }
    ips
}

/// RFC 7064, RFC 7065. Both default to port 3478.
fn parse(server: &IceServer) -> Option<Entry> {
    let (scheme, rest) = server.url.split_once(':')?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "stun" => Scheme::Stun,
        "turn" => Scheme::Turn,
        _ => return None,
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, "transport=udp"));
    if !query.eq_ignore_ascii_case("transport=udp") {
        return None;
    }
    let (host, port) = match place.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(3478), |port| port.parse().ok())?;
    if host.is_empty() || port == 0 {
        return None;
    }
    if scheme == Scheme::Turn && (server.username.is_empty() || server.credential.is_empty()) {
        return None;
    }
    Some(Entry {
        scheme,
        host: host.to_owned(),
        port,
        username: server.username.clone(),
        credential: server.credential.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, user: &str) -> IceServer {
        IceServer { url: url.to_owned(), username: user.to_owned(), credential: user.to_owned() }
    }

    #[tokio::test]
    async fn urls_become_addresses_with_their_default_port() {
        let servers = Servers::new(&[
            server("stun:127.0.0.1", ""),
            server("STUN:[::1]:99", ""),
            server("turn:10.0.0.1:5349?transport=udp", "me"),
        ]);
        let urls: Vec<_> =
            servers.resolved(Duration::from_secs(1)).await.into_iter().map(|server| server.url).collect();
        assert_eq!(urls, ["stun:127.0.0.1:3478", "stun:[::1]:99", "turn:10.0.0.1:5349?transport=udp"]);
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_left_out() {
        let servers = Servers::new(&[
            server("turn:10.0.0.1", ""),
            server("turns:10.0.0.1", "me"),
            server("turn:10.0.0.1?transport=tcp", "me"),
            server("stun:10.0.0.1:port", ""),
            server("stun:", ""),
            server("http://10.0.0.1", ""),
            server("nothing", ""),
        ]);
        assert_eq!(servers.resolved(Duration::from_secs(1)).await, []);
    }
}
