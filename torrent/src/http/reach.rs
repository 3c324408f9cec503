//! Which addresses a request may reach: the guard against being sent into somebody's own network (SSRF).
//!
//! A torrent, a magnet or a server comes from a stranger, and what they make us ask for is asked from *this* machine. So
//! a host that was not named beforehand (it came out of a redirect) must be public. Hosts that the metainfo or a person
//! named may be private, since hubs often are; but nothing sends us to link-local addresses, where clouds keep their
//! secrets. The addresses are looked at when the connection is made, after DNS, so a name that changes its mind is
//! caught too; hosts in the form of numbers have been read by `url` (which knows decimal, octal and hexadecimal).
//!
//! Through a proxy it is the proxy that looks names up and connects: then only hosts given as numbers are checked here.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Whether private addresses may be reached by way of hosts that nobody named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivateHosts {
    /// Only hosts that a metainfo, a magnet or a person named may be private.
    #[default]
    NamedOnly,
    /// Any host may be, those of redirects and link-local ones too.
    Any,
}

/// Hosts named beforehand: by a metainfo, a magnet, or whoever typed a URL. A clone shares the list.
#[derive(Debug, Clone, Default)]
pub struct NamedHosts(Arc<HashSet<String>>);

impl NamedHosts {
    /// The hosts of these URLs; what is no URL names none.
    pub fn of<'a>(urls: impl IntoIterator<Item = &'a str>) -> Self {
        let hosts = urls.into_iter().filter_map(|url| Url::parse(url).ok());
        Self(Arc::new(hosts.filter_map(|url| Some(key(url.host_str()?))).collect()))
    }

    /// Whether the host of `url` is one of them, on whatever port.
    pub fn contains(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| self.0.contains(&key(host)))
    }
}

/// `url` made names lower case already, but only of schemes it knows.
fn key(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// How far a request may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Everywhere.
    Anywhere,
    /// Public and private addresses, this machine's too.
    Named,
    /// Public addresses.
    Public,
}

impl Reach {
    pub(super) fn of(url: &Url, named: &NamedHosts, policy: PrivateHosts) -> Self {
        match policy {
            PrivateHosts::Any => Self::Anywhere,
            PrivateHosts::NamedOnly if named.contains(url) => Self::Named,
            PrivateHosts::NamedOnly => Self::Public,
        }
    }

    /// Why an address may not be reached; `None` if it may.
    pub(super) fn refuses(self, ip: IpAddr) -> Option<&'static str> {
        let kind = kind(ip);
        match (self, kind) {
            (Self::Anywhere, _) | (_, Kind::Public) | (Self::Named, Kind::Private(_)) => None,
            (Self::Named | Self::Public, Kind::Never(what)) | (Self::Public, Kind::Private(what)) => {
                Some(what)
            }
        }
    }

    /// As [`Self::refuses`], for a host that is an address already. Names are looked at once they are resolved.
    pub(super) fn refuses_host(self, url: &Url) -> Option<&'static str> {
        match url.host()? {
            Host::Ipv4(ip) => self.refuses(ip.into()),
            Host::Ipv6(ip) => self.refuses(ip.into()),
            Host::Domain(_) => None,
        }
    }
}

/// Whether an address is one of the internet.
#[cfg(feature = "webrtc")]
pub(crate) fn is_public(ip: IpAddr) -> bool {
    kind(ip) == Kind::Public
}

/// What lies at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    /// Somebody's own network or machine.
    Private(&'static str),
    /// Nothing that a hub or an origin is ever at.
    Never(&'static str),
}

fn kind(ip: IpAddr) -> Kind {
    match ip {
        IpAddr::V4(ip) => kind_v4(ip),
        IpAddr::V6(ip) => kind_v6(ip),
    }
}

fn kind_v4(ip: Ipv4Addr) -> Kind {
    match ip.octets() {
        [127, ..] => Kind::Private("this machine"),
        // RFC 1122: "this host"; the kernel connects to loopback.
        [0, ..] => Kind::Private("this machine"),
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => Kind::Private("a private network"),
        [100, 64..=127, ..] => Kind::Private("a provider's inner network"),
        [192, 0, 0, _] | [198, 18..=19, ..] => Kind::Private("a network for special use"),
        [169, 254, ..] => Kind::Never("a link-local address"),
        // Azure's, which is public by its number alone.
        [168, 63, 129, 16] => Kind::Never("a cloud's metadata service"),
        [224..=255, ..] => Kind::Never("no single host"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Kind::Never("an address of documentation"),
        _ => Kind::Public,
    }
}

fn kind_v6(ip: Ipv6Addr) -> Kind {
    let segments = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        kind_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Kind::Private("this machine"),
        // v4-mapped, v4-compatible, and the well-known prefix of NAT64 (RFC 6052): what counts is the v4 address.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => embedded(high, low),
        // RFC 8215, and Teredo, whose v4 address is scrambled and whose servers are gone.
        [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] => Kind::Private("a network for special use"),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Kind::Never("a cloud's metadata service"),
        [0xfc00..=0xfdff, ..] => Kind::Private("a private network"),
        [0xfe80..=0xfebf, ..] => Kind::Never("a link-local address"),
        [0xfec0..=0xfeff, ..] => Kind::Private("a private network"),
        [0xff00..=0xffff, ..] => Kind::Never("no single host"),
        [0x2001, 0xdb8, ..] => Kind::Never("an address of documentation"),
        [0x100, 0, 0, 0, ..] => Kind::Never("no single host"),
        _ => Kind::Public,
    }
}

/// All addresses of a name are out of reach; recognised in the chain of causes of reqwest's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is {what}")]
pub(super) struct OutOfReach {
    pub(super) what: &'static str,
}

/// Resolves names and keeps the addresses within reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuardedResolver(pub(super) Reach);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let within: Vec<SocketAddr> =
                found.iter().copied().filter(|addr| reach.refuses(addr.ip()).is_none()).collect();
            if within.is_empty()
                && let Some(what) = found.iter().find_map(|addr| reach.refuses(addr.ip()))
            {
                return Err(OutOfReach { what }.into());
            }
            Ok(Box::new(within.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reach: Reach, host: &str) -> bool {
        let url = Url::parse(&format!("http://{host}/")).expect("a URL");
        assert!(!matches!(url.host(), Some(Host::Domain(_))), "{host} is a name");
        reach.refuses_host(&url).is_some()
    }

    #[test]
    fn private_addresses_in_every_spelling_are_out_of_public_reach() {
        let private = [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "169.254.169.254",
            "2852039166",
            "168.63.129.16",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2001:0:1::]",
            "[fc00::1]",
            "[fd12:3456::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
        ];
        for host in private {
            assert!(refused(Reach::Public, host), "{host}");
            assert!(!refused(Reach::Anywhere, host), "{host}");
        }
    }

    #[test]
    fn public_addresses_are_within_every_reach() {
        for host in
            ["1.1.1.1", "172.32.0.1", "100.128.0.1", "192.169.0.1", "[2606:4700::1111]", "[::ffff:8.8.8.8]"]
        {
            assert!(!refused(Reach::Public, host) && !refused(Reach::Named, host), "{host}");
        }
    }

    #[test]
    fn a_named_host_may_be_private_but_not_link_local() {
        for host in ["127.0.0.1", "10.0.0.1", "[::1]", "[fd12::1]", "100.64.0.1", "[::ffff:192.168.0.1]"] {
            assert!(!refused(Reach::Named, host), "{host}");
        }
        for host in
            ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.0.1]", "168.63.129.16"]
        {
            assert!(refused(Reach::Named, host), "{host}");
        }
    }

    #[test]
    fn hosts_are_named_whatever_the_port_and_spelling() {
        let named =
            NamedHosts::of(["http://Hub:8080/x", "udp://tracker.example:1/", "no url", "http://2130706433/"]);
        for url in ["http://hub/", "https://hub.:1/y", "http://TRACKER.example/", "http://127.0.0.1:9/"] {
            assert!(named.contains(&Url::parse(url).expect("a URL")), "{url}");
        }
        assert!(!named.contains(&Url::parse("http://hub.example/").expect("a URL")));
    }

    #[tokio::test]
    async fn a_name_is_judged_by_the_addresses_it_has_when_it_is_used() {
        let name = || "localhost".parse().expect("a name");
        let error = GuardedResolver(Reach::Public).resolve(name()).await.err().expect("refused");
        assert!(error.downcast_ref::<OutOfReach>().is_some(), "{error}");
        assert!(GuardedResolver(Reach::Named).resolve(name()).await.expect("resolved").next().is_some());
    }
}
