//! How `wtfs status` asks the running processes of one user: a Unix socket each, one line of JSON each way.
//!
//! The sockets stand in one directory that only their owner may enter; whoever else owns it or may write to it makes
//! it refused, since `/tmp` (the place where `XDG_RUNTIME_DIR` is missing) is everybody's. A request is bounded in
//! length and time, so a stuck asker costs nothing; a socket whose process is gone is removed by whoever finds it.

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead as _, BufReader as StdBufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

/// No request is longer.
const REQUEST_BYTES_MAX: u64 = 4 << 10;
/// No reply is longer: some thousand torrents.
const REPLY_BYTES_MAX: u64 = 64 << 20;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(3);
/// Askers served at once; further ones wait in the socket's own queue.
const ASKERS_MAX: usize = 8;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    Status,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply<T> {
    Status(T),
    Error(String),
}

/// Answers askers until it is dropped, which removes the socket too.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    _stop: DropGuard,
}

impl Control {
    /// Opens this process's socket in `dir` and answers on it with what `status` says at that moment. Must run on a
    /// tokio runtime.
    ///
    /// # Errors
    /// The directory cannot be made or is not ours alone; the socket cannot be bound.
    pub(crate) fn open<T: Serialize + 'static>(
        dir: &Path,
        status: impl Fn() -> T + Send + Sync + 'static,
    ) -> io::Result<Self> {
        make_private(dir)?;
        let path = dir.join(format!("{}.sock", std::process::id()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // A process that had this id before us left it.
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept_task(listener, Arc::new(status))));
        Ok(Self { path, _stop: stop.drop_guard() })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn accept_task<T: Serialize + 'static>(
    listener: UnixListener,
    status: Arc<impl Fn() -> T + Send + Sync + 'static>,
) {
    let seats = Arc::new(Semaphore::new(ASKERS_MAX));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((asker, _)) => {
                let status = Arc::clone(&status);
                tokio::spawn(async move {
                    let answered = tokio::time::timeout(PATIENCE, answer(asker, &*status)).await;
                    if !matches!(answered, Ok(Ok(()))) {
                        tracing::debug!("a control request was not answered");
                    }
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                // Out of file descriptors: asking again at once would spin.
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn answer<T: Serialize>(asker: UnixStream, status: &(impl Fn() -> T + Send + Sync)) -> io::Result<()> {
    let (input, mut output) = asker.into_split();
    let mut line = String::new();
    BufReader::new(input.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    output.write_all(&reply_to(&line, status)?).await
}

fn reply_to<T: Serialize>(line: &str, status: &impl Fn() -> T) -> io::Result<Vec<u8>> {
    let reply = match serde_json::from_str(line) {
        Ok(Request::Status) => Reply::Status(status()),
        Err(error) => Reply::Error(format!("not a request: {error}")),
    };
    let mut reply = serde_json::to_vec(&reply).map_err(io::Error::other)?;
    reply.push(b'\n');
    Ok(reply)
}

/// Asks every running process that has a socket in `dir`, oldest process id first. One that does not answer is left
/// out with a warning; one that is gone is left out and its socket removed.
///
/// # Errors
/// The directory is there but cannot be read or trusted.
pub(crate) fn ask_all<T: DeserializeOwned>(dir: &Path) -> io::Result<Vec<T>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    check_private(dir)?;
    let mut sockets: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.strip_suffix(".sock")?.parse().ok()?;
            Some((pid, entry.path()))
        })
        .collect();
    sockets.sort();
    let mut answers = Vec::new();
    for (pid, socket) in sockets {
        match ask(&socket) {
            Ok(answer) => answers.push(answer),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(&socket);
            }
            // It ended between the listing and the question.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(pid, %error, "a running wtfs does not answer"),
        }
    }
    Ok(answers)
}

fn ask<T: DeserializeOwned>(socket: &Path) -> io::Result<T> {
    let mut stream = StdUnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&Request::Status).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = String::new();
    StdBufReader::new(stream.take(REPLY_BYTES_MAX)).read_line(&mut reply)?;
    match serde_json::from_str(&reply)? {
        Reply::Status(status) => Ok(status),
        Reply::Error(error) => Err(io::Error::other(error)),
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => check_private(dir),
        Err(error) => Err(error),
    }
}

fn check_private(dir: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(dir)?;
    let is_ours = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || metadata.mode() & 0o022 != 0 {
        let dir = dir.display();
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{dir} is not this user's alone; remove it, or set XDG_RUNTIME_DIR"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_running_process_is_asked_and_a_dead_one_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let sockets = dir.path().join("wtfs");
        let control = Control::open(&sockets, || vec![7_u32]).expect("opened");
        let dead = sockets.join("1.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).expect("bound"));
        let asked = sockets.clone();
        let answers = tokio::task::spawn_blocking(move || ask_all::<Vec<u32>>(&asked)).await.expect("asked");
        assert_eq!(answers.expect("answered"), [[7]]);
        assert!(!dead.exists());
        drop(control);
        assert_eq!(fs::read_dir(&sockets).expect("there").count(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_no_request_is_told_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let control = Control::open(&dir.path().join("wtfs"), || 1).expect("opened");
        let mut stream = UnixStream::connect(&control.path).await.expect("connected");
        stream.write_all(b"{\"op\":\"explode\"}\n").await.expect("sent");
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).await.expect("read");
        assert!(reply.starts_with("{\"error\":\"not a request"), "{reply}");
    }

    #[test]
    fn a_directory_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("set");
        let error = ask_all::<u32>(dir.path()).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(make_private(dir.path()).is_err());
    }

    #[test]
    fn no_directory_means_nothing_runs() {
        assert!(ask_all::<u32>(Path::new("/nonexistent/wtfs")).expect("fine").is_empty());
    }
}
