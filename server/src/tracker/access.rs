//! Who may announce, and which torrents.
//!
//! Owns the lists of info hashes as last read, passkeys and origins. Reads the files when told to; nothing else here
//! opens one.
//!
//! Invariant: a list that is configured and could not be read yet refuses everything it would have to judge; one that
//! cannot be read again keeps what it said before.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use wtfs_proto::id::{InfoHash, InfoHashV2};

use super::config::AccessConfig;

/// Largest list file that is read. A million hashes in hexadecimal have 41 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A list of info hashes that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it is no info hash.
    #[error("{}, line {line}: no info hash", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// It is too large to be such a list.
    #[error("{}: larger than {MAX_FILE_BYTES} bytes", path.display())]
    Size {
        /// The file.
        path: PathBuf,
    },
}

/// Why a client is turned away before its announce is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forbidden {
    #[error("this tracker needs a passkey in the announce URL")]
    Passkey,
    #[error("this torrent is not tracked here")]
    Torrent,
}

#[derive(Debug, Default)]
struct Lists {
    allowed: Option<HashSet<InfoHash>>,
    denied: Option<HashSet<InfoHash>>,
    /// When the files were changed last, as of their reading.
    changed: [Option<SystemTime>; 2],
}

/// The rules, shared by all front ends.
#[derive(Debug)]
pub(crate) struct Access {
    config: AccessConfig,
    passkeys: HashSet<String>,
    lists: RwLock<Arc<Lists>>,
}

impl Access {
    pub(crate) fn new(config: AccessConfig) -> Self {
        let passkeys = config.passkeys.iter().cloned().collect();
        Self { config, passkeys, lists: RwLock::default() }
    }

    /// Whether a client with this word in its URL may do anything at all.
    pub(crate) fn admit(&self, passkey: Option<&str>) -> Result<(), Forbidden> {
        let is_known = passkey.is_some_and(|passkey| self.passkeys.contains(passkey));
        if self.passkeys.is_empty() || is_known { Ok(()) } else { Err(Forbidden::Passkey) }
    }

    /// Whether a torrent is tracked.
    pub(crate) fn allow(&self, info_hash: InfoHash) -> Result<(), Forbidden> {
        if self.config.allow_file.is_none() && self.config.deny_file.is_none() {
            return Ok(());
        }
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        let on = |list: &Option<HashSet<InfoHash>>| list.as_ref().map(|list| list.contains(&info_hash));
        let is_allowed = self.config.allow_file.is_none() || on(&lists.allowed) == Some(true);
        let is_denied = self.config.deny_file.is_some() && on(&lists.denied) != Some(false);
        if is_allowed && !is_denied { Ok(()) } else { Err(Forbidden::Torrent) }
    }

    /// Whether pages of this origin may open a web socket; programs that are no browsers send none.
    pub(crate) fn welcomes(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let origins = &self.config.origins;
        origins.is_empty() || origins.iter().any(|own| own.trim_end_matches('/').eq_ignore_ascii_case(origin))
    }

    /// Reads the lists again, if a file has changed since. Says whether they were read.
    pub(crate) fn reload(&self, when: Reload) -> Result<Reloaded, ReloadError> {
        let files = [&self.config.allow_file, &self.config.deny_file];
        let changed = files.map(|path| path.as_deref().and_then(changed));
        let known = self.lists.read().unwrap_or_else(PoisonError::into_inner).changed;
        if when == Reload::IfChanged && changed == known {
            return Ok(Reloaded::NotNeeded);
        }
        let [allowed, denied] = files.map(|path| path.as_deref().map(read_list).transpose());
        let lists = Arc::new(Lists { allowed: allowed?, denied: denied?, changed });
        *self.lists.write().unwrap_or_else(PoisonError::into_inner) = lists;
        Ok(Reloaded::Read)
    }
}

/// When lists are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    Always,
    IfChanged,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reloaded {
    Read,
    NotNeeded,
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn read_list(path: &Path) -> Result<HashSet<InfoHash>, ReloadError> {
    let failed = |source| ReloadError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(ReloadError::Size { path: path.to_owned() });
    }
    let mut list = HashSet::new();
    for (number, line) in BufReader::new(file.take(MAX_FILE_BYTES)).lines().enumerate() {
        let line = line.map_err(failed)?;
        let text = line.split('#').next().unwrap_or_default().trim();
        if !text.is_empty() {
            let wrong = || ReloadError::Line { path: path.to_owned(), line: number + 1 };
            list.insert(parse_hash(text).ok_or_else(wrong)?);
        }
    }
    Ok(list)
}

fn parse_hash(text: &str) -> Option<InfoHash> {
    text.parse().ok().or_else(|| text.parse::<InfoHashV2>().ok().map(|hash| hash.truncated()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn hash(byte: u8) -> InfoHash {
        InfoHash::new([byte; 20])
    }

    #[test]
    fn lists_are_read_from_files_and_kept_when_they_break() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("allowed");
        let access = Access::new(AccessConfig { allow_file: Some(path.clone()), ..AccessConfig::default() });
        assert_eq!(access.allow(hash(1)), Err(Forbidden::Torrent), "not read yet");
        assert!(access.reload(Reload::Always).expect_err("missing").to_string().contains("allowed"));
        fs::write(&path, format!("# ours\n{}\n\n  {} # with a word\n", hash(1), "22".repeat(32)))
            .expect("written");
        assert_eq!(access.reload(Reload::IfChanged).expect("read"), Reloaded::Read);
        assert_eq!(access.reload(Reload::IfChanged).expect("same"), Reloaded::NotNeeded);
        assert_eq!(access.allow(hash(1)), Ok(()));
        assert_eq!(access.allow(hash(0x22)), Ok(()), "a v2 hash, as it is on the wire");
        assert_eq!(access.allow(hash(3)), Err(Forbidden::Torrent));
        fs::write(&path, format!("{}\nnonsense\n", hash(3))).expect("written");
        assert!(
            access
                .reload(Reload::Always)
                .expect_err("broken")
                .to_string()
                .ends_with("allowed, line 2: no info hash")
        );
        assert_eq!(access.allow(hash(1)), Ok(()));
        assert_eq!(access.allow(hash(3)), Err(Forbidden::Torrent));
    }

    #[test]
    fn a_denied_torrent_is_refused_and_others_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("denied");
        let access = Access::new(AccessConfig { deny_file: Some(path.clone()), ..AccessConfig::default() });
        assert_eq!(access.allow(hash(1)), Err(Forbidden::Torrent), "not read yet");
        fs::write(&path, hash(2).to_string()).expect("written");
        access.reload(Reload::Always).expect("read");
        assert_eq!((access.allow(hash(1)), access.allow(hash(2))), (Ok(()), Err(Forbidden::Torrent)));
    }

    #[test]
    fn passkeys_and_origins_are_open_until_some_are_named() {
        let open = Access::new(AccessConfig::default());
        assert_eq!(open.admit(None), Ok(()));
        assert!(open.welcomes(Some("https://anybody.example")));
        let closed = Access::new(AccessConfig {
            passkeys: vec!["sesame".to_owned()],
            origins: vec!["https://Example.org/".to_owned()],
            ..AccessConfig::default()
        });
        assert_eq!(closed.admit(Some("sesame")), Ok(()));
        assert_eq!(closed.admit(Some("seasame")), Err(Forbidden::Passkey));
        assert_eq!(closed.admit(None), Err(Forbidden::Passkey));
        assert!(closed.welcomes(Some("https://example.org")) && closed.welcomes(None));
        assert!(!closed.welcomes(Some("https://example.org.evil.example")) && !closed.welcomes(Some("null")));
    }
}
