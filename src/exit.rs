//! Exit codes, and the error that carries one from where a failure is understood to `main`.
//!
//! A script may branch on these codes: a code once given keeps its meaning. `--help` and README.md print this table.

use std::fmt;
use std::process::ExitCode;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Success = 0,
    /// Failed in a way that has no code of its own.
    Failure = 1,
    /// The command line or the configuration makes no sense (clap exits with this code too).
    Usage = 2,
    /// The torrent, magnet link or URL cannot be used.
    Source = 3,
    /// The mount could not be made, or taken away.
    Mount = 4,
    /// Not all of it could be had: interrupted, or nobody had the rest.
    Incomplete = 5,
    /// Data on disk does not match the torrent.
    BadData = 6,
}

/// What `--help` says about exit codes.
pub(crate) const TABLE: &str = "\
Exit codes:
  0  done
  1  failed in a way that has no code of its own
  2  the command line or the configuration makes no sense
  3  the torrent, magnet link or URL cannot be used
  4  the mount could not be made, or taken away
  5  not all of it could be had: interrupted, or nobody had the rest
  6  data on disk does not match the torrent";

impl Exit {
    pub(crate) fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Success,
            2 => Self::Usage,
            3 => Self::Source,
            4 => Self::Mount,
            5 => Self::Incomplete,
            6 => Self::BadData,
            _ => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A sentence for the user, with the code to exit with.
#[derive(Debug)]
pub(crate) struct Ended {
    exit: Exit,
    sentence: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Ended {}

/// An error that ends the command with `exit`.
pub(crate) fn ended(exit: Exit, sentence: impl Into<String>) -> anyhow::Error {
    Ended { exit, sentence: sentence.into() }.into()
}

/// Says what an error of a library means for the command: which code, and which sentence stands before its text.
pub(crate) trait OrEnd<T> {
    fn or_end(self, exit: Exit, sentence: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrEnd<T> for Result<T, E> {
    fn or_end(self, exit: Exit, sentence: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(Ended { exit, sentence: sentence() }))
    }
}

/// The code an error ends the process with.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Ended>().map_or(Exit::Failure, |ended| ended.exit)
}

/// An error and its causes as one line. Many libraries repeat their cause in their own text: what was said is not said
/// again.
pub(crate) fn sentence_of(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.contains(&cause) {
            sentence += ": ";
            sentence += &cause;
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_code_survives_further_context() {
        let failed: Result<(), _> = Err(std::io::Error::other("no such torrent"));
        let error =
            failed.or_end(Exit::Source, || "cannot use x".into()).context("outer").expect_err("failed");
        assert_eq!(exit_of(&error), Exit::Source);
        assert_eq!(format!("{error:#}"), "outer: cannot use x: no such torrent");
    }

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let cause = std::io::Error::other("disk on fire");
        let failed: Result<(), _> = Err(cause).context("opening /x: disk on fire");
        let error = failed.context("no torrent was made").expect_err("failed");
        assert_eq!(sentence_of(&error), "no torrent was made: opening /x: disk on fire");
    }

    #[test]
    fn a_plain_error_is_a_failure() {
        assert_eq!(exit_of(&anyhow::anyhow!("x")), Exit::Failure);
    }

    #[test]
    fn the_table_lists_each_code_and_codes_read_back() {
        for code in 0..=6 {
            assert!(TABLE.contains(&format!("\n  {code}  ")));
            assert_eq!(Exit::from_code(code) as i32, code);
        }
    }
}
