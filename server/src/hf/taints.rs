//! Who was sent bytes of a file that turned out to be wrong, and broke off: such a client must not go on from there, since
//! what it has is not the file's beginning, and it may never find out. Pure, told the time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use wtfs_proto::hf::ContentId;

use super::recent::Recent;

/// For how long. Clients that go on by themselves do so at once.
const TERM: Duration = Duration::from_secs(600);

const TAINTS_MAX: usize = 4096;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Taints(Recent<(ContentId, IpAddr), Instant>);

impl Default for Taints {
    fn default() -> Self {
        Self(Recent::new(TAINTS_MAX))
    }
}

impl Taints {
    /// Notes that a client has wrong bytes of a blob.
    pub(crate) fn note(&mut self, id: ContentId, client: IpAddr, now: Instant) {
        self.0.put((id, client), now, 1);
    }

    /// Whether a client may be sent bytes from `start` on. Who begins again has nothing wrong any more.
    pub(crate) fn allows(&mut self, id: ContentId, client: IpAddr, start: u64, now: Instant) -> bool {
        let key = (id, client);
        let Some(&since) = self.0.find(&key) else { return true };
        if start > 0 && now.saturating_duration_since(since) < TERM {
            return false;
        }
        self.0.remove(&key);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_wrong_bytes_begins_again_and_nobody_else_has_to() {
        let (mut taints, start, id) = (Taints::default(), Instant::now(), ContentId::Sha256([1; 32]));
        let client = |n| IpAddr::from([127, 0, 0, n]);
        taints.note(id, client(1), start);
        assert!(!taints.allows(id, client(1), 10, start + TERM / 2));
        assert!(taints.allows(id, client(2), 10, start));
        assert!(taints.allows(ContentId::Sha256([2; 32]), client(1), 10, start));
        assert!(taints.allows(id, client(1), 0, start) && taints.allows(id, client(1), 10, start));
        taints.note(id, client(1), start);
        assert!(taints.allows(id, client(1), 10, start + TERM));
    }
}
