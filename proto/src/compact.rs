//! Compact peer addresses: 4 or 16 bytes of address and 2 of port, big-endian, one after the other.
//!
//! Owns the one form that trackers (BEP 23, BEP 7, BEP 15) and peer exchange (BEP 11) share. Does not judge addresses:
//! port 0 and private ranges come through, for the caller to drop.
//!
//! Invariant: bytes that are not a whole number of addresses are refused, never cut.

use std::net::{IpAddr, SocketAddr};

/// Which kind of address a list holds; the bytes do not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// 6 bytes each.
    V4,
    /// 18 bytes each.
    V6,
}

impl Family {
    /// The family of an address. An IPv4 address mapped into IPv6 is IPv4: that is what the wire carries.
    pub const fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bytes of one address with its port.
    pub const fn addr_bytes(self) -> usize {
        match self {
            Self::V4 => 6,
            Self::V6 => 18,
        }
    }
}

/// A list of addresses ends in the middle of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{found} bytes of addresses, expected a multiple of {unit}")]
pub struct PartialAddress {
    /// Bytes of one address.
    pub unit: usize,
    /// Bytes that came.
    pub found: usize,
}

/// Reads a list of addresses lazily.
///
/// # Errors
/// When the bytes are not a multiple of the family's size.
pub fn decode(bytes: &[u8], family: Family) -> Result<impl Iterator<Item = SocketAddr> + '_, PartialAddress> {
    let unit = family.addr_bytes();
    if !bytes.len().is_multiple_of(unit) {
        return Err(PartialAddress { unit, found: bytes.len() });
    }
    Ok(bytes.chunks_exact(unit).filter_map(|one| {
        let (ip, port) = one.split_last_chunk()?;
        Some(SocketAddr::new(decode_ip(ip)?, u16::from_be_bytes(*port)))
    }))
}

/// Reads an address without a port; `None` when it has neither 4 nor 16 bytes.
pub fn decode_ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// Appends an address without a port, in its own family.
pub fn encode_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
}

/// Appends an address, in the form of [`Family::of`] it.
pub fn encode(addr: SocketAddr, out: &mut Vec<u8>) {
    encode_ip(addr.ip().to_canonical(), out);
    out.extend_from_slice(&addr.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_address_then_port() {
        let mut out = Vec::new();
        encode("1.2.3.4:258".parse().expect("an address"), &mut out);
        encode("[::ffff:1.2.3.4]:258".parse().expect("an address"), &mut out);
        assert_eq!(out, [1, 2, 3, 4, 1, 2, 1, 2, 3, 4, 1, 2]);
    }

    #[test]
    fn a_partial_address_is_refused() {
        let error = decode(&[0; 19], Family::V6).err().expect("partial");
        assert_eq!(error.to_string(), "19 bytes of addresses, expected a multiple of 18");
    }

    proptest! {
        #[test]
        fn addresses_come_back(addrs in prop::collection::vec(any::<SocketAddr>(), 0..20)) {
            for family in [Family::V4, Family::V6] {
                let canonical = addrs.iter().map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port()));
                let sent: Vec<SocketAddr> = canonical.filter(|addr| Family::of(addr.ip()) == family).collect();
                let mut out = Vec::new();
                sent.iter().for_each(|addr| encode(*addr, &mut out));
                let received: Vec<SocketAddr> = decode(&out, family).expect("whole addresses").collect();
                prop_assert_eq!(received, sent);
            }
        }
    }
}
