//! What a test needs of the machine. Where it is missing the test says so and shows nothing; where
//! `WTFS_REQUIRE_FUSE=1` or `WTFS_REQUIRE_INTEROP=1` is set, as in CI, it fails instead.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// `/dev/fuse`, and the right to mount.
    Fuse,
    /// A Python that can import libtorrent.
    Libtorrent,
    /// A Python that can import safetensors and numpy.
    Safetensors,
    /// A Python of its own with this version of huggingface_hub.
    HfClient(&'static str),
    /// What loads models and data sets by their paths, in the Python of the newest of these: PyTorch, llama.cpp, datasets.
    Loaders,
    /// A program on the crate `hf-hub`: tests/clients/hf-hub.
    HfHubCrate,
    /// The npm package `bittorrent-tracker`.
    NpmTracker,
    /// The npm package `playwright-core`.
    Playwright,
    /// The npm package `webtorrent`, which the page of the hub is built with.
    WebTorrent,
    /// This program on the PATH.
    Program(&'static str),
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::Fuse => Path::new("/dev/fuse").exists(),
            Self::Libtorrent => has_libtorrent(),
            Self::Safetensors => can_import("safetensors, numpy"),
            Self::HfClient(version) => hf_python(version).exists(),
            Self::Loaders => loaders().exists(),
            Self::HfHubCrate => hf_hub_crate().exists(),
            Self::NpmTracker => node_modules().join("bittorrent-tracker/client.js").exists(),
            Self::Playwright => node_modules().join("playwright-core/index.mjs").exists(),
            Self::WebTorrent => super::browser::webtorrent().exists(),
            Self::Program(name) => find_program(name).is_some(),
        }
    }

    fn is_required(self) -> bool {
        let variable = match self {
            Self::Fuse => "WTFS_REQUIRE_FUSE",
            Self::Libtorrent
            | Self::Safetensors
            | Self::HfClient(_)
            | Self::Loaders
            | Self::HfHubCrate
            | Self::NpmTracker
            | Self::Playwright
            | Self::WebTorrent
            | Self::Program(_) => "WTFS_REQUIRE_INTEROP",
        };
        env::var_os(variable).is_some_and(|value| value == "1")
    }
}

/// True when something is missing and the test should end without a result.
///
/// # Panics
/// When what is missing is required.
#[track_caller]
pub(crate) fn missing(needs: &[Need]) -> bool {
    let Some(lacking) = needs.iter().find(|need| !need.is_met()) else { return false };
    assert!(!lacking.is_required(), "this machine lacks {lacking:?}, which is required");
    eprintln!("skipped: this machine lacks {lacking:?}");
    true
}

/// The Python of the tests: `WTFS_PYTHON` if set, else the one `scripts/setup test` makes, else `python3`.
pub(crate) fn python() -> PathBuf {
    if let Some(python) = env::var_os("WTFS_PYTHON") {
        return python.into();
    }
    let made = kept("python/bin/python3");
    made.filter(|python| python.exists()).unwrap_or_else(|| "python3".into())
}

/// The Python that has this version of huggingface_hub.
pub(crate) fn hf_python(version: &str) -> PathBuf {
    kept(&format!("hf-{version}/bin/python3")).unwrap_or_default()
}

/// Says what is there to load models and data sets with.
fn loaders() -> PathBuf {
    kept(&format!("hf-{}/loaders", super::hf::NEWEST)).unwrap_or_default()
}

/// The program on the crate `hf-hub`.
pub(crate) fn hf_hub_crate() -> PathBuf {
    kept("hf-hub/bin/hf-hub-client").unwrap_or_default()
}

/// Where the packages from npm are that `scripts/setup test` fetches.
pub(crate) fn node_modules() -> PathBuf {
    kept("node/node_modules").unwrap_or_default()
}

/// A path in the cache of the tests.
fn kept(path: &str) -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    Some(cache?.join("wtfs-test").join(path))
}

/// Where a program is: the PATH, and the directories of administrators' programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn has_libtorrent() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| can_import("libtorrent"))
}

fn can_import(modules: &str) -> bool {
    let import = Command::new(python()).args(["-c", &format!("import {modules}")]).output();
    import.is_ok_and(|out| out.status.success())
}
