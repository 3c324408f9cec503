//! While hundreds of clients are slow, silent, deaf, meaningless or too many, `wtfs serve` goes on answering the others,
//! takes no more memory and no more descriptors than its limits say, hangs up on who holds it up, and is afterwards as
//! it was before.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use wtfs_testkit::{net, ramp::Ramp, wait::eventually};

use crate::support::{
    hub::Hub,
    siege::{self, Counts, Head, Stop},
    stage::{PATIENCE, Stage},
};

/// Much more than the kernel keeps for a connection.
const BYTES: u64 = 48 << 20;
/// `max_connections_per_ip` and `max_websockets_per_ip` of the hub.
const PER_IP: usize = 200;
const SOCKETS_PER_IP: usize = 20;
/// `header_timeout` and `write_timeout` of the hub. Who waits for one of the besiegers to be hung up on waits this long.
const TIME_OUT: Duration = Duration::from_secs(30);
/// How often ordinary clients come while the others stand.
const ROUNDS: usize = 20;
/// How much memory the besiegers may cost: some 70 KiB for each connection, and the largest heads and messages.
const EXTRA_MEMORY: u64 = 32 << 20;
/// Connections of one address that come and go, and files that are open for others.
const SLACK: usize = 64;

#[test]
fn ordinary_clients_are_served_among_hundreds_of_hostile_ones() {
    let mut stage = Stage::new("hub-hostile");
    for (variable, value) in [
        ("WTFS_HUB_HEADER_TIMEOUT", "30s"),
        ("WTFS_HUB_WRITE_TIMEOUT", "30s"),
        ("WTFS_HUB_MAX_CONNECTIONS_PER_IP", "200"),
        ("WTFS_HUB_MAX_WEBSOCKETS_PER_IP", "20"),
        ("WTFS_HUB_ANNOUNCE_RATE", "10"),
    ] {
        stage.set_variable(variable, value);
    }
    let (ramp, root) = (Ramp::new(54), stage.subdir("shared"));
    ramp.write_file(&root.join("large.bin"), BYTES).expect("the scratch directory can be written");
    let mut hub = Hub::start(&stage, &root, &[]);
    hub.wait_ready("large.bin");
    let honest = Honest { addr: hub.addr, ramp };
    honest.round(0);
    let descriptors_before = descriptors(&hub);
    let memory_before = hub.process.peak_memory_bytes().expect("it runs");

    let (stop, counts, to) = (Stop::default(), Counts::default(), hub.addr);
    let standing = thread::scope(|scope| {
        let guard = stop.guard();
        let (full, deaf, crowd) = (net::loopback(), net::loopback(), net::loopback());
        let slow = [Head::Endless(PER_IP * 3 / 4), Head::None(PER_IP / 4)].map(|head| {
            scope.spawn({
                let (stop, counts) = (&stop, &counts);
                move || siege::slow(stop, counts, full, to, head)
            })
        });
        let mut standing = siege::deaf(deaf, to, 100, b"GET /files/large.bin HTTP/1.1\r\nHost: h\r\n\r\n");
        let pipelined = b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20_000);
        standing.extend(siege::deaf(deaf, to, 50, &pipelined));
        let endless = b"POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000\r\n\r\nbegins";
        standing.extend(siege::deaf(deaf, to, 50, endless));
        let hoarded = siege::hoarded_sockets(&counts, crowd, to, SOCKETS_PER_IP + 10);
        assert_eq!((hoarded.len(), counts.sockets_refused.get()), (SOCKETS_PER_IP, 10));
        let kinds: [fn(&Stop, &Counts, Ipv4Addr, SocketAddr); 4] =
            [siege::nonsense, siege::announce_flood, siege::broken_sockets, siege::datagrams];
        for kind in kinds {
            let (stop, counts) = (&stop, &counts);
            scope.spawn(move || kind(stop, counts, net::loopback(), to));
        }
        eventually("the slow ones have all the places of their address", PATIENCE, || {
            (descriptors(&hub) >= descriptors_before + PER_IP + 100 + SOCKETS_PER_IP).then_some(())
        });
        {
            let (stop, counts) = (&stop, &counts);
            scope.spawn(move || siege::one_too_many(stop, counts, full, to));
        }

        let mut round = 0;
        // Until each of the others has had its turn as well.
        eventually("the flood is over the limit, and slow ones were hung up on", PATIENCE, || {
            round += 1;
            honest.round(round);
            let open = descriptors(&hub);
            // The addresses with all their places, and the crowd; the rest are few.
            let most = descriptors_before + 2 * PER_IP + SOCKETS_PER_IP + SLACK;
            assert!(open <= most, "{open} descriptors");
            let is_over = round >= ROUNDS
                && counts.too_often.get() > 0
                && counts.turned_away.get() > 0
                && counts.hung_up.get() >= PER_IP;
            is_over.then_some(())
        });
        drop(guard);
        // Web sockets are pinged first, which takes longer.
        drop(hoarded);
        for slow in slow {
            standing.extend(slow.join().expect("no panic"));
        }
        standing
    });

    assert_eq!(counts.believed.get(), 0, "{counts:?}");
    assert!(counts.refused.get() >= 10 && counts.sockets_closed.get() >= 18, "{counts:?}");
    assert!(counts.announced.get() >= 2000, "what is allowed at once: {counts:?}");
    assert!(counts.datagrams.get() > 1000 && counts.datagrams_answered.get() == 0, "{counts:?}");
    // On our side they all still stand.
    eventually("the hub has hung up on all of them", PATIENCE, || {
        (descriptors(&hub) <= descriptors_before + 8).then_some(())
    });
    drop(standing);
    let memory = hub.process.peak_memory_bytes().expect("it runs");
    eprintln!("{counts:?}; {} MiB before, {} MiB at most", memory_before >> 20, memory >> 20);
    assert!(memory < memory_before + EXTRA_MEMORY, "{} MiB, {} before", memory >> 20, memory_before >> 20);

    // Of torrents that nobody has announced yet.
    honest.round(999_999);
    assert_eq!(hub.get("/readyz").status, 200);
    assert!(hub.process.try_status().is_none(), "it runs");
    assert!(!hub.process.text().contains("panicked"));
    hub.end();
}

/// Open descriptors of the hub.
fn descriptors(hub: &Hub) -> usize {
    fs::read_dir(format!("/proc/{}/fd", hub.process.id())).expect("it runs").count()
}

/// One thing that clients do.
type Ask = fn(&Honest, usize);

/// Clients that do what clients do, each from an address of its own.
#[derive(Debug, Clone, Copy)]
struct Honest {
    addr: SocketAddr,
    ramp: Ramp,
}

impl Honest {
    /// Everything once. None of it waits until a besieger has been hung up on.
    #[track_caller]
    fn round(&self, round: usize) {
        let asks: [(&str, Ask); 5] = [
            ("/healthz", Self::ask_health),
            ("a range", Self::ask_range),
            ("an announce over HTTP", Self::announce_http),
            ("an announce over UDP", Self::announce_udp),
            ("an offer over web sockets", Self::offer),
        ];
        for (what, ask) in asks {
            let began = Instant::now();
            ask(self, round);
            let took = began.elapsed();
            assert!(took < TIME_OUT, "{what} took {took:?} in round {round}");
        }
    }

    /// The head and the body of an answer.
    #[track_caller]
    fn ask(&self, path: &str, header: &str) -> (String, Vec<u8>) {
        let mut stream = siege::dial(net::loopback(), self.addr).expect("the hub accepts");
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).expect("the hub reads");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("the hub answers");
        let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let body = received.split_off(end + 4);
        (String::from_utf8(received).expect("text"), body)
    }

    fn ask_health(&self, _: usize) {
        let (head, body) = self.ask("/healthz", "");
        assert!(head.starts_with("HTTP/1.1 200") && body == b"ok\n", "{head}");
    }

    fn ask_range(&self, round: usize) {
        let (from, bytes) = (round as u64 * 1_000_003 % (BYTES - 300_000), 300_000);
        let range = format!("Range: bytes={from}-{}\r\n", from + bytes - 1);
        let (head, body) = self.ask("/files/large.bin", &range);
        assert!(head.starts_with("HTTP/1.1 206"), "{head}");
        assert_eq!(body.len() as u64, bytes);
        self.ramp.check(from, &body).expect("the right bytes");
    }

    fn announce_http(&self, round: usize) {
        let path = format!(
            "/announce?info_hash=ordinary-http-{round:06}&peer_id=-YY0001-000000000001&port=7000&left=0"
        );
        let (_, body) = self.ask(&path, "");
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("8:completei1e") && text.contains("10:incompletei0e"), "{text}");
    }

    fn announce_udp(&self, round: usize) {
        let socket = UdpSocket::bind((net::loopback(), 0)).expect("loopback addresses can be bound");
        socket.connect(self.addr).expect("an address");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
        // Datagrams get lost, above all in a flood: BEP 15 tells to ask again. What was asked twice is answered twice, so that
        // an answer may be to an earlier question.
        let ask = |request: &[u8]| {
            let transaction = &request[12..16];
            eventually("an answer over UDP", TIME_OUT, || {
                socket.send(request).expect("sent");
                loop {
                    let mut answer = [0; 2048];
                    let length = socket.recv(&mut answer).ok()?;
                    if answer.get(4..8) == Some(transaction) {
                        return Some(answer[..length].to_vec());
                    }
                }
            })
        };
        let request = [&0x0417_2710_1980_u64.to_be_bytes()[..], &0_u32.to_be_bytes(), b"talk"].concat();
        let answer = ask(&request);
        assert!(answer.len() == 16 && answer.starts_with(b"\0\0\0\0talk"), "{answer:?}");
        let hash = format!("ordinary-udp-{round:07}");
        let mut request = [&answer[8..16], &1_u32.to_be_bytes(), b"told", hash.as_bytes()].concat();
        request.extend(b"-YY0001-000000000002");
        // Nothing downloaded, nothing left, nothing uploaded, no event, no address, a key, any number of peers.
        request.extend([0; 32]);
        request.extend([&7_u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), &7000_u16.to_be_bytes()].concat());
        assert_eq!(request.len(), 98);
        let answer = ask(&request);
        assert_eq!(&answer[..8], b"\0\0\0\x01told", "{answer:?}");
        // No leecher, one seeder.
        assert_eq!(&answer[12..20], [0, 0, 0, 0, 0, 0, 0, 1]);
    }

    /// One browser's offer reaches another.
    fn offer(&self, round: usize) {
        let hash = format!("ordinary-ws-{round:08}");
        let announce = |peer: u32, offers: &str| {
            let json = format!(
                "{{\"action\":\"announce\",\"info_hash\":\"{hash}\",\"peer_id\":\"-YY0001-{peer:012}\",\"left\":1,\
                 \"event\":\"started\",\"offers\":[{offers}]}}"
            );
            siege::frame(0x81, json.as_bytes())
        };
        let open = |words: Vec<u8>, until: &str| {
            let mut stream = siege::dial(net::loopback(), self.addr).expect("the hub accepts");
            stream.write_all(&[siege::UPGRADE, &words].concat()).expect("the hub reads");
            read_until(&mut stream, until);
            stream
        };
        let mut first = open(announce(3, ""), "\"interval\"");
        let offer =
            "{\"offer_id\":\"an offer of 20 bytes\",\"offer\":{\"type\":\"offer\",\"sdp\":\"come here\"}}";
        let _second = open(announce(4, offer), "\"interval\"");
        read_until(&mut first, "come here");
    }
}

/// Reads until a text has come.
#[track_caller]
fn read_until(stream: &mut impl std::io::Read, text: &str) {
    let mut received = Vec::new();
    while !received.windows(text.len()).any(|window| window == text.as_bytes()) {
        let mut buffer = [0; 2048];
        let length = stream.read(&mut buffer).expect("the hub answers");
        assert_ne!(length, 0, "closed after {}", String::from_utf8_lossy(&received));
        received.extend(&buffer[..length]);
    }
}
