//! Which addresses are of use to whom.
//!
//! Owns the classes of addresses and who is told of them. A peer behind the hub's own router announces a private
//! address: its neighbours can use it, the world cannot.
//!
//! Invariant: nobody is told an address of a narrower class than the one it speaks from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// From where an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// From the same machine.
    Machine,
    /// From the same site: private, link-local and shared addresses (RFC 1918, 3927, 4193, 6598).
    Site,
    /// From everywhere.
    World,
}

impl Scope {
    /// The class of an address.
    pub(crate) const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    pub(crate) const fn of_v4(ip: Ipv4Addr) -> Self {
        let [first, second, ..] = ip.octets();
        if ip.is_loopback() {
            Self::Machine
        } else if ip.is_private() || ip.is_link_local() || (first == 100 && second & 0xC0 == 64) {
            Self::Site
        } else {
            Self::World
        }
    }

    pub(crate) const fn of_v6(ip: Ipv6Addr) -> Self {
        if ip.is_loopback() {
            Self::Machine
        } else if ip.is_unique_local() || ip.is_unicast_link_local() {
            Self::Site
        } else {
            Self::World
        }
    }

    /// Whether somebody who speaks from an address of class `self` is told of one of class `other`.
    pub(crate) fn sees(self, other: Self) -> bool {
        self <= other
    }
}

/// Peers by the class of the address they are known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct AddressClasses {
    /// Of the whole world, IPv4.
    pub ipv4: u64,
    /// Of the whole world, IPv6.
    pub ipv6: u64,
    /// Private, link-local and shared addresses.
    pub private: u64,
    /// The hub's own machine.
    pub loopback: u64,
    /// Those that keep none: browsers are met by offers.
    pub unknown: u64,
}

impl AddressClasses {
    /// Counts one.
    pub(crate) fn add(&mut self, ip: Option<IpAddr>) {
        let ip = ip.map(|ip| ip.to_canonical());
        *match (ip, ip.map(Scope::of)) {
            (_, Some(Scope::Machine)) => &mut self.loopback,
            (_, Some(Scope::Site)) => &mut self.private,
            (Some(IpAddr::V4(_)), _) => &mut self.ipv4,
            (Some(IpAddr::V6(_)), _) => &mut self.ipv6,
            (None, _) => &mut self.unknown,
        } += 1;
    }
}

/// The client that an address stands for when clients are counted: an IPv4 address, or the /64 that one subscriber
/// of IPv6 commonly has.
pub(crate) const fn subscriber(ip: IpAddr) -> u64 {
    match ip {
        // Never the number of an IPv6 network: those that begin with 32 zero bits are not routed.
        IpAddr::V4(ip) => ip.to_bits() as u64,
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn neighbours_see_each_other_and_the_world_sees_only_the_world() {
        let all = ["127.0.0.1", "192.168.1.5", "8.8.8.8"].map(|text| Scope::of(ip(text)));
        let [machine, site, world] = all;
        assert!(machine.sees(machine) && machine.sees(site) && machine.sees(world));
        assert!(!site.sees(machine) && site.sees(site) && site.sees(world));
        assert!(!world.sees(machine) && !world.sees(site) && world.sees(world));
        for text in
            ["10.1.2.3", "172.31.0.1", "169.254.1.1", "100.64.0.1", "100.127.255.255", "fd00::1", "fe80::1"]
        {
            assert_eq!(Scope::of(ip(text)), Scope::Site, "{text}");
        }
        for text in ["172.32.0.1", "100.128.0.1", "100.63.0.1", "2001:db8::1"] {
            assert_eq!(Scope::of(ip(text)), Scope::World, "{text}");
        }
        assert_eq!(Scope::of(ip("::1")), Scope::Machine);
    }

    #[test]
    fn each_peer_is_of_one_class() {
        let mut classes = AddressClasses::default();
        for text in ["127.0.0.1", "192.168.1.5", "fd00::1", "::ffff:8.8.8.8", "8.8.8.8", "2001:db8::1"] {
            classes.add(Some(ip(text)));
        }
        classes.add(None);
        let wanted = AddressClasses { ipv4: 2, ipv6: 1, private: 2, loopback: 1, unknown: 1 };
        assert_eq!(classes, wanted);
    }

    #[test]
    fn one_subscriber_of_ipv6_has_many_addresses() {
        assert_eq!(subscriber(ip("2001:db8::1")), subscriber(ip("2001:db8::ffff:2")));
        assert_ne!(subscriber(ip("2001:db8::1")), subscriber(ip("2001:db8:0:1::1")));
        assert_ne!(subscriber(ip("1.2.3.4")), subscriber(ip("1.2.3.5")));
    }
}
