//! `--daemon`: the process that stays behind is this program run again, not a fork.
//!
//! A fork of a process with threads is a trap, and a child that is started afresh needs no unsafe code. The child is
//! given a hidden flag, a session of its own, its standard error on a log file, and its standard output on a pipe on
//! which it says one line: that the mount is usable, or why not. The parent lives until that line (or the child's end)
//! and passes the outcome on as its own, so that `wtfs mount --daemon && use-it` is safe.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::exit::{self, Exit, ended};

/// The hidden flag that makes this program the child.
pub(crate) const CHILD_FLAG: &str = "--report-to-parent";

/// Lines of a log are kept over restarts up to this size; then the log starts anew.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// No readiness line is longer.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What the child says on its standard output, as one line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Report {
    Ready,
    Failed { exit: i32, error: String },
}

/// Starts this program again in the background with the same words behind its name, and waits until it is usable. Returns its process id and its log.
///
/// # Errors
/// The child's own error with its own exit code.
pub(crate) fn start(
    state_dir: &Path,
    mount_point: &Path,
    typed: &[OsString],
) -> anyhow::Result<(u32, PathBuf)> {
    let log_path = log_path(state_dir, mount_point);
    let log =
        open_log(&log_path).with_context(|| format!("the log {} cannot be written", log_path.display()))?;
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let mut child = Command::new(program)
        .arg(CHILD_FLAG)
        .args(typed)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("the background process cannot be started")?;
    let output = child.stdout.take().context("the background process has no output")?;
    let mut line = String::new();
    BufReader::new(output.take(LINE_BYTES_MAX))
        .read_line(&mut line)
        .context("the background process is silent")?;
    match serde_json::from_str(&line) {
        Ok(Report::Ready) => Ok((child.id(), log_path)),
        Ok(Report::Failed { exit, error }) => {
            child.wait().context("the background process cannot be waited for")?;
            Err(ended(Exit::from_code(exit), error))
        }
        Err(_) => {
            let status = child.wait().context("the background process cannot be waited for")?;
            let exit = status.code().map_or(Exit::Failure, Exit::from_code);
            let log = log_path.display();
            Err(ended(
                exit,
                format!("the background process ended ({status}) before the mount was usable; see {log}"),
            ))
        }
    }
}

/// In the child: leaves the terminal's session, so that closing the terminal or Ctrl-C in it does not reach us.
pub(crate) fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// In the child: tells the parent that the mount is usable.
///
/// # Errors
/// The parent is gone: nobody was told of this mount, so the caller takes it away again.
pub(crate) fn report_ready() -> io::Result<()> {
    say(&Report::Ready)
}

/// A file with this process's id, there while this lives.
#[derive(Debug)]
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// Replaces what is there: a process that was killed left it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        fs::write(&path, format!("{}\n", std::process::id()))?;
        Ok(Self(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// In the child: tells the parent what went wrong.
pub(crate) fn report_failure(exit: Exit, error: &anyhow::Error) {
    // Where the parent is gone too, the log has the error already.
    let _ = say(&Report::Failed { exit: exit as i32, error: exit::sentence_of(error) });
}

fn say(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_string(report).map_err(io::Error::other)?;
    line.push('\n');
    let mut output = io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.flush()
}

/// One log per mount point, so that their number does not grow with time.
fn log_path(state_dir: &Path, mount_point: &Path) -> PathBuf {
    let name: String = mount_point
        .to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_alphanumeric() || c == '.' || c == '-' { c } else { '_' })
        .take(60)
        .collect();
    state_dir.join(format!("mount-{name}.log"))
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let is_full = fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX);
    if is_full {
        fs::remove_file(path)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_has_one_log_inside_the_state_directory() {
        let path = log_path(Path::new("/state"), Path::new("/mnt/my models/../x"));
        assert_eq!(path, Path::new("/state/mount-mnt_my_models_.._x.log"));
    }

    #[test]
    fn a_pid_file_is_there_while_the_process_works() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wtfs.pid");
        fs::write(&path, "1\n").expect("written");
        let file = PidFile::write(&path).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_log_that_grew_too_long_starts_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/mount.log");
        open_log(&path).expect("opened").set_len(LOG_BYTES_MAX + 1).expect("grown");
        assert_eq!(open_log(&path).expect("opened").metadata().expect("there").len(), 0);
    }

    #[test]
    fn the_childs_line_reads_back() {
        for report in [Report::Ready, Report::Failed { exit: 4, error: "no\nsuch".into() }] {
            let line = serde_json::to_string(&report).expect("written");
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Report>(&line).expect("read"), report);
        }
    }
}
