//! How fast the transport is, beside TCP through the same reader: figures for people, in a test that is run by hand.
//!
//! `cargo test --release -p wtfs-torrent --lib throughput_beside_tcp -- --ignored --nocapture`

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wtfs_testkit::udp_relay::{UdpRelay, candidate_of, with_candidate};

use super::tests::{LIMIT, Side, content, path, policy};
use crate::transport::{Connection, Direction, tcp};

/// Set in the process that [`throughput_beside_tcp`] sends from.
const SENDER: &str = "WTFS_TEST_SENDER";

/// What a sender's lines begin with: the test harness prints others.
const LINE: &str = "sender: ";

/// A process that sends, in turn over TCP and a data channel: processors are then shared as between two machines' programs.
#[test]
#[ignore = "a measurement, for an optimised build on an idle machine"]
fn throughput_beside_tcp() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::var_os(SENDER).is_some() {
        return runtime.block_on(send_as_told());
    }
    let mut sender = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "transport::webrtc::throughput_tests::throughput_beside_tcp",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(SENDER, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = sender.id();
    let mut orders = sender.stdin.take().unwrap();
    let mut lines = std::io::BufReader::new(sender.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = move || {
        let line = lines.by_ref().find_map(|line| Some(line.split_once(LINE)?.1.to_owned())).unwrap();
        serde_json::from_str::<String>(&line).unwrap()
    };
    let mut order = move |order: &str| writeln!(orders, "{}", serde_json::to_string(order).unwrap()).unwrap();
    runtime.block_on(async {
        let side = Side::new(policy());
        for _ in 0..3 {
            let listener = tcp::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            order(&listener.local_addr().unwrap().to_string());
            let (stream, from) = listener.accept().await.unwrap();
            let tcp = tcp::from_stream(stream, from, Direction::Incoming);
            measure("TCP", pid, tcp, 1 << 30).await;
            for (ms, mib) in [(0, 512), (1, 128), (10, 128)] {
                order("offer");
                let offer = said();
                let profile = path(Duration::from_millis(ms));
                let relay = (ms > 0).then(|| UdpRelay::start(candidate_of(&offer).unwrap(), &profile, 3));
                let offer =
                    with_candidate(&offer, relay.as_ref().map_or(candidate_of(&offer), |r| Some(r.addr())));
                let (answer, answered) = side.factory.answer(&offer).await.unwrap();
                order(&relay.as_ref().map_or(answer.clone(), |_| with_candidate(&answer, None)));
                let what = format!("WebRTC at {} ms", 2 * ms);
                measure(&what, pid, answered.connected().await.unwrap(), mib << 20).await;
            }
        }
    });
    order("end");
    assert!(sender.wait().unwrap().success());
}

/// Processor time of a process so far, in seconds.
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    // utime and stime (proc(5)), in hundredths.
    fields[11..=12].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Reads `bytes` from the process `sender`, which sends without an end, and says how fast, and at what cost: that does not
/// depend on what else the machine does.
async fn measure(what: &str, sender: u32, mut from: Connection, bytes: usize) {
    let mut buffer = vec![0; 256 << 10];
    let (mut got, mut pause) = (0, Duration::ZERO);
    let pids = [std::process::id(), sender];
    let before = pids.map(processor_seconds);
    let start = Instant::now();
    let mut last = start;
    while got < bytes {
        let read = tokio::time::timeout(LIMIT, from.reader.read(&mut buffer)).await.unwrap().unwrap();
        assert_ne!(read, 0);
        got += read;
        pause = pause.max(last.elapsed());
        last = Instant::now();
    }
    let rate = got as f64 / start.elapsed().as_secs_f64() / 1e6;
    let spent = pids.map(processor_seconds);
    let [receiving, sending] = [0, 1].map(|who| (spent[who] - before[who]) / (got as f64 / 1e9));
    println!(
        "{what}: {rate:.1} MB/s, longest pause {} ms, processor seconds for 1 GB: {receiving:.1} and {sending:.1}",
        pause.as_millis()
    );
}

/// The other process: each line of the input is an address to send to, or asks for an offer and then answers it.
async fn send_as_told() {
    let side = Side::new(policy());
    let part = content(256 << 10);
    let mut orders =
        std::io::stdin().lines().map(|line| serde_json::from_str::<String>(&line.unwrap()).unwrap());
    while let Some(order) = orders.next().filter(|order| order != "end") {
        let mut connection = if order == "offer" {
            let (offer, pending) = side.factory.offer().await.unwrap();
            println!("\n{LINE}{}", serde_json::to_string(&offer).unwrap());
            pending.accept(&orders.next().unwrap()).await.unwrap()
        } else {
            tcp::connect(order.parse().unwrap(), None, LIMIT).await.unwrap()
        };
        while connection.writer.write_all(&part).await.is_ok() {}
    }
}
