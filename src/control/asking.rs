//! The asking side, for commands that run and end: blocking, without a runtime.
//!
//! A socket whose process is gone is removed by whoever finds it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{PATIENCE, REPLY_BYTES_MAX, Reply, Request, Role, Who, check_private};
use crate::exit::{Exit, OrEnd as _, ended};

/// Asks every running process that has a socket in one of `dirs` for its status, oldest process id first. One that does
/// not answer is left out with a warning; one that is gone is left out and its socket removed.
///
/// # Errors
/// None of the directories can be read and trusted; one that is not there holds no sockets.
pub(crate) fn ask_all<T: DeserializeOwned>(dirs: &[&Path]) -> io::Result<Vec<T>> {
    let asked = each(dirs, |socket| ask(socket, &Request::Status))?;
    Ok(asked.into_iter().map(|(_, answer)| answer).collect())
}

/// The socket of the process that serves the mount at `mount_point`.
///
/// # Errors
/// As [`ask_all`].
pub(crate) fn find_mount(dirs: &[&Path], mount_point: &Path) -> io::Result<Option<PathBuf>> {
    let wanted = mount_point.to_string_lossy();
    let found = mounts(dirs)?.into_iter().find(|(_, who)| who.path.as_deref() == Some(&*wanted));
    Ok(found.map(|(socket, _)| socket))
}

/// All mounts, by their sockets.
///
/// # Errors
/// As [`ask_all`].
pub(crate) fn mounts(dirs: &[&Path]) -> io::Result<Vec<(PathBuf, Who)>> {
    let asked: Vec<(PathBuf, Who)> = each(dirs, |socket| ask(socket, &Request::Who))?;
    Ok(asked.into_iter().filter(|(_, who)| who.role == Role::Mount).collect())
}

/// Has an order carried out, however long that takes, and returns its result.
///
/// # Errors
/// The process's own error with its own exit code.
pub(crate) fn order(
    socket: &Path,
    order: &Request,
    mut on_progress: impl FnMut(Value),
) -> anyhow::Result<Value> {
    let gone = || "the process that serves the mount does not answer".to_owned();
    let mut input = send(socket, order).or_end(Exit::Failure, gone)?;
    input.get_ref().set_read_timeout(None)?;
    loop {
        let mut line = String::new();
        (&mut input).take(REPLY_BYTES_MAX).read_line(&mut line).or_end(Exit::Failure, gone)?;
        if line.is_empty() {
            return Err(ended(Exit::Failure, "the process that serves the mount has ended"));
        }
        match serde_json::from_str(&line).or_end(Exit::Failure, gone)? {
            Reply::Progress(progress) => on_progress(progress),
            Reply::Done(done) | Reply::Status(done) => return Ok(done),
            Reply::Failed { exit, sentence } => return Err(ended(Exit::from_code(exit), sentence)),
            Reply::Error(error) => return Err(ended(Exit::Failure, error)),
        }
    }
}

fn each<T>(dirs: &[&Path], ask: impl Fn(&Path) -> io::Result<T>) -> io::Result<Vec<(PathBuf, T)>> {
    let mut sockets = BTreeSet::new();
    let mut refused = Vec::new();
    for dir in dirs {
        match sockets_in(dir) {
            Ok(found) => sockets.extend(found),
            Err(error) => refused.push((dir, error)),
        }
    }
    if refused.len() == dirs.len()
        && let Some((_, error)) = refused.pop()
    {
        return Err(error);
    }
    for (dir, error) in refused {
        tracing::warn!(dir = %dir.display(), %error, "processes that have their sockets there are not seen");
    }
    let mut answers = Vec::new();
    for (pid, socket) in sockets {
        match ask(&socket) {
            Ok(answer) => answers.push((socket, answer)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(&socket);
            }
            // It ended between the listing and the question.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::warn!(
                    "process {pid}, a wtfs, says nothing for {} s: is it stopped?",
                    PATIENCE.as_secs()
                );
            }
            Err(error) => tracing::warn!(pid, %error, "a running wtfs does not answer"),
        }
    }
    Ok(answers)
}

/// The sockets in a directory, each by its one true name and with the process it is of.
fn sockets_in(dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    check_private(dir)?;
    let mut sockets = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_suffix(".sock")?.parse().ok());
        let (Some(pid), Ok(kind)) = (pid, entry.file_type()) else { continue };
        if kind.is_socket() {
            let path = entry.path();
            sockets.push((pid, path.canonicalize().unwrap_or(path)));
        }
    }
    Ok(sockets)
}

fn send(socket: &Path, request: &Request) -> io::Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(BufReader::new(stream))
}

fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> io::Result<T> {
    let mut reply = String::new();
    send(socket, request)?.take(REPLY_BYTES_MAX).read_line(&mut reply)?;
    match serde_json::from_str(&reply)? {
        Reply::Status(answer) | Reply::Done(answer) | Reply::Progress(answer) => Ok(answer),
        Reply::Failed { sentence, .. } => Err(io::Error::other(sentence)),
        Reply::Error(error) => Err(io::Error::other(error)),
    }
}
