//! Where log lines go and which are shown. Lines go to stderr, so that stdout stays what was asked for.
//!
//! `RUST_LOG` (or `log` of the configuration) wins; else `--quiet` shows errors and each `-v` one level more than the
//! default, which is warnings; a background process, whose log is a file, also logs what happens.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::cli::Verbosity;
use crate::cmd::Place;

/// Starts logging. Called once, before anything else can log.
pub(crate) fn init(verbosity: &Verbosity, place: Place, filter: Option<&str>) -> anyhow::Result<()> {
    let directives = filter.unwrap_or_else(|| default_directives(verbosity, place));
    let filter = EnvFilter::try_new(directives)
        .with_context(|| format!("`{directives}` is no log filter; try RUST_LOG=wtfs=debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging could not be started: {error}"))
}

fn default_directives(verbosity: &Verbosity, place: Place) -> &'static str {
    match (verbosity.quiet, verbosity.verbose) {
        (true, _) => "error",
        (false, 0) if place == Place::Foreground => "warn",
        (false, 0 | 1) => "warn,wtfs=info,wtfs_mount=info,wtfs_torrent=info",
        (false, 2) => "info,wtfs=debug,wtfs_mount=debug,wtfs_torrent=debug",
        (false, _) => "debug,wtfs=trace,wtfs_mount=trace,wtfs_torrent=trace,wtfs_proto=trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_of_verbosity_is_a_filter() {
        for verbose in 0..5 {
            for quiet in [false, true] {
                for place in [Place::Foreground, Place::Background] {
                    EnvFilter::try_new(default_directives(&Verbosity { quiet, verbose }, place))
                        .expect("a filter");
                }
            }
        }
    }
}
