//! What every command that runs an engine does the same way: a runtime, a session, sources and peers from what was
//! typed, and where a torrent's data lies on disk. Maps the engine's errors to exit codes, once.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wtfs_proto::hf::HfSource;
use wtfs_proto::metainfo::{Layout, Metainfo};
use wtfs_torrent::http::{HttpClient, HttpConfig};
use wtfs_torrent::store::StoreError;
use wtfs_torrent::{AddError, AddOptions, NetworkPolicy, Session, Source, Torrent, resolve};

use crate::config::Settings;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::metrics::{self, Responder};
use crate::table::printable;

/// How long the end of a process may take after its work is done: a resolver thread that is stuck in DNS must not keep
/// it.
const RUNTIME_END: Duration = Duration::from_millis(500);

/// Runs a command's future on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("wtfs")
        .build()
        .context("the runtime cannot be started")?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(RUNTIME_END);
    outcome
}

/// Starts the engine, with as many files and connections as the system lets this process have.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Session> {
    raise_open_files();
    let opened = Session::open(settings.session.clone()).await;
    let session = opened.or_end(Exit::Failure, || "the engine cannot start".into())?;
    // Fails only when there is one already, and then that one is as good.
    let _first = CLIENT.set(session.http().clone());
    Ok(session)
}

/// Where peers reach this process, for the line that says that it is ready.
pub(crate) fn listening(session: &Session) -> String {
    match session.listening() {
        [] => "without a network".to_owned(),
        addrs => {
            let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            format!("listening on {}", addrs.join(" "))
        }
    }
}

/// Answers with counters where `--metrics` says, while the result lives.
pub(crate) async fn metrics(
    place: Option<&metrics::Place>,
    subject: metrics::Subject,
) -> anyhow::Result<Option<Responder>> {
    let Some(place) = place else { return Ok(None) };
    let opened = Responder::open(place, subject).await;
    opened.map(Some).or_end(Exit::Usage, || "--metrics: that place cannot be used".into())
}

/// Most shells and service managers give 1024 by default: too few for some hundred peers and open files at once.
pub(crate) fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    // `None` is no limit.
    if now.current.is_none() || now.current == now.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        Ok(()) => tracing::debug!(from = now.current, to = now.maximum, "more files may be open"),
        Err(error) => tracing::warn!(%error, limit = now.current, "the limit of open files stays"),
    }
}

/// Finds out what was typed as a SOURCE, fetching the `.torrent` where it is a URL.
pub(crate) async fn source(typed: &str) -> anyhow::Result<Source> {
    if let Some(hint) = repository_hint(typed) {
        return Err(ended(Exit::Source, format!("{} is no torrent: {hint}", printable(typed))));
    }
    resolve::source(typed, http_client()?).await.map_err(|error| ended(Exit::Source, error.to_string()))
}

/// What to type in place of something that leads to repositories rather than to a torrent.
fn repository_hint(typed: &str) -> Option<String> {
    let typed = typed.trim();
    let (scheme, rest) = typed.split_once("://")?;
    let is = |other: &str| scheme.eq_ignore_ascii_case(other);
    if is("hf") {
        return Some("`wtfs mount` and `wtfs get` take repositories".to_owned());
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !(is("http") || is("https")) || path.ends_with(".torrent") {
        return None;
    }
    if host.eq_ignore_ascii_case("huggingface.co") {
        return Some(match HfSource::parse(&format!("hf://{}", path.trim_end_matches('/'))) {
            Ok(source) if source.path.is_none() => format!("for the repository write {source}"),
            _ => "for a repository write hf://OWNER/NAME[@REVISION][/PATH]".to_owned(),
        });
    }
    path.is_empty().then(|| {
        format!(
            "it has no path; a hub's repositories are mounted as {}/hf, its torrents stand at {0}/torrents",
            printable(typed.trim_end_matches('/'))
        )
    })
}

/// Says so when nothing was named that could lead to anybody who has it: others may still come to us, but few do.
pub(crate) fn warn_of_nobody(settings: &Settings, source: &Source, options: &AddOptions) {
    let has_servers = match source {
        Source::Metainfo(it) => {
            [it.announce.is_empty(), it.url_list.is_empty(), it.http_seeds.is_empty()].contains(&false)
        }
        Source::Magnet(it) => {
            [&it.trackers, &it.web_seeds, &it.exact_sources].iter().any(|urls| !urls.is_empty())
                || !it.peers.is_empty()
        }
    };
    let is_online = settings.session.network == NetworkPolicy::Online;
    if is_online && !has_servers && options.peers.is_empty() && options.trackers.is_empty() {
        let hint = "nobody is known to ask for it: name a tracker with --tracker, or a peer with --peer";
        match source {
            Source::Metainfo(it) => tracing::warn!(torrent = printable(&it.info.name), "{hint}"),
            Source::Magnet(it) => tracing::warn!(torrent = %it.hashes.primary(), "{hint}"),
        }
    }
}

/// One client for all sources, the engine's where there is one: making one reads the machine's certificates from disk.
static CLIENT: OnceLock<HttpClient> = OnceLock::new();

fn http_client() -> anyhow::Result<&'static HttpClient> {
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    let client = HttpClient::new(HttpConfig::default()).context("HTTP cannot be set up")?;
    Ok(CLIENT.get_or_init(|| client))
}

/// As [`source`], for commands that cannot do with less than the whole metainfo.
pub(crate) async fn metainfo(typed: &str) -> anyhow::Result<Box<Metainfo>> {
    match source(typed).await? {
        Source::Metainfo(metainfo) => Ok(metainfo),
        Source::Magnet(_) => Err(ended(
            Exit::Source,
            "a magnet link does not hold the hashes to check data with; give the .torrent, or use `wtfs get`, which checks",
        )),
    }
}

/// The addresses of `--peer`.
pub(crate) async fn peers(typed: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    let mut peers = Vec::new();
    for peer in typed {
        let addrs = tokio::net::lookup_host(peer.as_str())
            .await
            .or_end(Exit::Usage, || format!("--peer {peer}: give HOST:PORT, with a host that resolves"))?;
        peers.extend(addrs);
    }
    Ok(peers)
}

/// `source` with the web seeds of `--web-seed` besides its own.
pub(crate) fn with_web_seeds(mut source: Source, typed: &[String]) -> anyhow::Result<Source> {
    let seeds = match &mut source {
        Source::Metainfo(metainfo) => &mut metainfo.url_list,
        Source::Magnet(magnet) => &mut magnet.web_seeds,
    };
    for url in typed {
        let is_http = url.split_once("://").is_some_and(|(scheme, rest)| {
            (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")) && !rest.is_empty()
        });
        if !is_http {
            return Err(ended(
                Exit::Usage,
                format!("--web-seed {}: give an http or https URL", printable(url)),
            ));
        }
        if !seeds.contains(url) {
            seeds.push(url.clone());
        }
    }
    Ok(source)
}

/// How to add `source`, with the peers of `--peer` and the trackers of the configuration. A private torrent's swarm is
/// that of its own trackers alone (BEP 27), so none is added to it.
pub(crate) fn add_options(settings: &Settings, source: &Source, peers: &[SocketAddr]) -> AddOptions {
    let is_private = matches!(source, Source::Metainfo(metainfo) if metainfo.info.is_private);
    if is_private && !settings.trackers.is_empty() {
        tracing::warn!("the torrent is private: only its own trackers are asked");
    }
    AddOptions {
        peers: peers.to_vec(),
        trackers: if is_private { Vec::new() } else { settings.trackers.clone() },
        ..AddOptions::default()
    }
}

/// Adds a torrent to the session.
pub(crate) async fn add(session: &Session, source: Source, options: AddOptions) -> anyhow::Result<Torrent> {
    let name = match &source {
        Source::Metainfo(metainfo) => metainfo.info.name.clone(),
        Source::Magnet(magnet) => magnet.hashes.primary().to_string(),
    };
    session.add(source, options).await.map_err(|error| {
        let hint = match &error {
            AddError::Duplicate(_) => "; name each source once",
            AddError::Store(StoreError::Locked { .. }) => "; end that process, or use another --cache-dir",
            _ => "",
        };
        ended(Exit::Source, format!("{} cannot be used: {error}{hint}", printable(&name)))
    })
}

/// The directory in which the torrent's file or directory stands, for data typed as that directory or as the file or
/// directory itself.
pub(crate) fn data_dir(metainfo: &Metainfo, typed: &Path) -> anyhow::Result<PathBuf> {
    let name = &metainfo.info.name;
    let typed = std::path::absolute(typed).with_context(|| typed.display().to_string())?;
    let fits = |path: &Path| match metainfo.info.layout {
        Layout::SingleFile => path.is_file(),
        Layout::Directory => path.is_dir(),
    };
    if fits(&typed.join(name)) {
        return Ok(typed);
    }
    let is_named = typed.file_name().is_some_and(|last| last == name.as_str());
    match typed.parent() {
        Some(parent) if is_named && fits(&typed) => Ok(parent.to_owned()),
        _ if !typed.exists() => {
            Err(ended(Exit::BadData, format!("there is no {}; say where the data is", typed.display())))
        }
        _ => Err(ended(
            Exit::BadData,
            format!(
                "{} does not hold {name:?}, which is what the torrent calls its data; give that file or directory, or the \
                 directory it is in, and give it that name if it has another",
                typed.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use wtfs_proto::metainfo::{FileEntry, InfoBuilder, MetainfoBuilder};
    use wtfs_proto::path::TorrentPath;

    use super::*;
    use crate::exit::exit_of;

    fn directory_torrent() -> Metainfo {
        let mut info = InfoBuilder::directory("model", 16 << 10);
        info.push(FileEntry::new(TorrentPath::from_components(["a"]).expect("a path"), 1));
        MetainfoBuilder::new(info.finish(&[0; 20]).expect("built")).expect("valid").finish()
    }

    #[test]
    fn data_is_found_from_above_and_from_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("model")).expect("made");
        let metainfo = directory_torrent();
        for typed in [dir.path().to_owned(), dir.path().join("model")] {
            assert_eq!(data_dir(&metainfo, &typed).expect("found"), dir.path());
        }
    }

    #[test]
    fn data_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("model"), "a file, not a directory").expect("written");
        let error = data_dir(&directory_torrent(), dir.path()).expect_err("refused");
        assert_eq!(exit_of(&error), Exit::BadData);
        assert!(error.to_string().contains("\"model\""), "{error}");
    }

    #[test]
    fn what_leads_to_repositories_is_answered_with_what_to_type() {
        for (typed, hint) in [
            ("hf://org/name", "`wtfs mount` and `wtfs get` take"),
            ("https://huggingface.co/org/name/", "write hf://org/name"),
            ("https://huggingface.co/datasets/org/name", "write hf://datasets/org/name"),
            ("https://HuggingFace.co/org/name/tree/main", "hf://OWNER/NAME"),
            ("http://hub:8080", "http://hub:8080/hf"),
        ] {
            let said = repository_hint(typed).unwrap_or_default();
            assert!(said.contains(hint), "{typed}: {said}");
        }
        for torrent in
            ["x.torrent", "magnet:?xt=x", "https://huggingface.co/a/b/resolve/main/x.torrent", "http://h/x"]
        {
            assert_eq!(repository_hint(torrent), None, "{torrent}");
        }
    }

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        raise_open_files();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }

    #[test]
    fn typed_web_seeds_come_after_the_torrents_own_and_are_urls() {
        let source = || Source::Metainfo(Box::new(directory_torrent()));
        let typed = ["http://a/".to_owned(), "HTTPS://b/x".to_owned(), "http://a/".to_owned()];
        let Source::Metainfo(seeded) = with_web_seeds(source(), &typed).expect("taken") else { panic!() };
        assert_eq!(seeded.url_list, typed[..2]);
        for url in ["ftp://a/", "a/b", "http://"] {
            let error = with_web_seeds(source(), &[url.to_owned()]).expect_err("refused");
            assert_eq!(exit_of(&error), Exit::Usage, "{url}");
        }
    }

    #[test]
    fn a_peer_without_a_port_is_a_usage_error() {
        let error = block_on(async { peers(&["10.0.0.1".into()]).await }).expect_err("refused");
        assert_eq!(exit_of(&error), Exit::Usage);
        let found =
            block_on(async { peers(&["10.0.0.1:6881".into(), "[::1]:1".into()]).await }).expect("parsed");
        assert_eq!(found.len(), 2);
    }
}
