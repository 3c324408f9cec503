//! Which content came here by a repository that not everybody may read, and which repositories upstream gives it in.
//!
//! Blobs are kept by hash, so that many repositories share them; and any repository can list any hash. So what was
//! fetched for who may read a closed repository is given by another one only after upstream has given it there: one byte
//! is asked for, once for each repository and content. What came by open repositories alone is not noted and costs
//! nothing. Notes lie in `DIR/<hash>`, a line for each repository, and outlast the blob.
//!
//! Invariant: a note is on disk for good before the first byte of its content is. Nobody who asks waits for the disk: the map
//! is locked for a look or a change alone.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wtfs_proto::hf::{ContentId, Repo, TreeFile};
use wtfs_torrent::hf::Token;
use wtfs_torrent::hf::blobs::BlobError;

use super::recent::Recent;
use super::refusal::Asker;
use super::trouble::of_blob;
use super::{HfProxy, Refusal, Snapshot};

/// A note that is longer is cut when it is read: its repositories are asked again.
const NOTE_BYTES_MAX: usize = 64 << 10;

/// How long upstream is not asked again whether it gives a content to everybody that it gives in a repository.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Contents for which it is remembered when that was asked.
const ASKED_MAX: usize = 4096;

/// What is known of a content and a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It came by open repositories alone, or not at all.
    Unnoted,
    /// Upstream gives it in this repository.
    Vouched,
    /// It came by others, of which not everybody may read.
    Foreign,
}

type Notes = HashMap<ContentId, BTreeSet<String>>;

/// See the module's documentation. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Provenance {
    dir: Arc<PathBuf>,
    notes: Arc<Mutex<Notes>>,
    /// Held while a note is written, so that two of one content do not overwrite each other. Taken before `notes`.
    writing: Arc<Mutex<()>>,
    /// When it was asked whether everybody may have what a repository that was opened gives.
    asked: Arc<Mutex<Recent<(ContentId, Repo), Instant>>>,
}

impl Provenance {
    /// Reads the notes of earlier runs. Blocks on the disk.
    pub(super) fn open(dir: PathBuf) -> Self {
        let mut notes = Notes::new();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| ContentId::from_str(name).ok());
            let Some(id) = id else { continue };
            // What cannot be read is noted without repositories: all are asked again.
            let text = std::fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text[..text.len().min(NOTE_BYTES_MAX)]).into_owned();
            notes.insert(id, text.split_terminator('\n').map(str::to_owned).collect());
        }
        let asked = Arc::new(Mutex::new(Recent::new(ASKED_MAX)));
        Self { dir: Arc::new(dir), notes: Arc::new(Mutex::new(notes)), writing: Arc::default(), asked }
    }

    /// Whether not everybody may have this content, as far as is known.
    pub(super) fn is_closed(&self, id: ContentId) -> bool {
        self.notes().contains_key(&id)
    }

    fn standing(&self, id: ContentId, repo: &Repo) -> Standing {
        match self.notes().get(&id) {
            None => Standing::Unnoted,
            Some(repos) if repos.contains(&repo.to_string()) => Standing::Vouched,
            Some(_) => Standing::Foreign,
        }
    }

    /// Whether it is time to ask whether everybody may have a content; who is told so is to ask, and nobody else meanwhile.
    fn may_ask(&self, id: ContentId, repo: &Repo, now: Instant) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (id, repo.clone());
        if asked.find(&key).is_some_and(|at| now.saturating_duration_since(*at) < ASK_AGAIN) {
            return false;
        }
        asked.put(key, now, 1);
        true
    }

    /// Notes that upstream gives a content in a repository that not everybody may read. Blocks on the disk.
    fn note(&self, id: ContentId, repo: &Repo) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut repos = self.notes().get(&id).cloned().unwrap_or_default();
        repos.insert(repo.to_string());
        let text: String = repos.iter().map(|repo| format!("{repo}\n")).collect();
        std::fs::create_dir_all(&*self.dir)?;
        let path = self.dir.join(id.to_string());
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(&*self.dir)?.sync_all()?;
        self.notes().insert(id, repos);
        Ok(())
    }

    /// Forgets a note: upstream gives the content to everybody. Blocks on the disk.
    fn open_up(&self, id: ContentId) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        std::fs::remove_file(self.dir.join(id.to_string()))?;
        self.notes().remove(&id);
        Ok(())
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Whole between any two calls.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HfProxy {
    /// Makes sure that a file's content may be given by this repository, to who may read the repository. To be called
    /// before a fill is begun and again before its first byte is given: meanwhile others may have begun one.
    ///
    /// # Errors
    /// [`Refusal`]: upstream does not give it, or cannot be asked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn vouch(
        &self,
        snapshot: &Snapshot,
        file: &TreeFile,
        token: Option<&Token>,
        asker: Asker,
    ) -> Result<(), Refusal> {
        let provenance = &self.0.provenance;
        let repo = &snapshot.pinned.repo;
        let standing = provenance.standing(file.id, repo);
        match standing {
            Standing::Vouched if !snapshot.is_public => return Ok(()),
            Standing::Unnoted if snapshot.is_public => return Ok(()),
            // It is here, and came by open repositories.
            Standing::Unnoted if self.blob_of(file).present_bytes() > 0 => return Ok(()),
            // Of a repository that was opened: whether everybody is given it is worth asking now and then.
            Standing::Vouched if !provenance.may_ask(file.id, repo, Instant::now()) => return Ok(()),
            Standing::Unnoted | Standing::Foreign | Standing::Vouched => {}
        }
        let origin = self.origin_of(&snapshot.pinned, file, token.cloned());
        let given = origin.open(0..1).await;
        if given.is_err() && standing == Standing::Vouched {
            return Ok(());
        }
        given
            .map_err(|error| of_blob(&BlobError::Origin { from: origin.describe().into(), error }, asker))?;
        let (provenance, id, repo) = (provenance.clone(), file.id, repo.clone());
        let is_public = snapshot.is_public;
        let written = tokio::task::spawn_blocking(move || {
            if is_public { provenance.open_up(id) } else { provenance.note(id, &repo) }
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            // Somebody else opened it up meanwhile.
            Ok(Err(error)) if is_public && error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "where a closed repository's content comes from cannot be noted");
                Err(if error.kind() == io::ErrorKind::StorageFull {
                    Refusal::Full
                } else {
                    Refusal::Internal
                })
            }
            Err(_) => Err(Refusal::Internal),
        }
    }
}

#[cfg(test)]
mod tests {
    use wtfs_proto::hf::{RepoId, RepoKind};
    use wtfs_testkit::scratch::Scratch;

    use super::*;

    fn repo(id: &str) -> Repo {
        Repo { kind: RepoKind::Model, id: RepoId::parse(id).expect("an id") }
    }

    #[test]
    fn what_is_noted_is_vouched_for_by_those_alone_who_were_given_it_and_over_restarts() {
        let dir = Scratch::new("provenance");
        let (id, gated, other) = (ContentId::Sha256([7; 32]), repo("org/gated"), repo("bob/trick"));
        let first = Provenance::open(dir.join("notes"));
        assert_eq!(first.standing(id, &gated), Standing::Unnoted);
        first.note(id, &gated).expect("written");
        for provenance in [first.clone(), Provenance::open(dir.join("notes"))] {
            assert_eq!(provenance.standing(id, &gated), Standing::Vouched);
            assert_eq!(provenance.standing(id, &other), Standing::Foreign);
            assert!(provenance.is_closed(id));
        }
        first.note(id, &other).expect("written");
        let second = Provenance::open(dir.join("notes"));
        assert_eq!(second.standing(id, &gated), Standing::Vouched);
        assert_eq!(second.standing(id, &other), Standing::Vouched);
        second.open_up(id).expect("removed");
        assert!(!second.is_closed(id) && !Provenance::open(dir.join("notes")).is_closed(id));
    }

    #[test]
    fn whether_a_repository_was_opened_is_asked_by_one_and_again_after_a_while() {
        let dir = Scratch::new("provenance-asked");
        let provenance = Provenance::open(dir.join("notes"));
        let (id, opened, start) = (ContentId::Sha256([7; 32]), repo("org/opened"), Instant::now());
        let may_ask = |repo: &Repo, after| provenance.may_ask(id, repo, start + after);
        assert!(may_ask(&opened, Duration::ZERO) && !may_ask(&opened, Duration::ZERO));
        assert!(may_ask(&repo("org/other"), Duration::ZERO));
        assert!(!may_ask(&opened, ASK_AGAIN / 2) && may_ask(&opened, ASK_AGAIN));
        assert!(!may_ask(&opened, ASK_AGAIN), "from the last time on");
    }

    #[test]
    fn a_note_that_cannot_be_read_vouches_for_nobody() {
        let dir = Scratch::new("provenance-odd");
        let id = ContentId::GitSha1([1; 20]);
        std::fs::write(dir.join(id.to_string()), [0xff, 0xfe]).expect("written");
        std::fs::write(dir.join("no-hash"), "org/gated\n").expect("written");
        let provenance = Provenance::open(dir.path().to_owned());
        assert_eq!(provenance.standing(id, &repo("org/gated")), Standing::Foreign);
        assert_eq!(provenance.notes().len(), 1);
    }
}
