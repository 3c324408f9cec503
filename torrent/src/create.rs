//! Making v1 torrents of a file or a directory.
//!
//! Walks the tree (`create/walk.rs`), checks that what it found can be written as a torrent and read back as the same
//! files before the long part begins, and hashes (`create/hash.rs`). The result depends on names, bytes, executable
//! bits and options alone: two people who have the same files make the same info hash, whatever the order of their
//! directories and the number of their cores.
//!
//! Writes nothing: the caller gets a [`Metainfo`] and saves it. Empty directories have no place in a v1 torrent and are
//! left out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use wtfs_proto::geometry::BLOCK_BYTES;
use wtfs_proto::metainfo::{
    InfoBuilder, MAX_PIECE_BYTES, Metainfo, MetainfoBuilder, MetainfoError, Privacy, choose_piece_bytes,
};
use wtfs_proto::path::TorrentPath;

use crate::stamp::Stamp;

mod hash;
mod walk;

use walk::{Kind, Tree};

/// What to do with files and directories whose names begin with a dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HiddenFiles {
    /// They belong to the torrent.
    #[default]
    Include,
    /// They are left out, directories with all that is in them.
    Skip,
    /// As [`Self::Skip`], and names that programs give to what they are not done with (`.part`, `~` and the like) too.
    SkipWithUnfinished,
}

/// Whether programs give such names to files that they are not done with.
pub fn is_unfinished(name: &str) -> bool {
    walk::is_unfinished(name)
}

/// What to do with symbolic links. They are never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SymbolicLinks {
    /// They become links of the torrent (BEP 47); one that leads outside is an error.
    #[default]
    Keep,
    /// As [`Self::Keep`], but one that leads outside is left out.
    KeepInside,
    /// They are left out.
    Skip,
}

/// What to make a torrent of, and how.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The file or directory.
    pub root: PathBuf,
    /// Name of the torrent; that of the file or directory unless given.
    pub name: Option<String>,
    /// Piece size in bytes: a power of two from 16 KiB on. Chosen by the total size unless given. A reader waits for a
    /// whole piece, so large ones make random reads slow; small ones make the torrent file large.
    pub piece_bytes: Option<u32>,
    /// Trackers in tiers (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// Whether peers may come from elsewhere than the trackers (BEP 27). Changes the info hash.
    pub privacy: Privacy,
    /// Text for people.
    pub comment: Option<String>,
    /// Tag that makes the info hash a tracker's own.
    pub source: Option<String>,
    /// The program that makes it.
    pub created_by: Option<String>,
    /// Seconds since 1970. Left out unless given, so that equal content gives equal files.
    pub creation_date: Option<i64>,
    /// Names that begin with a dot.
    pub hidden_files: HiddenFiles,
    /// Symbolic links below the root.
    pub symbolic_links: SymbolicLinks,
    /// Where the caller will save the result, so that it is not put inside itself.
    pub output: Option<PathBuf>,
}

impl CreateOptions {
    /// All of `root`, public, with no trackers.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            name: None,
            piece_bytes: None,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            privacy: Privacy::Public,
            comment: None,
            source: None,
            created_by: None,
            creation_date: None,
            hidden_files: HiddenFiles::default(),
            symbolic_links: SymbolicLinks::default(),
            output: None,
        }
    }
}

/// How far a torrent is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateProgress {
    /// Bytes read, of which all but the last few megabytes are hashed.
    pub hashed_bytes: u64,
    /// Bytes there are.
    pub total_bytes: u64,
}

/// Why a torrent cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The system refused.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A name that a torrent cannot hold.
    #[error("the name of {} is not UTF-8; rename it", path.display())]
    NotUtf8 {
        /// The file, or the link with such a target.
        path: PathBuf,
    },
    /// A device, a pipe or a socket.
    #[error("{} is neither a file nor a directory", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
    },
    /// A symbolic link that leads out of the torrent, or to its top.
    #[error("the link {} leads to {}, which is not inside the torrent; remove it or skip links", path.display(), target.display())]
    LinkLeaves {
        /// The link.
        path: PathBuf,
        /// Its text.
        target: PathBuf,
    },
    /// The result would lie inside what it describes.
    #[error("{} lies inside the torrent's own content; save it elsewhere", path.display())]
    OutputInside {
        /// Where it was to be saved.
        path: PathBuf,
    },
    /// There are no bytes to share.
    #[error("{} has no content", path.display())]
    Empty {
        /// The root.
        path: PathBuf,
    },
    /// A piece size that clients do not take.
    #[error("a piece size of {found} bytes is not a power of two from {BLOCK_BYTES} to {MAX_PIECE_BYTES}")]
    PieceBytes {
        /// What was asked for.
        found: u32,
    },
    /// A file was written to, cut or replaced while it was read.
    #[error("{} changed while it was read; try again when it is at rest", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The torrent would not give back the same file.
    #[error("{} cannot be part of a torrent: its name has a meaning of its own there", path.display())]
    Unrepresentable {
        /// The file's path in the torrent.
        path: PathBuf,
    },
    /// The names or numbers make no valid torrent.
    #[error(transparent)]
    Metainfo(#[from] MetainfoError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl CreateError {
    fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, path: path.to_path_buf(), source }
    }
}

/// What a torrent is to be made of: the files as they were found, before any of their content is read.
#[derive(Debug)]
pub struct Survey {
    tree: Tree,
    total_bytes: u64,
}

impl Survey {
    /// Walks the tree. Blocks on the disk: one `stat` a file.
    ///
    /// # Errors
    /// [`CreateError`] at the first file that cannot be part of a torrent.
    pub fn of(options: &CreateOptions) -> Result<Self, CreateError> {
        let tree = Tree::walk(&options.root, options.hidden_files, options.symbolic_links)?;
        let total_bytes: u64 = tree.files.iter().map(|file| file.entry.bytes).sum();
        if total_bytes == 0 {
            return Err(CreateError::Empty { path: options.root.clone() });
        }
        Ok(Self { tree, total_bytes })
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Path in the torrent and stamp of each file, links left out, in the order of the torrent's files.
    pub fn files(&self) -> impl Iterator<Item = (&TorrentPath, Stamp)> {
        let files = self.tree.files.iter().filter(|file| file.entry.symlink.is_none());
        files.map(|file| (&file.entry.path, file.stamp))
    }

    /// Links with what they lead to, both in the torrent.
    pub fn links(&self) -> impl Iterator<Item = (&TorrentPath, &TorrentPath)> {
        self.tree.files.iter().filter_map(|file| Some((&file.entry.path, file.entry.symlink.as_ref()?)))
    }

    /// Hashes the files, as [`create`], and makes the torrent.
    ///
    /// # Errors
    /// [`CreateError::Changed`] when a file is not as it was found.
    pub fn hash(
        &self,
        options: &CreateOptions,
        on_progress: &(dyn Fn(CreateProgress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Metainfo, CreateError> {
        let builder = builder(options, &self.tree, self.total_bytes)?;
        let geometry = builder.geometry()?;
        let unknown =
            vec![0; usize::try_from(geometry.piece_count()).unwrap_or(usize::MAX).saturating_mul(20)];
        check_read_back(&builder, &unknown)?;

        let hashes = hash::hash_files(&self.tree.files, &geometry, on_progress, cancel)?;
        let mut torrent = MetainfoBuilder::new(builder.finish(&hashes)?)?
            .with_announce(options.trackers.clone())
            .with_web_seeds(options.web_seeds.clone());
        if let Some(comment) = &options.comment {
            torrent = torrent.with_comment(comment);
        }
        if let Some(program) = &options.created_by {
            torrent = torrent.with_created_by(program);
        }
        if let Some(seconds) = options.creation_date {
            torrent = torrent.with_creation_date(seconds);
        }
        Ok(torrent.finish())
    }
}

/// Makes a torrent, on all cores. Blocks until it is made or `cancel` is set.
///
/// `on_progress` is called by one thread for each megabyte read. Memory is bounded (128 MiB and the list of files)
/// whatever the piece size.
///
/// # Errors
/// [`CreateError`] at the first file that cannot be part of it. All names are checked before any content is read.
pub fn create(
    options: &CreateOptions,
    on_progress: &(dyn Fn(CreateProgress) + Sync),
    cancel: &AtomicBool,
) -> Result<Metainfo, CreateError> {
    if let Some(found) = options.piece_bytes
        && !(found.is_power_of_two() && (BLOCK_BYTES..=MAX_PIECE_BYTES).contains(&found))
    {
        return Err(CreateError::PieceBytes { found });
    }
    refuse_output_inside(options)?;
    Survey::of(options)?.hash(options, on_progress, cancel)
}

fn builder(options: &CreateOptions, tree: &Tree, total_bytes: u64) -> Result<InfoBuilder, CreateError> {
    let piece_bytes = options.piece_bytes.unwrap_or_else(|| choose_piece_bytes(total_bytes));
    let name = options.name.as_deref().unwrap_or(&tree.name);
    let mut builder = match tree.kind {
        Kind::File => InfoBuilder::single_file(name, total_bytes, piece_bytes)?,
        Kind::Directory => InfoBuilder::directory(name, piece_bytes),
    };
    for file in &tree.files {
        let mut entry = file.entry.clone();
        if tree.kind == Kind::File
            && let Some(named) = builder.files().first()
        {
            entry.path = named.path.clone();
        }
        builder.push(entry);
    }
    builder = builder.with_privacy(options.privacy);
    Ok(match &options.source {
        Some(source) => builder.with_source(source),
        None => builder,
    })
}

/// Parses what would come out and compares: a file whose name makes it padding, say, would come back as zeros.
fn check_read_back(builder: &InfoBuilder, unknown_hashes: &[u8]) -> Result<(), CreateError> {
    let read = MetainfoBuilder::new(builder.finish(unknown_hashes)?)?.finish();
    let differs = builder.files().iter().zip(&read.info.files).find(|(meant, read)| meant != read);
    match differs {
        Some((meant, _)) => Err(CreateError::Unrepresentable { path: meant.path.to_relative_path() }),
        None => Ok(()),
    }
}

fn refuse_output_inside(options: &CreateOptions) -> Result<(), CreateError> {
    let Some(output) = &options.output else { return Ok(()) };
    let root = options.root.canonicalize().map_err(CreateError::at("open", &options.root))?;
    // The output need not exist yet; its directory must, or saving fails anyway.
    let dir = output.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lies_inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&root));
    if lies_inside(dir) || lies_inside(output) {
        return Err(CreateError::OutputInside { path: output.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
