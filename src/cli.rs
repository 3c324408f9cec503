//! What was typed: the shape of the command line, with no side effects and no defaults that depend on anything.
//!
//! What it means is worked out in `config.rs` and the command's own file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{HubLayer, Layer};
use crate::exit;
use crate::logging::AccessLines;
use crate::metrics;
use crate::units::{ByteSize, DiskShare, TimeSpan};

#[derive(Debug, Parser)]
#[command(
    name = "wtfs",
    version,
    about = "Torrents and Hugging Face repositories as ordinary directories: a read fetches just what it touches.",
    after_help = exit::TABLE,
    after_long_help = exit::TABLE,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
    /// Read this configuration file instead of the usual ones
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set by `--daemon` on the process it leaves behind: the parent waits for a line on its standard output
    #[arg(long, hide = true)]
    pub(crate) report_to_parent: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Verbosity {
    /// Log errors only, and show no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log more: -v what happens, -vv each peer, -vvv each block
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mount torrents or Hugging Face repositories as a read-only directory
    Mount(Mount),
    /// Add torrents or repositories to a running mount
    Add(Add),
    /// Take a torrent out of a running mount
    Remove(Remove),
    /// Keep files of a mount on this machine, whatever the cache's size says
    Pin(Pin),
    /// Let files that were pinned be given up again
    Unpin(Pin),
    /// Fetch files of a mount, or parts of them, before they are read
    Prefetch(Prefetch),
    /// Take a mount away, a stale one too
    Unmount(Unmount),
    /// Show what the running mounts, seeds and downloads do
    Status(Status),
    /// Download a torrent or a Hugging Face repository, and verify it
    Get(Get),
    /// Serve a torrent's data to others
    Seed(Seed),
    /// Run a hub: tracker, web seed, torrents of shared directories, cache of Hugging Face
    Serve(Serve),
    /// Make a .torrent of a file or directory
    Create(Create),
    /// Show what a .torrent or magnet link says, without asking peers or trackers
    Info(Info),
    /// Check data on disk against a torrent
    Verify(Verify),
    /// Show the main job on this machine alone: make, seed, mount, read, compare
    Demo(Demo),
    /// Look whether this machine has what mounting, seeding and downloading need
    Doctor(Doctor),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the manual page of a command, or write those of all commands
    Man(Man),
    /// The reading half of `demo`, which runs as a process of its own
    #[command(hide = true)]
    ReadBack(ReadBack),
}

const SOURCES: &str = "\
A SOURCE is a .torrent file, the http(s) URL of one, a magnet link, or a bare info hash.";

/// Flags of everything that runs an engine.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Engine")]
pub(crate) struct Engine {
    /// Where pieces are kept [default: $XDG_CACHE_HOME/wtfs]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// How much data the cache may hold, e.g. 50G, or 80% of its disk [default: what --min-free leaves]
    #[arg(long, value_name = "SIZE|SHARE")]
    pub(crate) cache_size: Option<DiskShare>,
    /// What to leave free on the cache's disk [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub(crate) min_free: Option<ByteSize>,
    /// Use no network: what is not local cannot be read, and that is said at once
    #[arg(long)]
    pub(crate) offline: bool,
    /// PORT, ADDRESS or ADDRESS:PORT for peers to connect to [default: 6881, or any free port]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Connect to this peer too; may be given more than once
    #[arg(long = "peer", value_name = "HOST:PORT")]
    pub(crate) peers: Vec<String>,
    /// Fetch from this web server too: the URL of the file, or of the directory (with a slash at its end) that holds the
    /// torrent's file or directory; may be given more than once
    #[arg(long = "web-seed", alias = "webseed", value_name = "URL")]
    pub(crate) web_seeds: Vec<String>,
    /// Let redirects and torrents from strangers lead into private networks too
    #[arg(long)]
    pub(crate) allow_private_hosts: bool,
    /// Announce to this tracker too; may be given more than once
    #[arg(long = "tracker", value_name = "URL")]
    pub(crate) trackers: Vec<String>,
    /// Send at most this many bytes a second, e.g. 10M
    #[arg(long, value_name = "RATE")]
    pub(crate) upload_limit: Option<ByteSize>,
    /// Take at most this many bytes a second, e.g. 10M
    #[arg(long, value_name = "RATE")]
    pub(crate) download_limit: Option<ByteSize>,
    /// Budget of all buffers and pieces in flight, e.g. 256M [default: 96M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Connections of all torrents together [default: 500]
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_peers: Option<usize>,
    /// How long a read may wait without progress, e.g. 2m [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub(crate) read_timeout: Option<TimeSpan>,
    /// Serve nothing to others
    #[arg(long)]
    pub(crate) no_upload: bool,
    /// Have no peers in browsers: WebSocket trackers are left alone
    #[arg(long)]
    pub(crate) no_webrtc: bool,
    #[command(flatten)]
    pub(crate) ice: IceFlags,
}

/// Flags of how peers over WebRTC reach each other.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct IceFlags {
    /// Ask this STUN server how we look from outside, or let this TURN server pass on what reaches no peer directly: `stun:HOST[:PORT]`,
    /// `turn:USER[:PASSWORD]@HOST[:PORT]`; may be given more than once, `none` is none [default: public STUN servers, for
    /// trackers in the internet]
    #[arg(long = "ice-server", value_name = "URL", conflicts_with = "no_webrtc")]
    pub(crate) ice_servers: Vec<String>,
    /// Where the password of TURN servers stands that are named without one, so that no list of processes shows it
    #[arg(long, value_name = "FILE", conflicts_with = "no_webrtc")]
    pub(crate) turn_password_file: Option<PathBuf>,
    /// Reach peers over WebRTC by TURN servers alone, so that they do not learn our address
    #[arg(long, conflicts_with = "no_webrtc")]
    pub(crate) ice_relay_only: bool,
}

impl IceFlags {
    /// The same as a layer of the configuration.
    fn layer(&self) -> Layer {
        Layer {
            ice_servers: (!self.ice_servers.is_empty()).then(|| self.ice_servers.clone()),
            turn_password_file: self.turn_password_file.clone(),
            ice_relay_only: self.ice_relay_only.then_some(true),
            ..Layer::default()
        }
    }
}

impl Engine {
    /// The flags as the topmost layer of the configuration.
    pub(crate) fn layer(&self) -> Layer {
        Layer {
            cache_dir: self.cache_dir.clone(),
            cache_size: self.cache_size,
            min_free: self.min_free,
            offline: self.offline.then_some(true),
            listen: self.listen.clone(),
            max_peers: self.max_peers,
            upload_limit: self.upload_limit,
            download_limit: self.download_limit,
            memory: self.memory,
            read_timeout: self.read_timeout,
            upload: self.no_upload.then_some(false),
            webrtc: self.no_webrtc.then_some(false),
            allow_private_hosts: self.allow_private_hosts.then_some(true),
            trackers: (!self.trackers.is_empty()).then(|| self.trackers.clone()),
            ..self.ice.layer()
        }
    }
}

/// Flags of what reads Hugging Face repositories.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Hugging Face")]
pub(crate) struct HubFlags {
    /// Ask this hub first, e.g. `http://hub:8080`, and the origin only where it does not answer
    #[arg(long, value_name = "URL")]
    pub(crate) hub: Option<String>,
    /// Where repositories come from [default: HF_ENDPOINT, or `https://huggingface.co`]
    #[arg(long, value_name = "URL")]
    pub(crate) hf_endpoint: Option<String>,
    /// Let it redirect to this host too, even a private one; may be given more than once
    #[arg(long = "allow-upstream-host", value_name = "HOST[:PORT]")]
    pub(crate) allow_upstream_hosts: Vec<String>,
}

const REPOSITORIES: &str = "\
hf://OWNER/NAME[@REVISION][/PATH], hf://datasets/... and hf://spaces/... are Hugging Face repositories; HF_TOKEN or the \
token of `hf auth login` is used.";

#[derive(Args, Debug)]
#[command(
    allow_missing_positional = true,
    after_help = format!("{SOURCES}\n\
Each SOURCE is one entry of DIR: a directory, or the file of a single-file torrent. What was added to DIR with `wtfs \
add` before is there again.\n\
{REPOSITORIES} One repository is DIR itself, and stays at the commit that it had when it was mounted; `wtfs status` says \
which that is, and when there is a newer one, which the next `wtfs mount` shows. Several, hf:// alone, or a hub's http://HOST:PORT/hf show as DIR/OWNER/NAME, \
each found when it is looked up; those follow their branch while nobody reads from them.\n\
Ctrl-C (or SIGTERM) unmounts; a second one ends at once.\n\n\
Examples:\n  \
wtfs mount model.torrent /mnt/models\n  \
wtfs mount --daemon a.torrent b.torrent /mnt/models\n  \
wtfs mount 'magnet:?xt=urn:btih:...&tr=...' /mnt/models\n  \
wtfs mount --peer 10.0.0.2:6881 model.torrent /mnt/models\n  \
wtfs mount --cache-size 50G --pin model/config.json model.torrent /mnt/models\n  \
wtfs mount hf://openai-community/gpt2 /mnt/gpt2\n  \
wtfs mount http://hub:8080/hf /mnt/hf")
)]
pub(crate) struct Mount {
    /// .torrent files, URLs, magnet links or info hashes; or hf:// repositories, or a hub's http://HOST:PORT/hf
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// The directory to mount on; it must exist
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Forget what was added to DIR with `wtfs add` before
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Go to the background once the mount is usable
    #[arg(short, long)]
    pub(crate) daemon: bool,
    /// Write the process id to this file while the mount is there
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Answer with counters for Prometheus at ADDRESS:PORT or unix:PATH
    #[arg(long, value_name = "PLACE")]
    pub(crate) metrics: Option<metrics::Place>,
    /// Keep these files of DIR whatever the cache's size says, as `wtfs pin` does; `.` is all; may be given more than once
    #[arg(long = "pin", value_name = "PATH")]
    pub(crate) pins: Vec<String>,
    /// Let other users enter the mount
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Delete the data of an entry that is removed with rm or rmdir from the cache too
    #[arg(long)]
    pub(crate) rm_drops_data: bool,
    /// Read complete files through this process too, rather than let the kernel read them alone
    #[arg(long)]
    pub(crate) no_passthrough: bool,
    /// The words behind the program's name, for `--daemon` to start it again with
    #[arg(skip)]
    pub(crate) typed: Vec<OsString>,
    #[command(flatten)]
    pub(crate) hub: HubFlags,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

#[derive(Args, Debug)]
#[command(
    after_help = format!("{SOURCES}\n\
A torrent that is added is there again at the next `wtfs mount DIR`, until it is removed. A mount of hf:// or of a hub's namespace \
takes repositories: hf://OWNER/NAME[@REVISION], which show as DIR/OWNER/NAME.\n\n\
Examples:\n  \
wtfs add /mnt/models model.torrent\n  \
wtfs add /mnt/models 'magnet:?xt=urn:btih:...&tr=...' other.torrent\n  \
wtfs add /mnt/hf hf://openai-community/gpt2")
)]
pub(crate) struct Add {
    /// The directory the mount is on
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// .torrent files, URLs, magnet links or info hashes; or hf:// repositories
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Fetch from this web server too; may be given more than once
    #[arg(long = "web-seed", alias = "webseed", value_name = "URL")]
    pub(crate) web_seeds: Vec<String>,
    /// Print JSON: what was added
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Programs that have its files open get errors. The data stays in the cache unless told otherwise.\n\n\
Examples:\n  \
wtfs remove /mnt/models model\n  \
wtfs remove --drop-data /mnt/models 0123456789abcdef0123456789abcdef01234567"
)]
pub(crate) struct Remove {
    /// The directory the mount is on
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The name of its entry in DIR, or its info hash
    #[arg(value_name = "NAME|INFOHASH")]
    pub(crate) torrent: String,
    /// Delete its data from the cache too
    #[arg(long)]
    pub(crate) drop_data: bool,
    /// Print JSON: what was removed
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Files that are pinned are not fetched by that: `wtfs prefetch` does so.\n\n\
Examples:\n  wtfs pin /mnt/models/model\n  wtfs pin hf://openai-community/gpt2/config.json\n  \
wtfs unpin /mnt/models/model/README.md")]
pub(crate) struct Pin {
    /// Files or directories of a running mount, or hf://OWNER/NAME/PATH of a repository that one shows
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// Print JSON: how many files, and their bytes
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(
    after_help = "A RANGE is START-END (END not included), START- or -BYTES, which is the end of the file.\n\n\
Examples:\n  wtfs prefetch /mnt/models/model\n  wtfs prefetch /mnt/films/film.mkv:0-64M /mnt/films/film.mkv:-16M\n  \
wtfs prefetch hf://openai-community/gpt2@main/model.safetensors"
)]
pub(crate) struct Prefetch {
    /// Files or directories of a running mount, or hf://OWNER/NAME/PATH of a repository that one shows
    #[arg(required = true, value_name = "PATH[:RANGE]")]
    pub(crate) paths: Vec<String>,
    /// Print JSON: how many files, and the bytes asked for
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  wtfs unmount /mnt/models")]
pub(crate) struct Unmount {
    /// The directory it is mounted on
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  wtfs status\n  wtfs status --watch 5\n  wtfs status --json | jq '.[].torrents[].name'"
)]
pub(crate) struct Status {
    /// Print JSON: one object per running process
    #[arg(long)]
    pub(crate) json: bool,
    /// Show it again every so many seconds [default: 2], until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    pub(crate) watch: Option<TimeSpan>,
}

#[derive(Args, Debug)]
#[command(
    after_help = format!("{SOURCES}\n\
{REPOSITORIES}\n\
Stopped in the middle, it goes on where it was when it is run again.\n\n\
Examples:\n  \
wtfs get model.torrent\n  \
wtfs get -o /data 'magnet:?xt=urn:btih:...'\n  \
wtfs get --peer 10.0.0.2:6881 model.torrent\n  \
wtfs get -o /data hf://openai-community/gpt2\n  \
wtfs get hf://openai-community/gpt2/model.safetensors")
)]
pub(crate) struct Get {
    /// A .torrent file, URL, magnet link, info hash or hf:// repository
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Put the torrent's or repository's file or directory into this directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) output: PathBuf,
    /// Hash what is there first, and fetch only what is missing or wrong; for data that no earlier run has fetched
    #[arg(long)]
    pub(crate) check: bool,
    /// Give up when nothing has come for this long [default: never]
    #[arg(long, value_name = "TIME")]
    pub(crate) stall_timeout: Option<TimeSpan>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) hub: HubFlags,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

#[derive(Args, Debug)]
#[command(
    after_help = format!("{SOURCES}\n\
With DATA, what stands there is verified first and then served. Without it, what the cache holds is served.\n\n\
Examples:\n  \
wtfs seed model.torrent /data\n  \
wtfs seed --listen 6881 model.torrent /data/model\n  \
wtfs seed model.torrent")
)]
pub(crate) struct Seed {
    /// A .torrent file, URL, magnet link or info hash
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// The directory that holds the torrent's file or directory, or that file or directory itself
    #[arg(value_name = "DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Answer with counters for Prometheus at ADDRESS:PORT or unix:PATH
    #[arg(long, value_name = "PLACE")]
    pub(crate) metrics: Option<metrics::Place>,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

#[derive(Args, Debug)]
#[command(
    after_help = format!("{SOURCES}\n\
Each file or directory directly in a DIR becomes a torrent once it is left alone for a moment, and is taken down when \
it changes. GET /torrents lists them; /torrent/NAME.torrent and /magnet/NAME are what others need; /files/NAME is the \
data itself. The tracker is at /announce over HTTP, UDP and web sockets. Hugging Face clients with HF_ENDPOINT set to \
http://HUB/hf fetch through the hub's cache. Every setting has a key in the table [hub] of \
config.toml, and a variable.\n\
Ctrl-C (or SIGTERM) lets responses finish; a second one ends at once.\n\n\
Examples:\n  \
wtfs serve --root /srv/models\n  \
wtfs serve --root /srv/models --public-url https://hub.example.org\n  \
wtfs serve --listen 127.0.0.1:8080 --root /srv/a --root /srv/b\n  \
wtfs serve --hf-token-file ~/.cache/huggingface/token\n  \
wtfs serve --hf-upstream https://hf.corp.example --allow-upstream-host cdn.corp.example\n  \
wtfs serve --hf-offline\n  \
wtfs serve model.torrent\n  \
wtfs serve --print-config > ~/.config/wtfs/config.toml")
)]
pub(crate) struct Serve {
    /// Torrents to serve too, fetched as they are asked for: .torrent files, URLs, magnet links or info hashes
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Share what stands in this directory; may be given more than once
    #[arg(long = "root", value_name = "DIR")]
    pub(crate) roots: Vec<PathBuf>,
    /// PORT, ADDRESS or ADDRESS:PORT of HTTP and of the UDP tracker [default: 8080, every address]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Where others reach the hub, e.g. `https://hub.example.org` [default: as they call it]
    #[arg(long, value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// Have no tracker over UDP
    #[arg(long)]
    pub(crate) no_udp: bool,
    /// Serve HTTPS with this certificate chain (PEM); it is read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Log each request: off, on or json [default: off]
    #[arg(long, value_name = "HOW")]
    pub(crate) access_log: Option<AccessLines>,
    /// PORT, ADDRESS or ADDRESS:PORT for peers to connect to [default: 6881, or any free port]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) peer_listen: Option<String>,
    /// Connect to this peer too for SOURCES; may be given more than once
    #[arg(long = "peer", value_name = "HOST:PORT")]
    pub(crate) peers: Vec<String>,
    /// Where pieces and records are kept [default: $XDG_CACHE_HOME/wtfs]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// How much data of SOURCES and of Hugging Face the cache may hold, e.g. 50G, or 80% of its disk [default: what --min-free leaves]
    #[arg(long, value_name = "SIZE|SHARE")]
    pub(crate) cache_size: Option<DiskShare>,
    /// Send peers at most this many bytes a second, e.g. 10M; the web seed is not held back
    #[arg(long, value_name = "RATE")]
    pub(crate) upload_limit: Option<ByteSize>,
    /// Have no peers in browsers
    #[arg(long)]
    pub(crate) no_webrtc: bool,
    #[command(flatten)]
    pub(crate) ice: IceFlags,
    /// Print every setting with its meaning, as a configuration file, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    // Last: clap puts what follows under its heading too.
    #[command(flatten)]
    pub(crate) proxy: ProxyFlags,
}

/// Flags of the caching proxy of Hugging Face.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Hugging Face")]
pub(crate) struct ProxyFlags {
    /// The Hugging Face hub to cache, for clients with HF_ENDPOINT set to this hub [default: `https://huggingface.co`]
    #[arg(long, value_name = "URL", conflicts_with = "no_hf")]
    pub(crate) hf_upstream: Option<String>,
    /// Let that hub redirect to this host too, even a private one; may be given more than once
    #[arg(long = "allow-upstream-host", value_name = "HOST[:PORT]", conflicts_with = "no_hf")]
    pub(crate) allow_upstream_hosts: Vec<String>,
    /// Read Hugging Face with the token in this file for callers on this machine who have none (see hf_token_allow)
    #[arg(long, value_name = "FILE", conflicts_with = "no_hf")]
    pub(crate) hf_token_file: Option<PathBuf>,
    /// Make torrents of this private or gated repository too, for callers whose right to it was checked; `all` is all of them.
    /// Who learns a torrent's info hash can fetch it from peers, also later
    #[arg(long, value_name = "REPO", conflicts_with = "no_hf")]
    pub(crate) hf_swarm_private: Vec<String>,
    /// Never ask the Hugging Face hub: serve what is in the cache
    #[arg(long, conflicts_with = "no_hf")]
    pub(crate) hf_offline: bool,
    /// Serve nothing of Hugging Face
    #[arg(long)]
    pub(crate) no_hf: bool,
}

impl Serve {
    /// The flags as the topmost layer of the configuration.
    pub(crate) fn layer(&self) -> Layer {
        Layer {
            cache_dir: self.cache_dir.clone(),
            cache_size: self.cache_size,
            listen: self.peer_listen.clone(),
            upload_limit: self.upload_limit,
            webrtc: self.no_webrtc.then_some(false),
            hub: HubLayer {
                roots: (!self.roots.is_empty()).then(|| self.roots.clone()),
                listen: self.listen.clone(),
                public_url: self.public_url.clone(),
                udp: self.no_udp.then_some(false),
                tls_cert: self.tls_cert.clone(),
                tls_key: self.tls_key.clone(),
                access_log: self.access_log,
                hf: self.proxy.no_hf.then_some(false),
                hf_upstream: self.proxy.hf_upstream.clone(),
                hf_allow_upstream_hosts: (!self.proxy.allow_upstream_hosts.is_empty())
                    .then(|| self.proxy.allow_upstream_hosts.clone()),
                hf_token_file: self.proxy.hf_token_file.clone(),
                hf_swarm_private: (!self.proxy.hf_swarm_private.is_empty())
                    .then(|| self.proxy.hf_swarm_private.clone()),
                hf_offline: self.proxy.hf_offline.then_some(true),
                ..HubLayer::default()
            },
            ..self.ice.layer()
        }
    }
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
wtfs create /data/model\n  \
wtfs create -t udp://tracker.example.org:6969/announce -o model.torrent /data/model\n  \
wtfs create -w https://example.org/files/ --magnet big.iso")]
pub(crate) struct Create {
    /// The file or directory to share
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Where to write the .torrent [default: the name of PATH and .torrent, here]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the output file if it is there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Bytes per piece, a power of two from 16K to 512M [default: 16K to 16M, by the total size]
    #[arg(long, value_name = "SIZE")]
    pub(crate) piece_size: Option<ByteSize>,
    /// A tracker; each one given is a tier of its own, tried in this order
    #[arg(short, long = "tracker", value_name = "URL")]
    pub(crate) trackers: Vec<String>,
    /// An HTTP server that has the data too
    #[arg(short, long = "web-seed", alias = "webseed", value_name = "URL")]
    pub(crate) webseeds: Vec<String>,
    /// Peers come from the trackers only (BEP 27)
    #[arg(long)]
    pub(crate) private: bool,
    /// A remark for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
    /// Goes into the info dictionary, so that the same data gets another info hash
    #[arg(long, value_name = "TEXT")]
    pub(crate) source: Option<String>,
    /// Print the magnet link too
    #[arg(long)]
    pub(crate) magnet: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  wtfs info model.torrent\n  wtfs info --json 'magnet:?xt=urn:btih:...'")]
pub(crate) struct Info {
    /// A .torrent file, URL, magnet link or info hash
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  wtfs verify model.torrent /data")]
pub(crate) struct Verify {
    /// A .torrent file or the URL of one
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// The directory that holds the torrent's file or directory, or that file or directory itself
    #[arg(value_name = "DATA")]
    pub(crate) data: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Needs no network and no other program. As an ordinary user it needs fusermount3 (Debian: fuse3).\n\n\
Examples:\n  wtfs demo\n  wtfs demo --size 1G"
)]
pub(crate) struct Demo {
    /// How much data to make
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    pub(crate) size: ByteSize,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Looks at FUSE, mounts that lost their process, the cache's directory and disk, limits, the port and the token of \
                  Hugging Face. Asks no network. Exit code 1: something will fail.\n\nExamples:\n  wtfs doctor\n  wtfs doctor --json"
)]
pub(crate) struct Doctor {
    /// Print JSON: what was looked at, how it is, and what to do
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReadBack {
    pub(crate) mounted: PathBuf,
    pub(crate) source: PathBuf,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  wtfs completions bash > ~/.local/share/bash-completion/completions/wtfs"
)]
pub(crate) struct Completions {
    pub(crate) shell: Shell,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  wtfs man | man -l -\n  wtfs man mount | man -l -\n  wtfs man -o ~/.local/share/man/man1"
)]
pub(crate) struct Man {
    /// The command whose page is printed [default: that of wtfs itself]
    pub(crate) command: Option<String>,
    /// Write all pages into this directory instead: wtfs.1, wtfs-mount.1 and so on
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    pub(crate) output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("wtfs {}", command.get_name())), "{}", command.get_name());
        }
    }

    #[test]
    fn the_last_word_of_mount_is_the_directory() {
        let cli = Cli::try_parse_from(["wtfs", "mount", "a.torrent", "b.torrent", "/mnt"]).expect("parsed");
        let Command::Mount(mount) = cli.command else { panic!("another command") };
        assert_eq!(mount.sources, ["a.torrent", "b.torrent"]);
        assert_eq!(mount.dir, PathBuf::from("/mnt"));
        let cli = Cli::try_parse_from(["wtfs", "mount", "/mnt"]).expect("parsed");
        let Command::Mount(mount) = cli.command else { panic!("another command") };
        assert_eq!((mount.sources.len(), mount.dir), (0, PathBuf::from("/mnt")));
        assert!(Cli::try_parse_from(["wtfs", "mount"]).is_err());
    }

    #[test]
    fn the_readme_lists_every_command() {
        let readme = include_str!("../README.md");
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let row = format!("| `wtfs {}", command.get_name());
            assert!(readme.contains(&row), "README.md has no row for {}", command.get_name());
        }
    }

    #[test]
    fn flags_become_the_topmost_layer() {
        let cli = Cli::try_parse_from(["wtfs", "seed", "x.torrent", "--no-upload", "--upload-limit", "1M"]);
        let Command::Seed(seed) = cli.expect("parsed").command else { panic!("another command") };
        let layer = seed.engine.layer();
        assert_eq!((layer.upload, layer.upload_limit), (Some(false), Some(ByteSize(1 << 20))));
        assert_eq!(Engine::default().layer(), Layer::default());
    }
}
