//! The hub can be run for others: behind nginx and HAProxy as deploy/ configures them it believes the client's address
//! from them alone, passes web sockets and events, and gives right links; over TLS it takes up a new certificate without
//! cutting anybody off; its metrics are those that are documented, and not for strangers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use wtfs_testkit::{
    net,
    process::{self, Finished, Process},
    ramp::Ramp,
    wait::{eventually, within},
};

use crate::support::{
    hub::Hub,
    need::{Need, find_program, missing},
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 5 * 1024 * 1024 + 321;

fn shared(stage: &Stage) -> (Ramp, PathBuf) {
    let ramp = Ramp::new(77);
    let root = stage.subdir("shared");
    ramp.write_file(&root.join("single.bin"), BYTES).expect("the scratch directory can be written");
    (ramp, root)
}

/// A certificate of the test's own authority.
pub(crate) struct Certificate {
    pub(crate) authority: PathBuf,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

fn openssl(stage: &Stage, args: &[&str]) -> String {
    let mut command = Command::new("openssl");
    stage.isolate(&mut command);
    command.args(args);
    process::run(command, PATIENCE).expect_success("openssl")
}

/// Makes an authority once, and a certificate for `addr` with this serial number.
pub(crate) fn certificate(stage: &Stage, addr: SocketAddr, serial: u32) -> Certificate {
    let dir = stage.subdir(format!("tls-{serial}"));
    let at = |name: &str| text(&dir.join(name));
    let (ca, ca_key) = (text(&stage.join("ca.pem")), text(&stage.join("ca-key.pem")));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    if !Path::new(&ca).exists() {
        let to = ["-keyout", &ca_key, "-out", &ca, "-subj", "/CN=test authority", "-days", "2"];
        openssl(stage, &[&["req", "-x509"][..], &curve, &to].concat());
    }
    let to = ["-keyout", &at("key.pem"), "-out", &at("request.pem"), "-subj", "/CN=hub"];
    openssl(stage, &[&["req"][..], &curve, &to].concat());
    let names = format!("subjectAltName=IP:{}\n", addr.ip());
    fs::write(dir.join("names"), names).expect("the scratch directory can be written");
    let serial = serial.to_string();
    let sign = ["x509", "-req", "-in", &at("request.pem"), "-CA", &ca, "-CAkey", &ca_key, "-days", "2"];
    let to = ["-set_serial", &serial, "-extfile", &at("names"), "-out", &at("cert.pem")];
    openssl(stage, &[&sign[..], &to].concat());
    Certificate { authority: ca.into(), chain: dir.join("cert.pem"), key: dir.join("key.pem") }
}

fn curl(stage: &Stage, authority: &Path, args: &[&str]) -> Finished {
    let mut command = Command::new("curl");
    stage.isolate(&mut command);
    command.args(["-sS", "--noproxy", "*", "--cacert"]).arg(authority).args(args);
    process::run(command, PATIENCE)
}

fn serial_at(stage: &Stage, addr: SocketAddr) -> Option<String> {
    let line =
        format!("openssl s_client -connect {addr} </dev/null 2>/dev/null | openssl x509 -noout -serial");
    let mut command = Command::new("sh");
    stage.isolate(&mut command);
    command.args(["-c", &line]);
    let done = process::run(command, PATIENCE);
    Some(done.out().trim().strip_prefix("serial=")?.to_owned())
}

#[test]
fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    if missing(&[Need::Program("openssl"), Need::Program("curl")]) {
        return;
    }
    let mut stage = Stage::new("hub-tls");
    stage.set_variable("WTFS_HUB_HEADER_TIMEOUT", "20s");
    let (ramp, root) = shared(&stage);
    let addr = net::fresh_addr();
    let first = certificate(&stage, addr, 17);
    let second = certificate(&stage, addr, 18);
    let (chain, key) = (stage.join("cert.pem"), stage.join("key.pem"));
    let install = |from: &Certificate| {
        // As certbot and its like do it: each file is replaced by another.
        for (from, to) in [(&from.key, &key), (&from.chain, &chain)] {
            let temporary = to.with_extension("new");
            fs::copy(from, &temporary).expect("the scratch directory can be written");
            fs::rename(&temporary, to).expect("the scratch directory can be written");
        }
    };
    install(&first);
    let flags = ["--tls-cert", &text(&chain), "--tls-key", &text(&key)];
    let mut hub = Hub::start_at(&stage, &root, addr, &flags);
    let url = |path: &str| format!("https://{addr}{path}");
    let get = |args: &[&str]| curl(&stage, &first.authority, &[&["--fail"][..], args].concat());
    let hash = eventually("single.bin is served over TLS", PATIENCE, || {
        let list: serde_json::Value = serde_json::from_slice(&get(&[&url("/torrents")]).stdout).ok()?;
        list["torrents"][0]["info_hash"].as_str().map(str::to_owned)
    });
    let file = url(&format!("/seed/{hash}/single.bin"));
    let body = get(&[&file]).stdout;
    assert_eq!(body.len() as u64, BYTES);
    ramp.check(0, &body).expect("every byte is right");
    let ranged = get(&["-r", "1000000-1999999", &file]).stdout;
    ramp.check(1_000_000, &ranged).expect("the right bytes");
    let magnet = get(&[&url(&format!("/magnet/{hash}"))]).out();
    for scheme in ["https%3A%2F%2F", "wss%3A%2F%2F"] {
        assert!(magnet.to_lowercase().contains(&scheme.to_lowercase()), "{magnet}");
    }
    assert!(!magnet.to_lowercase().contains("tr=http%3a"), "{magnet}");
    assert_web_socket_opens(&stage, &first.authority, &["--http1.1"], &url("/announce"));

    // Somebody downloads slowly all the while.
    let slow = stage.join("slow.bin");
    let mut command = Command::new("curl");
    stage.isolate(&mut command);
    command.args(["-sS", "--fail", "--noproxy", "*", "--limit-rate", "1M", "-o"]).arg(&slow);
    command.arg("--cacert").arg(&first.authority).arg(&file);
    let mut download = Process::spawn("slow download", command, &stage.log("slow"));
    assert_eq!(serial_at(&stage, addr).as_deref(), Some("11"));
    install(&second);
    eventually("the new certificate is given", PATIENCE, || {
        serial_at(&stage, addr).filter(|serial| serial == "12")
    });
    fs::write(&chain, "-----BEGIN CERTIFICATE-----\nbroken\n").expect("the scratch directory can be written");
    hub.process.wait_for_line("the hub says that it is broken", PATIENCE, 0, |line| {
        line.contains("the certificate stays as it was").then_some(())
    });
    assert_eq!(serial_at(&stage, addr).as_deref(), Some("12"));
    assert!(download.wait(PATIENCE).success(), "{}", download.text());
    ramp.check_file(&slow, BYTES).expect("every byte is right");

    // Who never speaks TLS is not waited for.
    let mut silent = TcpStream::connect(addr).expect("the hub accepts");
    silent.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(silent.read(&mut [0; 16]).expect("closed in good order"), 0);
    let mut plain = TcpStream::connect(addr).expect("the hub accepts");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("the hub reads");
    let mut answer = Vec::new();
    let _closed = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    hub.end();
}

/// What a browser sends to open a web socket.
const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// Has curl ask for a web socket, which stands open once it is answered, so that curl does not end.
#[track_caller]
fn assert_web_socket_opens(stage: &Stage, authority: &Path, flags: &[&str], url: &str) {
    let headers = UPGRADE.iter().flat_map(|header| ["-H", header]);
    let args: Vec<&str> =
        ["-i"].into_iter().chain(headers).chain(flags.iter().copied()).chain([url]).collect();
    let mut command = Command::new("curl");
    stage.isolate(&mut command);
    command.args(["-sS", "-N", "--noproxy", "*", "--cacert"]).arg(authority).args(args);
    let mut socket = Process::spawn("curl", command, &stage.log("curl"));
    socket.wait_for_line("the web socket opens", PATIENCE, 0, |line| {
        line.starts_with("HTTP/1.1 ").then(|| assert!(line.starts_with("HTTP/1.1 101"), "{url}: {line}"))
    });
}

/// One client's address, and another's that is no proxy.
const CLIENT: &str = "127.0.0.9";
const STRANGER: &str = "127.0.0.8";

/// Checks all that a proxy must leave as it is. `hub` trusts 127.0.0.1, from where the proxy speaks.
fn check_through_proxy(stage: &Stage, hub: &mut Hub, proxy: SocketAddr, authority: &Path, ramp: Ramp) {
    let hash = hub.wait_ready("single.bin");
    let url = |path: &str| format!("https://{proxy}{path}");
    let get = |args: &[&str]| {
        let from = ["--interface", CLIENT, "--http1.1"];
        curl(stage, authority, &[&from[..], args].concat())
    };
    eventually("the proxy answers", PATIENCE, || get(&["--fail", &url("/readyz")]).success().then_some(()));

    let file = url(&format!("/seed/{hash}/single.bin"));
    let part = get(&["-r", "3000000-", &file]).stdout;
    assert_eq!(part.len() as u64, BYTES - 3_000_000);
    ramp.check(3_000_000, &part).expect("the right bytes");
    let magnet = get(&[&url(&format!("/magnet/{hash}"))]).out();
    assert!(magnet.contains("https%3A%2F%2Fhub.example.org%2Fannounce"), "{magnet}");

    // The client's own word about its address goes nowhere, through the proxy or past it.
    let forged = ["-H", "X-Forwarded-For: 9.9.9.9", "-H", "Forwarded: for=9.9.9.9"];
    assert!(get(&[&forged[..], &[&url("/torrents?through")]].concat()).success());
    let line = |path: &str, client: &str| (format!("path={path} "), format!("client={client} "));
    let (path, client) = line("/torrents", CLIENT);
    hub.process.wait_for_line("the client's address is logged", PATIENCE, 0, |line| {
        (line.contains(&path) && line.contains(&client)).then_some(())
    });
    let past = hub.url("/readyz");
    assert!(curl(stage, authority, &[&["--interface", STRANGER][..], &forged, &[&past]].concat()).success());
    let (path, client) = line("/readyz", STRANGER);
    hub.process.wait_for_line("a stranger's address is its own", PATIENCE, 0, |line| {
        (line.contains(&path) && line.contains(&client)).then_some(())
    });
    let lines = hub.process.lines();
    assert!(!lines.iter().any(|line| line.contains("9.9.9.9")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("through")), "a query is in the log");

    // Metrics are for the hub's own machine, and a proxy's clients are not it.
    let code = |args: &[&str]| get(&[&["-o", "/dev/null", "-w", "%{http_code}"][..], args].concat()).out();
    assert_eq!(code(&[&url("/stats")]), "200");

    let from = ["--interface", CLIENT, "--http1.1"];
    for path in ["/announce", "/"] {
        assert_web_socket_opens(stage, authority, &from, &url(path));
    }

    // Events come as they happen: a buffer would keep the first ones back, however often one asks.
    eventually("two events come within six seconds", Duration::from_secs(400), || {
        let events = get(&["-N", "--max-time", "6", &url("/stats/stream")]).out();
        (events.matches("event: stats").count() >= 2).then_some(())
    });
}

fn hub_behind(stage: &Stage, root: &Path) -> Hub {
    let flags = ["--access-log", "on", "--public-url", "https://hub.example.org"];
    Hub::start(stage, root, &flags)
}

#[test]
fn nginx_stands_in_front_as_deploy_configures_it() {
    if missing(&[Need::Program("nginx"), Need::Program("openssl"), Need::Program("curl")]) {
        return;
    }
    let mut stage = Stage::new("hub-nginx");
    stage.set_variable("WTFS_HUB_TRUSTED_PROXIES", "127.0.0.1");
    let (ramp, root) = shared(&stage);
    let mut hub = hub_behind(&stage, &root);
    let addr = net::fresh_addr();
    let certificate = certificate(&stage, addr, 1);
    let site = include_str!("../../deploy/nginx.conf")
        .replace("listen 443 ssl;", &format!("listen {addr} ssl;"))
        .replace("listen [::]:443 ssl;", "")
        .replace("127.0.0.1:8080", &hub.addr.to_string())
        .replace("/etc/letsencrypt/live/hub.example.org/fullchain.pem", &text(&certificate.chain))
        .replace("/etc/letsencrypt/live/hub.example.org/privkey.pem", &text(&certificate.key));
    let dir = text(&stage.subdir("nginx"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
        .collect();
    let conf = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log stderr info;\n\
         events {{ worker_connections 256; }}\nhttp {{ access_log off;\n{temporary}{site}}}\n"
    );
    let path = stage.join("nginx/nginx.conf");
    fs::write(&path, conf).expect("the scratch directory can be written");
    let mut command = Command::new(find_program("nginx").expect("it is there"));
    stage.isolate(&mut command);
    command.args(["-e", "stderr", "-p", &dir, "-c"]).arg(&path);
    let mut nginx = Process::spawn("nginx", command, &stage.log("nginx"));
    check_through_proxy(&stage, &mut hub, addr, &certificate.authority, ramp);
    nginx.kill();
    hub.end();
}

#[test]
fn haproxy_stands_in_front_as_deploy_configures_it() {
    if missing(&[Need::Program("haproxy"), Need::Program("openssl"), Need::Program("curl")]) {
        return;
    }
    let mut stage = Stage::new("hub-haproxy");
    stage.set_variable("WTFS_HUB_TRUSTED_PROXIES", "127.0.0.1");
    let (ramp, root) = shared(&stage);
    let mut hub = hub_behind(&stage, &root);
    let addr = net::fresh_addr();
    let certificate = certificate(&stage, addr, 1);
    let bundle = stage.join("bundle.pem");
    let pem = [&certificate.chain, &certificate.key].map(|file| fs::read_to_string(file).expect("just made"));
    fs::write(&bundle, pem.concat()).expect("the scratch directory can be written");
    let conf = include_str!("../../deploy/haproxy.cfg")
        .replace("bind :443 ssl", &format!("bind {addr} ssl"))
        .replace("/etc/haproxy/certs/hub.example.org.pem", &text(&bundle))
        .replace("maxconn 20000", "maxconn 200")
        .replace("127.0.0.1:8080", &hub.addr.to_string());
    let conf: String =
        conf.lines().filter(|line| !line.contains("bind :::443")).flat_map(|line| [line, "\n"]).collect();
    let path = stage.join("haproxy.cfg");
    fs::write(&path, conf).expect("the scratch directory can be written");
    let mut command = Command::new(find_program("haproxy").expect("it is there"));
    stage.isolate(&mut command);
    command.arg("-db").arg("-f").arg(&path);
    let mut haproxy = Process::spawn("haproxy", command, &stage.log("haproxy"));
    check_through_proxy(&stage, &mut hub, addr, &certificate.authority, ramp);
    haproxy.kill();
    hub.end();
}

#[test]
fn metrics_are_those_that_are_documented_and_for_this_machine_alone() {
    let stage = Stage::new("hub-metrics");
    let (_, root) = shared(&stage);
    let hub = Hub::start(&stage, &root, &[]);
    let hash = hub.wait_ready("single.bin");
    assert_eq!(hub.get(&format!("/seed/{hash}/single.bin")).status, 200);
    assert_eq!(hub.get(&format!("/seed/{hash}/other.bin")).status, 404);
    hub.get("/announce?nonsense");
    let metrics = || {
        let answer = hub.get("/metrics");
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).expect("text")
    };
    let text = metrics();
    let docs = include_str!("../../docs/metrics.md");
    let names: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(docs.contains(&format!("| `{name}` |")), "docs/metrics.md does not list {name}");
    }
    // A response is counted when the hub is done with it, which is not before the client has it all.
    for line in [
        format!("wtfs_http_sent_bytes_total{{area=\"web_seed\"}} {}", BYTES + 18),
        "wtfs_http_requests_total{area=\"web_seed\",status=\"2xx\"} 1".into(),
        "wtfs_http_requests_total{area=\"web_seed\",status=\"4xx\"} 1".into(),
        "wtfs_tracker_requests_total{protocol=\"http\",outcome=\"malformed\"} 1".into(),
        "wtfs_hub_torrents{state=\"ready\"} 1".into(),
        "wtfs_hub_hashed_total 1".into(),
    ] {
        let is_there = || metrics().lines().any(|one| one == line).then_some(());
        assert!(within(PATIENCE, is_there).is_some(), "{line} is missing in:\n{}", metrics());
    }
    // A proxy that nobody configured speaks for the whole world.
    assert_eq!(hub.ask("/metrics", "X-Forwarded-For: 127.0.0.1\r\n").status, 403);
    let fields: serde_json::Value = serde_json::from_slice(&hub.get("/stats").body).expect("JSON");
    for field in fields.as_object().expect("an object").keys() {
        assert!(docs.contains(&format!("| `{field}` |")), "docs/metrics.md does not list {field} of /stats");
    }
    hub.end();
}
