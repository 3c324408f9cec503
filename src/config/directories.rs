//! Where files go: the XDG base directories, and what stands in for them where a variable is not set.
//!
//! A relative path in an XDG variable is ignored, as the specification asks. Making a directory is the caller's work.

use std::path::{Path, PathBuf};

use super::Environment;
use crate::exit::{Exit, OrEnd as _, ended};

#[derive(Clone, Debug)]
pub(crate) struct Directories {
    home: Option<PathBuf>,
    cache: Option<PathBuf>,
    config: Option<PathBuf>,
    system_config: Vec<PathBuf>,
    state: Option<PathBuf>,
    /// Where sockets may stand, that of this process first. Never empty.
    runtimes: Vec<PathBuf>,
    programs: Vec<PathBuf>,
}

impl Directories {
    pub(super) fn of(environment: &Environment) -> Self {
        let absolute = |name: &str| environment.path(name).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let listed = environment.path("XDG_CONFIG_DIRS").unwrap_or_else(|| PathBuf::from("/etc/xdg"));
        // Not $TMPDIR: `wtfs status` must find the sockets of a shell that had another one.
        let user = rustix::process::getuid().as_raw();
        let session = PathBuf::from(format!("/run/user/{user}/wtfs"));
        let shared = PathBuf::from(format!("/tmp/wtfs-{user}"));
        let mut runtimes = Vec::new();
        if let Some(named) = absolute("WTFS_RUNTIME_DIR") {
            runtimes.push(named);
        } else {
            let ours = absolute("XDG_RUNTIME_DIR").map_or_else(|| shared.clone(), |dir| dir.join("wtfs"));
            for dir in [ours, session, shared] {
                if !runtimes.contains(&dir) {
                    runtimes.push(dir);
                }
            }
        }
        Self {
            cache: absolute("XDG_CACHE_HOME").or_else(|| below_home(".cache")),
            config: absolute("XDG_CONFIG_HOME").or_else(|| below_home(".config")),
            system_config: std::env::split_paths(&listed).filter(|path| path.is_absolute()).collect(),
            state: absolute("XDG_STATE_HOME").or_else(|| below_home(".local/state")),
            runtimes,
            programs: std::env::split_paths(&environment.path("PATH").unwrap_or_default()).collect(),
            home,
        }
    }

    /// Configuration files, the one that wins first.
    pub(super) fn config_files(&self) -> impl Iterator<Item = PathBuf> {
        self.config.iter().chain(&self.system_config).map(|dir| dir.join("wtfs/config.toml"))
    }

    /// The default of `cache_dir`.
    pub(super) fn cache(&self) -> anyhow::Result<PathBuf> {
        let cache = self.cache.as_ref().map(|dir| dir.join("wtfs"));
        cache.ok_or_else(|| {
            ended(
                Exit::Usage,
                "neither XDG_CACHE_HOME nor HOME is set; say where to keep data with --cache-dir",
            )
        })
    }

    /// Where the logs of background mounts go, and what was added to mounts.
    pub(crate) fn state(&self) -> anyhow::Result<PathBuf> {
        let state = self.state.as_ref().map(|dir| dir.join("wtfs"));
        state.ok_or_else(|| {
            ended(Exit::Usage, "neither XDG_STATE_HOME nor HOME is set; --daemon needs one for its log")
        })
    }

    /// Where the control socket of this process stands.
    pub(crate) fn runtime(&self) -> &Path {
        &self.runtimes[0]
    }

    /// Where a process of this user may have its socket, that of this process first: a mount made at boot had no
    /// `XDG_RUNTIME_DIR`, and a shell by `su` has none for a mount made in a session. Where `WTFS_RUNTIME_DIR` names a
    /// place, there alone.
    pub(crate) fn runtimes(&self) -> Vec<&Path> {
        self.runtimes.iter().map(PathBuf::as_path).collect()
    }

    /// Where programs are looked for, in this order.
    pub(crate) fn programs(&self) -> &[PathBuf] {
        &self.programs
    }

    /// A path as written in a file or typed, made absolute; a leading `~/` is the home directory.
    pub(crate) fn expand(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let path = match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path.to_owned(),
        };
        std::path::absolute(&path).or_end(Exit::Usage, || format!("{} is no usable path", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdg_variables_are_honoured_and_relative_ones_ignored() {
        let environment = Environment::from([
            ("HOME", "/home/ada"),
            ("XDG_CACHE_HOME", "/fast/cache"),
            ("XDG_STATE_HOME", "relative"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("XDG_CONFIG_DIRS", "/etc/a:/etc/b"),
        ]);
        let directories = Directories::of(&environment);
        assert_eq!(directories.cache().expect("set"), Path::new("/fast/cache/wtfs"));
        assert_eq!(directories.state().expect("set"), Path::new("/home/ada/.local/state/wtfs"));
        assert_eq!(directories.runtime(), Path::new("/run/user/7/wtfs"));
        let user = rustix::process::getuid().as_raw();
        let others = [format!("/run/user/{user}/wtfs"), format!("/tmp/wtfs-{user}")];
        assert_eq!(directories.runtimes()[..1], [directories.runtime()]);
        assert!(others.iter().all(|other| directories.runtimes().contains(&Path::new(other))));
        let files: Vec<_> = directories.config_files().collect();
        let expected =
            ["/home/ada/.config", "/etc/a", "/etc/b"].map(|dir| Path::new(dir).join("wtfs/config.toml"));
        assert_eq!(files, expected);
    }

    #[test]
    fn a_place_named_for_sockets_is_the_only_one() {
        let environment =
            Environment::from([("XDG_RUNTIME_DIR", "/run/user/7"), ("WTFS_RUNTIME_DIR", "/run/ours")]);
        let directories = Directories::of(&environment);
        assert_eq!(directories.runtimes(), [Path::new("/run/ours")]);
        assert_eq!(directories.runtime(), Path::new("/run/ours"));
        let without = Directories::of(&Environment::from([("HOME", "/home/ada")]));
        let user = rustix::process::getuid().as_raw();
        assert_eq!(without.runtime(), Path::new(&format!("/tmp/wtfs-{user}")));
    }

    #[test]
    fn a_tilde_is_the_home_directory() {
        let directories = Directories::of(&Environment::from([("HOME", "/home/ada")]));
        assert_eq!(directories.expand(Path::new("~/x")).expect("a path"), Path::new("/home/ada/x"));
        assert_eq!(directories.expand(Path::new("/x")).expect("a path"), Path::new("/x"));
        assert!(directories.expand(Path::new("x")).expect("a path").is_absolute());
    }
}
