//! Whatever one peer does wrong, no wrong byte is read, the peer is dropped or banned, memory stays bounded, and an
//! honest peer finishes the job.
//!
//! The honest peer is connected from the start but keeps us choked until the bad one has done its worst: so the bad
//! one always has its turn.

use std::thread;

use serde_json::Value;
use wtfs_testkit::{
    peer::{
        BitfieldFault, Content, Counts, Fault, LengthFault, MetadataFault, PeerConfig, RequestFault,
        ScriptedPeer, Start, Stream,
    },
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    libtorrent::magnet,
    mount::Mount,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 6 * 1024 * 1024 + 4321;
const RAMP: u64 = 41;
/// The budget for pieces in flight is 96 MiB; a process of this kind has some tens beside it.
const MAX_MEMORY_BYTES: u64 = 220 << 20;
/// Readers wait as long as bad peers take.
const PATIENT: [&str; 2] = ["--read-timeout", "400s"];

/// What must have happened to the bad peer in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Listed as banned.
    Banned,
    /// Disconnected, at least once, or banned.
    Dropped,
    /// Nothing: what it does is useless but no proof of malice.
    Any,
}

fn torrent() -> TorrentFile {
    // Enough metadata for several parts of it (BEP 9): the pieces are small.
    TorrentFile::ramp("target.bin", Ramp::new(RAMP), BYTES, 32 << 10, &[])
}

fn is_banned(status: &Value, peer: &ScriptedPeer) -> bool {
    let addr = peer.addr().to_string();
    status["banned"].as_array().into_iter().flatten().any(|banned| banned["addr"] == *addr)
}

/// Mounts with the bad and the held honest peer, reads it all, and judges.
fn outlive(name: &str, fault: Fault, fate: Fate) -> Counts {
    let stage = Stage::new(name);
    let torrent = torrent();
    let bad = ScriptedPeer::with_fault(&torrent, Content::Ramp(Ramp::new(RAMP)), fault);
    let good = ScriptedPeer::seeder(&torrent, Content::Ramp(Ramp::new(RAMP)), Start::Held);
    let source = text(&stage.write_torrent(&torrent));
    let peers = [bad.addr().to_string(), good.addr().to_string()];
    let flags = [&PATIENT[..], &["--peer", &peers[0], "--peer", &peers[1]]].concat();
    let mut mount = stage.mount(&[&source], &flags);
    read_and_judge(&mut mount, &bad, &good, fate)
}

fn read_and_judge(mount: &mut Mount<'_>, bad: &ScriptedPeer, good: &ScriptedPeer, fate: Fate) -> Counts {
    let path = mount.wait_for_entry("target.bin");
    thread::scope(|scope| {
        let reader = scope.spawn(|| Ramp::new(RAMP).check_file(&path, BYTES));
        eventually("the bad peer has done its worst", PATIENCE, || (bad.counts().faults > 0).then_some(()));
        wait_for_end(mount, bad, fate);
        good.release();
        reader.join().expect("the reader does not panic").expect("every byte is right");
    });
    judge(mount, bad, fate)
}

/// Waits until a peer that is to go is gone, while it is the only one that gives. What it sent might else be overtaken by
/// what an honest peer sends, and never be looked at; and once all is there both seeds part anyway.
#[track_caller]
fn wait_for_end(mount: &Mount<'_>, bad: &ScriptedPeer, fate: Fate) {
    if fate != Fate::Any {
        let _status = wait_for(mount, bad, fate);
    }
}

/// Waits until the peer has met its fate; gives the status that shows it.
#[track_caller]
fn wait_for(mount: &Mount<'_>, bad: &ScriptedPeer, fate: Fate) -> Value {
    eventually(&format!("the bad peer is {fate:?}"), PATIENCE, || {
        let status = mount.torrent_status();
        let is_met = match fate {
            Fate::Banned => is_banned(&status, bad),
            Fate::Dropped => is_banned(&status, bad) || bad.counts().ended > 0,
            Fate::Any => true,
        };
        is_met.then_some(status)
    })
}

fn judge(mount: &mut Mount<'_>, bad: &ScriptedPeer, fate: Fate) -> Counts {
    let status = wait_for(mount, bad, fate);
    let peak = mount.process().peak_memory_bytes().expect("the daemon runs");
    println!("{} MiB were resident at most", peak >> 20);
    assert!(peak < MAX_MEMORY_BYTES, "{} MiB were resident; {status}", peak >> 20);
    assert!(mount.process().try_status().is_none(), "the daemon lives on");
    bad.counts()
}

/// One test for one fault of a peer that has the data.
macro_rules! outlives {
    ($($name:ident: $fault:expr => $fate:expr;)*) => {
        $(
            #[test]
            fn $name() {
                if missing(&[Need::Fuse]) {
                    return;
                }
                let _counts = outlive(stringify!($name), $fault, $fate);
            }
        )*
    };
}

outlives! {
    a_peer_that_sends_wrong_bytes_in_every_block: Fault::WrongBytes { every: 1 } => Fate::Banned;
    a_peer_that_sends_wrong_bytes_now_and_then: Fault::WrongBytes { every: 7 } => Fate::Banned;
    a_peer_that_sends_blocks_too_short: Fault::WrongLength(LengthFault::Short) => Fate::Dropped;
    a_peer_that_sends_blocks_too_long: Fault::WrongLength(LengthFault::Long) => Fate::Dropped;
    a_peer_that_sends_empty_blocks: Fault::WrongLength(LengthFault::Empty) => Fate::Dropped;
    a_peer_that_sends_blocks_without_a_header: Fault::WrongLength(LengthFault::Headless) => Fate::Dropped;
    a_peer_that_sends_blocks_nobody_asked_for: Fault::UnaskedBlocks => Fate::Any;
    a_peer_that_sends_pieces_that_do_not_exist: Fault::PieceOutOfRange => Fate::Dropped;
    a_peer_with_a_bitfield_too_short: Fault::Bitfield(BitfieldFault::Short) => Fate::Dropped;
    a_peer_with_a_bitfield_too_long: Fault::Bitfield(BitfieldFault::Long) => Fate::Dropped;
    a_peer_with_an_enormous_bitfield: Fault::Bitfield(BitfieldFault::Enormous) => Fate::Dropped;
    a_peer_with_spare_bits_set: Fault::Bitfield(BitfieldFault::SpareBits) => Fate::Dropped;
    a_peer_that_answers_the_handshake_with_garbage: Fault::GarbageHandshake => Fate::Dropped;
    a_peer_of_another_torrent: Fault::WrongInfoHash => Fate::Dropped;
    a_peer_that_stalls_at_once: Fault::StallAfter(0) => Fate::Any;
    a_peer_that_stalls_in_the_middle_of_a_piece: Fault::StallAfter(13) => Fate::Any;
    a_peer_that_closes_in_the_middle_of_a_piece: Fault::CloseAfter(13) => Fate::Dropped;
    a_peer_with_a_bottomless_extension_handshake: Fault::DeepExtensionHandshake => Fate::Dropped;
    a_peer_that_sends_keep_alives_without_end: Fault::Endless(Stream::KeepAlives) => Fate::Dropped;
    a_peer_that_sends_unknown_messages_without_end: Fault::Endless(Stream::Unknown) => Fate::Dropped;
    a_peer_that_sends_haves_without_end: Fault::Endless(Stream::Haves) => Fate::Dropped;
    a_peer_that_shakes_hands_without_end: Fault::Endless(Stream::ExtensionHandshakes) => Fate::Dropped;
}

#[test]
fn a_peer_that_announces_a_message_of_two_gibibytes_is_cut_off_before_it_sends_them() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let counts = outlive("huge-message", Fault::HugeMessage, Fate::Dropped);
    // What fits into socket buffers, on each connection it was given.
    let limit = counts.connections * (16 << 20);
    assert!(counts.flood_bytes < limit, "{} bytes were taken in", counts.flood_bytes);
}

/// One test for one fault of a peer that asks.
macro_rules! survives_requests {
    ($($name:ident: $fault:expr => $fate:expr;)*) => {
        $(
            #[test]
            fn $name() {
                if missing(&[Need::Fuse]) {
                    return;
                }
                let _counts = be_asked(stringify!($name), $fault, $fate);
            }
        )*
    };
}

survives_requests! {
    a_peer_that_asks_beyond_the_end_of_a_piece: RequestFault::BeyondEnd => Fate::Dropped;
    a_peer_that_asks_for_pieces_that_do_not_exist: RequestFault::NoSuchPiece => Fate::Dropped;
    a_peer_that_asks_for_two_gibibytes_at_once: RequestFault::HugeLength => Fate::Dropped;
    a_peer_that_asks_for_nothing: RequestFault::ZeroLength => Fate::Dropped;
    a_peer_that_floods_us_with_requests: RequestFault::Flood => Fate::Any;
}

/// Reads half from an honest peer, lets the asking peer in, and reads the rest.
fn be_asked(name: &str, fault: RequestFault, fate: Fate) -> Counts {
    let stage = Stage::new(name);
    let torrent = torrent();
    let good = ScriptedPeer::seeder(&torrent, Content::Ramp(Ramp::new(RAMP)), Start::Open);
    let source = text(&stage.write_torrent(&torrent));
    let peer = good.addr().to_string();
    let flags = [&PATIENT[..], &["--peer", &peer]].concat();
    let mut mount = stage.mount(&[&source], &flags);
    let path = mount.wait_for_entry("target.bin");
    let plan = vec![(0, usize::try_from(BYTES / 2).expect("it fits"))];
    crate::support::reading::assert_ramp(&path, Ramp::new(RAMP), &plan);

    let bad = ScriptedPeer::with_fault(&torrent, Content::Ramp(Ramp::new(RAMP)), Fault::Requests(fault));
    bad.dial(mount.listen()).expect("the mount listens");
    eventually("the bad peer was unchoked and has asked", PATIENCE, || {
        (bad.counts().faults > 0).then_some(())
    });
    Ramp::new(RAMP).check_file(&path, BYTES).expect("every byte is right");
    judge(&mut mount, &bad, fate)
}

/// One test for one lie about the metadata, with the torrent given as a magnet.
macro_rules! outlives_metadata {
    ($($name:ident: $fault:expr => $fate:expr;)*) => {
        $(
            #[test]
            fn $name() {
                if missing(&[Need::Fuse]) {
                    return;
                }
                outlive_metadata(stringify!($name), $fault, $fate);
            }
        )*
    };
}

outlives_metadata! {
    a_peer_that_claims_a_tebibyte_of_metadata: MetadataFault::EnormousSize => Fate::Any;
    a_peer_that_claims_a_byte_of_metadata_too_few: MetadataFault::ShortSize => Fate::Any;
    a_peer_that_sends_wrong_metadata: MetadataFault::WrongBytes => Fate::Banned;
    a_peer_that_never_sends_the_metadata: MetadataFault::Silence => Fate::Any;
}

fn outlive_metadata(name: &str, fault: MetadataFault, fate: Fate) {
    let stage = Stage::new(name);
    let torrent = torrent();
    let bad = ScriptedPeer::with_fault(&torrent, Content::Ramp(Ramp::new(RAMP)), Fault::Metadata(fault));
    // An address that nobody listens at as long as the bad peer is alone.
    let link = magnet(&torrent.hash_hex(), &[bad.addr()], &[]);
    let mut mount = stage.mount(&[&link], &PATIENT);
    eventually("the bad peer was met", PATIENCE, || (bad.counts().handshakes > 0).then_some(()));
    if !matches!(fault, MetadataFault::EnormousSize | MetadataFault::ShortSize) {
        eventually("the bad peer has lied", PATIENCE, || (bad.counts().faults > 0).then_some(()));
    }
    wait_for_end(&mount, &bad, fate);
    // Now an honest one comes by itself.
    let good = ScriptedPeer::seeder(&torrent, Content::Ramp(Ramp::new(RAMP)), Start::Open);
    good.dial(mount.listen()).expect("the mount listens");
    let path = mount.wait_for_entry("target.bin");
    Ramp::new(RAMP).check_file(&path, BYTES).expect("every byte is right");
    assert!(good.counts().metadata_sent > 0, "the metadata came from the honest peer");
    let _counts = judge(&mut mount, &bad, fate);
}

#[test]
fn several_bad_peers_at_once_do_not_stop_an_honest_one() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("many-bad");
    let torrent = torrent();
    let content = Content::Ramp(Ramp::new(RAMP));
    let faults = [
        (Fault::WrongBytes { every: 1 }, Start::Open),
        (Fault::WrongBytes { every: 3 }, Start::Open),
        (Fault::WrongLength(LengthFault::Long), Start::Open),
        (Fault::HugeMessage, Start::Open),
        (Fault::Bitfield(BitfieldFault::Enormous), Start::Open),
        (Fault::Endless(Stream::Unknown), Start::Open),
        (Fault::StallAfter(5), Start::Open),
        // What it is asked for it gives: were it open, it might have done the job before the others come to lie.
        (Fault::UnaskedBlocks, Start::Held),
    ];
    let bad = faults.map(|(fault, start)| {
        let (torrent, content) = (torrent.clone(), content.clone());
        ScriptedPeer::start(PeerConfig {
            listen: None,
            torrent,
            content,
            fault,
            start,
            introduces: Vec::new(),
        })
    });
    let good = ScriptedPeer::seeder(&torrent, content, Start::Held);
    let source = text(&stage.write_torrent(&torrent));
    let addrs: Vec<String> = bad.iter().chain([&good]).map(|peer| peer.addr().to_string()).collect();
    let flags: Vec<&str> =
        PATIENT.into_iter().chain(addrs.iter().flat_map(|addr| ["--peer", addr])).collect();
    let mut mount = stage.mount(&[&source], &flags);
    let path = mount.wait_for_entry("target.bin");
    thread::scope(|scope| {
        let reader = scope.spawn(|| Ramp::new(RAMP).check_file(&path, BYTES));
        let bad_done = || bad.iter().filter(|peer| peer.counts().faults > 0).count();
        eventually("most bad peers have done their worst", PATIENCE, || (bad_done() >= 6).then_some(()));
        wait_for_end(&mount, &bad[0], Fate::Banned);
        good.release();
        reader.join().expect("the reader does not panic").expect("every byte is right");
    });
    let _counts = judge(&mut mount, &bad[0], Fate::Banned);
}

#[test]
fn an_honest_peer_is_not_banned_for_what_another_sent() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("blame");
    let torrent = torrent();
    let content = Content::Ramp(Ramp::new(RAMP));
    let bad = ScriptedPeer::with_fault(&torrent, content.clone(), Fault::WrongBytes { every: 2 });
    let good = ScriptedPeer::seeder(&torrent, content, Start::Open);
    let source = text(&stage.write_torrent(&torrent));
    let peers = [bad.addr().to_string(), good.addr().to_string()];
    let flags = [&PATIENT[..], &["--peer", &peers[0], "--peer", &peers[1]]].concat();
    let mount = stage.mount(&[&source], &flags);
    let path = mount.wait_for_entry("target.bin");
    thread::scope(|scope| {
        let reader = scope.spawn(|| Ramp::new(RAMP).check_file(&path, BYTES));
        reader.join().expect("the reader does not panic").expect("every byte is right");
    });
    let status = eventually("nothing is in flight", PATIENCE, || {
        Some(mount.torrent_status()).filter(|status| status["in_flight_bytes"] == 0)
    });
    assert!(!is_banned(&status, &good), "{status}");
}
