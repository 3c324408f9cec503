//! Announces over UDP (BEP 15), a window of them on the way at once.

use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::{Load, Outcome};

/// How long an answer may take before its request counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);

struct Client {
    socket: UdpSocket,
    connection_id: [u8; 8],
}

impl Client {
    fn connect(load: &Load) -> io::Result<Self> {
        let any = if load.addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(load.addr)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut request = 0x0417_2710_1980_u64.to_be_bytes().to_vec();
        request.extend([0; 4]);
        request.extend(7_u32.to_be_bytes());
        for _ in 0..10 {
            socket.send(&request)?;
            let mut answer = [0; 64];
            if let Ok(16..) = socket.recv(&mut answer) {
                let mut connection_id = [0; 8];
                connection_id.copy_from_slice(&answer[8..16]);
                return Ok(Self { socket, connection_id });
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to a connect request"))
    }

    fn announce(&self, load: &Load, n: u64) -> io::Result<()> {
        let who = load.who(n);
        let mut request = self.connection_id.to_vec();
        request.extend(1_u32.to_be_bytes());
        request.extend((n as u32).to_be_bytes());
        request.extend(who.info_hash().as_bytes());
        request.extend(who.peer_id().as_bytes());
        for number in [0_u64, 1000, 0] {
            request.extend(number.to_be_bytes());
        }
        for number in [2_u32, 0, who.peer as u32 + 1, 50] {
            request.extend(number.to_be_bytes());
        }
        request.extend(who.port.to_be_bytes());
        self.socket.send(&request)?;
        Ok(())
    }

    /// Announces one after the other from `first` on, as long as there is time and more is to be done.
    fn run(&self, load: &Load, first: u64, count: u64, end: Instant) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut waiting: HashMap<u32, Instant> = HashMap::new();
        let began = Instant::now();
        let mut n = first;
        let mut buffer = [0; 4096];
        let mut done = 0;
        while done < count && Instant::now() < end {
            while waiting.len() < load.clients && n < first + count {
                self.announce(load, n)?;
                waiting.insert(n as u32, Instant::now());
                n += 1;
            }
            match self.socket.recv(&mut buffer) {
                Ok(length @ 8..) => {
                    let transaction = u32::from_be_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
                    let Some(asked) = waiting.remove(&transaction) else { continue };
                    done += 1;
                    if buffer[..4] == [0, 0, 0, 1] && length >= 20 {
                        outcome.answered(asked);
                    } else {
                        outcome.errors += 1;
                    }
                }
                Ok(_) => outcome.errors += 1,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    outcome.errors += waiting.len() as u64;
                    done += waiting.len() as u64;
                    waiting.clear();
                }
                Err(error) => return Err(error),
            }
        }
        outcome.seconds = began.elapsed().as_secs_f64();
        Ok(outcome)
    }
}

pub(crate) fn run(load: &Load) -> io::Result<Outcome> {
    Client::connect(load)?.run(load, 0, u64::from(u32::MAX), load.end())
}

/// Announces every peer once.
pub(crate) fn fill(load: &Load) -> io::Result<Outcome> {
    let patience = Instant::now() + Duration::from_secs(600);
    // A connection id is good for a minute or two: a new one for every few thousand.
    let mut all = Outcome::default();
    for first in (0..load.peers as u64).step_by(5000) {
        let count = 5000.min(load.peers as u64 - first);
        let part = Client::connect(load)?.run(load, first, count, patience)?;
        all.answers += part.answers;
        all.errors += part.errors;
        all.seconds += part.seconds;
        all.latencies_us.extend(part.latencies_us);
    }
    Ok(all)
}
