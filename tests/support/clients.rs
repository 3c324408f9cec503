//! Other people's programs besides libtorrent: Transmission and aria2 as leechers, opentracker as tracker.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use wtfs_testkit::{net, process::Process, wait};

use super::{
    need::find_program,
    stage::{PATIENCE, Stage},
};

fn program(stage: &Stage, name: &str) -> Command {
    let mut command = Command::new(find_program(name).unwrap_or_else(|| PathBuf::from(name)));
    stage.isolate(&mut command);
    command
}

/// Starts Transmission on a torrent, and gives where it listens. It goes on seeding when it has it all.
///
/// It never connects to a loopback address, whoever names one; it has to be connected to.
#[track_caller]
pub(crate) fn transmission(stage: &Stage, torrent: &Path, save: &Path) -> (Process, SocketAddr) {
    let addr = net::fresh_addr();
    let config = stage.subdir(format!("transmission-{}", addr.port()));
    // Only the settings file can say where to bind and that neither DHT nor local discovery is wanted.
    let settings = format!(
        r#"{{ "bind-address-ipv4": "{}", "bind-address-ipv6": "::1", "dht-enabled": false, "lpd-enabled": false,
             "utp-enabled": false, "port-forwarding-enabled": false, "rpc-enabled": false, "encryption": 0 }}"#,
        addr.ip()
    );
    fs::write(config.join("settings.json"), settings).expect("the scratch directory can be written");
    let mut command = program(stage, "transmission-cli");
    command.args(["-M", "-et", "-p", &addr.port().to_string()]).arg("-g").arg(&config).arg("-w").arg(save);
    command.arg(torrent);
    let mut process = Process::spawn("transmission", command, &stage.log("transmission"));
    wait::eventually("Transmission listens", PATIENCE, || {
        if let Some(status) = process.try_status() {
            panic!("Transmission ended: {status}");
        }
        TcpStream::connect(addr).ok()
    });
    (process, addr)
}

/// Starts aria2 on a torrent; it finds its peers through the torrent's trackers, and ends by itself when it has
/// it all.
#[track_caller]
pub(crate) fn aria2(stage: &Stage, torrent: &Path, save: &Path) -> Process {
    let mut command = program(stage, "aria2c");
    command
        .args(["--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--seed-time=0"])
        .args(["--no-conf=true", "--file-allocation=none", "--summary-interval=1", "--disable-ipv6=true"])
        // It binds every address, so a port that is free on one is not enough: it tries some of these, which the kernel
        // gives to nobody by itself.
        .arg("--listen-port=20000-29999")
        .arg(format!("--dir={}", save.display()))
        .arg(torrent);
    Process::spawn("aria2", command, &stage.log("aria2"))
}

/// A running opentracker that knows these info hashes.
#[derive(Debug)]
pub(crate) struct OpenTracker {
    _process: Process,
    addr: SocketAddr,
}

impl OpenTracker {
    /// Starts it at an address of its own. Debian builds it with a list of the hashes it serves.
    #[track_caller]
    pub(crate) fn start(stage: &Stage, info_hashes: &[&str]) -> Self {
        let addr = net::fresh_addr();
        let dir = stage.subdir("opentracker");
        // It gives up its rights before it reads the list.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(stage.path(), open).expect("our own directory");
        fs::write(dir.join("allowed"), info_hashes.join("\n") + "\n")
            .expect("the scratch directory can be written");
        let mut command = program(stage, "opentracker");
        let port = addr.port().to_string();
        command.args(["-i", &addr.ip().to_string(), "-p", &port, "-P", &port, "-d"]).arg(&dir);
        // Relative to the directory it changes its root to; outside of it when it has no right to do that.
        command.args(["-w", "allowed"]).current_dir(&dir);
        let mut process = Process::spawn("opentracker", command, &stage.log("opentracker"));
        wait::eventually("opentracker listens", PATIENCE, || {
            if let Some(status) = process.try_status() {
                panic!("opentracker ended: {status}");
            }
            // It listens before it has read the list.
            info_hashes.iter().all(|hash| is_served(addr, hash)).then_some(())
        });
        Self { _process: process, addr }
    }

    pub(crate) fn http_url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    pub(crate) fn udp_url(&self) -> String {
        format!("udp://{}/announce", self.addr)
    }
}

/// Whether the tracker answers for a torrent; what is asked leaves no peer behind.
fn is_served(tracker: SocketAddr, info_hash: &str) -> bool {
    let escaped: String = info_hash.as_bytes().chunks(2).map(|hex| format!("%{}", text_of(hex))).collect();
    let query = format!(
        "GET /announce?info_hash={escaped}&peer_id=-XX0000-000000000000&port=9&uploaded=0&downloaded=0&left=1\
         &event=stopped HTTP/1.0\r\n\r\n"
    );
    let mut answer = Vec::new();
    let asked = TcpStream::connect(tracker).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(query.as_bytes())?;
        stream.read_to_end(&mut answer)
    });
    asked.is_ok() && text_of(&answer).contains("8:interval")
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
