//! Where a web seed keeps a torrent's bytes: URLs of files (BEP 19) and of pieces (BEP 17).
//!
//! Names become path segments with everything escaped that is not unreserved (RFC 3986), so that no name of a torrent
//! can change the path, the query or the host.

use std::ops::Range;

use url::Url;
use wtfs_proto::geometry::{FileIndex, PieceIndex};
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::{Info, Layout};

/// How a web seed is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Ranges of files, by plain HTTP (GetRight style, BEP 19).
    Files,
    /// Ranges of pieces, by query parameters (Hoffman style, BEP 17).
    Pieces,
}

/// One web seed: its URL as the metainfo has it, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeedAddress {
    base: Url,
    dialect: Dialect,
}

impl SeedAddress {
    /// `None` for what is no http(s) URL: FTP (BEP 19) is spoken by nobody any more.
    pub(crate) fn parse(url: &str, dialect: Dialect) -> Option<Self> {
        let mut base = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        base.set_fragment(None);
        Some(Self { base, dialect })
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// For people and logs: without what may be secret.
    pub(crate) fn shown(&self) -> String {
        let mut shown = self.base.clone();
        // They fail only for URLs without a host, which http(s) ones have.
        let _cannot = (shown.set_username(""), shown.set_password(None));
        shown.set_query(None);
        shown.to_string()
    }

    /// The URL of a file (BEP 19): the seed's own for a single file, unless that ends in a slash; else the torrent's name
    /// and the file's path below it. `None` for no file.
    pub(crate) fn file(&self, info: &Info, file: FileIndex) -> Option<Url> {
        let entry = info.files.get(usize::try_from(file.get()).ok()?)?;
        let base = self.base.as_str();
        let mut full = base.to_owned();
        match info.layout {
            Layout::SingleFile if !base.ends_with('/') => {}
            Layout::SingleFile => escape(&mut full, info.name.as_bytes()),
            Layout::Directory => {
                if !full.ends_with('/') {
                    full.push('/');
                }
                escape(&mut full, info.name.as_bytes());
                for component in entry.path.components() {
                    full.push('/');
                    escape(&mut full, component.as_bytes());
                }
            }
        }
        Url::parse(&full).ok()
    }

    /// The URL of a range of a piece (BEP 17).
    pub(crate) fn piece(&self, hash: InfoHash, piece: PieceIndex, range: Range<u32>) -> Option<Url> {
        let mut full = self.base.as_str().to_owned();
        full.push(if self.base.query().is_some() { '&' } else { '?' });
        full.push_str("info_hash=");
        escape(&mut full, hash.as_bytes());
        let last = range.end.checked_sub(1).filter(|last| *last >= range.start)?;
        full.push_str(&format!("&piece={piece}&ranges={}-{last}", range.start));
        Url::parse(&full).ok()
    }
}

fn escape(out: &mut String, bytes: &[u8]) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use wtfs_proto::metainfo::{FileEntry, InfoBuilder, Metainfo, MetainfoBuilder};
    use wtfs_proto::path::TorrentPath;

    use super::*;

    fn single(name: &str) -> Metainfo {
        let info = InfoBuilder::single_file(name, 1, 16 << 10).expect("a valid name");
        MetainfoBuilder::new(info.finish(&[0; 20]).expect("built")).expect("valid").finish()
    }

    fn directory(components: &[&str]) -> Metainfo {
        let mut info = InfoBuilder::directory("my model", 16 << 10);
        info.push(FileEntry::new(TorrentPath::from_components(components).expect("a path"), 1));
        MetainfoBuilder::new(info.finish(&[0; 20]).expect("built")).expect("valid").finish()
    }

    fn url(base: &str, metainfo: &Metainfo) -> String {
        let address = SeedAddress::parse(base, Dialect::Files).expect("a URL");
        let file = metainfo.info.geometry.file(0).expect("a file");
        address.file(&metainfo.info, file).expect("a URL").to_string()
    }

    #[test]
    fn a_single_file_is_the_url_itself_or_its_name_below_a_slash() {
        let metainfo = single("a b.bin");
        assert_eq!(url("http://h/other.bin", &metainfo), "http://h/other.bin");
        assert_eq!(url("http://h/get?id=1", &metainfo), "http://h/get?id=1");
        assert_eq!(url("http://h/dir/", &metainfo), "http://h/dir/a%20b.bin");
        assert_eq!(url("http://h", &metainfo), "http://h/a%20b.bin");
    }

    #[test]
    fn files_of_a_directory_stand_below_its_name_with_or_without_a_slash() {
        let metainfo = directory(&["sub", "x.bin"]);
        assert_eq!(url("http://h/d", &metainfo), "http://h/d/my%20model/sub/x.bin");
        assert_eq!(url("http://h/d/", &metainfo), "http://h/d/my%20model/sub/x.bin");
    }

    #[test]
    fn names_cannot_change_the_rest_of_the_url() {
        let metainfo = directory(&["a?b#c", "%2e%2e", "ü&=+ '\"@:;"]);
        let expected = "http://h/my%20model/a%3Fb%23c/%252e%252e/%C3%BC%26%3D%2B%20%27%22%40%3A%3B";
        assert_eq!(url("http://h/", &metainfo), expected);
    }

    #[test]
    fn pieces_are_asked_for_by_hash_number_and_inclusive_range() {
        let metainfo = single("a");
        let piece = metainfo.info.geometry.piece(0).expect("a piece");
        let hash = InfoHash::new(*b"\x00\xff abcdefghijklmnopq");
        let of = |base| {
            let address = SeedAddress::parse(base, Dialect::Pieces).expect("a URL");
            address.piece(hash, piece, 16..48).expect("a URL").to_string()
        };
        let query = "info_hash=%00%FF%20abcdefghijklmnopq&piece=0&ranges=16-47";
        assert_eq!(of("http://h/seed.php"), format!("http://h/seed.php?{query}"));
        assert_eq!(of("http://h/seed.php?key=1"), format!("http://h/seed.php?key=1&{query}"));
    }

    #[test]
    fn secrets_are_not_shown_and_other_schemes_are_not_taken() {
        let address = SeedAddress::parse("http://me:pass@h:81/d/?token=x#y", Dialect::Files).expect("a URL");
        assert_eq!(address.shown(), "http://h:81/d/");
        for url in ["ftp://h/x", "file:///etc/passwd", "x", "http://"] {
            assert_eq!(SeedAddress::parse(url, Dialect::Files), None, "{url}");
        }
    }
}
