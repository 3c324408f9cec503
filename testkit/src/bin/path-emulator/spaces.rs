//! The two namespaces: made, furnished with a device and addresses each, and taken away.
//!
//! They are taken away by a keeper: this program again, started first, in a process group of its own and with the
//! reading end of a pipe that this process holds open. The pipe ends when this process does, in whatever way.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{self, Child, Command, Stdio},
};

use crate::tun::Tun;

/// The first word that makes this program a keeper; namespaces follow.
pub(crate) const KEEPER: &str = "keep-until-stdin-ends";
const PREFIX: &str = "wtfs-path-";
/// Packets that a device holds for us. The kernel's 500 would lose packets whenever this process is not scheduled for
/// a moment, and losses are to come from the path alone.
const DEVICE_QUEUE_PACKETS: &str = "20000";

/// What the ends are to be.
pub(crate) struct Plan {
    pub(crate) hosts: u8,
    pub(crate) mtu: u16,
    pub(crate) congestion: Option<String>,
}

/// Both ends, up and reachable from each other.
pub(crate) struct Ends {
    pub(crate) near: Tun,
    pub(crate) far: Tun,
    /// Names and addresses as JSON.
    pub(crate) described: String,
    /// Its standard input is what keeps the namespaces.
    _keeper: Child,
}

fn ip(words: &[&str]) -> io::Result<()> {
    let done = Command::new("ip").args(words).stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("ip {}: {}", words.join(" "), text.trim())))
}

impl Ends {
    pub(crate) fn make(plan: &Plan) -> io::Result<Self> {
        remove_stale();
        let id = process::id();
        let names = [format!("{PREFIX}{id}-a"), format!("{PREFIX}{id}-b")];
        let keeper = Command::new(std::env::current_exe()?)
            .arg(KEEPER)
            .args(&names)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut made = Vec::new();
        for (side, name) in names.iter().enumerate() {
            made.push(furnish(plan, name, side, id)?);
        }
        let described: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(side, name)| {
                let list: Vec<_> =
                    (1..=plan.hosts).map(|host| format!("\"{}\"", address(side, host))).collect();
                format!("{{\"namespace\":\"{name}\",\"addresses\":[{}]}}", list.join(","))
            })
            .collect();
        let described = format!("{{\"ends\":[{}]}}", described.join(","));
        let mut made = made.into_iter();
        let (Some(near), Some(far)) = (made.next(), made.next()) else {
            return Err(io::Error::other("two ends were made"));
        };
        Ok(Self { near, far, described, _keeper: keeper })
    }
}

/// 10.77.1.x on one side, 10.77.2.x on the other; no other namespace sees them.
fn address(side: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, if side == 0 { 1 } else { 2 }, host)
}

fn furnish(plan: &Plan, name: &str, side: usize, id: u32) -> io::Result<Tun> {
    ip(&["netns", "add", name])?;
    let device = format!("wtp{id}{}", if side == 0 { 'a' } else { 'b' });
    let tun = Tun::create(&device)?;
    ip(&["link", "set", &device, "netns", name])?;
    let mtu = plan.mtu.to_string();
    ip(&["-n", name, "link", "set", &device, "mtu", &mtu, "txqueuelen", DEVICE_QUEUE_PACKETS])?;
    for host in 1..=plan.hosts {
        ip(&["-n", name, "addr", "add", &format!("{}/32", address(side, host)), "dev", &device])?;
    }
    ip(&["-n", name, "link", "set", "lo", "up"])?;
    ip(&["-n", name, "link", "set", &device, "up"])?;
    let source = address(side, 1).to_string();
    let mut route = vec!["-n", name, "route", "add", "10.77.0.0/16", "dev", &device, "src", &source];
    if let Some(congestion) = &plan.congestion {
        // By the route and not by the namespace's sysctl: that takes only what the host allows to everybody.
        route.extend(["congctl", congestion]);
    }
    ip(&route)?;
    Ok(tun)
}

/// Takes away what a run left whose keeper was killed too.
fn remove_stale() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            let _gone_already = ip(&["netns", "del", &name]);
        }
    }
}

/// Waits until standard input ends, then takes the namespaces away.
pub(crate) fn keep(names: impl Iterator<Item = String>) {
    let _ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
    for name in names {
        // One that was never made is no news.
        let _gone_already = ip(&["netns", "del", &name]);
    }
}
