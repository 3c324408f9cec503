//! The hub's routes. Handlers translate between HTTP and the library, and decide nothing else.
//!
//! `/healthz` answers while the process lives; `/torrents` lists; `/torrent/{info hash}` is the `.torrent`,
//! `/magnet/{info hash}` the magnet link as text.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{Response, StatusCode};
use axum::routing::get;
use wtfs_proto::id::InfoHash;
use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::Metainfo;

use crate::library::Library;

type Shared = Arc<dyn Library>;

pub(crate) fn router(library: Shared) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/torrents", get(list))
        .route("/torrent/{info_hash}", get(torrent))
        .route("/magnet/{info_hash}", get(magnet))
        .with_state(library)
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", body)
}

async fn list(State(library): State<Shared>) -> Response<Body> {
    match serde_json::to_vec(&library.list()) {
        Ok(json) => respond(StatusCode::OK, "application/json", json),
        Err(error) => {
            tracing::error!(%error, "the list cannot be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the list cannot be written\n")
        }
    }
}

/// The torrent a path names. A `.torrent` behind the hash is allowed, for the sake of file names.
fn find(library: &Shared, name: &str) -> Result<(InfoHash, Arc<Metainfo>), Box<Response<Body>>> {
    let hash = name.strip_suffix(".torrent").unwrap_or(name).parse::<InfoHash>().map_err(|_| {
        Box::new(text(StatusCode::BAD_REQUEST, "expected an info hash of 40 hexadecimal digits\n"))
    })?;
    let metainfo = library.metainfo(hash).ok_or_else(|| {
        Box::new(text(StatusCode::NOT_FOUND, "no such torrent here, or its metadata is still missing\n"))
    })?;
    Ok((hash, metainfo))
}

async fn torrent(State(library): State<Shared>, Path(name): Path<String>) -> Response<Body> {
    let (hash, metainfo) = match find(&library, &name) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let mut response = respond(StatusCode::OK, "application/x-bittorrent", metainfo.to_bytes());
    // The hash and not the torrent's name: a header takes no text of strangers.
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{hash}.torrent\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    response
}

async fn magnet(State(library): State<Shared>, Path(name): Path<String>) -> Response<Body> {
    match find(&library, &name) {
        Ok((_, metainfo)) => text(StatusCode::OK, format!("{}\n", Magnet::from_metainfo(&metainfo))),
        Err(response) => *response,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;
    use wtfs_proto::metainfo::{InfoBuilder, MetainfoBuilder};

    use super::*;
    use crate::{Hub, Listed};

    #[derive(Debug, Default)]
    struct Shelf(HashMap<InfoHash, Arc<Metainfo>>);

    impl Library for Shelf {
        fn list(&self) -> Vec<Listed> {
            let listed = |(hash, metainfo): (&InfoHash, &Arc<Metainfo>)| Listed {
                info_hash: hash.to_string(),
                name: metainfo.info.name.clone(),
                total_bytes: metainfo.info.display_total(),
                pieces: metainfo.info.geometry.piece_count(),
                pieces_present: 0,
            };
            self.0.iter().map(listed).collect()
        }

        fn metainfo(&self, info_hash: InfoHash) -> Option<Arc<Metainfo>> {
            self.0.get(&info_hash).cloned()
        }
    }

    fn metainfo() -> Metainfo {
        let info = InfoBuilder::single_file("weights.bin", 100, 16_384).expect("a valid name");
        let info = info.finish(&[3; 20]).expect("a valid info");
        MetainfoBuilder::new(info).expect("a valid torrent").finish()
    }

    async fn fetch(path: &str) -> String {
        let metainfo = metainfo();
        let shelf = Shelf(HashMap::from([(metainfo.hashes.primary(), Arc::new(metainfo))]));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let hub = Hub::open(Arc::new(shelf));
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { hub.serve(listener, stop).await }
        });
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("received");
        stop.cancel();
        serving.await.expect("no panic").expect("ends well");
        String::from_utf8_lossy(&response).into_owned()
    }

    #[tokio::test]
    async fn a_torrent_is_listed_and_served_in_both_forms() {
        let metainfo = metainfo();
        let hash = metainfo.hashes.primary().to_string();
        let list = fetch("/torrents").await;
        assert!(list.contains(&hash) && list.contains("weights.bin"), "{list}");
        let torrent = fetch(&format!("/torrent/{hash}.torrent")).await;
        assert!(torrent.contains("application/x-bittorrent") && torrent.contains("weights.bin"), "{torrent}");
        let magnet = fetch(&format!("/magnet/{hash}")).await;
        assert!(magnet.contains(&format!("magnet:?xt=urn:btih:{hash}")), "{magnet}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_so() {
        assert!(fetch("/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch("/torrent/nonsense").await.starts_with("HTTP/1.1 400"));
        let absent = "0".repeat(40);
        assert!(fetch(&format!("/magnet/{absent}")).await.starts_with("HTTP/1.1 404"));
    }
}
