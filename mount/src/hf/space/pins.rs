//! What was asked for, and what each stands for now, in the order in which it was met first.
//!
//! Names stay for as long as the mount does, some hundred bytes each, also where what is behind one was forgotten. A
//! repository's and an owner's are found without going through those of others.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use wtfs_proto::hf::{Repo, RepoKind, Revision};

use crate::hf::place::Shown;

/// Positions of fixed entries come first in a listing.
const FIRST: u64 = 16;

/// A repository and a revision as they were asked for.
#[derive(Debug)]
pub(super) struct Pin {
    position: u64,
    /// Nothing for one that is remembered, or was forgotten, and was not asked for since.
    pub(super) shown: Option<Arc<Shown>>,
    pub(super) checked: Instant,
}

type Order = BTreeMap<u64, (Repo, Revision)>;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Pins {
    by_repo: BTreeMap<Repo, BTreeMap<Revision, Pin>>,
    by_owner: HashMap<RepoKind, HashMap<Box<str>, Order>>,
    order: Order,
}

impl Pins {
    /// The pin, which may be new.
    pub(super) fn entry(&mut self, repo: Repo, revision: Revision, now: Instant) -> &mut Pin {
        let position = self.order.last_key_value().map_or(FIRST, |(last, _)| last + 1);
        let is_known = self.get(&repo, &revision).is_some();
        if !is_known {
            if let Some(owner) = repo.id.owner() {
                let owners = self.by_owner.entry(repo.kind).or_default();
                owners.entry(owner.into()).or_default().insert(position, (repo.clone(), revision.clone()));
            }
            self.order.insert(position, (repo.clone(), revision.clone()));
        }
        let revisions = self.by_repo.entry(repo).or_default();
        revisions.entry(revision).or_insert(Pin { position, shown: None, checked: now })
    }

    pub(super) fn get(&self, repo: &Repo, revision: &Revision) -> Option<&Pin> {
        self.by_repo.get(repo)?.get(revision)
    }

    /// All of one repository.
    pub(super) fn of(&self, repo: &Repo) -> impl Iterator<Item = (&Revision, &Pin)> {
        self.by_repo.get(repo).into_iter().flatten()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Repo, &Revision, &Pin)> {
        self.by_repo
            .iter()
            .flat_map(|(repo, revisions)| revisions.iter().map(move |(revision, pin)| (repo, revision, pin)))
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Pin> {
        self.by_repo.values_mut().flat_map(BTreeMap::values_mut)
    }

    pub(super) fn has_owner(&self, kind: RepoKind, owner: &str) -> bool {
        self.by_owner.get(&kind).is_some_and(|owners| owners.contains_key(owner))
    }

    /// All of them behind a position, in order.
    pub(super) fn behind(&self, after: u64) -> impl Iterator<Item = (u64, &Repo, &Revision)> {
        behind(&self.order, after)
    }

    /// Those of one owner.
    pub(super) fn of_owner_behind(
        &self,
        kind: RepoKind,
        owner: &str,
        after: u64,
    ) -> impl Iterator<Item = (u64, &Repo, &Revision)> {
        let order = self.by_owner.get(&kind).and_then(|owners| owners.get(owner));
        order.into_iter().flat_map(move |order| behind(order, after))
    }

    /// Those of one repository in order, as far as they stand for something.
    pub(super) fn shown_of(&self, repo: &Repo) -> Vec<(u64, &Revision, &Arc<Shown>)> {
        let all = self.of(repo);
        let mut found: Vec<_> =
            all.filter_map(|(revision, pin)| Some((pin.position, revision, pin.shown.as_ref()?))).collect();
        found.sort_unstable_by_key(|(position, ..)| *position);
        found
    }

    /// Whether the pin at this position is the first one of its owner.
    pub(super) fn is_first_of_owner(&self, kind: RepoKind, owner: &str, position: u64) -> bool {
        let order = self.by_owner.get(&kind).and_then(|owners| owners.get(owner));
        order.and_then(Order::first_key_value).is_some_and(|(first, _)| *first == position)
    }

    /// Whether the pin at this position is the first one of its repository.
    pub(super) fn is_first_of_repo(&self, repo: &Repo, position: u64) -> bool {
        self.of(repo).all(|(_, pin)| pin.position >= position)
    }
}

fn behind(order: &Order, after: u64) -> impl Iterator<Item = (u64, &Repo, &Revision)> {
    let rest = order.range((Bound::Excluded(after), Bound::Unbounded));
    rest.map(|(position, (repo, revision))| (*position, repo, revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins(names: &[&str]) -> Pins {
        let mut pins = Pins::default();
        for name in names {
            let (repo, revision) = name.split_once('@').unwrap_or((name, "main"));
            let (repo, revision) = (Repo::parse(repo).unwrap(), Revision::parse(revision).unwrap());
            pins.entry(repo, revision, Instant::now());
        }
        pins
    }

    #[test]
    fn owners_and_repositories_have_theirs_in_the_order_in_which_they_were_met() {
        let pins = pins(&["b/x", "a/x", "gpt2", "b/x@v1", "datasets/b/y", "b/x", "b/w", "a.b/x"]);
        let names = |found: &mut dyn Iterator<Item = (u64, &Repo, &Revision)>| -> Vec<String> {
            found.map(|(_, repo, revision)| format!("{repo}@{revision}")).collect()
        };
        let all = names(&mut pins.behind(0));
        assert_eq!(
            all,
            ["b/x@main", "a/x@main", "gpt2@main", "b/x@v1", "datasets/b/y@main", "b/w@main", "a.b/x@main"]
        );
        assert_eq!(
            names(&mut pins.of_owner_behind(RepoKind::Model, "b", 0)),
            ["b/x@main", "b/x@v1", "b/w@main"]
        );
        let first = pins.of_owner_behind(RepoKind::Model, "b", 0).next().expect("one").0;
        assert_eq!(names(&mut pins.of_owner_behind(RepoKind::Model, "b", first)), ["b/x@v1", "b/w@main"]);
        assert_eq!(names(&mut pins.of_owner_behind(RepoKind::Dataset, "b", 0)), ["datasets/b/y@main"]);
        for (kind, owner, is_there) in [
            (RepoKind::Model, "a", true),
            (RepoKind::Model, "a.b", true),
            (RepoKind::Model, "gpt2", false),
            (RepoKind::Space, "b", false),
        ] {
            assert_eq!(pins.has_owner(kind, owner), is_there, "{owner}");
        }
        let firsts = pins.behind(0).filter(|(at, repo, _)| pins.is_first_of_repo(repo, *at)).count();
        assert_eq!(firsts, 6);
        let owners = pins.behind(0).filter(|(at, repo, _)| {
            repo.id.owner().is_some_and(|owner| pins.is_first_of_owner(repo.kind, owner, *at))
        });
        assert_eq!(owners.count(), 4);
        assert_eq!(pins.of(&Repo::parse("b/x").unwrap()).count(), 2);
    }
}
