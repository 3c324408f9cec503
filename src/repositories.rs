//! What every command that reads Hugging Face repositories does the same way: what was typed as one, whom to ask, and
//! how what goes wrong ends the command.

use tokio::runtime::Handle;
use wtfs_mount::{HfTree, Reach, RepoError, Repositories, RepositoriesConfig, SwarmConfig};
use wtfs_proto::hf::{HfSource, Revision, SourceError};
use wtfs_torrent::hf::{Upstream, UpstreamConfig};
use wtfs_torrent::{NetworkPolicy, Session};

use crate::cli::HubFlags;
use crate::config::Settings;
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::progress::Show;
use crate::table::printable;

mod collection;
mod hubs;

pub(crate) use collection::{Collection, Root};
pub(crate) use hubs::Hubs;

/// What the whole namespace of the origin is typed as.
const NAMESPACE: &str = "hf://";

/// Repositories that were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// The hub whose whole namespace is meant, as `http://hub:8080/hf`.
    pub(crate) namespace_of: Option<String>,
    /// Each that was named.
    pub(crate) named: Vec<HfSource>,
    /// Names stand below `org/repo`, not at the top.
    pub(crate) is_namespace: bool,
}

impl Typed {
    /// Reads SOURCEs; `None` when they are torrents.
    ///
    /// # Errors
    /// One that is meant as a repository and names none, or torrents and repositories together.
    pub(crate) fn of(sources: &[String]) -> anyhow::Result<Option<Self>> {
        let mut typed = Self { namespace_of: None, named: Vec::new(), is_namespace: false };
        let mut torrents = 0;
        for source in sources {
            if source.trim_end_matches('/').eq_ignore_ascii_case(NAMESPACE.trim_end_matches('/')) {
                typed.is_namespace = true;
            } else if HfSource::is_meant_by(source) {
                typed.named.push(HfSource::parse(source).map_err(|error| not_a_source(source, &error))?);
            } else if is_hub(source) {
                typed.is_namespace = true;
                if typed.namespace_of.replace(source.trim_end_matches('/').to_owned()).is_some() {
                    return Err(ended(
                        Exit::Usage,
                        "name one hub; mount the other on a directory of its own",
                    ));
                }
            } else {
                torrents += 1;
            }
        }
        if !typed.is_namespace && typed.named.is_empty() {
            return Ok(None);
        }
        if torrents > 0 {
            let text = "torrents and repositories do not go into one mount; give each a directory of its own";
            return Err(ended(Exit::Usage, text));
        }
        typed.is_namespace |= typed.named.len() > 1;
        if typed.is_namespace && typed.named.iter().any(|source| source.path.is_some()) {
            let text = "a path in a repository can be mounted alone only; leave the path away";
            return Err(ended(Exit::Usage, text));
        }
        Ok(Some(typed))
    }
}

/// The address of a hub's namespace ends with `/hf`; that of a .torrent does not.
fn is_hub(source: &str) -> bool {
    let rest = source
        .split_once("://")
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"));
    rest.is_some_and(|(_, rest)| {
        rest.trim_end_matches('/')
            .split_once('/')
            .is_some_and(|(_, path)| path == "hf" || path.ends_with("/hf"))
    })
}

/// Repositories as the hubs that were named have them, and those hubs.
///
/// # Errors
/// An address that is none, or a token that cannot be used.
pub(crate) async fn open(
    flags: &HubFlags,
    typed_peers: &[String],
    namespace_of: Option<&str>,
    settings: &Settings,
    session: &Session,
    show: Show,
) -> anyhow::Result<(Repositories, Hubs)> {
    let peers = engine::peers(typed_peers).await?;
    let hugging_face = &settings.hugging_face;
    let typed = flags.hf_endpoint.as_deref();
    let mut hubs = Vec::new();
    let mut add = |config: UpstreamConfig| -> anyhow::Result<()> {
        let allowed_hosts = flags.allow_upstream_hosts.clone();
        let endpoint = config.endpoint.clone();
        let hub = Upstream::new(session.http().clone(), UpstreamConfig { allowed_hosts, ..config });
        hubs.push(hub.or_end(Exit::Usage, || format!("the hub {}", printable(&endpoint)))?);
        Ok(())
    };
    if let Some(hub) = namespace_of {
        add(UpstreamConfig::at(hub))?;
    }
    if let Some(hub) = &flags.hub {
        add(UpstreamConfig::at(hub_address(hub)))?;
    }
    // A hub's own namespace is what that hub has: nobody else is asked unless he is named.
    if namespace_of.is_none() || typed.is_some() {
        let endpoint = hugging_face.endpoint(typed);
        add(match hugging_face.is_named(typed) {
            true => UpstreamConfig::at(endpoint),
            false => UpstreamConfig { endpoint, ..UpstreamConfig::default() },
        })?;
    }
    let reach = match settings.session.network {
        NetworkPolicy::Online => Reach::Online,
        NetworkPolicy::Offline => Reach::Offline,
    };
    let dir = settings.session.cache_dir.join("hf").join("names");
    // A hub that was named for it makes torrents; where repositories come from does not.
    let swarms = (namespace_of.is_some() || flags.hub.is_some()).then(|| hubs.first().cloned()).flatten();
    let trackers = settings.trackers.clone();
    let swarms = swarms.map(|hub| SwarmConfig { hub, peers, trackers });
    let asked = if reach == Reach::Online { hubs.clone() } else { Vec::new() };
    let config = RepositoriesConfig { hubs, token: hugging_face.token()?, reach, dir, swarms };
    Ok((Repositories::open(config, session, Handle::current()), Hubs::new(asked, show)))
}

/// `http://hub:8080` is what its users know; its repositories are at `/hf`.
fn hub_address(typed: &str) -> String {
    let typed = typed.trim_end_matches('/');
    if is_hub(typed) { typed.to_owned() } else { format!("{typed}/hf") }
}

/// Finds out what a repository is, so that it shows.
///
/// # Errors
/// Why it cannot be used, with what to do.
pub(crate) async fn pin(tree: &HfTree, source: &HfSource) -> anyhow::Result<Revision> {
    let revision = source.revision.clone().unwrap_or_else(Revision::main);
    let pinned = tree.pin(source.repo.clone(), revision.clone()).await;
    pinned.map_err(|error| refusal(&error))?;
    Ok(revision)
}

/// How a command ends when what was meant as a repository is none.
fn not_a_source(typed: &str, error: &SourceError) -> anyhow::Error {
    let shape = "hf://[datasets/|spaces/]OWNER/NAME[@REVISION][/PATH]";
    ended(Exit::Usage, format!("{}: {error}; write {shape}", printable(typed)))
}

/// How a command ends because of a repository.
pub(crate) fn refusal(error: &RepoError) -> anyhow::Error {
    ended(Exit::Source, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::exit_of;

    fn typed(sources: &[&str]) -> anyhow::Result<Option<Typed>> {
        let sources: Vec<String> = sources.iter().map(|source| (*source).to_owned()).collect();
        Typed::of(&sources)
    }

    #[test]
    fn repositories_hubs_and_torrents_are_told_apart() {
        for torrents in
            [&["a.torrent"][..], &["http://h/x.torrent", "magnet:?xt=x"], &[], &["http://h/hf.torrent"]]
        {
            assert_eq!(typed(torrents).expect("read"), None, "{torrents:?}");
        }
        let one = typed(&["hf://org/repo@v1/onnx"]).expect("read").expect("a repository");
        assert!(!one.is_namespace && one.named[0].path.is_some());
        for namespace in
            [&["hf://"][..], &["hf://a/b", "hf://c/d"], &["http://hub:8080/hf/"], &["HTTPS://h/x/hf"]]
        {
            assert!(typed(namespace).expect("read").expect("repositories").is_namespace, "{namespace:?}");
        }
        let hub = typed(&["http://hub:8080/hf/"]).expect("read").expect("repositories");
        assert_eq!(hub.namespace_of.as_deref(), Some("http://hub:8080/hf"));
    }

    #[test]
    fn what_cannot_go_into_one_mount_is_refused() {
        for wrong in [
            &["hf://a/b", "x.torrent"][..],
            &["hf://a/../b"],
            &["hf://a/b/c", "hf://c/d"],
            &["http://h/hf", "http://g/hf"],
        ] {
            assert_eq!(exit_of(&typed(wrong).expect_err("refused")), Exit::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn a_hub_is_named_with_or_without_its_path() {
        for (text, address) in [
            ("http://hub:8080", "http://hub:8080/hf"),
            ("http://hub:8080/", "http://hub:8080/hf"),
            ("http://hub/x/hf", "http://hub/x/hf"),
        ] {
            assert_eq!(hub_address(text), address);
        }
    }
}
