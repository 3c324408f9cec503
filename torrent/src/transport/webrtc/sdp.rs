//! What a peer's session description must be before the library sees it (RFC 8866, RFC 8841): short, one data channel
//! section and nothing else, and no candidates that would make us do more than send a few UDP checks.
//!
//! Descriptions come from strangers by way of a tracker. What is left out here: candidates over TCP (we would connect to
//! whatever address they name), names ending in `.local` (browsers hide their addresses so; they reach us, and are known
//! by their first check), and those beyond the first few.

use super::RtcError;
use crate::transport::Fingerprint;

/// Candidates of one description that are kept: a check goes to each, twenty times a second, whoever it belongs to. Browsers
/// send one for each interface and family, and what STUN servers say.
const CANDIDATES_MAX: usize = 16;

/// The longest line that is kept.
const LINE_BYTES_MAX: usize = 1024;

/// How we say, and know of others, that packets, messages and acknowledgements may come in large batches: an attribute that
/// nobody else knows, and so ignores (RFC 8866, section 5.13).
const KIN: &str = "a=x-wtfs-batches";

/// What a peer takes that says nothing of it (RFC 8841, section 6).
const MESSAGE_BYTES_UNSAID: usize = 65_536;

/// A description that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteSdp {
    /// What is left of it, to be given to the library.
    pub(super) text: String,
    /// The longest message the peer takes.
    pub(super) message_bytes_max: usize,
    /// Of the certificate that the peer has to prove.
    pub(super) fingerprint: Fingerprint,
    /// Whether it is like us: it goes on sending when many packets are acknowledged together, and its sockets are large.
    /// Browsers are not.
    pub(super) is_kin: bool,
}

/// Our description as it is given out.
pub(super) fn ours(mut sdp: String) -> String {
    if !sdp.ends_with('\n') {
        sdp.push_str("\r\n");
    }
    sdp.push_str(KIN);
    sdp.push_str("\r\n");
    sdp
}

/// Checks `sdp` and leaves out what is not wanted.
pub(super) fn check(sdp: &str, bytes_max: usize) -> Result<RemoteSdp, RtcError> {
    if sdp.len() > bytes_max {
        return Err(RtcError::LongSdp(sdp.len()));
    }
    let bad = |why: &str| Err(RtcError::BadSdp(why.to_owned()));
    let mut text = String::with_capacity(sdp.len() + 2);
    let mut found = Found::default();
    for line in sdp.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if line.len() > LINE_BYTES_MAX {
            return bad("a line is too long");
        }
        if !line.starts_with(|c: char| c.is_ascii_lowercase()) || line.as_bytes().get(1) != Some(&b'=') {
            return bad("a line has no type");
        }
        if !line.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control()) {
            return bad("it has control characters");
        }
        if text.is_empty() && line != "v=0" {
            return bad("it does not begin with v=0");
        }
        if found.take(line) {
            text.push_str(line);
            text.push_str("\r\n");
        }
    }
    if found.sections != 1 || !found.is_data {
        return bad("it is not for one data channel");
    }
    let Some(fingerprint) = found.fingerprint.filter(|_| found.has_user && found.has_password) else {
        return bad("it has no credentials");
    };
    let message_bytes_max = match found.message_bytes {
        None => MESSAGE_BYTES_UNSAID,
        // No limit.
        Some(0) => usize::MAX,
        Some(bytes) if bytes < 1024 => return bad("it takes no messages"),
        Some(bytes) => bytes,
    };
    Ok(RemoteSdp { text, message_bytes_max, fingerprint, is_kin: found.is_kin })
}

/// What was seen so far.
#[derive(Default)]
struct Found {
    sections: usize,
    candidates: usize,
    is_data: bool,
    has_user: bool,
    has_password: bool,
    fingerprint: Option<Fingerprint>,
    is_kin: bool,
    message_bytes: Option<usize>,
}

impl Found {
    /// Whether the line is kept.
    fn take(&mut self, line: &str) -> bool {
        if line == KIN {
            self.is_kin = true;
            return false;
        }
        if let Some(section) = line.strip_prefix("m=") {
            self.sections += 1;
            self.is_data = section.starts_with("application ") && section.contains("DTLS/SCTP");
        } else if let Some(attribute) = line.strip_prefix("a=") {
            let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            match name {
                "ice-ufrag" => self.has_user = true,
                "ice-pwd" => self.has_password = true,
                "fingerprint" => self.fingerprint = self.fingerprint.or(Some(Fingerprint::of(value))),
                "max-message-size" => self.message_bytes = value.trim().parse().ok(),
                "candidate" => {
                    let is_kept = self.candidates < CANDIDATES_MAX && is_reachable(value);
                    self.candidates += usize::from(is_kept);
                    return is_kept;
                }
                _ => {}
            }
        }
        true
    }
}

/// Whether a candidate (RFC 8839, section 5.1) is one that a UDP check can be sent to.
fn is_reachable(candidate: &str) -> bool {
    let mut fields = candidate.split_ascii_whitespace().skip(1);
    // Of the two components that there may be, data has one.
    let (Some("1"), Some(transport), Some(_priority), Some(address), Some(port)) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    let is_unicast = address.parse::<std::net::IpAddr>().is_ok_and(|ip| {
        let ip = ip.to_canonical();
        let is_broadcast = matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast());
        !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
    });
    transport.eq_ignore_ascii_case("udp") && is_unicast && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
        a=candidate:1 1 udp 2122252543 192.168.1.2 40000 typ host generation 0\r\n\
        a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 AA:BB\r\n\
        a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n";

    fn with(line: &str) -> String {
        format!("{OFFER}{line}\r\n")
    }

    #[test]
    fn a_browsers_offer_passes_as_it_is() {
        let checked = check(OFFER, 32 << 10).unwrap();
        assert_eq!(checked.text, OFFER);
        assert_eq!(checked.message_bytes_max, 262_144);
        assert!(!checked.is_kin);
    }

    #[test]
    fn our_own_descriptions_are_known_and_the_library_does_not_see_how() {
        let checked = check(&ours(OFFER.to_owned()), 32 << 10).unwrap();
        assert_eq!(checked.text, OFFER);
        assert!(checked.is_kin);
        assert!(check(&ours(OFFER.trim_end().to_owned()), 32 << 10).unwrap().is_kin);
    }

    #[test]
    fn candidates_that_no_udp_check_reaches_are_left_out() {
        for line in [
            "a=candidate:1 1 tcp 1518280447 192.168.1.2 9 typ host tcptype active",
            "a=candidate:1 1 udp 2122252543 f4e1b0b8-1111-4c3c-9d3e-aaaaaaaaaaaa.local 51000 typ host",
            "a=candidate:1 1 udp 2122252543 255.255.255.255 9 typ host",
            "a=candidate:1 1 udp 2122252543 ff02::1 9 typ host",
            "a=candidate:1 1 udp 2122252543 10.0.0.1 0 typ host",
            "a=candidate:1 2 udp 2122252542 192.168.1.2 40000 typ host",
            "a=candidate:nonsense",
        ] {
            assert_eq!(check(&with(line), 32 << 10).unwrap().text, OFFER, "{line}");
        }
    }

    #[test]
    fn only_the_first_few_candidates_are_kept() {
        let many: String =
            (1..200).map(|i| format!("a=candidate:{i} 1 udp 1 10.0.0.{i} 4000 typ host\r\n")).collect();
        let checked = check(&format!("{OFFER}{many}"), 64 << 10).unwrap();
        assert_eq!(checked.text.matches("a=candidate").count(), CANDIDATES_MAX);
    }

    #[test]
    fn what_is_not_one_data_channel_is_refused() {
        for sdp in [
            String::new(),
            "hello".to_owned(),
            OFFER.replace("v=0", "v=1"),
            OFFER.replace("m=application 9 UDP/DTLS/SCTP", "m=audio 9 UDP/TLS/RTP/SAVPF"),
            with("m=video 9 UDP/TLS/RTP/SAVPF 96"),
            with("m=application 9 UDP/DTLS/SCTP webrtc-datachannel"),
            OFFER.replace("a=ice-pwd", "a=nothing"),
            OFFER.replace("a=fingerprint", "a=nothing"),
            OFFER.replace("262144", "10"),
            with("no type"),
            with("a=\u{1}"),
            with(&format!("a={}", "x".repeat(2000))),
        ] {
            assert!(matches!(check(&sdp, 32 << 10), Err(RtcError::BadSdp(_))), "{sdp}");
        }
        assert_eq!(check(OFFER, 100), Err(RtcError::LongSdp(OFFER.len())));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,2000}") {
            let _ = check(&text, 32 << 10);
        }

        #[test]
        fn what_passes_passes_again_unchanged(
            cut in 0..OFFER.len(), noise in "[a-z=:0-9 \r\n]{0,60}",
        ) {
            let sdp = format!("{}{noise}{}", &OFFER[..cut], &OFFER[cut..]);
            if let Ok(once) = check(&sdp, 32 << 10) {
                let again = check(&once.text, 32 << 10).unwrap();
                prop_assert_eq!(RemoteSdp { is_kin: once.is_kin, ..again }, once);
            }
        }
    }
}
