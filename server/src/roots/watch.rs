//! Hearing of changes below the roots from the kernel: which entries were touched since the last look.
//!
//! Only a hint that saves time: what is not heard (a full queue, no more watches, a network file system) is found by the
//! next rescan, and each read compares the file with its stamp anyway. Reading is not a change.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// More names than this at once are not kept: everything is looked at instead.
const NAMES_MAX: usize = 4096;

/// What was touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Number of the root, and name of its entry.
    pub(super) names: HashSet<(usize, String)>,
    /// Whether something may have been missed.
    pub(super) is_overflown: bool,
}

#[derive(Debug, Default)]
struct Shared {
    touched: Mutex<Touched>,
    told: Notify,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Starts to watch. Blocks: one watch is made for each directory below the roots.
    pub(super) fn start(roots: Vec<PathBuf>) -> Self {
        let shared = Arc::<Shared>::default();
        let (heard, dirs) = (shared.clone(), roots.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) => heard.note(&dirs, &event),
            Err(error) => {
                tracing::debug!(%error, "a change below a root may have been missed");
                heard.change(|touched| touched.is_overflown = true);
            }
        });
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, "changes below the roots are found by rescans alone");
                return Self { shared, _watcher: None };
            }
        };
        for root in &roots {
            if let Err(error) = watcher.watch(root, RecursiveMode::Recursive) {
                tracing::warn!(
                    root = %root.display(), %error,
                    "not all of it is watched, some changes are found by rescans alone \
                     (the limit is fs.inotify.max_user_watches)"
                );
            }
        }
        Self { shared, _watcher: Some(watcher) }
    }

    /// Waits until something was touched, and takes the list.
    ///
    /// # Cancel safety
    /// Cancel safe: what was touched is told the next time.
    pub(super) async fn touched(&self) -> Touched {
        self.shared.told.notified().await;
        std::mem::take(&mut *self.shared.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    fn note(&self, roots: &[PathBuf], event: &Event) {
        let is_read =
            matches!(event.kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write));
        if is_read {
            return;
        }
        if event.need_rescan() {
            self.change(|touched| touched.is_overflown = true);
        }
        for path in &event.paths {
            if let Some(entry) = entry_of(roots, path) {
                self.change(|touched| touched.add(entry));
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Touched)) {
        change(&mut self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        self.told.notify_one();
    }
}

impl Touched {
    fn add(&mut self, entry: (usize, String)) {
        if self.names.len() < NAMES_MAX {
            self.names.insert(entry);
        } else {
            self.is_overflown = true;
        }
    }
}

/// The entry that a path below a root belongs to. Of roots within each other, the innermost counts.
fn entry_of(roots: &[PathBuf], path: &Path) -> Option<(usize, String)> {
    let below = roots.iter().enumerate().filter(|(_, root)| path.starts_with(root));
    let (number, root) = below.max_by_key(|(_, root)| root.components().count())?;
    let name = path.strip_prefix(root).ok()?.components().next()?;
    Some((number, name.as_os_str().to_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_path_belongs_to_the_first_name_below_its_root() {
        let roots = [PathBuf::from("/a"), PathBuf::from("/a/b/c")];
        let entry = |path: &str| entry_of(&roots, Path::new(path));
        assert_eq!(entry("/a/x/y"), Some((0, "x".into())));
        assert_eq!(entry("/a/b/c/d/e"), Some((1, "d".into())));
        assert_eq!(entry("/a"), None);
        assert_eq!(entry("/ab/x"), None);
    }

    #[tokio::test]
    async fn a_write_deep_below_is_heard_and_a_read_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("model/deep")).expect("made");
        std::fs::write(dir.path().join("still"), b"x").expect("written");
        let watch = Watch::start(vec![dir.path().into()]);
        assert_eq!(std::fs::read(dir.path().join("still")).expect("read"), b"x");
        std::fs::write(dir.path().join("model/deep/f"), b"x").expect("written");
        let touched = tokio::time::timeout(Duration::from_secs(20), watch.touched()).await.expect("heard");
        assert_eq!(touched.names, HashSet::from([(0, "model".to_owned())]));
    }
}
