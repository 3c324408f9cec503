//! What the builder makes reads back, and nothing that comes in can panic.

use super::*;

fn names() -> impl Strategy<Value = Vec<(TorrentPath, u32)>> {
    let component = "[^/\u{0}]{1,12}".prop_filter("no dots", |c| c != "." && c != "..");
    let path = prop::collection::vec(component, 1..4);
    prop::collection::btree_map(path, 0_u32..100_000, 1..12).prop_map(|files| {
        let files: Vec<_> = files
            .into_iter()
            .map(|(path, bytes)| (TorrentPath::from_components(path).unwrap(), bytes))
            .collect();
        let is_parent = |path: &TorrentPath| files.iter().any(|(other, _)| path.is_parent_of(other));
        files.iter().filter(|(path, _)| !is_parent(path)).cloned().collect()
    })
}

proptest! {
    #[test]
    fn a_built_torrent_reads_back_the_same(
        files in names(), piece_bytes in prop_oneof![Just(PIECE), 1_000_u32..40_000], private in any::<bool>(),
        attributes in prop::collection::vec(any::<(bool, bool)>(), 12), urls in prop::collection::vec("http://[a-z]{1,5}", 0..4),
        date in any::<Option<i64>>(), comment in prop::option::of("\\PC{1,20}"),
    ) {
        let privacy = if private { Privacy::Private } else { Privacy::Public };
        let mut builder = InfoBuilder::directory("näme", piece_bytes).with_privacy(privacy).with_source("s");
        for ((path, bytes), (is_executable, is_hidden)) in files.iter().zip(attributes) {
            let mut file = FileEntry::new(path.clone(), u64::from(*bytes));
            (file.is_executable, file.is_hidden, file.sha1) = (is_executable, is_hidden, Some([3; 20]));
            builder.push(file);
        }
        let geometry = builder.geometry().unwrap();
        let pieces: Vec<u8> = (0..geometry.piece_count()).flat_map(|n| [n as u8; 20]).collect();
        let info = builder.finish(&pieces).unwrap();
        let mut made = MetainfoBuilder::new(info).unwrap()
            .with_announce(urls.iter().map(|url| vec![url.clone()]).collect())
            .with_web_seeds(urls)
            .with_created_by("wtfs");
        if let Some(date) = date {
            made = made.with_creation_date(date);
        }
        if let Some(comment) = comment {
            made = made.with_comment(comment);
        }
        let made = made.finish();
        let read = Metainfo::parse(&made.to_bytes()).unwrap();
        prop_assert_eq!(&read.info.files[..], builder.files());
        prop_assert_eq!(&read.info.geometry, &geometry);
        prop_assert_eq!(&read.info.pieces[..], &pieces[..]);
        prop_assert_eq!(read.info.is_private, private);
        prop_assert_eq!(read, made);
    }

    #[test]
    fn a_damaged_torrent_never_panics_and_what_is_read_is_consistent(
        at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let files = [file(&[b"a", b"b"], 30_000), file(&[b"c"], 1), file(&["ü".as_bytes()], 0)];
        let mut bytes = torrent(&info_with(|d| {
            d.list("files", |l| files.iter().for_each(|file| l.raw(file)));
            d.bytes("pieces", [7; 40]);
        }));
        let at = at.index(bytes.len());
        bytes[at] = with;
        if let Ok(metainfo) = Metainfo::parse(&bytes) {
            let info = &metainfo.info;
            prop_assert_eq!(info.pieces.len(), 20 * info.geometry.piece_count() as usize);
            prop_assert_eq!(info.geometry.file_count(), info.files.len());
            prop_assert_eq!(Metainfo::parse(&metainfo.to_bytes()).map(|again| again.hashes), Ok(metainfo.hashes));
        }
        let _ = Metainfo::parse(&bytes[..cut.index(bytes.len())]);
    }
}

#[test]
fn a_single_file_is_built_with_its_name() {
    let builder = InfoBuilder::single_file("model.gguf", 20_000, PIECE).unwrap();
    let info = builder.finish(&[0; 40]).unwrap();
    let metainfo =
        Metainfo::from_info(info.into(), vec![vec!["http://t".into()]], vec!["http://w".into()]).unwrap();
    assert_eq!((metainfo.info.layout, metainfo.info.name.as_str()), (Layout::SingleFile, "model.gguf"));
    assert_eq!(
        (metainfo.announce, metainfo.url_list),
        (vec![vec!["http://t".into()]], vec!["http://w".to_owned()])
    );
}

#[test]
fn links_and_pads_are_built_too() {
    let path = |text: &str| TorrentPath::from_components(text.split('/')).unwrap();
    let mut pad = FileEntry::new(path(".pad/10"), 10);
    pad.is_pad = true;
    let mut builder = InfoBuilder::directory("d", PIECE);
    [FileEntry::new(path("b/x"), 5), pad, FileEntry::link(path("a/ln"), path("b/x"))]
        .into_iter()
        .for_each(|file| builder.push(file));
    let info = builder.finish(&[0; 20]).unwrap();
    assert_eq!(parse_info(&info).unwrap().info.files, builder.files());
}

#[test]
fn nothing_is_built_that_would_not_be_read() {
    let message = |result: Result<Vec<u8>, MetainfoError>| result.unwrap_err().to_string();
    assert_eq!(
        InfoBuilder::single_file("..", 1, 1).unwrap_err().to_string(),
        "unsafe name '..': '.' and '..' are no names"
    );
    assert_eq!(message(InfoBuilder::directory("d", 1).finish(&[])), "files: expected at least one file");
    let builder = InfoBuilder::single_file("f", 1, PIECE).unwrap();
    assert_eq!(message(builder.finish(&[])), "pieces: 0 bytes of hashes, 1 pieces need 20");
    let builder = InfoBuilder::single_file("f", u64::MAX, PIECE).unwrap();
    assert_eq!(message(builder.finish(&[])), "length of 'f': expected an integer of 0 or more");
    let mut builder = InfoBuilder::directory("d", PIECE);
    let path = TorrentPath::from_components(["x"]).unwrap();
    builder.push(FileEntry::new(path.clone(), 0));
    builder.push(FileEntry::new(path, 0));
    assert_eq!(message(builder.finish(&[])), "two files are named 'x'");
}

#[test]
fn piece_sizes_make_one_to_two_thousand_pieces_between_the_bounds() {
    assert_eq!(choose_piece_bytes(0), 16 << 10);
    assert_eq!(choose_piece_bytes(2000 << 14), 16 << 10);
    assert_eq!(choose_piece_bytes((2000 << 14) + 1), 32 << 10);
    assert_eq!(choose_piece_bytes(1 << 30), 1 << 20);
    assert_eq!(choose_piece_bytes(u64::MAX), 16 << 20);
    for total in (16..34).map(|n| 3_u64 << n) {
        let pieces = total.div_ceil(choose_piece_bytes(total).into());
        assert!(pieces <= 2000 && (pieces >= 1000 || choose_piece_bytes(total) == 16 << 10), "{total}");
    }
}
