//! Progress on stderr: a bar on a terminal, silence elsewhere, so that a log file holds no half-drawn lines.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whether the user wants to see progress at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    OnTerminal,
    Never,
}

/// With a total that is known, and without: a bar over nothing would be a full one.
const COUNTED: &str = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
const UNCOUNTED: &str = "{msg}";

/// A bar over `total` bytes; 0 is not known yet. Dropping it clears the line.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    has_begun: AtomicBool,
}

impl Progress {
    pub(crate) fn bytes(total: u64, what: &str, show: Show) -> Self {
        let bar = if show == Show::OnTerminal && io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5))
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(style(total));
        bar.set_message(what.to_owned());
        Self { bar, has_begun: AtomicBool::new(false) }
    }

    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
        // What an earlier run did tells nothing of the rate of this one.
        if done > 0 && !self.has_begun.swap(true, Ordering::Relaxed) {
            self.bar.reset_eta();
        }
    }

    pub(crate) fn set_total(&self, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
            self.bar.set_style(style(total));
        }
    }

    pub(crate) fn say(&self, what: String) {
        self.bar.set_message(what);
    }
}

fn style(total: u64) -> ProgressStyle {
    ProgressStyle::with_template(template(total)).expect("the templates are constants that parse")
}

fn template(total: u64) -> &'static str {
    if total == 0 { UNCOUNTED } else { COUNTED }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_bar_until_there_is_a_total() {
        assert!(!template(0).contains("bar") && template(1).contains("{wide_bar}"));
        let progress = Progress::bytes(0, "asking", Show::Never);
        progress.set_total(100);
        progress.set(40);
        assert_eq!((progress.bar.length(), progress.bar.position()), (Some(100), 40));
    }

    #[test]
    fn the_template_parses_and_a_hidden_bar_counts() {
        let progress = Progress::bytes(100, "hashing", Show::Never);
        progress.set(40);
        assert_eq!(progress.bar.position(), 40);
    }
}
