//! Machines on one switch, each a network namespace with a link that sends so many bytes a second.
//!
//! The switch is a namespace too: nothing is made in the host's network. Needs root, and `ip` and `tc` of iproute2.
//!
//! Invariant: nothing stays. The namespaces are taken away by a shell that waits for the end of this process, so
//! that no signal and no crash leaves them behind.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Waits until standard input ends, then takes the namespaces away that are its arguments.
const KEEPER: &str = "cat >/dev/null; for name do ip netns del \"$name\" 2>/dev/null; done";

/// See the module's documentation.
#[derive(Debug)]
pub struct Lan {
    names: Vec<String>,
    /// Its standard input is what keeps the namespaces.
    keeper: Child,
}

fn command(program: &str, words: &[&str]) -> io::Result<String> {
    let done = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("{program} {}: {}", words.join(" "), text.trim())))
}

impl Lan {
    /// One machine for each rate, which is in bytes a second.
    ///
    /// # Errors
    /// When this machine cannot do it: not root, no such programs, or a kernel without bridges.
    pub fn new(rates: &[u64]) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let stem = format!("wtfs-lan-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let names: Vec<String> = (0..rates.len()).map(|at| format!("{stem}-{at}")).collect();
        let switch = format!("{stem}-switch");
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args(&names)
            .arg(&switch)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        // From here on what was made goes with it.
        let lan = Self { names, keeper };
        command("ip", &["netns", "add", &switch])?;
        command("ip", &["-n", &switch, "link", "add", "sw", "type", "bridge"])?;
        command("ip", &["-n", &switch, "link", "set", "sw", "up"])?;
        for (at, rate) in rates.iter().enumerate() {
            lan.furnish(at, *rate, &switch)?;
        }
        Ok(lan)
    }

    fn furnish(&self, at: usize, rate: u64, switch: &str) -> io::Result<()> {
        let (name, port) = (self.names[at].as_str(), format!("port{at}"));
        command("ip", &["netns", "add", name])?;
        let peer = ["type", "veth", "peer", "name", &port, "netns", switch];
        command("ip", &[&["-n", name, "link", "add", "eth"][..], &peer].concat())?;
        command("ip", &["-n", switch, "link", "set", &port, "master", "sw", "up"])?;
        let address = format!("{}/24", self.address(at));
        command("ip", &["-n", name, "addr", "add", &address, "dev", "eth"])?;
        for device in ["lo", "eth"] {
            command("ip", &["-n", name, "link", "set", device, "up"])?;
        }
        let (rate, burst) = (format!("{}bit", rate * 8), (rate / 250).max(64 << 10).to_string());
        let shape = ["root", "tbf", "rate", &rate, "burst", &burst, "latency", "50ms"];
        command("tc", &[&["-n", name, "qdisc", "add", "dev", "eth"][..], &shape].concat())?;
        Ok(())
    }

    /// The address of a machine.
    #[must_use]
    pub fn address(&self, at: usize) -> String {
        format!("10.99.0.{}", at + 1)
    }

    /// Where the namespace of a machine is, for `nsenter --net=`.
    ///
    /// # Panics
    /// When there is no such machine.
    #[must_use]
    pub fn space(&self, at: usize) -> PathBuf {
        Path::new("/run/netns").join(&self.names[at])
    }

    /// Does this on a machine: in a thread of its own, whose sockets, threads and children are there.
    ///
    /// # Panics
    /// With what it panicked with.
    pub fn on<T: Send>(&self, at: usize, what: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.space(at)).expect("the namespace is there");
        thread::scope(|scope| {
            let done = scope.spawn(move || {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(file.as_fd(), network).expect("root may enter it");
                what()
            });
            done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What a machine has sent over its link, in bytes.
    ///
    /// # Panics
    /// When the machine cannot be asked.
    #[must_use]
    pub fn sent_bytes(&self, at: usize) -> u64 {
        let space = format!("--net={}", self.space(at).display());
        let table = command("nsenter", &[&space, "cat", "/proc/net/dev"]).expect("the namespace is there");
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix("eth:"));
        let sent = line.and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
        sent.expect("the link counts what it sends")
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _status = self.keeper.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_reach_each_other_and_go() {
        let lan = match Lan::new(&[1_000_000, 1_000_000]) {
            Ok(lan) => lan,
            Err(error) => {
                assert!(std::env::var_os("WTFS_REQUIRE_FUSE").is_none(), "{error}");
                eprintln!("skipped: {error}");
                return;
            }
        };
        let listener = lan.on(0, || std::net::TcpListener::bind("10.99.0.1:5000").expect("its address"));
        let _stream = lan.on(1, || std::net::TcpStream::connect("10.99.0.1:5000").expect("reached"));
        let _accepted = listener.accept().expect("somebody connects");
        assert!(lan.sent_bytes(0) > 0 && lan.sent_bytes(1) > 0);
        let spaces = [lan.space(0), lan.space(1)];
        drop(lan);
        assert!(spaces.iter().all(|space| !space.exists()));
    }
}
