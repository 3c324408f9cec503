//! From what was typed, the environment and the configuration files to settings that are complete and checked.
//!
//! The only place that reads the environment: libraries are told everything in their own config structs. A flag wins
//! over `WTFS_*`, that over `$XDG_CONFIG_HOME/wtfs/config.toml`, that over the files of `$XDG_CONFIG_DIRS`, and those
//! over the defaults. docs/config.md lists every key; a test holds it to [`Layer`].

mod directories;
mod hub;
mod hugging_face;
mod ice;
mod layer;
mod printed;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use wtfs_proto::announce::TrackerKind;
use wtfs_torrent::http::PrivateHosts;
use wtfs_torrent::{ListenConfig, NetworkPolicy, PortPolicy, SessionConfig, UploadPolicy, WebRtcPolicy};

pub(crate) use self::directories::Directories;
pub(crate) use self::hub::HubLayer;
pub(crate) use self::hugging_face::HuggingFace;
pub(crate) use self::layer::Layer;
pub(crate) use self::printed::printed;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::notify::Notify;
use crate::table::printable;
use crate::units::{ByteSize, DiskShare};

/// The process's environment as it was at start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    pub(crate) fn read() -> Self {
        let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        // A mount made at boot runs without HOME; the user's entry in the password file says it too.
        if let Some(home) = std::env::home_dir() {
            variables.entry("HOME".into()).or_insert_with(|| home.into());
        }
        Self(variables)
    }

    /// A variable's value; an empty one counts as not set.
    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(&OsString::from(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn text(&self, name: &str) -> anyhow::Result<Option<String>> {
        let Some(value) = self.path(name) else { return Ok(None) };
        let text = value.into_os_string().into_string();
        text.map(Some)
            .map_err(|value| ended(Exit::Usage, format!("{name} is not UTF-8: {}", value.display())))
    }

    fn parse<T>(&self, name: &str) -> anyhow::Result<Option<T>>
    where
        T: std::str::FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).or_end(Exit::Usage, || format!("{name}={text}"))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Everything the commands need to know, complete and checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) directories: Directories,
    /// What the engine is told.
    pub(crate) session: SessionConfig,
    /// Announced to beside a torrent's own trackers.
    pub(crate) trackers: Vec<String>,
    pub(crate) allow_other: bool,
    pub(crate) hub: HubLayer,
    /// How Hugging Face is reached as a client.
    pub(crate) hugging_face: HuggingFace,
    /// Who is to be told that the work has begun.
    pub(crate) notify: Notify,
}

/// A size in bytes, for a share of the disk that `dir` stands on or will stand on.
fn disk_bytes(share: DiskShare, dir: &Path) -> anyhow::Result<u64> {
    let percent = match share {
        DiskShare::Bytes(bytes) => return Ok(bytes),
        DiskShare::Percent(percent) => percent,
    };
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let disk = rustix::fs::statvfs(there)
        .with_context(|| format!("the size of the disk of {} cannot be found out", dir.display()))?;
    let bytes = u128::from(disk.f_blocks) * u128::from(disk.f_frsize) * u128::from(percent) / 100;
    Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// `PORT`, `ADDRESS`, `ADDRESS:PORT` or `[V6]:PORT`. A port that was asked for is taken or the command fails.
fn listen(typed: &str) -> anyhow::Result<ListenConfig> {
    let exact = |port, addrs| ListenConfig { port, port_policy: PortPolicy::Exact, addrs };
    let everywhere = ListenConfig::default();
    if let Ok(port) = typed.parse() {
        return Ok(exact(port, everywhere.addrs));
    }
    if let Ok(addr) = typed.parse::<SocketAddr>() {
        return Ok(exact(addr.port(), vec![addr.ip()]));
    }
    if let Ok(addr) = typed.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(ListenConfig { addrs: vec![addr], ..everywhere });
    }
    Err(ended(Exit::Usage, format!("`{typed}` is not PORT, ADDRESS or ADDRESS:PORT to listen on")))
}

/// What is known before any command runs: the layers above the defaults, still to be resolved.
#[derive(Debug)]
pub(crate) struct Loaded {
    directories: Directories,
    layer: Layer,
    hugging_face: HuggingFace,
    notify: Notify,
    /// Log filter of `RUST_LOG` or the configuration.
    pub(crate) log: Option<String>,
}

impl Loaded {
    /// Reads the configuration files and the environment.
    ///
    /// # Errors
    /// A file that cannot be read or has an unknown key, a variable that does not parse. A file that is not there is
    /// an error only when it was asked for by name.
    pub(crate) fn read(environment: &Environment, config_file: Option<&Path>) -> anyhow::Result<Self> {
        let directories = Directories::of(environment);
        let mut layer = Layer::from_environment(environment)?;
        match config_file.map(Path::to_path_buf).or_else(|| environment.path("WTFS_CONFIG")) {
            Some(file) => {
                let wanted = read_file(&file)?.ok_or_else(|| {
                    ended(Exit::Usage, format!("{}: there is no such file", file.display()))
                })?;
                layer = layer.over(wanted);
            }
            None => {
                for file in directories.config_files() {
                    if let Some(lower) = read_file(&file)? {
                        layer = layer.over(lower);
                    }
                }
            }
        }
        let log = environment.text("RUST_LOG")?.or_else(|| layer.log.clone());
        let notify = Notify::new(environment.path("NOTIFY_SOCKET"));
        let hugging_face = HuggingFace::from_environment(environment)?;
        Ok(Self { directories, layer, hugging_face, notify, log })
    }

    /// Everything that was set somewhere, with what was typed on top; neither filled in nor checked.
    pub(crate) fn layer_under(self, typed: Layer) -> Layer {
        typed.over(self.layer)
    }

    /// Puts what was typed on top, fills in the defaults and checks the result.
    pub(crate) fn resolve(self, typed: Layer) -> anyhow::Result<Settings> {
        let layer = typed.over(self.layer);
        let directories = self.directories;
        let cache_dir = match layer.cache_dir {
            Some(dir) => directories.expand(&dir)?,
            None => directories.cache()?,
        };
        let defaults = SessionConfig::new(cache_dir);
        let limit = |limit: Option<ByteSize>, key: &str| match limit {
            Some(size) if size.0 == 0 => Err(ended(
                Exit::Usage,
                format!(
                    "{key} must be more than 0; leave it out for no limit, or use --no-upload to send nothing"
                ),
            )),
            other => Ok(other.map(|size| size.0)),
        };
        let positive = |value: Option<usize>, default: usize, key: &str| match value.unwrap_or(default) {
            0 => Err(ended(Exit::Usage, format!("{key} must be at least 1"))),
            value => Ok(value),
        };
        let read_timeout = layer.read_timeout.map_or(defaults.read_timeout, |span| span.0);
        if read_timeout.is_zero() {
            return Err(ended(Exit::Usage, "read_timeout must be more than 0"));
        }
        let memory_bytes = layer.memory.map_or(defaults.memory_bytes, |size| size.0);
        if memory_bytes < MEMORY_MIN {
            return Err(ended(Exit::Usage, "memory must be at least 1M"));
        }
        let cache_bytes = layer.cache_size.map(|share| disk_bytes(share, &defaults.cache_dir)).transpose()?;
        if cache_bytes == Some(0) {
            return Err(ended(Exit::Usage, "cache_size must be more than 0; leave it out for no limit"));
        }
        let password_file = layer.turn_password_file.map(|file| directories.expand(&file)).transpose()?;
        let ice_servers = ice::servers(layer.ice_servers.as_deref(), password_file.as_deref())?;
        let relay = ice::relay(layer.ice_relay_only, ice_servers.as_deref())?;
        let session = SessionConfig {
            cache_bytes,
            min_free_bytes: layer.min_free.map_or(defaults.min_free_bytes, |size| size.0),
            network: if layer.offline.unwrap_or(false) {
                NetworkPolicy::Offline
            } else {
                NetworkPolicy::Online
            },
            listen: layer.listen.map_or_else(|| Ok(ListenConfig::default()), |typed| listen(&typed))?,
            max_peers: positive(layer.max_peers, defaults.max_peers, "max_peers")?,
            max_peers_per_torrent: positive(
                layer.max_peers_per_torrent,
                defaults.max_peers_per_torrent,
                "max_peers_per_torrent",
            )?,
            max_half_open: positive(layer.max_half_open, defaults.max_half_open, "max_half_open")?,
            upload_limit: limit(layer.upload_limit, "upload_limit")?,
            download_limit: limit(layer.download_limit, "download_limit")?,
            memory_bytes,
            read_timeout,
            upload: if layer.upload.unwrap_or(true) { UploadPolicy::On } else { UploadPolicy::Off },
            private_hosts: if layer.allow_private_hosts.unwrap_or(false) {
                PrivateHosts::Any
            } else {
                PrivateHosts::NamedOnly
            },
            webrtc: if layer.webrtc.unwrap_or(true) { WebRtcPolicy::On } else { WebRtcPolicy::Off },
            ice_servers,
            relay,
            ..defaults
        };
        let trackers = layer.trackers.unwrap_or_default();
        trackers.iter().try_for_each(|url| check_tracker(url))?;
        Ok(Settings {
            session,
            trackers,
            allow_other: layer.allow_other.unwrap_or(false),
            hub: layer.hub,
            hugging_face: self.hugging_face,
            notify: self.notify,
            directories,
        })
    }
}

/// Refuses what no tracker can be at, since a typing error would else be found only when no peer comes.
pub(crate) fn check_tracker(url: &str) -> anyhow::Result<()> {
    let has_host = url.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with('/'));
    if TrackerKind::of(url) == TrackerKind::Unknown || !has_host {
        let url = printable(url);
        return Err(ended(
            Exit::Usage,
            format!("{url} is not the URL of a tracker, such as udp://tracker.example.org:6969/announce"),
        ));
    }
    Ok(())
}

/// Less than a few pieces of the usual sizes leaves nothing to read ahead with.
const MEMORY_MIN: u64 = 1 << 20;

fn read_file(path: &Path) -> anyhow::Result<Option<Layer>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).context(format!("{} cannot be read", path.display())),
    };
    let layer = toml::from_str(&text).or_end(Exit::Usage, || format!("{} cannot be used", path.display()))?;
    Ok(Some(layer))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;
    use crate::units::TimeSpan;

    const HOME: (&str, &str) = ("HOME", "/home/ada");

    fn loaded(environment: Environment) -> Loaded {
        Loaded::read(&environment, None).expect("nothing to complain about")
    }

    #[test]
    fn what_no_tracker_can_be_at_is_refused() {
        for url in ["udp://t:1/announce", "https://t/announce", "wss://t"] {
            assert!(check_tracker(url).is_ok(), "{url}");
        }
        for url in ["", "t", "t:6969", "gopher://t", "http://", "udp:///announce"] {
            assert!(check_tracker(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.toml");
        fs::write(&file, "max_peers = 7\nmemory = \"64M\"\nread_timeout = 5\n").expect("written");
        let environment = Environment::from([HOME, ("WTFS_MAX_PEERS", "8"), ("WTFS_MEMORY", "128M")]);
        let loaded = Loaded::read(&environment, Some(&file)).expect("read");
        let typed = Layer { max_peers: Some(9), ..Layer::default() };
        let settings = loaded.resolve(typed).expect("resolved");
        assert_eq!(settings.session.max_peers, 9);
        assert_eq!(settings.session.memory_bytes, 128 << 20);
        assert_eq!(settings.session.read_timeout, Duration::from_secs(5));
    }

    #[test]
    fn the_users_file_wins_over_the_systems() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        for (name, text) in [("user", "max_peers = 1\n"), ("system", "max_peers = 2\nmax_half_open = 3\n")] {
            fs::create_dir_all(dir.path().join(name).join("wtfs")).expect("made");
            fs::write(dir.path().join(name).join("wtfs/config.toml"), text).expect("written");
        }
        let (user, system) = (at("user"), at("system"));
        let environment = Environment::from([
            HOME,
            ("XDG_CONFIG_HOME", &user),
            ("XDG_CONFIG_DIRS", &format!("/nowhere:{system}")),
        ]);
        let settings = loaded(environment).resolve(Layer::default()).expect("resolved");
        assert_eq!((settings.session.max_peers, settings.session.max_half_open), (1, 3));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.toml");
        fs::write(&file, "cachedir = \"/x\"\n").expect("written");
        let error = Loaded::read(&Environment::from([HOME]), Some(&file)).expect_err("refused");
        assert!(format!("{error:#}").contains("cachedir"), "{error:#}");
        assert_eq!(crate::exit::exit_of(&error), Exit::Usage);
    }

    #[test]
    fn a_file_asked_for_by_name_must_be_there() {
        let missing = Path::new("/nonexistent/wtfs.toml");
        let error = Loaded::read(&Environment::from([HOME]), Some(missing)).expect_err("refused");
        assert!(error.to_string().contains("/nonexistent/wtfs.toml"));
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        let zero = Some(ByteSize(0));
        for layer in [
            Layer { upload_limit: zero, ..Layer::default() },
            Layer { cache_size: Some(DiskShare::Bytes(0)), ..Layer::default() },
            Layer { memory: Some(ByteSize(1 << 10)), ..Layer::default() },
            Layer { max_peers: Some(0), ..Layer::default() },
            Layer { read_timeout: Some(TimeSpan(Duration::ZERO)), ..Layer::default() },
            Layer { listen: Some("all".into()), ..Layer::default() },
            Layer { ice_servers: Some(vec!["stun.example.org".into()]), ..Layer::default() },
            Layer { ice_relay_only: Some(true), ..Layer::default() },
        ] {
            let error = loaded(Environment::from([HOME])).resolve(layer).expect_err("refused");
            assert_eq!(crate::exit::exit_of(&error), Exit::Usage);
        }
    }

    #[test]
    fn a_share_of_the_disk_is_counted_before_the_cache_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let bytes =
            |percent| disk_bytes(DiskShare::Percent(percent), &dir.path().join("not/yet")).expect("a size");
        assert!(bytes(50) > 0 && bytes(100) / 2 >= bytes(50), "{} {}", bytes(50), bytes(100));
        assert_eq!(disk_bytes(DiskShare::Bytes(7), dir.path()).expect("a size"), 7);
    }

    #[test]
    fn without_home_the_message_says_what_to_give() {
        let error = loaded(Environment::default()).resolve(Layer::default()).expect_err("refused");
        assert!(error.to_string().contains("--cache-dir"), "{error}");
    }

    #[test]
    fn an_address_to_listen_on_is_read_in_each_form() {
        let read = |typed: &str| {
            let config = listen(typed).expect("an address");
            (config.port, config.port_policy, config.addrs)
        };
        let everywhere = ListenConfig::default();
        assert_eq!(read("7000"), (7000, PortPolicy::Exact, everywhere.addrs.clone()));
        assert_eq!(read("127.0.0.1:1"), (1, PortPolicy::Exact, vec![Ipv4Addr::LOCALHOST.into()]));
        assert_eq!(read("[::1]:2"), (2, PortPolicy::Exact, vec![Ipv6Addr::LOCALHOST.into()]));
        assert_eq!(read("::1"), (everywhere.port, everywhere.port_policy, vec![Ipv6Addr::LOCALHOST.into()]));
    }
}
