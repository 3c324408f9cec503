//! Telling a service manager that this process is ready or about to end: the protocol of sd_notify(3).
//!
//! One datagram to the socket that `NOTIFY_SOCKET` names: a path, or with `@` in front a name of the abstract name space.
//! Nobody waits for an answer, and where it cannot be sent nothing else is lost.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// The way to the service manager, if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notify(Option<PathBuf>);

impl Notify {
    pub(crate) fn new(socket: Option<PathBuf>) -> Self {
        Self(socket)
    }

    pub(crate) fn ready(&self) {
        self.say(&format!("READY=1\nMAINPID={}\n", std::process::id()));
    }

    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\n");
    }

    fn say(&self, state: &str) {
        let Some(socket) = &self.0 else { return };
        if let Err(error) = send(socket, state) {
            tracing::warn!(%error, socket = %socket.display(), "the service manager cannot be told");
        }
    }
}

fn send(socket: &Path, state: &str) -> io::Result<()> {
    let addr = match socket.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(OsStr::from_bytes(socket.as_os_str().as_bytes())))?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not hold us up.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &addr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let n = manager.recv(&mut buffer).expect("received");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let notify = Notify::new(Some(path));
        notify.ready();
        assert_eq!(received(&manager), format!("READY=1\nMAINPID={}\n", std::process::id()));
        notify.stopping();
        assert_eq!(received(&manager), "STOPPING=1\n");

        let name = format!("wtfs-notify-test-{}", std::process::id());
        let addr = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&addr).expect("bound");
        Notify::new(Some(format!("@{name}").into())).stopping();
        assert_eq!(received(&manager), "STOPPING=1\n");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        Notify::default().ready();
        Notify::new(Some("/nonexistent/notify".into())).ready();
    }
}
