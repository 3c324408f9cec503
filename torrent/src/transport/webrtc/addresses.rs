//! Which of this machine's addresses are offered to peers. One socket is opened at each for every connection, so that
//! bridges of containers, addresses that only the link knows and a second address of the same interface are left out.

use std::net::{IpAddr, Ipv6Addr};

use super::policy::{AddressFilter, Loopback};

/// The addresses to offer now. Interfaces come and go, so they are looked up for each connection.
pub(super) fn offered(filter: &AddressFilter) -> Vec<IpAddr> {
    if !filter.only.is_empty() {
        return filter.only.clone();
    }
    let interfaces = rtc::shared::ifaces::ifaces().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list this machine's addresses");
        Vec::new()
    });
    choose(
        filter,
        interfaces.iter().filter_map(|interface| Some((interface.name.as_str(), interface.addr?.ip()))),
    )
}

/// Picks from `addresses`, each with its interface's name.
fn choose<'a>(filter: &AddressFilter, addresses: impl Iterator<Item = (&'a str, IpAddr)>) -> Vec<IpAddr> {
    let mut taken: Vec<(&str, IpAddr)> = Vec::new();
    let mut loopback = None;
    for (name, ip) in addresses {
        if ip.is_loopback() {
            // The IPv4 one, if there is one: it is what everybody has.
            if loopback.is_none_or(|known: IpAddr| ip.is_ipv4() && !known.is_ipv4()) {
                loopback = Some(ip);
            }
            continue;
        }
        let is_skipped = filter.skipped_interfaces.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let is_known = taken.iter().any(|(other, known)| *other == name && known.is_ipv4() == ip.is_ipv4());
        if is_skipped || is_known || !is_routed(ip) {
            continue;
        }
        taken.push((name, ip));
    }
    // IPv4 first: what is cut off must not be what most peers have.
    taken.sort_by_key(|(_, ip)| ip.is_ipv6());
    let mut ips: Vec<IpAddr> = taken.into_iter().map(|(_, ip)| ip).take(filter.max).collect();
    let is_loopback_wanted = match filter.loopback {
        Loopback::Always => true,
        Loopback::IfAlone => ips.is_empty(),
        Loopback::Never => false,
    };
    ips.extend(loopback.filter(|_| is_loopback_wanted));
    ips
}

/// Whether an address means the same to others as to us.
fn is_routed(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified() && !ip.is_multicast(),
        IpAddr::V6(ip) => !is_link_local(ip) && !ip.is_unspecified() && !ip.is_multicast(),
    }
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn chosen(filter: &AddressFilter, addresses: &[(&str, &str)]) -> Vec<IpAddr> {
        choose(filter, addresses.iter().map(|(name, addr)| (*name, ip(addr))))
    }

    const HOST: &[(&str, &str)] = &[
        ("lo", "127.0.0.1"),
        ("lo", "::1"),
        ("eth0", "fe80::1"),
        ("eth0", "2001:db8::5"),
        ("eth0", "2001:db8::6"),
        ("eth0", "192.168.1.5"),
        ("docker0", "172.17.0.1"),
        ("br-0a1b", "172.18.0.1"),
        ("usb0", "169.254.3.4"),
        ("wlan0", "10.0.0.9"),
    ];

    #[test]
    fn one_address_of_each_interface_and_family_is_offered() {
        let filter = AddressFilter::default();
        assert_eq!(chosen(&filter, HOST), [ip("192.168.1.5"), ip("10.0.0.9"), ip("2001:db8::5")]);
    }

    #[test]
    fn no_more_than_allowed_are_offered_and_ipv4_stays() {
        let filter = AddressFilter { max: 2, ..AddressFilter::default() };
        assert_eq!(chosen(&filter, HOST), [ip("192.168.1.5"), ip("10.0.0.9")]);
    }

    #[test]
    fn loopback_is_offered_as_told() {
        let alone = &HOST[..3];
        for (loopback, with_others, by_itself) in
            [(Loopback::Always, 4, 1), (Loopback::IfAlone, 3, 1), (Loopback::Never, 3, 0)]
        {
            let filter = AddressFilter { loopback, ..AddressFilter::default() };
            assert_eq!(chosen(&filter, HOST).len(), with_others, "{loopback:?}");
            assert_eq!(chosen(&filter, alone).len(), by_itself, "{loopback:?}");
        }
    }

    #[test]
    fn named_addresses_are_offered_as_they_are() {
        let filter = AddressFilter { only: vec![ip("127.0.0.2")], ..AddressFilter::default() };
        assert_eq!(offered(&filter), [ip("127.0.0.2")]);
    }
}
