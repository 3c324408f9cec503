//! A peer that is alone in the swarm and answers requests with what cannot be an answer: it goes at once, and who reads
//! waits for another.

use wtfs_proto::metainfo::Metainfo;
use wtfs_testkit::peer::{Content, Fault, LengthFault, ScriptedPeer, Start};
use wtfs_testkit::ramp::Ramp;
use wtfs_testkit::torrent_file::TorrentFile;
use wtfs_torrent::{Source, Torrent};

use crate::{PATIENCE, session, with_peer};

const BYTES: u64 = 300_000;
const RAMP: u64 = 7;

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

fn violations(torrent: &Torrent) -> u64 {
    torrent.status().bans.bans.violation
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_alone_that_answers_with_what_nobody_asked_for_is_banned_while_reads_wait() {
    let file = TorrentFile::ramp("target.bin", Ramp::new(RAMP), BYTES, 32 << 10, &[]);
    let content = || Content::Ramp(Ramp::new(RAMP));
    for fault in [
        Fault::WrongLength(LengthFault::Short),
        Fault::WrongLength(LengthFault::Long),
        Fault::WrongLength(LengthFault::Empty),
        Fault::PieceOutOfRange,
    ] {
        let bad = ScriptedPeer::with_fault(&file, content(), fault);
        let dir = tempfile::tempdir().expect("dir");
        let session = session(dir.path(), |config| config.read_timeout = PATIENCE * 3).await;
        let metainfo = Metainfo::parse(&file.bytes).expect("a torrent");
        let source = Source::Metainfo(Box::new(metainfo));
        let torrent = session.add(source, with_peer(bad.addr())).await.expect("added");
        let number = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
        let handle = torrent.open(number).expect("opens");
        let reading = tokio::spawn(async move { handle.read_at(0, BYTES as u32).await });
        until(&format!("{fault:?} is a violation"), || violations(&torrent) == 1).await;
        until(&format!("{fault:?} is hung up on"), || bad.counts().ended > 0).await;
        assert!(!reading.is_finished(), "{fault:?}");
        let good = ScriptedPeer::seeder(&file, content(), Start::Open);
        good.dial(session.listening()[0]).expect("it listens");
        let read = tokio::time::timeout(PATIENCE, reading).await.expect("in time").expect("no panic");
        assert!(read.expect("read") == Ramp::new(RAMP).bytes(0, BYTES as usize), "{fault:?}");
        session.shutdown().await;
    }
}
