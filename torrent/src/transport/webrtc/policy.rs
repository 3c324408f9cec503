//! What the transport is set up with. Nothing here knows the library below: each number stands for a fact of networks or
//! of browsers, and another backend would be given the same.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::{IceServer, RelayPolicy};

/// How connections are made, and what bounds them.
#[derive(Debug, Clone)]
pub(crate) struct RtcPolicy {
    /// STUN and TURN servers, asked for every offer and answer. None: only addresses of our own are offered.
    pub(crate) servers: Vec<IceServer>,
    /// Whether peers are reached by relays alone.
    pub(crate) relay: RelayPolicy,
    /// How long an offer or answer waits for candidates. A server that does not answer holds nothing up for longer: the
    /// description goes out with what was found by then.
    pub(crate) gather_cap: Duration,
    /// The same where peers are reached by relays alone. A relay is asked twice (RFC 8656, section 7), and says at the second
    /// time where it relays: over a satellite more than a second goes by, and without it there is nothing to offer.
    pub(crate) gather_cap_relayed: Duration,
    /// From having both descriptions until the channel is open.
    pub(crate) open_timeout: Duration,
    /// Times of ICE (RFC 8445, RFC 7675).
    pub(crate) ice: IceTimes,
    /// Which of our addresses are offered.
    pub(crate) addresses: AddressFilter,
    /// Asked of the kernel for each socket, in each direction. It gives what `rmem_max` and `wmem_max` allow. Chromium
    /// sends in bursts, and a burst that the socket cannot hold costs a retransmission time-out of a second.
    pub(crate) socket_buffer_bytes: usize,
    /// When received datagrams are acknowledged.
    pub(crate) flush: FlushRule,
    /// How many datagrams leave at once.
    pub(crate) burst: BurstRule,
    /// What may be sent and not yet acknowledged.
    pub(crate) in_flight: InFlightLimits,
    /// Bytes handed to us by the writer and not yet to the channel, for each connection.
    pub(crate) send_buffer_bytes: usize,
    /// The longest message sent. A block with its header fits one (16 KiB + 13); nobody takes less than 64 KiB.
    pub(crate) message_bytes: usize,
    /// The same with a peer that is like us: each message costs both ends a round of the library and a wake-up.
    pub(crate) message_bytes_kin: usize,
    /// What a peer may have sent that nobody has read yet, for each connection: the window of SCTP (RFC 9260).
    pub(crate) receive_window_bytes: u32,
    /// The window of a few.
    pub(crate) wide: Wide,
    /// How long a connection that was closed goes on, for what was sent and has not arrived or what has come and is not
    /// read, with nothing of that moving.
    pub(crate) close_timeout: Duration,
    /// Connections in all states at once; further ones are refused.
    pub(crate) connections_max: usize,
    /// Of these, offers that nobody answered yet.
    pub(crate) offers_max: usize,
    /// A description longer than this is not looked at.
    pub(crate) sdp_bytes_max: usize,
}

impl Default for RtcPolicy {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            relay: RelayPolicy::IfNeeded,
            gather_cap: Duration::from_secs(1),
            gather_cap_relayed: Duration::from_secs(5),
            open_timeout: Duration::from_secs(15),
            ice: IceTimes::default(),
            addresses: AddressFilter::default(),
            socket_buffer_bytes: 4 << 20,
            flush: FlushRule::default(),
            burst: BurstRule::default(),
            in_flight: InFlightLimits::default(),
            send_buffer_bytes: 128 << 10,
            message_bytes: (16 << 10) + 13,
            message_bytes_kin: 60 << 10,
            receive_window_bytes: 1 << 20,
            wide: Wide::default(),
            close_timeout: Duration::from_secs(3),
            connections_max: 300,
            offers_max: 50,
            sdp_bytes_max: 32 << 10,
        }
    }
}

impl RtcPolicy {
    /// How long a description waits for candidates.
    pub(crate) fn waits_for_candidates(&self) -> Duration {
        match self.relay {
            RelayPolicy::IfNeeded => self.gather_cap,
            RelayPolicy::Only => self.gather_cap_relayed,
        }
    }
}

/// Connections on which more may be on its way to us. A window is what one peer can send in a round trip: 1 MiB makes
/// 45 MB/s at 20 ms. That a peer is like us is its own word, so these are few: together they add to what strangers can make
/// us hold less than a fifth of what all other connections may.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wide {
    /// At once. An offer is one of them, while half are free, before it is known who answers, and stays one.
    pub(crate) connections_max: usize,
    /// In place of `receive_window_bytes`.
    pub(crate) receive_window_bytes: u32,
}

impl Default for Wide {
    fn default() -> Self {
        Self { connections_max: 16, receive_window_bytes: 4 << 20 }
    }
}

/// Times of ICE.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IceTimes {
    /// Nothing received for this long: the peer may be gone.
    pub(crate) disconnected: Duration,
    /// And for this long besides: it is. Browsers that are killed say nothing.
    pub(crate) failed: Duration,
    /// How often a quiet connection says that it is alive.
    pub(crate) keep_alive: Duration,
    /// Between two checks of a pair of addresses.
    pub(crate) check_interval: Duration,
    /// Checks of one pair before it is given up.
    pub(crate) checks_max: u16,
    /// How long the controlling side waits for a better pair than the first that works. Browsers hide their addresses,
    /// so that only peer-reflexive pairs are ever found, and each wait for a better one is in vain.
    pub(crate) acceptance_wait: Duration,
}

impl Default for IceTimes {
    fn default() -> Self {
        Self {
            disconnected: Duration::from_secs(5),
            failed: Duration::from_secs(5),
            keep_alive: Duration::from_secs(2),
            check_interval: Duration::from_millis(50),
            // A peer that gets our answer late must still find us checking.
            checks_max: 200,
            acceptance_wait: Duration::ZERO,
        }
    }
}

/// When received datagrams are acknowledged. Chromium sends at most four packets for each acknowledgement (max.burst), so
/// that one for each batch we read would leave it at four packets a round trip: 0.25 MB/s at 20 ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlushRule {
    /// Data datagrams taken from a socket before what they call for is sent.
    pub(crate) datagrams: u32,
    /// The same with a peer that says it goes on sending without: each round of the library costs both ends as much as a
    /// dozen datagrams do. Well below what may be in flight at first, so that the sender never waits for us.
    pub(crate) datagrams_batched: u32,
    /// Shorter ones (acknowledgements, checks) carry no data, and are not counted.
    pub(crate) data_bytes_min: usize,
}

impl Default for FlushRule {
    fn default() -> Self {
        Self { datagrams: 2, datagrams_batched: 32, data_bytes_min: 600 }
    }
}

/// How many data datagrams leave at once for a peer that is not known to be like us. Chromium asks for 64 KiB of socket,
/// which hold 57 of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BurstRule {
    /// The most that leave in a stretch.
    pub(crate) datagrams: usize,
    /// How long a stretch is.
    pub(crate) within: Duration,
}

impl Default for BurstRule {
    fn default() -> Self {
        Self { datagrams: 32, within: Duration::from_millis(1) }
    }
}

/// What may be sent and not yet acknowledged, for each connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlightLimits {
    /// To begin with, and always allowed: a third of what an unprivileged peer's socket holds in one burst.
    pub(crate) start_bytes: usize,
    /// The most that a fast and far peer is given.
    pub(crate) max_bytes: usize,
    /// No acknowledgement for this long counts as a burst lost: what is given is halved.
    pub(crate) stall: Duration,
}

impl Default for InFlightLimits {
    fn default() -> Self {
        Self { start_bytes: 128 << 10, max_bytes: 4 << 20, stall: Duration::from_millis(500) }
    }
}

/// Whether addresses that only this machine reaches are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loopback {
    /// Beside the others.
    Always,
    /// If there are no others: a machine without a network still serves its own browsers.
    IfAlone,
    /// Never.
    Never,
}

/// Which of our addresses are offered. Each costs a socket for every connection.
#[derive(Debug, Clone)]
pub(crate) struct AddressFilter {
    /// These alone, if any are named.
    pub(crate) only: Vec<IpAddr>,
    /// Whether loopback is among them.
    pub(crate) loopback: Loopback,
    /// Interfaces whose names begin so lead to containers and virtual machines of this host alone.
    pub(crate) skipped_interfaces: Vec<String>,
    /// The most that are offered.
    pub(crate) max: usize,
}

impl Default for AddressFilter {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            loopback: Loopback::IfAlone,
            skipped_interfaces: ["docker", "br-", "veth", "virbr", "cni", "flannel", "lxc", "vmnet"]
                .map(str::to_owned)
                .to_vec(),
            max: 4,
        }
    }
}
