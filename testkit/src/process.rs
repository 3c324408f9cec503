//! A child process that cannot outlive its test: killed by its id and waited for at drop, its output kept in
//! memory and in a file, and shown when the test fails.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Lines kept in memory; the file has them all.
const MAX_LINES: usize = 200_000;
/// Lines shown when a test fails.
const SHOWN_LINES: usize = 150;
/// How long what a child wrote may take to be read after its end: the threads that read it may be kept from running, and
/// a child of it may hold on to the pipe.
const READ_GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    grew: Condvar,
    /// Streams of which there may be more.
    open: AtomicUsize,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all there will ever be is among the lines.
    fn is_all(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }
}

/// A running child with its captured output.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its standard output and error go, line by line, to memory and to the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{name} cannot be started: {error} ({command:?})"),
        };
        let output = Arc::new(Output::default());
        let file = fs::OpenOptions::new().create(true).append(true).open(log);
        let file = Arc::new(Mutex::new(file.expect("the log file can be written")));
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, "", Arc::clone(&output), Arc::clone(&file));
        }
        if let Some(stderr) = child.stderr.take() {
            collect(stderr, "! ", Arc::clone(&output), file);
        }
        Self { name: name.to_owned(), child, output, log: log.to_owned() }
    }

    /// The id of the child.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child's standard input, once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// All lines so far. Those of standard error begin with `"! "`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.output.lock().clone()
    }

    /// The output so far as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits until `pick` gives a value for a line, beginning with line number `from`; gives the value and the
    /// number of the line after it.
    ///
    /// # Panics
    /// At the deadline, or when the child ends without such a line.
    #[track_caller]
    pub fn wait_for_line<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        from: usize,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> (T, usize) {
        let start = Instant::now();
        let (mut next, mut ended_since) = (from, None);
        loop {
            let output = Arc::clone(&self.output);
            // Both looked at before the lines: they are then the last ones.
            let ended = self.try_status();
            let is_all = output.is_all();
            let mut lines = output.lock();
            while next < lines.len() {
                next += 1;
                if let Some(value) = pick(&lines[next - 1]) {
                    return (value, next);
                }
            }
            let grown = output.grew.wait_timeout(lines, Duration::from_millis(100));
            lines = grown.unwrap_or_else(PoisonError::into_inner).0;
            if next < lines.len() {
                continue;
            }
            drop(lines);
            if let Some(status) = ended {
                let since = *ended_since.get_or_insert_with(Instant::now);
                let is_over = is_all || since.elapsed() > READ_GRACE;
                assert!(!is_over, "{} ended ({status}) before: {what}", self.name);
            }
            assert!(start.elapsed() < deadline, "{}: waited {deadline:?} in vain for: {what}", self.name);
        }
    }

    /// The exit status, if the child has ended.
    pub fn try_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the child to end by itself; what it wrote is among the lines then.
    ///
    /// # Panics
    /// When it has not ended at the deadline.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let status = wait::eventually(&what, deadline, || self.try_status());
        let _all = wait::within(READ_GRACE, || self.output.is_all().then_some(()));
        status
    }

    /// Sends a signal to the child, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_status().is_some() {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It can only fail because the child has just ended, and then there is nothing to signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills the child with SIGKILL and waits for it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The most memory the child has had resident, in bytes (`VmHWM`); `None` when it has ended.
    #[must_use]
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        proc_status_bytes(self.id(), "VmHWM:")
    }

    /// The bytes the child has got from read calls so far, of files and of sockets (`rchar`).
    #[must_use]
    pub fn bytes_read(&self) -> Option<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.id())).ok()?;
        io.lines().find_map(|line| line.strip_prefix("rchar:"))?.trim().parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let lines = self.lines();
            let skipped = lines.len().saturating_sub(SHOWN_LINES);
            let shown = lines[skipped..].join("\n");
            eprintln!(
                "--- {} ({skipped} lines before, all in {}):\n{shown}\n---",
                self.name,
                self.log.display()
            );
        }
    }
}

fn collect(
    source: impl Read + Send + 'static,
    mark: &'static str,
    output: Arc<Output>,
    file: Arc<Mutex<fs::File>>,
) {
    output.open.fetch_add(1, Ordering::AcqRel);
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut raw = Vec::new();
        while let Ok(1..) = source.read_until(b'\n', &mut raw) {
            let line = format!("{mark}{}", String::from_utf8_lossy(&raw).trim_end());
            raw.clear();
            // A full disk must not stop the reading: the child would block on its pipe.
            let _ = writeln!(file.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
            let mut lines = output.lock();
            if lines.len() < MAX_LINES {
                lines.push(line);
            }
            drop(lines);
            output.grew.notify_all();
        }
        output.open.fetch_sub(1, Ordering::AcqRel);
        output.grew.notify_all();
    });
}

fn proc_status_bytes(pid: u32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The output of a command that was waited for.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended; `None` when it was killed at its deadline.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, lossy.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// True when it ended by itself with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// The exit code, when it ended by itself.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|s| s.code())
    }

    /// Standard output as text, lossy.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts success and gives standard output as text.
    ///
    /// # Panics
    /// When the command failed; the message holds its output.
    #[track_caller]
    #[must_use]
    pub fn expect_success(&self, what: &str) -> String {
        assert!(
            self.success(),
            "{what}: {:?} after {:?}\nstdout: {}\nstderr: {}",
            self.status,
            self.took,
            self.out(),
            self.stderr
        );
        self.out()
    }
}

/// Runs a command to its end, but no longer than `deadline`; then it is killed.
///
/// # Panics
/// When it cannot be started.
#[must_use]
#[track_caller]
pub fn run(command: Command, deadline: Duration) -> Finished {
    let start = Instant::now();
    run_until(command, || start.elapsed() >= deadline)
}

/// Runs a command to its end, or until it is too late.
#[track_caller]
fn run_until(mut command: Command, mut is_too_late: impl FnMut() -> bool) -> Finished {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot be started: {error} ({command:?})"),
    };
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait::within(Duration::MAX, || match child.try_wait() {
        Ok(None) | Err(_) => is_too_late().then_some(None),
        Ok(ended) => Some(ended),
    });
    let status = status.flatten();
    if status.is_none() {
        let _ = child.kill();
        // Not waited for without a limit: a reader in an uninterruptible sleep would hold up the test.
        let _ = wait::within(Duration::from_secs(5), || child.try_wait().ok().flatten());
    }
    let stdout = stdout.recv_timeout(READ_GRACE).unwrap_or_default();
    let stderr = stderr.recv_timeout(READ_GRACE).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    Finished { status, stdout, stderr, took: start.elapsed() }
}

fn drain(source: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (done, result) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut source) = source {
            let _ = source.read_to_end(&mut all);
        }
        let _ = done.send(all);
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::panic;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_streams_are_found_and_kept_in_the_file() {
        let scratch = Scratch::new("process");
        let log = scratch.join("log");
        let mut child = Process::spawn("sh", shell("echo one; echo two >&2; exec cat"), &log);
        let limit = Duration::from_secs(120);
        child.wait_for_line("one", limit, 0, |l| (l == "one").then_some(()));
        child.wait_for_line("two", limit, 0, |l| (l == "! two").then_some(()));
        drop(child.take_stdin());
        assert!(child.wait(limit).success());
        assert!(fs::read_to_string(log).expect("written").contains("! two"));
    }

    #[test]
    fn a_line_that_is_the_last_word_of_a_child_is_found_and_one_that_never_comes_is_not_waited_for() {
        let scratch = Scratch::new("process");
        let mut child = Process::spawn("sh", shell("echo one; echo last"), &scratch.join("log"));
        let limit = Duration::from_secs(1000);
        assert!(child.wait(limit).success());
        assert_eq!(child.lines(), ["one", "last"]);
        child.wait_for_line("last", limit, 0, |l| (l == "last").then_some(()));
        let never = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            child.wait_for_line("never", limit, 0, |l| (l == "never").then_some(()));
        }));
        assert!(never.is_err());
    }

    #[test]
    fn dropping_it_ends_the_child() {
        let scratch = Scratch::new("process");
        let child = Process::spawn("sleep", shell("exec sleep 1000"), &scratch.join("log"));
        let proc = PathBuf::from(format!("/proc/{}", child.id()));
        assert!(proc.exists());
        drop(child);
        assert!(!proc.exists());
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let scratch = Scratch::new("process");
        let said = scratch.join("said");
        let script = format!("echo begun; touch '{}'; exec sleep 1000", said.display());
        let done = run_until(shell(&script), || said.exists());
        assert!(done.status.is_none());
        assert_eq!(done.out(), "begun\n");
        let done = run(shell("exec sleep 1000"), Duration::from_millis(1));
        assert!(done.status.is_none());
    }

    #[test]
    fn all_that_a_command_wrote_is_there() {
        let done = run(shell("echo begun; echo wrong >&2; exit 3"), Duration::from_secs(120));
        assert_eq!((done.code(), done.stderr.as_str()), (Some(3), "wrong\n"));
        assert_eq!(done.out(), "begun\n");
    }
}
