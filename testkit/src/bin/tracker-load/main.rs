//! A load for trackers: many clients from few threads, over HTTP, UDP or web sockets; prints one line of JSON.
//!
//!     tracker-load http|udp|ws ADDR [--seconds 10] [--clients 64] [--torrents 1000] [--peers 50000] [--offers 2]
//!     tracker-load fill ADDR [--torrents 1000] [--peers 100000]      announce each peer once, over UDP
//!     tracker-load hold ADDR [--clients 10000] [--seconds 10]        open web sockets, announce once each, and wait
//!
//! Owns nothing of what it measures: every byte that it sends is put together here, so that it loads any tracker
//! alike. Each client has one request on its way, and asks again when the answer is there; what is counted is answers.
//! `fill` and `hold` print when all is in place, and `hold` keeps its sockets until its standard input ends.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod http;
mod poll;
mod udp;
mod ws;

/// What is asked for.
#[derive(Debug, Clone)]
struct Load {
    addr: SocketAddr,
    seconds: u64,
    clients: usize,
    torrents: usize,
    peers: usize,
    offers: usize,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    answers: u64,
    errors: u64,
    /// Offers and answers that other clients received.
    relayed: u64,
    seconds: f64,
    latencies_us: Vec<u32>,
}

impl Outcome {
    fn answered(&mut self, asked: Instant) {
        self.answers += 1;
        // One in eight is plenty for percentiles, and keeps the memory small.
        if self.answers.is_multiple_of(8) {
            self.latencies_us.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn print(mut self) {
        self.latencies_us.sort_unstable();
        let percentile = |percent: usize| {
            let at = self.latencies_us.len() * percent / 100;
            self.latencies_us.get(at.min(self.latencies_us.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        println!(
            "{{\"answers\":{},\"errors\":{},\"relayed\":{},\"seconds\":{:.3},\"per_second\":{:.1},\"p50_us\":{},\"p99_us\":{}}}",
            self.answers,
            self.errors,
            self.relayed,
            self.seconds,
            self.answers as f64 / self.seconds.max(1e-9),
            percentile(50),
            percentile(99),
        );
        // A line that nobody reads any more is no failure of the load.
        let _ = std::io::stdout().flush();
    }
}

impl Load {
    /// Torrent, peer and port of the n-th announce: each peer is in one torrent.
    fn who(&self, n: u64) -> Who {
        let peer = n % self.peers.max(1) as u64;
        Who { torrent: peer % self.torrents.max(1) as u64, peer, port: 1024 + (peer % 60_000) as u16 }
    }

    fn end(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.seconds)
    }
}

/// One peer of one torrent.
#[derive(Debug, Clone, Copy)]
struct Who {
    torrent: u64,
    peer: u64,
    port: u16,
}

impl Who {
    /// 20 letters and digits, so that no protocol has to escape them.
    fn info_hash(self) -> String {
        format!("torrent{:013}", self.torrent)
    }

    fn peer_id(self) -> String {
        format!("-LD0001-{:012}", self.peer)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = parse(&arguments).and_then(|(what, load)| {
        poll::allow_many_files().map_err(|error| error.to_string())?;
        let outcome = match what.as_str() {
            "http" => http::run(&load),
            "udp" => udp::run(&load),
            "fill" => udp::fill(&load),
            "ws" => ws::run(&load),
            "hold" => ws::hold(&load),
            other => return Err(format!("no such load: {other}")),
        };
        outcome.map_err(|error| format!("{what}: {error}"))
    });
    match done {
        Ok(outcome) => {
            outcome.print();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tracker-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<(String, Load), String> {
    let [what, addr, options @ ..] = arguments else {
        return Err("usage: tracker-load http|udp|ws|fill|hold ADDR [--option NUMBER]...".to_owned());
    };
    let addr = addr.parse().map_err(|_| format!("no address: {addr}"))?;
    let is_hold = what == "hold";
    let mut load = Load {
        addr,
        seconds: 10,
        clients: if is_hold { 10_000 } else { 64 },
        torrents: 1000,
        peers: if what == "fill" { 100_000 } else { 50_000 },
        offers: 2,
    };
    for pair in options.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} wants a number", pair.join(" "))) };
        let number: usize = value.parse().map_err(|_| format!("{name} wants a number, not {value}"))?;
        match name.as_str() {
            "--seconds" => load.seconds = number as u64,
            "--clients" => load.clients = number,
            "--torrents" => load.torrents = number,
            "--peers" => load.peers = number,
            "--offers" => load.offers = number,
            other => return Err(format!("no such option: {other}")),
        }
    }
    Ok((what.clone(), load))
}
