//! Other people's programs besides libtorrent: Transmission and aria2 as leechers, opentracker as tracker.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
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
        std::net::TcpStream::connect(addr).ok()
    });
    (process, addr)
}

/// Starts aria2 on a torrent; it finds its peers through the torrent's trackers, and ends by itself when it has
/// it all.
#[track_caller]
pub(crate) fn aria2(stage: &Stage, torrent: &Path, save: &Path) -> Process {
    let port = net::fresh_addr().port();
    let mut command = program(stage, "aria2c");
    command
        .args(["--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--seed-time=0"])
        .args(["--no-conf=true", "--file-allocation=none", "--summary-interval=1", "--disable-ipv6=true"])
        .arg(format!("--listen-port={port}"))
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
            std::net::TcpStream::connect(addr).ok()
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
