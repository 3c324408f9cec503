//! The scripted peer against a second scripted peer that leeches from it: both ends are ours here, so these
//! tests only show that the honest parts work and that faults are committed and counted.

use std::time::Duration;

use super::*;
use crate::wait::eventually;

const LIMIT: Duration = Duration::from_secs(120);

fn torrent(ramp: Ramp) -> TorrentFile {
    TorrentFile::ramp("t", ramp, 300_001, 65_536, &[])
}

fn leech(torrent: &TorrentFile, ramp: Ramp) -> ScriptedPeer {
    ScriptedPeer::with_fault(torrent, Content::Ramp(ramp), Fault::Leech)
}

#[test]
fn an_honest_seeder_gives_every_block_right() {
    let ramp = Ramp::new(5);
    let torrent = torrent(ramp);
    let seeder = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Open);
    let leech = leech(&torrent, ramp);
    leech.dial(seeder.addr()).expect("it listens");
    let blocks = 300_001_u64.div_ceil(16_384);
    eventually("all blocks", LIMIT, || (leech.counts().good_blocks_received == blocks).then_some(()));
    assert_eq!(leech.counts().blocks_received, blocks);
    assert_eq!(seeder.counts().payload_sent, 300_001);
}

#[test]
fn wrong_bytes_are_sent_and_counted() {
    let ramp = Ramp::new(5);
    let torrent = torrent(ramp);
    let liar = ScriptedPeer::with_fault(&torrent, Content::Ramp(ramp), Fault::WrongBytes { every: 2 });
    let leech = leech(&torrent, ramp);
    leech.dial(liar.addr()).expect("it listens");
    eventually("all blocks", LIMIT, || (leech.counts().blocks_received == 19).then_some(()));
    assert_eq!(leech.counts().good_blocks_received, 10);
    assert_eq!(liar.counts().faults, 9);
}

#[test]
fn a_held_seeder_gives_nothing_until_released() {
    let ramp = Ramp::new(5);
    let torrent = torrent(ramp);
    let seeder = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Held);
    let leech = leech(&torrent, ramp);
    leech.dial(seeder.addr()).expect("it listens");
    eventually("the handshake", LIMIT, || (seeder.counts().handshakes == 1).then_some(()));
    assert_eq!(seeder.counts().blocks_sent, 0);
    seeder.release();
    eventually("all blocks", LIMIT, || (leech.counts().good_blocks_received == 19).then_some(()));
}

#[test]
fn a_peer_that_closes_does_so_after_its_blocks() {
    let ramp = Ramp::new(5);
    let torrent = torrent(ramp);
    let seeder = ScriptedPeer::with_fault(&torrent, Content::Ramp(ramp), Fault::CloseAfter(3));
    let leech = leech(&torrent, ramp);
    leech.dial(seeder.addr()).expect("it listens");
    eventually("the end", LIMIT, || (leech.counts().ended == 1).then_some(()));
    assert_eq!(seeder.counts().blocks_sent, 3);
    assert_eq!(seeder.counts().faults, 1);
}

#[test]
fn a_flood_goes_on_until_the_peer_is_dropped() {
    let ramp = Ramp::new(5);
    let torrent = torrent(ramp);
    let flooder = ScriptedPeer::with_fault(&torrent, Content::Ramp(ramp), Fault::Endless(Stream::Haves));
    let leech = leech(&torrent, ramp);
    leech.dial(flooder.addr()).expect("it listens");
    eventually("a flood", LIMIT, || (flooder.counts().flood_bytes > 1 << 20).then_some(()));
    drop(flooder);
    eventually("its end", LIMIT, || (leech.counts().ended == 1).then_some(()));
}
