//! Where log lines go and which are shown. Lines go to stderr, so that stdout stays what was asked for.
//!
//! `RUST_LOG` (or `log` of the configuration) wins; else `--quiet` shows errors and each `-v` one level more than the
//! default, which is warnings; a background process, whose log is a file, also logs what happens. The last warnings are
//! kept in memory too, whatever is shown.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};
use wtfs_server::ACCESS_TARGET;

use crate::cli::Verbosity;
use crate::cmd::Place;

mod access;

pub(crate) use access::AccessLines;

/// Warnings kept for `.wtfs/log` of a mount.
const LINES_MAX: usize = 200;
/// Longer lines are cut there.
const LINE_BYTES_MAX: usize = 4 << 10;

/// Starts logging. Called once, before anything else can log.
pub(crate) fn init(verbosity: &Verbosity, place: Place, filter: Option<&str>) -> anyhow::Result<()> {
    let directives = filter.unwrap_or_else(|| default_directives(verbosity, place));
    let filter = EnvFilter::try_new(directives)
        .with_context(|| format!("`{directives}` is no log filter; try RUST_LOG=wtfs=debug"))?;
    let shown = fmt::layer().with_writer(io::stderr).with_target(false);
    // In colour as long as nothing speaks against it; NO_COLOR does, which the library looks at by itself.
    let shown = if io::stderr().is_terminal() { shown } else { shown.with_ansi(false) };
    let shown = shown
        .with_filter(filter)
        // They have a layer of their own.
        .with_filter(filter_fn(|event| event.target() != ACCESS_TARGET));
    let kept =
        fmt::layer().with_writer(|| Line).with_ansi(false).with_target(false).with_filter(LevelFilter::WARN);
    tracing_subscriber::registry()
        .with(shown)
        .with(kept)
        .with(access::layer())
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging could not be started: {error}"))
}

/// The last warnings and errors of this process, oldest first, a line each.
pub(crate) fn recent_warnings() -> Vec<u8> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().copied().collect()
}

static RECENT: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());

/// Keeps what is written as one of the recent lines; the formatter writes each in one go.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = line[..line.len().min(LINE_BYTES_MAX)].to_vec();
        if kept.len() < line.len() {
            kept.push(b'\n');
        }
        let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= LINES_MAX {
            recent.pop_front();
        }
        recent.push_back(kept);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn default_directives(verbosity: &Verbosity, place: Place) -> &'static str {
    match (verbosity.quiet, verbosity.verbose) {
        (true, _) => "error",
        (false, 0) if place == Place::Foreground => "warn",
        (false, 0 | 1) => "warn,wtfs=info,wtfs_mount=info,wtfs_torrent=info,wtfs_server=info",
        (false, 2) => "info,wtfs=debug,wtfs_mount=debug,wtfs_torrent=debug,wtfs_server=debug",
        (false, _) => {
            "debug,wtfs=trace,wtfs_mount=trace,wtfs_torrent=trace,wtfs_server=trace,wtfs_proto=trace"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_warnings_are_kept_and_long_ones_cut() {
        for number in 0..LINES_MAX + 5 {
            Line.write_all(format!("warning {number}\n").as_bytes()).expect("written");
        }
        let _all = Line.write(&[b'x'; 2 * LINE_BYTES_MAX]).expect("written");
        let kept = String::from_utf8(recent_warnings()).expect("text");
        assert_eq!(kept.lines().count(), LINES_MAX);
        assert!(kept.contains("warning 204\n") && !kept.contains("warning 5\n"), "{kept}");
        assert!(kept.ends_with("xx\n") && kept.len() < 2 * LINE_BYTES_MAX);
    }

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
