//! Many TCP connections in one thread: waits for those that have something to read or may be written again.
//!
//! Owns the readiness and the buffers of connections; what is in them is the caller's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files as far as this process may.
pub(crate) fn allow_many_files() -> io::Result<()> {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(1 << 20, |most| most.min(1 << 20));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum })?;
    Ok(())
}

/// One connection with what it has received and still has to send.
pub(crate) struct Connection {
    stream: TcpStream,
    pub(crate) received: Vec<u8>,
    unsent: Vec<u8>,
    is_waiting_to_write: bool,
    pub(crate) is_open: bool,
}

pub(crate) struct Poll {
    epoll: OwnedFd,
    pub(crate) connections: Vec<Connection>,
    ready: Vec<(u64, EventFlags)>,
}

impl Poll {
    /// Opens connections one after the other, sends a first request on each, and says how many could not be opened.
    pub(crate) fn connect(addr: SocketAddr, count: usize, first: &[u8]) -> io::Result<(Self, u64)> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut poll = Self { epoll, connections: Vec::with_capacity(count), ready: Vec::new() };
        let mut refused = 0;
        for _ in 0..count {
            match TcpStream::connect_timeout(&addr, Duration::from_secs(20)) {
                Ok(stream) => {
                    poll.add(stream)?;
                    poll.send(poll.connections.len() - 1, first);
                }
                Err(_) => refused += 1,
            }
        }
        if poll.connections.is_empty() {
            return Err(io::Error::other("not one connection"));
        }
        Ok((poll, refused))
    }

    fn add(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let data = EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.epoll, &stream, data, EventFlags::IN)?;
        self.connections.push(Connection {
            stream,
            received: Vec::new(),
            unsent: Vec::new(),
            is_waiting_to_write: false,
            is_open: true,
        });
        Ok(())
    }

    /// Sends, or keeps for later what cannot be sent now.
    pub(crate) fn send(&mut self, index: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let connection = &mut self.connections[index];
        if connection.unsent.is_empty() {
            let sent = match connection.stream.write(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return self.close(index),
            };
            connection.unsent.extend_from_slice(&bytes[sent..]);
        } else {
            connection.unsent.extend_from_slice(bytes);
        }
        self.watch(index);
    }

    /// Waits until connections have received something, which is in their buffers then; gives their numbers.
    pub(crate) fn wait(&mut self, most: Duration) -> io::Result<Vec<usize>> {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 512];
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        };
        self.ready.clear();
        match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((found, _)) => self.ready.extend(found.iter().map(|event| (event.data.u64(), event.flags))),
            Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
        let mut readable = Vec::new();
        for (index, flags) in std::mem::take(&mut self.ready) {
            let index = index as usize;
            if flags.contains(EventFlags::OUT) {
                self.flush(index);
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.read(index);
                readable.push(index);
            }
        }
        Ok(readable)
    }

    fn read(&mut self, index: usize) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let connection = &mut self.connections[index];
            match connection.stream.read(&mut buffer) {
                Ok(0) => return self.close(index),
                Ok(length) => {
                    connection.received.extend_from_slice(&buffer[..length]);
                    if length < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.close(index),
            }
        }
    }

    fn flush(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        match connection.stream.write(&connection.unsent) {
            Ok(sent) => drop(connection.unsent.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(_) => return self.close(index),
        }
        self.watch(index);
    }

    fn watch(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let has_to_write = !connection.unsent.is_empty();
        if connection.is_open && has_to_write != connection.is_waiting_to_write {
            connection.is_waiting_to_write = has_to_write;
            let flags = if has_to_write { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            // Of a connection that is open this cannot fail.
            let _ = epoll::modify(&self.epoll, &connection.stream, EventData::new_u64(index as u64), flags);
        }
    }

    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.is_open {
            connection.is_open = false;
            let _ = epoll::delete(&self.epoll, &connection.stream);
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_open).count()
    }
}
