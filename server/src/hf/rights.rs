//! Who may read what of a repository: what upstream said, to whom, and for how long that is believed. Pure, told the
//! time.
//!
//! Nothing is ever allowed because of bytes that are here: a right is upstream's word for one caller, or for everybody
//! when it was given to a caller without a token. A token is known by its fingerprint alone.
//!
//! Invariants: a token's right never serves another token; a denial ends a right at once; what lapsed serves nobody but
//! while upstream cannot be asked: what was public then stays so, and a token's right for the configured time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use wtfs_proto::hf::Repo;

/// Rights remembered at most; about 200 bytes each.
const ENTRIES_MAX: usize = 16_384;

/// A caller, as far as rights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Viewer {
    /// Without a token: what it may, everybody may.
    Anonymous,
    /// With a token of this fingerprint.
    Token([u8; 32]),
}

/// What may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Right {
    /// That the repository exists, its revisions, names, sizes and hashes.
    Listing,
    /// Bytes of its files.
    Content,
}

/// Why something may not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// There is no such repository, or none that the caller may know of.
    Hidden,
    /// Its owner did not let the caller in.
    Gated,
    /// It was taken down.
    Disabled,
    /// Upstream does not know the token.
    BadToken,
}

/// What is known of a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Allowed, as this caller: everybody, or the one who asks.
    Allowed(Viewer),
    /// Not allowed.
    Denied(Denial),
    /// Upstream is to be asked.
    Unknown,
}

/// How long upstream's words are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// That something is public.
    pub(crate) public: Duration,
    /// That a token has a right.
    pub(crate) grant: Duration,
    /// That somebody has none.
    pub(crate) denial: Duration,
    /// How long after `grant` a token's right still counts while upstream cannot be asked.
    pub(crate) stale: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    outcome: Result<(), Denial>,
    /// `None` for what was learned in an earlier run.
    at: Option<Instant>,
}

impl Entry {
    fn is_within(&self, term: Duration, now: Instant) -> bool {
        self.at.is_some_and(|at| now.saturating_duration_since(at) < term)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Rights {
    terms: Terms,
    entries: HashMap<(Repo, Viewer, Right), Entry>,
}

impl Rights {
    pub(crate) fn new(terms: Terms) -> Self {
        Self { terms, entries: HashMap::new() }
    }

    /// Whether `viewer` has a right now.
    pub(crate) fn standing(&self, repo: &Repo, viewer: Viewer, right: Right, now: Instant) -> Standing {
        if let Some(Ok(())) = self.fresh(repo, Viewer::Anonymous, right, now) {
            return Standing::Allowed(Viewer::Anonymous);
        }
        match self.fresh(repo, viewer, right, now) {
            Some(Ok(())) => Standing::Allowed(viewer),
            Some(Err(denial)) => Standing::Denied(denial),
            None => Standing::Unknown,
        }
    }

    /// As whom a right may still be used although it lapsed, since upstream cannot be asked.
    pub(crate) fn lapsed(&self, repo: &Repo, viewer: Viewer, right: Right, now: Instant) -> Option<Viewer> {
        if self.entry(repo, Viewer::Anonymous, right).is_some_and(|entry| entry.outcome.is_ok()) {
            return Some(Viewer::Anonymous);
        }
        let entry = self.entry(repo, viewer, right)?;
        let is_believed = entry.is_within(self.terms.grant + self.terms.stale, now);
        (entry.outcome.is_ok() && is_believed).then_some(viewer)
    }

    /// Whether it is known that a caller without a token is refused: then asking as one is vain.
    pub(crate) fn is_closed(&self, repo: &Repo, right: Right, now: Instant) -> bool {
        matches!(self.fresh(repo, Viewer::Anonymous, right, now), Some(Err(_)))
    }

    /// Notes what upstream said.
    pub(crate) fn note(
        &mut self,
        repo: &Repo,
        viewer: Viewer,
        right: Right,
        outcome: Result<(), Denial>,
        now: Instant,
    ) {
        if self.entries.len() >= ENTRIES_MAX {
            self.make_room(now);
        }
        self.entries.insert((repo.clone(), viewer, right), Entry { outcome, at: Some(now) });
    }

    /// Notes that something was public when it was asked for in an earlier run: that counts only while upstream cannot
    /// be asked, and for nothing against what was learned since.
    pub(crate) fn recall_public(&mut self, repo: &Repo, right: Right, now: Instant) {
        if self.entries.len() >= ENTRIES_MAX {
            self.make_room(now);
        }
        let key = (repo.clone(), Viewer::Anonymous, right);
        self.entries.entry(key).or_insert(Entry { outcome: Ok(()), at: None });
    }

    fn entry(&self, repo: &Repo, viewer: Viewer, right: Right) -> Option<Entry> {
        self.entries.get(&(repo.clone(), viewer, right)).copied()
    }

    fn fresh(&self, repo: &Repo, viewer: Viewer, right: Right, now: Instant) -> Option<Result<(), Denial>> {
        let entry = self.entry(repo, viewer, right)?;
        entry.is_within(self.term(viewer, entry.outcome), now).then_some(entry.outcome)
    }

    fn term(&self, viewer: Viewer, outcome: Result<(), Denial>) -> Duration {
        match (outcome, viewer) {
            (Err(_), _) => self.terms.denial,
            (Ok(()), Viewer::Anonymous) => self.terms.public,
            (Ok(()), Viewer::Token(_)) => self.terms.grant,
        }
    }

    /// Drops what lapsed for good; if that is not much, the older half too, so that the next ones find room at once.
    fn make_room(&mut self, now: Instant) {
        let terms = self.terms;
        self.entries.retain(|(_, viewer, _), entry| match (entry.outcome, viewer) {
            (Err(_), _) => entry.is_within(terms.denial, now),
            (Ok(()), Viewer::Anonymous) => true,
            (Ok(()), Viewer::Token(_)) => entry.is_within(terms.grant + terms.stale, now),
        });
        if self.entries.len() > ENTRIES_MAX / 2 {
            let mut times: Vec<Option<Instant>> = self.entries.values().map(|entry| entry.at).collect();
            let middle = times.len() / 2;
            let (_, &mut middle, _) = times.select_nth_unstable(middle);
            self.entries.retain(|_, entry| entry.at > middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use wtfs_proto::hf::RepoId;

    use super::*;

    const TERMS: Terms = Terms {
        public: Duration::from_secs(600),
        grant: Duration::from_secs(300),
        denial: Duration::from_secs(30),
        stale: Duration::from_secs(100),
    };
    const ONE: Viewer = Viewer::Token([1; 32]);
    const OTHER: Viewer = Viewer::Token([2; 32]);

    fn repo(name: &str) -> Repo {
        Repo::model(RepoId::parse(name).expect("an id"))
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_tokens_right_serves_that_token_alone_and_lapses() {
        let (mut rights, start, repo) = (Rights::new(TERMS), Instant::now(), repo("org/gated"));
        rights.note(&repo, ONE, Right::Content, Ok(()), start);
        let standing = |viewer, right, s| rights.standing(&repo, viewer, right, start + secs(s));
        assert_eq!(standing(ONE, Right::Content, 299), Standing::Allowed(ONE));
        assert_eq!(standing(ONE, Right::Content, 300), Standing::Unknown);
        assert_eq!(standing(OTHER, Right::Content, 0), Standing::Unknown);
        assert_eq!(standing(Viewer::Anonymous, Right::Content, 0), Standing::Unknown);
        assert_eq!(standing(ONE, Right::Listing, 0), Standing::Unknown);
        assert_eq!(rights.lapsed(&repo, ONE, Right::Content, start + secs(399)), Some(ONE));
        assert_eq!(rights.lapsed(&repo, ONE, Right::Content, start + secs(400)), None);
        assert_eq!(rights.lapsed(&repo, OTHER, Right::Content, start), None);
    }

    #[test]
    fn what_is_public_is_so_for_everybody_and_stays_while_upstream_is_away() {
        let (mut rights, start, repo) = (Rights::new(TERMS), Instant::now(), repo("org/public"));
        rights.note(&repo, Viewer::Anonymous, Right::Content, Ok(()), start);
        let everybody = Standing::Allowed(Viewer::Anonymous);
        assert_eq!(rights.standing(&repo, ONE, Right::Content, start + secs(599)), everybody);
        assert_eq!(rights.standing(&repo, ONE, Right::Content, start + secs(600)), Standing::Unknown);
        let later = start + secs(1_000_000);
        assert_eq!(rights.lapsed(&repo, ONE, Right::Content, later), Some(Viewer::Anonymous));
    }

    #[test]
    fn a_denial_ends_a_right_at_once_also_for_when_upstream_is_away() {
        let (mut rights, start, repo) = (Rights::new(TERMS), Instant::now(), repo("org/revoked"));
        for viewer in [Viewer::Anonymous, ONE] {
            rights.note(&repo, viewer, Right::Content, Ok(()), start);
            rights.note(&repo, viewer, Right::Content, Err(Denial::Gated), start + secs(1));
            let denied = Standing::Denied(Denial::Gated);
            assert_eq!(rights.standing(&repo, viewer, Right::Content, start + secs(2)), denied);
            assert_eq!(rights.lapsed(&repo, viewer, Right::Content, start + secs(2)), None);
            assert_eq!(rights.standing(&repo, viewer, Right::Content, start + secs(31)), Standing::Unknown);
        }
        assert!(rights.is_closed(&repo, Right::Content, start + secs(30)));
        assert!(!rights.is_closed(&repo, Right::Content, start + secs(31)));
    }

    #[test]
    fn what_was_public_in_an_earlier_run_counts_only_while_nothing_else_is_known() {
        let (mut rights, start, repo) = (Rights::new(TERMS), Instant::now(), repo("org/name"));
        rights.recall_public(&repo, Right::Content, start);
        assert_eq!(rights.standing(&repo, ONE, Right::Content, start), Standing::Unknown);
        assert_eq!(rights.lapsed(&repo, ONE, Right::Content, start), Some(Viewer::Anonymous));
        rights.note(&repo, Viewer::Anonymous, Right::Content, Err(Denial::Gated), start);
        rights.recall_public(&repo, Right::Content, start);
        assert_eq!(rights.lapsed(&repo, ONE, Right::Content, start), None);
    }

    #[test]
    fn a_flood_of_callers_takes_bounded_memory_and_the_latest_stay() {
        let (mut rights, start, repo) = (Rights::new(TERMS), Instant::now(), repo("org/name"));
        let viewer = |n: u32| {
            let mut fingerprint = [0; 32];
            fingerprint[..4].copy_from_slice(&n.to_be_bytes());
            Viewer::Token(fingerprint)
        };
        for n in 0..40_000 {
            let now = start + Duration::from_millis(n.into());
            rights.note(&repo, viewer(n), Right::Listing, Ok(()), now);
            assert!(rights.entries.len() <= ENTRIES_MAX);
            let standing = rights.standing(&repo, viewer(n), Right::Listing, now);
            assert_eq!(standing, Standing::Allowed(viewer(n)));
        }
    }
}
