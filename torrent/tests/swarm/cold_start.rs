//! Two sessions that start at once and know of each other: one connection is left between them, and it stays.

use wtfs_torrent::{AddOptions, Direction, Session, Source, Torrent, TorrentStatus};

use crate::content::{lay_out, lying_in, ramp};
use crate::{PATIENCE, session, with_peer};

/// Who dials first, and who hears of which connection first, is left to chance.
const TURNS: usize = 6;
const PIECE: u32 = 32_768;

async fn start(session: &Session, source: Source, options: AddOptions) -> Torrent {
    session.add(source, options).await.expect("added")
}

/// Waits until what is published of both is so.
async fn until(torrents: [&Torrent; 2], is_so: impl Fn(&[TorrentStatus; 2]) -> bool) -> [TorrentStatus; 2] {
    let looking = async {
        loop {
            let seen = torrents.map(Torrent::status);
            if is_so(&seen) {
                return seen;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("not in time: {:?}", torrents.map(Torrent::status)))
}

async fn read_piece(torrent: &Torrent, piece: u64) {
    let file = torrent.metainfo().expect("known").info.geometry.file(0).expect("one file");
    let from = piece * u64::from(PIECE);
    let reader = torrent.open(file).expect("opens");
    let read = tokio::time::timeout(PATIENCE, reader.read_at(from, PIECE)).await.expect("in time");
    assert!(read.expect("read") == ramp(from..from + u64::from(PIECE)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_dial_each_other_as_they_start_keep_one_connection_and_dial_no_more() {
    let data = tempfile::tempdir().expect("dir");
    let metainfo = lay_out(data.path(), 40 * u64::from(PIECE), PIECE).await;
    for turn in 0..TURNS {
        let caches = [tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir")];
        let seeder = session(caches[0].path(), |_| {}).await;
        let reader = session(caches[1].path(), |_| {}).await;
        let source = || Source::Metainfo(Box::new(metainfo.clone()));
        let seeding = AddOptions { peers: vec![reader.listening()[0]], ..lying_in(data.path()) };
        let (seed, torrent) = tokio::join!(
            start(&seeder, source(), seeding),
            start(&reader, source(), with_peer(seeder.listening()[0]))
        );
        read_piece(&torrent, 1).await;
        // The address that each was told of is that of a peer who is connected: nobody is left to be dialled.
        let is_settled = |both: &[TorrentStatus; 2]| {
            both.iter().all(|status| status.peers.len() == 1 && status.servers.known_peers == 0)
        };
        until([&seed, &torrent], is_settled).await;
        read_piece(&torrent, 30).await;
        // All that is here came over the one that is there now, so none took its place.
        let [given, taken] = until([&seed, &torrent], |[given, taken]| {
            let here = u64::from(taken.pieces_present) * u64::from(PIECE);
            taken.pieces_present >= 2
                && matches!(&given.peers[..], [peer] if peer.uploaded_bytes >= here)
                && matches!(&taken.peers[..], [peer] if peer.downloaded_bytes >= here)
        })
        .await;
        let directions = [given.peers[0].direction, taken.peers[0].direction];
        assert!(
            matches!(
                directions,
                [Direction::Incoming, Direction::Outgoing] | [Direction::Outgoing, Direction::Incoming]
            ),
            "turn {turn}: {directions:?}"
        );
        reader.shutdown().await;
        seeder.shutdown().await;
    }
}
