//! With liars and flooders around it, a swarm of an honest client of other people still gives every byte, and the
//! status says who was banned and why.

use std::thread;

use serde_json::Value;
use wtfs_testkit::{
    peer::{Content, Fault, LengthFault, ScriptedPeer, Stream},
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    libtorrent::Libtorrent,
    need::{Need, missing},
    reading::assert_ramp_at_once,
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 48 << 20;

#[test]
fn beside_an_honest_libtorrent_liars_are_banned_and_flooders_dropped() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    let stage = Stage::new("hostile-swarm");
    let ramp = Ramp::new(42);
    let data = stage.subdir("seeded");
    ramp.write_file(&data.join("prize.bin"), BYTES).expect("the scratch directory can be written");
    let torrent = TorrentFile::ramp("prize.bin", ramp, BYTES, 256 << 10, &[]);
    let path = stage.write_torrent(&torrent);
    let mut seeder = Libtorrent::seeder(&stage, &path, &data);
    // Slow until the liars have been asked: else it would do the whole job before they come to lie.
    seeder.limit_upload(1 << 20);
    let content = Content::Ramp(ramp);
    let liars = [1, 2, 9].map(|every| Fault::WrongBytes { every });
    let liars = liars.map(|fault| ScriptedPeer::with_fault(&torrent, content.clone(), fault));
    let others = [
        Fault::HugeMessage,
        Fault::Endless(Stream::Haves),
        Fault::WrongLength(LengthFault::Empty),
        Fault::StallAfter(20),
        Fault::CloseAfter(20),
    ];
    let others = others.map(|fault| ScriptedPeer::with_fault(&torrent, content.clone(), fault));
    let addrs: Vec<String> = liars.iter().chain(&others).map(|peer| peer.addr().to_string()).collect();
    let honest = seeder.addr().to_string();
    let peers = addrs.iter().chain([&honest]).flat_map(|addr| ["--peer", addr]);
    let flags: Vec<&str> = ["--read-timeout", "400s"].into_iter().chain(peers).collect();
    let mut mount = stage.mount(&[&text(&path)], &flags);
    let found = mount.join("prize.bin");

    let liar = liars[0].addr().to_string();
    let banned = thread::scope(|scope| {
        let readers = scope.spawn(|| assert_ramp_at_once(&found, ramp, BYTES, 8, 30));
        let have_lied = || liars.iter().all(|liar| liar.counts().faults > 0).then_some(());
        eventually("each liar has lied", PATIENCE, have_lied);
        // Who sent nothing but lies is found out as soon as one of its pieces is whole.
        let banned = eventually("the liar is banned", PATIENCE, || {
            let status = mount.torrent_status();
            Some(banned(&status)).filter(|banned| banned.contains(&liar))
        });
        seeder.limit_upload(0);
        readers.join().expect("eight readers at once read what is right");
        banned
    });
    ramp.check_file(&found, BYTES).expect("every byte is right");
    assert!(!banned.contains(&honest), "{banned:?}");
    let status = mount.torrent_status();
    assert!(!self::banned(&status).contains(&honest), "{status}");
    eventually("the flooder is gone", PATIENCE, || (others[0].counts().ended > 0).then_some(()));
    let peak = mount.process().peak_memory_bytes().expect("the daemon runs");
    assert!(peak < 260 << 20, "{} MiB were resident", peak >> 20);
}

/// The addresses that the status lists as banned, each with a reason.
fn banned(status: &Value) -> Vec<String> {
    let entries = status["banned"].as_array().into_iter().flatten();
    let addr = |entry: &Value| {
        assert!(entry["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{entry}");
        entry["addr"].as_str().unwrap_or_default().to_owned()
    };
    entries.map(addr).collect()
}
