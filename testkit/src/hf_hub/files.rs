//! The bytes of files: redirects of the hub, and what the places answer that they lead to.

use axum::http::header;
use sha2::{Digest as _, Sha256};

use super::{
    State,
    answer::{Asked, Reply},
    content::{Content, hex},
    fault::FaultKind,
    repo::{Commit, Entry, Repo},
    route, signed,
};

/// Files that are compressed for who accepts it.
const TEXT_ENDINGS: &[&str] =
    &[".json", ".txt", ".md", ".py", ".jinja", ".csv", ".gitattributes", ".html", ".svg"];

/// `/resolve/`: always a redirect, to what depends on where the file lies.
pub(super) fn resolve(state: &State, asked: &Asked, repo: &Repo, commit: &Commit, path: &str) -> Reply {
    let Some(entry) = commit.files.get(path) else { return no_entry(commit) };
    let location = if entry.lfs.is_some() {
        signed::url(state, repo, path, entry)
    } else {
        let asked_for = if asked.query.is_empty() {
            asked.path.clone()
        } else {
            format!("{}?{}", asked.path, asked.query)
        };
        format!(
            "/api/resolve-cache/{}/{}/{}/{}?{}=&etag={}",
            repo.kind.api(),
            repo.id,
            commit.sha,
            route::encode(path),
            route::encode(&asked_for),
            route::encode(&format!("\"{}\"", entry.etag())),
        )
    };
    let mut reply = Reply::redirect(if entry.lfs.is_some() { 302 } else { 307 }, &location)
        .with("X-Repo-Commit", &commit.sha)
        .with("Accept-Ranges", "bytes")
        .with("X-Linked-Size", &entry.bytes.to_string())
        .with("X-Linked-Etag", &format!("\"{}\"", entry.etag()));
    if let Some(lfs) = entry.lfs.as_ref().filter(|_| state.settings.advertises_xet) {
        let api = format!("http://{}/api/{}/{}", state.hub, repo.kind.api(), repo.id);
        let link = format!(
            "<{api}/xet-read-token/{}>; rel=\"xet-auth\", <http://{}/cas/v2/reconstructions/{}>; rel=\"xet-reconstruction-info\"",
            commit.sha, state.cdn, lfs.xet_hash
        );
        reply = reply
            .with("X-Xet-Hash", &lfs.xet_hash)
            .with(
                "X-Xet-Refresh-Route",
                &format!("/api/{}/{}/xet-read-token/{}", repo.kind.api(), repo.id, commit.sha),
            )
            .with("Link", &link);
    }
    reply
}

/// Where git files are redirected to.
pub(super) fn cached(asked: &Asked, commit: &Commit, path: &str) -> Reply {
    let Some(entry) = commit.files.get(path) else { return no_entry(commit) };
    let content =
        entry.lfs.as_ref().map_or_else(|| entry.content.clone(), |lfs| Content::from(lfs.pointer.as_str()));
    let etag = format!("\"{}\"", entry.oid);
    if asked.header(header::IF_NONE_MATCH).is_some_and(|known| known.contains(&etag)) {
        return Reply::new(304, media_type(path), "").with("ETag", &etag).with("X-Repo-Commit", &commit.sha);
    }
    serve(asked, path, content, &etag, First::Range)
        .with("X-Repo-Commit", &commit.sha)
        .with("Content-Disposition", &disposition(path))
        .with("Content-Security-Policy", "default-src 'none'; sandbox")
}

/// `/raw/`: what git holds, so of LFS the pointer; and never a 304.
pub(super) fn raw(asked: &Asked, commit: &Commit, path: &str) -> Reply {
    let Some(entry) = commit.files.get(path) else { return no_entry(commit) };
    let content =
        entry.lfs.as_ref().map_or_else(|| entry.content.clone(), |lfs| Content::from(lfs.pointer.as_str()));
    serve(asked, path, content, &format!("\"{}\"", entry.oid), First::Range)
        .with("X-Repo-Commit", &commit.sha)
        .with("Content-Type", "text/plain; charset=utf-8")
        .with("Content-Security-Policy", "default-src 'none'; sandbox")
}

/// The other origin: whoever has a URL that holds gets the bytes, and whoever shows a token gets none.
pub(super) fn cdn(state: &State, asked: &Asked) -> Reply {
    if asked.header(header::AUTHORIZATION).is_some() {
        let text =
            "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>";
        return Reply::new(400, "application/xml", text);
    }
    let Some(found) = signed::find(state, &asked.path) else {
        return Reply::new(404, "application/xml", "<Error><Code>NoSuchKey</Code></Error>");
    };
    if !signed::is_valid(state, &asked.path, &asked.query) {
        return Reply::new(403, "application/xml", "<Error><Code>AccessDenied</Code></Error>");
    }
    let Entry { content, lfs, .. } = &*found.entry;
    let hash = lfs.as_ref().map_or("", |lfs| &lfs.sha256);
    // As long as a sha256 is, and not that of the content.
    let etag = format!("\"{}\"", hex(&Sha256::digest(format!("cdn {hash}"))));
    let reply = serve(asked, &found.name, content.clone(), &etag, First::Coding);
    let disposition = asked.parameter("response-content-disposition").unwrap_or_default();
    reply.with("Content-Disposition", &disposition).with("Cache-Control", "public, max-age=31536000")
}

fn no_entry(commit: &Commit) -> Reply {
    Reply::error(404, Some("EntryNotFound"), "Entry not found").with("X-Repo-Commit", &commit.sha)
}

fn media_type(path: &str) -> &'static str {
    if path.ends_with(".json") {
        "application/json"
    } else if TEXT_ENDINGS.iter().any(|ending| path.ends_with(ending)) {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

fn disposition(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    // Quotes and what is not ASCII stand in the encoded form alone.
    let plain: String =
        name.chars().map(|c| if c.is_ascii_graphic() && c != '"' || c == ' ' { c } else { '_' }).collect();
    format!("inline; filename*=UTF-8''{}; filename=\"{plain}\";", route::encode(name))
}

/// What goes first for who accepts gzip and asks for a range of a text. The hub itself keeps to the range (a client that
/// always accepts gzip, and begins with `bytes=0-0`, works with it); the CDN is known to compress and to send everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Range,
    Coding,
}

/// Bytes by RFC 9110, with the trap of the real ones: text for who accepts gzip has no length and a weak tag.
fn serve(asked: &Asked, path: &str, content: Content, etag: &str, first: First) -> Reply {
    let len = content.len();
    let is_text = TEXT_ENDINGS.iter().any(|ending| path.ends_with(ending));
    let accepts = asked.header(header::ACCEPT_ENCODING).unwrap_or_default();
    let is_coded = first == First::Coding || asked.header(header::RANGE).is_none();
    if is_text && is_coded && accepts.split(',').any(|coding| coding.trim().starts_with("gzip")) && len > 0 {
        let plain = content.read(0, usize::try_from(len).expect("text is small"));
        let mut reply = Reply::new(200, media_type(path), gzip(&plain))
            .with("Content-Encoding", "gzip")
            .with("ETag", &format!("W/{etag}"))
            .with("Vary", "Accept-Encoding");
        reply.is_chunked = true;
        return reply;
    }
    let mut reply =
        Reply::new(200, media_type(path), content).with("ETag", etag).with("Accept-Ranges", "bytes");
    let range =
        asked.header(header::RANGE).filter(|_| !asked.meets(|fault| matches!(fault, FaultKind::NoRange)));
    match range.map(|range| window(range, len)) {
        None | Some(Window::Ignored) => {}
        Some(Window::Unsatisfiable) => {
            let mut refused = Reply::new(416, "application/xml", "<Error><Code>InvalidRange</Code></Error>");
            refused = refused.with("Content-Range", &format!("bytes */{len}")).with("ETag", etag);
            return refused;
        }
        Some(Window::Bytes(mut start, mut end)) => {
            for fault in &asked.faults {
                if let FaultKind::BadRange { by } = fault {
                    start = (start + by).min(len - 1);
                    end = (end + by).min(len);
                }
            }
            reply.status = 206;
            reply.span = (start, end);
            reply = reply.with("Content-Range", &format!("bytes {start}-{}/{len}", end - 1));
        }
    }
    reply
}

/// What a Range header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    Bytes(u64, u64),
    Unsatisfiable,
    /// Not understood, or several.
    Ignored,
}

fn window(range: &str, len: u64) -> Window {
    let Some((from, to)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Window::Ignored;
    };
    let bytes = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) if from <= to => (from, len.min(to.saturating_add(1))),
        (Ok(from), Err(_)) if to.is_empty() => (from, len),
        (Err(_), Ok(last)) if from.is_empty() => (len.saturating_sub(last), len),
        _ => return Window::Ignored,
    };
    if bytes.0 >= bytes.1 { Window::Unsatisfiable } else { Window::Bytes(bytes.0, bytes.1) }
}

/// A gzip stream (RFC 1952) of stored blocks: it is to be decoded, not to be small.
fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = plain.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).expect("cut to fit");
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(block);
    }
    out.extend(crc32(plain).to_le_bytes());
    out.extend((plain.len() as u32).to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_rfc_9110() {
        for (range, expected) in [
            ("bytes=0-0", Window::Bytes(0, 1)),
            ("bytes=2-", Window::Bytes(2, 10)),
            ("bytes=-3", Window::Bytes(7, 10)),
            ("bytes=-30", Window::Bytes(0, 10)),
            ("bytes=5-99", Window::Bytes(5, 10)),
            ("bytes=10-", Window::Unsatisfiable),
            ("bytes=-0", Window::Unsatisfiable),
            ("bytes=5-4", Window::Ignored),
            ("bytes=0-1,3-4", Window::Ignored),
            ("lines=0-1", Window::Ignored),
        ] {
            assert_eq!(window(range, 10), expected, "{range}");
        }
        assert_eq!(window("bytes=0-", 0), Window::Unsatisfiable);
    }

    #[test]
    fn the_checksum_is_that_of_gzip() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
