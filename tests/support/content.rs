//! What the tests share: files of ramp bytes, and a directory shaped like a repository of models.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use wtfs_testkit::ramp::Ramp;

/// One file of a tree: where, which stream, how long.
#[derive(Clone, Debug)]
pub(crate) struct TreeFile {
    pub(crate) path: PathBuf,
    pub(crate) ramp: Ramp,
    pub(crate) bytes: u64,
}

/// A directory of ramp files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<TreeFile>,
}

impl Tree {
    /// Adds a file whose stream is named by its number.
    pub(crate) fn file(&mut self, path: &str, bytes: u64) {
        let ramp = Ramp::new(1000 + self.files.len() as u64);
        self.files.push(TreeFile { path: path.into(), ramp, bytes });
    }

    /// A repository: nested and Unicode names, empty files, hundreds of small files, large ones beside them, and a
    /// length that ends in the middle of a piece.
    pub(crate) fn repository() -> Self {
        let mut tree = Self::default();
        tree.file("config.json", 1_234);
        tree.file("model-00001-of-00002.safetensors", 24 * 1024 * 1024 + 17);
        tree.file("model-00002-of-00002.safetensors", 9 * 1024 * 1024 - 5);
        tree.file("empty.txt", 0);
        tree.file("onnx/quantized/int8/model.onnx", 3_000_001);
        tree.file("日本語/ファイル 名.bin", 70_000);
        tree.file("naïve – “quoted”/emoji 🦀.txt", 513);
        tree.file("a/b/c/d/e/f/g/deep", 1);
        tree.file("also-empty/nothing", 0);
        for i in 0..400 {
            tree.file(&format!("shards/{:02}/{i:04}.bin", i % 13), 1 + (i * 379) % 4_096);
        }
        tree.file("zz-last-short", 12_345);
        tree
    }

    /// Writes all files below `root`.
    pub(crate) fn write(&self, root: &Path) {
        for file in &self.files {
            file.ramp
                .write_file(&root.join(&file.path), file.bytes)
                .expect("the scratch directory can be written");
        }
    }

    /// Reads all files below `root` in full; gives what is wrong.
    pub(crate) fn differences(&self, root: &Path) -> Vec<String> {
        let check = |file: &TreeFile| {
            let result: io::Result<()> = file.ramp.check_file(&root.join(&file.path), file.bytes);
            result.err().map(|error| format!("{}: {error}", file.path.display()))
        };
        self.files.iter().filter_map(check).collect()
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// The stream of the large shared file.
pub(crate) const LARGE: u64 = 0x1a46e;

/// A file of ramp bytes that is kept between runs, because writing a gibibyte each time would be the slow part.
/// It stands in Cargo's directory for such things, alone in a directory of its own.
pub(crate) fn kept_ramp_file(bytes: u64) -> PathBuf {
    static WRITING: Mutex<()> = Mutex::new(());
    let _one_writer = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ramp-{LARGE:x}-{bytes}"));
    let path = dir.join("large.bin");
    if fs::metadata(&path).is_ok_and(|m| m.len() == bytes) {
        return path;
    }
    // Under another name first: a run that is cut must not leave a short file behind under the right one.
    let draft = dir.join(format!("draft-{}", std::process::id()));
    Ramp::new(LARGE).write_file(&draft, bytes).expect("the build directory can be written");
    fs::rename(&draft, &path).expect("a file can be renamed in its directory");
    path
}
