//! STUN and TURN servers: the addresses of their names, and whether they do what they are asked for.
//!
//! The library looks names up within the task that also gathers, one after the other, so that one dead name server holds
//! up every candidate. Here all are looked up at once, under a deadline, and remembered; the library is given addresses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::IceServer;

/// How long an answer is used again.
const KEPT: Duration = Duration::from_secs(300);

/// How long a name that was not found is left alone.
const FAILED_KEPT: Duration = Duration::from_secs(10);

/// The servers of a factory.
#[derive(Debug)]
pub(super) struct Servers {
    entries: Vec<IceServer>,
    known: Mutex<HashMap<String, Known>>,
    /// Whether those that relay did so when they were asked last.
    do_relay: AtomicBool,
}

/// A server with an address in place of its name, as the library wants it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) url: String,
    /// For TURN; empty otherwise.
    pub(super) user: String,
    /// For TURN; empty otherwise.
    pub(super) password: String,
}

/// How asking the servers for candidates ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    /// Each has answered.
    All,
    /// Not all within the time there is.
    Late,
}

#[derive(Debug, Clone)]
struct Known {
    ips: Vec<IpAddr>,
    until: Instant,
}

impl Servers {
    /// Those that nobody has a password for are left out, and said so.
    pub(super) fn new(servers: &[IceServer]) -> Self {
        let (entries, useless): (Vec<IceServer>, Vec<IceServer>) =
            servers.iter().cloned().partition(|server| !server.lacks_password());
        for server in useless {
            tracing::warn!(%server, "a TURN server without a password; left out");
        }
        Self { entries, known: Mutex::new(HashMap::new()), do_relay: AtomicBool::new(true) }
    }

    /// The servers with addresses in place of names, one of each family. A name not found by `deadline` is left out.
    pub(super) async fn resolved(&self, deadline: Duration) -> Vec<Resolved> {
        let lookups = self.entries.iter().map(async |server| {
            let ips = self.look_up(server.host(), deadline).await;
            ips.into_iter().map(|ip| Resolved::new(server, ip)).collect::<Vec<_>>()
        });
        futures_util::future::join_all(lookups).await.into_iter().flatten().collect()
    }

    /// A description of ours is complete. If no relay is among its candidates although there are servers for that, it is
    /// said: once, until they relay again. The library tells nobody why.
    pub(super) fn handle_described(&self, sdp: &str, gathered: Gathered) {
        let relays: Vec<&IceServer> = self.entries.iter().filter(|server| server.is_relay()).collect();
        if relays.is_empty() {
            return;
        }
        let do_relay = sdp.contains(" typ relay");
        let did = self.do_relay.swap(do_relay, Ordering::Relaxed);
        match (did, do_relay, gathered) {
            (true, false, Gathered::All) => tracing::warn!(
                servers = ?relays,
                "no TURN server relays for us: it refuses the user or the password, or has no room"
            ),
            (true, false, Gathered::Late) => tracing::warn!(
                servers = ?relays,
                "no TURN server answers in time, so none relays for us"
            ),
            (false, true, _) => tracing::info!(servers = ?relays, "a TURN server relays for us again"),
            (true, true, _) | (false, false, _) => {}
        }
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

impl Resolved {
    fn new(server: &IceServer, ip: IpAddr) -> Self {
        let addr = SocketAddr::new(ip, server.port());
        let url =
            if server.is_relay() { format!("turn:{addr}?transport=udp") } else { format!("stun:{addr}") };
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Self { url, user: text(server.user()), password: text(server.password()) }
    }
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(urls: &[&str]) -> Servers {
        Servers::new(&urls.iter().map(|url| url.parse().expect("a server")).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn servers_come_with_addresses_and_their_default_port() {
        let servers = servers(&["stun:127.0.0.1", "STUN:[::1]:99", "turn:me:secret@10.0.0.1:5349"]);
        let resolved = servers.resolved(Duration::from_secs(1)).await;
        let urls: Vec<_> = resolved.iter().map(|server| server.url.as_str()).collect();
        assert_eq!(urls, ["stun:127.0.0.1:3478", "stun:[::1]:99", "turn:10.0.0.1:5349?transport=udp"]);
        assert_eq!((resolved[2].user.as_str(), resolved[2].password.as_str()), ("me", "secret"));
        assert!(!format!("{resolved:?} {servers:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_relay_without_a_password_is_left_out() {
        assert_eq!(servers(&["turn:me@10.0.0.1"]).resolved(Duration::from_secs(1)).await, []);
    }

    #[test]
    fn that_no_relay_was_had_is_noted_until_one_is() {
        let servers = servers(&["turn:me:secret@10.0.0.1"]);
        let does = || servers.do_relay.load(Ordering::Relaxed);
        servers.handle_described("a=candidate:1 1 udp 1 10.0.0.2 4000 typ host", Gathered::All);
        assert!(!does());
        servers
            .handle_described("a=candidate:1 1 udp 1 10.0.0.1 4000 typ relay raddr 10.0.0.2", Gathered::Late);
        assert!(does());
    }
}
