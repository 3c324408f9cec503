//! An emulated huggingface.co with a hub before it, and other people's clients that go to either: what passes against the
//! one has to pass through the other.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use wtfs_testkit::{
    hf_hub::{Content, HfHub, HfHubBuilder, Log},
    net, process,
};

use super::{
    hub::Hub,
    need,
    stage::{PATIENCE, Stage, text},
};

/// The versions of huggingface_hub that are tried: the newest, and those that begin and end its earlier lives.
pub(crate) const CLIENTS: [&str; 4] = ["2.4.0", "1.0.0", "0.36.0", "0.23.4"];
/// The newest of them.
pub(crate) const NEWEST: &str = CLIENTS[0];
/// For clients that do many steps on a busy machine.
const CLIENT_PATIENCE: Duration = Duration::from_secs(300);

/// Whom a client goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The emulator itself.
    Upstream,
    /// The hub, by its own address.
    Hub,
    /// The hub, below `/hf`.
    HubBelow,
}

/// Upstream, and a hub before it once it is started.
#[derive(Debug)]
pub(crate) struct World {
    /// Ended first: it writes below the stage, which takes everything with it.
    hub: Option<Hub>,
    pub(crate) upstream: HfHub,
    pub(crate) stage: Stage,
}

impl World {
    /// Upstream alone.
    pub(crate) fn new(name: &str, builder: HfHubBuilder) -> Self {
        Self { stage: Stage::new(name), upstream: builder.start(), hub: None }
    }

    /// Both.
    #[track_caller]
    pub(crate) fn with_hub(name: &str, builder: HfHubBuilder, flags: &[&str]) -> Self {
        let mut world = Self::new(name, builder);
        world.start_hub(flags);
        world
    }

    /// Both, with the hub at an address.
    #[track_caller]
    pub(crate) fn with_hub_at(name: &str, builder: HfHubBuilder, addr: SocketAddr, flags: &[&str]) -> Self {
        let mut world = Self::new(name, builder);
        world.start_hub_at(addr, flags);
        world
    }

    /// The flags of a mount that asks upstream itself.
    pub(crate) fn straight(&self) -> Vec<String> {
        let (hub, cdn) = (self.upstream.hub_addr().to_string(), self.upstream.cdn_addr().to_string());
        let endpoint = self.upstream.endpoint();
        let flags =
            ["--hf-endpoint", &endpoint, "--allow-upstream-host", &hub, "--allow-upstream-host", &cdn];
        flags.map(str::to_owned).to_vec()
    }

    /// Starts a hub before upstream, over the cache that an earlier one left.
    #[track_caller]
    pub(crate) fn start_hub(&mut self, flags: &[&str]) {
        self.start_hub_at(net::fresh_addr(), flags);
    }

    #[track_caller]
    fn start_hub_at(&mut self, addr: SocketAddr, flags: &[&str]) {
        self.hub = Some(self.another_hub_at(addr, flags));
    }

    /// A hub that the caller ends, over the same cache: for while something else is borrowed of this.
    #[track_caller]
    pub(crate) fn another_hub_at(&self, addr: SocketAddr, flags: &[&str]) -> Hub {
        let (hub, cdn) = (self.upstream.hub_addr().to_string(), self.upstream.cdn_addr().to_string());
        let endpoint = self.upstream.endpoint();
        let ours = ["--hf-upstream", &endpoint, "--allow-upstream-host", &hub, "--allow-upstream-host", &cdn];
        let root = self.stage.subdir("root");
        Hub::start_at(&self.stage, &root, addr, &[&ours[..], flags].concat())
    }

    /// The hub.
    #[track_caller]
    pub(crate) fn hub(&self) -> &Hub {
        self.hub.as_ref().expect("it was started")
    }

    /// The hub's process is killed, as by a fault of the machine.
    #[track_caller]
    pub(crate) fn kill_hub(&mut self) {
        let mut hub = self.hub.take().expect("it was started");
        hub.process.kill();
    }

    /// The hub ends in order.
    #[track_caller]
    pub(crate) fn end_hub(&mut self) {
        self.hub.take().expect("it was started").end();
    }

    pub(crate) fn addr(&self, way: Way) -> SocketAddr {
        match way {
            Way::Upstream => self.upstream.hub_addr(),
            Way::Hub | Way::HubBelow => self.hub().addr,
        }
    }

    /// As in HF_ENDPOINT.
    pub(crate) fn endpoint(&self, way: Way) -> String {
        let below = if way == Way::HubBelow { "/hf" } else { "" };
        format!("http://{}{below}", self.addr(way))
    }

    /// A client that knows nothing yet.
    pub(crate) fn client(&self, version: &'static str, way: Way) -> Client<'_> {
        let log = self.stage.log("hf-home");
        Client { world: self, version, endpoint: self.endpoint(way), home: log.with_extension("home") }
    }

    /// One request to the hub.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        ask(self.addr(Way::Hub), method, path, headers, "")
    }

    /// A GET of the hub.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[])
    }

    /// Everything that lies in the hub's cache, files only, with their lengths.
    pub(crate) fn cached_files(&self) -> Vec<(PathBuf, u64)> {
        let root = self.stage.join("cache");
        let paths = super::stage::walk(&root).into_iter().map(|path| root.join(path));
        paths
            .filter_map(|path| Some((path.clone(), fs::metadata(&path).ok().filter(|m| m.is_file())?.len())))
            .collect()
    }
}

/// A client with a home of its own.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    world: &'a World,
    version: &'static str,
    endpoint: String,
    home: PathBuf,
}

impl Client<'_> {
    /// Sets up a command as this client.
    pub(crate) fn dress(&self, command: &mut Command) {
        self.world.stage.isolate(command);
        for key in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(key);
        }
        command
            .env("HF_ENDPOINT", &self.endpoint)
            .env("HF_HOME", &self.home)
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            // PyTorch leaves a directory of its compiler there.
            .env("TMPDIR", self.world.stage.subdir("tmp"))
            .env("CUDA_VISIBLE_DEVICES", "")
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            .env("NO_PROXY", "*");
    }

    /// The Python of this client, with the steps to do.
    fn command(&self, steps: &[Value]) -> Command {
        let file = self.world.stage.log("steps").with_extension("json");
        fs::write(&file, json!(steps).to_string()).expect("the scratch directory can be written");
        let mut command = Command::new(need::hf_python(self.version));
        command.arg("tests/support/hf_client.py").arg(file);
        self.dress(&mut command);
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    }

    /// Does these steps and gives what came of each.
    #[track_caller]
    pub(crate) fn steps(&self, steps: &[Value]) -> Vec<Value> {
        self.steps_with(&[], steps)
    }

    /// As [`Client::steps`], with these variables set.
    #[track_caller]
    pub(crate) fn steps_with(&self, variables: &[(&str, &str)], steps: &[Value]) -> Vec<Value> {
        let mut command = self.command(steps);
        command.envs(variables.iter().copied());
        let said = process::run(command, CLIENT_PATIENCE).expect_success(&format!("client {}", self.version));
        let last = said.lines().rfind(|line| line.starts_with('[')).expect("a list of results");
        serde_json::from_str(last).expect("JSON")
    }

    /// Does one step that has to succeed.
    #[track_caller]
    pub(crate) fn does(&self, step: Value) -> Value {
        ok(&self.steps(&[step]).remove(0)).clone()
    }
}

/// The result of a step that has to have succeeded.
#[track_caller]
pub(crate) fn ok(result: &Value) -> &Value {
    result.get("ok").unwrap_or_else(|| panic!("a client fails: {result:#}"))
}

/// Whether a step failed with this class of error, or one that is derived from it.
pub(crate) fn failed_as(result: &Value, class: &str) -> bool {
    result["is"].as_array().is_some_and(|bases| bases.iter().any(|base| base == class))
}

/// What files a snapshot has to hold: length and sha256.
pub(crate) fn expected_files(files: &[(&str, Content)]) -> Value {
    let all: BTreeMap<_, _> =
        files.iter().map(|(path, content)| (*path, json!([content.len(), content.sha256()]))).collect();
    json!(all)
}

/// An answer over HTTP. An error ends the body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) error: Option<io::ErrorKind>,
}

impl Reply {
    /// A header of it.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.head))
    }

    /// True when the body is as long as was announced.
    pub(crate) fn is_complete(&self) -> bool {
        let announced = self.header("Content-Length").and_then(|length| length.parse::<usize>().ok());
        self.error.is_none() && announced.is_none_or(|length| length == self.body.len())
    }
}

/// Sends one request, as raw as it is given, and reads the answer to the end of the connection.
#[track_caller]
pub(crate) fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut stream = begin(addr, method, path, headers, body);
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).err().map(|error| error.kind());
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        panic!("{method} {path}: no answer, {error:?}")
    };
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    Reply { status, head, body: received[end + 4..].to_vec(), error }
}

/// Sends one request; the answer is the caller's to read. Who refuses a request need not have read all of it.
#[track_caller]
pub(crate) fn begin(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    request.push_str(body);
    let _refused_early = stream.write_all(request.as_bytes());
    stream
}

/// Where in their file these requests begin to ask. A byte that nobody asks for again was kept.
#[track_caller]
pub(crate) fn starts(log: &Log) -> Vec<u64> {
    let start = |range: &str| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok();
    let ranges = log.0.iter().map(|request| request.range.as_deref());
    ranges.map(|range| range.map_or(0, |range| start(range).unwrap_or_else(|| panic!("{range}")))).collect()
}

/// A file of weights that is one: a header of tensors, then a ramp.
pub(crate) fn safetensors(seed: u64, rows: u64) -> Content {
    let half = rows * 1024 * 4;
    let tensor =
        |from: u64| json!({ "dtype": "F32", "shape": [rows, 1024], "data_offsets": [from, from + half] });
    let head = json!({ "a.weight": tensor(0), "b.weight": tensor(half) }).to_string();
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head.as_bytes());
    let data = usize::try_from(2 * half).expect("small");
    bytes.extend(wtfs_testkit::ramp::Ramp::new(seed).bytes(0, data));
    Content::from(bytes)
}

/// The files of `org/model`: every kind of name and size that a client may meet.
pub(crate) fn model_files() -> Vec<(&'static str, Content)> {
    vec![
        (".gitattributes", "*.bin filter=lfs\n".into()),
        ("README.md", "# A model\n".into()),
        ("config.json", "{\"model_type\": \"bert\"}".into()),
        ("model.safetensors", safetensors(1, 100)),
        ("large.bin", Content::ramp(2, 12_000_000)),
        ("nested/deep/file.txt", "deep".into()),
        ("pkg/__init__.py", "".into()),
        ("sub dir/we ird#1%.bin", Content::ramp(3, 70_000)),
        ("sub dir/a+b&c=d?.txt", "odd".into()),
        ("日本語/ファイル.txt", "こんにちは".into()),
    ]
}

/// What most tests have upstream: models, a dataset and a space; names, tags and branches; and people with tokens.
pub(crate) fn standard() -> HfHubBuilder {
    let mut builder = HfHub::builder()
        .account("alice", ALICE)
        .account("bob", BOB)
        .model("org/model")
        .file("config.json", "{\"model_type\": \"old\"}")
        .tag("v1")
        .branch("feature/x");
    for (path, content) in model_files() {
        builder = builder.file(path, content);
    }
    builder
        .name("refs/pr/1")
        .alias("canonical")
        .alias("old-org/old-name")
        .dataset("org/data")
        .file("data/train.csv", "a,b\n1,2\n")
        .ramp("data/part.parquet", 4, 50_000)
        .name("refs/convert/parquet")
        .repo(wtfs_testkit::hf_hub::RepoKind::Space, "org/space")
        .file("app.py", "print('hello')\n")
        .model("org/gated")
        .gated()
        .grant(ALICE)
        .file("config.json", "{}")
        .ramp("weights.bin", 5, 300_000)
        .model("org/secret")
        .private()
        .grant(ALICE)
        .file("config.json", "{\"secret\": true}")
        .ramp("weights.bin", 6, 300_000)
        .model("org/shut")
        .access(wtfs_testkit::hf_hub::Access::Disabled)
}

/// Who was granted what is gated and private.
pub(crate) const ALICE: &str = "hf_AliceAliceAliceAliceAliceAliceAlice";
/// Who was not.
pub(crate) const BOB: &str = "hf_BobBobBobBobBobBobBobBobBobBobBobBo";

/// A header that shows a token.
pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The path of a cache for a client.
pub(crate) fn cache_dir(world: &World, name: &str) -> String {
    text(&world.stage.join(format!("client-{name}")))
}
