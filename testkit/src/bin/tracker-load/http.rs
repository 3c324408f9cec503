//! Announces over HTTP connections that are kept open.

use std::io;
use std::time::{Duration, Instant};

use crate::poll::Poll;
use crate::{Load, Outcome};

pub(crate) fn run(load: &Load) -> io::Result<Outcome> {
    let (mut poll, refused) = Poll::connect(load.addr, load.clients, &[])?;
    let mut outcome = Outcome { errors: refused, ..Outcome::default() };
    let mut asked = vec![Instant::now(); poll.connections.len()];
    let mut n = 0;
    let mut ask = |poll: &mut Poll, index: usize, asked: &mut Vec<Instant>| {
        let who = load.who(n);
        n += 1;
        let request = format!(
            "GET /announce?info_hash={}&peer_id={}&port={}&uploaded=0&downloaded=0&left=1000&compact=1&event=started HTTP/1.1\r\nHost: tracker\r\n\r\n",
            who.info_hash(),
            who.peer_id(),
            who.port
        );
        asked[index] = Instant::now();
        poll.send(index, request.as_bytes());
    };
    let (began, end) = (Instant::now(), load.end());
    for index in 0..poll.connections.len() {
        ask(&mut poll, index, &mut asked);
    }
    while Instant::now() < end && poll.open() > 0 {
        for index in poll.wait(Duration::from_millis(100))? {
            while let Some(body) = take_response(&mut poll.connections[index].received) {
                if body.windows(7).any(|seven| seven == b"failure") || !body.starts_with(b"d") {
                    outcome.errors += 1;
                } else {
                    outcome.answered(asked[index]);
                }
                ask(&mut poll, index, &mut asked);
            }
        }
    }
    outcome.errors += (poll.connections.len() - poll.open()) as u64;
    outcome.seconds = began.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Takes one whole response off the front; gives its body.
fn take_response(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let head = received.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let whole = head + length.unwrap_or(0);
    if received.len() < whole {
        return None;
    }
    let body = received[head..whole].to_vec();
    received.drain(..whole);
    Some(body)
}
