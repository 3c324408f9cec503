//! Torrents of repositories that everybody could read once and cannot any more: they go, also when nobody asks for them.
//!
//! What upstream said to anybody is acted on at once; and in rounds it is asked about each repository, as nobody in
//! particular, one at a time. While it cannot be asked, what was public stays so.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use wtfs_proto::hf::{Repo, Revision};

use super::super::rights::{Right, Standing, Viewer};
use super::super::{Caller, HfMode, Refusal};
use super::made::Reach;
use super::{LOOK, Swarms};

/// A repository is asked about again after so many times the time that its being public is believed.
const TIMES_BELIEVED: u32 = 6;

/// When which repository was asked about; `None` is not in this run.
#[derive(Debug, Default)]
pub(super) struct Rounds(HashMap<Repo, Option<Instant>>);

impl Rounds {
    /// With repositories that are known from an earlier run: what they are now is asked first.
    pub(super) fn of_kept(repos: impl IntoIterator<Item = Repo>) -> Self {
        Self(repos.into_iter().map(|repo| (repo, None)).collect())
    }

    /// The repository whose turn it is. One that is new was public a moment ago, when it was asked for.
    fn next(&mut self, repos: &BTreeSet<Repo>, pause: Duration, now: Instant) -> Option<Repo> {
        self.0.retain(|repo, _| repos.contains(repo));
        for repo in repos {
            self.0.entry(repo.clone()).or_insert(Some(now));
        }
        let (repo, at) = self.0.iter_mut().min_by_key(|(_, at)| **at)?;
        if at.is_some_and(|at| now.saturating_duration_since(at) < pause) {
            return None;
        }
        *at = Some(now);
        Some(repo.clone())
    }
}

impl Swarms {
    /// Ends the open torrents of repositories that are not open any more, and asks about one.
    pub(super) async fn look_at_rights(&self, rounds: &mut Rounds) {
        let proxy = &self.0.proxy;
        let repos: BTreeSet<Repo> = {
            let state = self.0.state();
            let open = state.torrents.keys().filter(|key| key.reach == Reach::Open);
            open.map(|key| key.repo.clone()).collect()
        };
        let now = Instant::now();
        for repo in &repos {
            let standing = proxy.0.rights().standing(repo, Viewer::Anonymous, Right::Content, now);
            if matches!(standing, Standing::Denied(_)) {
                self.close(repo).await;
            }
        }
        if proxy.0.config.mode == HfMode::Offline {
            return;
        }
        let pause = proxy.0.config.public_ttl.saturating_mul(TIMES_BELIEVED).max(LOOK);
        let Some(repo) = rounds.next(&repos, pause, now) else { return };
        let is_closed = match proxy.pin(&repo, &Revision::main(), &Caller::nobody()).await {
            Ok(pinned) => !proxy.is_public(&pinned),
            Err(refusal) => matches!(refusal, Refusal::Denied(..)),
        };
        if is_closed {
            self.close(&repo).await;
        }
    }

    async fn close(&self, repo: &Repo) {
        tracing::info!(%repo, "not everybody may read this repository any more: its torrents go");
        self.withdraw(repo, Reach::Open).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_left_is_asked_about_at_once() {
        let repo = |id| Repo::parse(id).expect("an id");
        let repos = BTreeSet::from(["a/new", "b/kept"].map(repo));
        let (start, pause) = (Instant::now(), Duration::from_secs(10));
        let mut rounds = Rounds::of_kept([repo("b/kept"), repo("c/gone")]);
        assert_eq!(rounds.next(&repos, pause, start), Some(repo("b/kept")));
        assert_eq!(rounds.next(&repos, pause, start), None);
        assert!(rounds.next(&repos, pause, start + pause).is_some());
    }

    #[test]
    fn each_repository_has_its_turn_and_none_before_its_time() {
        let repos: BTreeSet<Repo> =
            ["a/a", "b/b", "c/c"].map(|id| Repo::parse(id).expect("an id")).into_iter().collect();
        let (mut rounds, start, pause) = (Rounds::default(), Instant::now(), Duration::from_secs(10));
        assert_eq!(rounds.next(&repos, pause, start), None);
        for round in 1..4 {
            let now = start + pause * round;
            let mut seen: Vec<Repo> = (0..3).filter_map(|_| rounds.next(&repos, pause, now)).collect();
            seen.sort();
            assert!(seen.iter().eq(repos.iter()), "{seen:?}");
            assert_eq!(rounds.next(&repos, pause, now), None);
        }
        assert_eq!(rounds.next(&BTreeSet::new(), pause, start + pause * 9), None);
        assert!(rounds.0.is_empty());
    }
}
