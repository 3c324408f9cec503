//! The countable rules of CONTRIBUTING.md, so that `cargo test` fails and not a reviewer.
//!
//! Reads the sources and manifests of the workspace as text: it depends on no crate of it, so a crate that does not
//! compile cannot hide a broken rule. Each test is one rule and lists every offender at once. An exception stands in a
//! table here with its reason; a table may only shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which crate of the workspace may use which (`[dependencies]`), and which for its tests (`[dev-dependencies]`).
/// A new edge is a commit of its own, with its reason.
const CRATE_EDGES: &[(&str, &[&str], &[&str])] = &[
    ("wtfs", &["wtfs-proto", "wtfs-torrent", "wtfs-mount", "wtfs-server"], &["wtfs-testkit"]),
    ("wtfs-mount", &["wtfs-proto", "wtfs-torrent"], &["wtfs-testkit"]),
    ("wtfs-server", &["wtfs-proto", "wtfs-torrent"], &["wtfs-testkit"]),
    ("wtfs-torrent", &["wtfs-proto"], &["wtfs-testkit"]),
    ("wtfs-proto", &[], &[]),
    // Knows no crate of the workspace, so that each of them may test with it.
    ("wtfs-testkit", &[], &[]),
];

/// A foreign library is known to exactly one crate: its types stop there, and so does the work of replacing it. The
/// exceptions open sockets of their own at both ends of the graph: peers are the engine's, listeners the hub's; and what
/// tests talk to serves HTTP too.
const FOREIGN_OWNERS: &[(&str, &[&str])] = &[
    ("fuser", &["wtfs-mount"]),
    ("axum", &["wtfs-server", "wtfs-testkit"]),
    ("hyper", &["wtfs-server"]),
    ("hyper-util", &["wtfs-server", "wtfs-torrent"]),
    ("notify", &["wtfs-server"]),
    ("reqwest", &["wtfs-torrent"]),
    ("rustls", &["wtfs-torrent", "wtfs-server"]),
    ("socket2", &["wtfs-torrent", "wtfs-server"]),
    ("webrtc", &["wtfs-torrent"]),
    ("rtc", &["wtfs-torrent"]),
    ("clap", &["wtfs"]),
    ("clap_complete", &["wtfs"]),
    ("anyhow", &["wtfs"]),
    ("indicatif", &["wtfs"]),
    ("toml", &["wtfs"]),
    ("tracing-subscriber", &["wtfs"]),
    ("serde_bencode", &["wtfs-proto"]),
];

/// What would let a clock, randomness or I/O into the protocol crate.
const NOT_IN_PROTO: &[&str] =
    &["tokio", "tokio-util", "rustix", "libc", "socket2", "fastrand", "reqwest", "tracing", "url"];

/// The only sources that may hold `unsafe`, by path prefix.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    (
        "mount/src/mapped.rs",
        "a mapping is memory that the file system fills: no safe wrapper can promise anything of it",
    ),
    (
        "testkit/src/bin/path-emulator/tun.rs",
        "a TUN device is attached to by an ioctl, and no crate here has a safe form of it",
    ),
    ("mount/src/session.rs", "the mount table is polled by a call that tokio offers as unsafe only"),
];

/// Sources whose `pub` functions may take a `bool`.
const BOOL_PARAMETERS_ALLOWED: &[(&str, &str)] = &[
    ("proto/src/swarm/wants.rs", "mirrors a bit of a bitfield"),
    ("torrent/src/swarm_task/candidates.rs", "a fact of the moment, asked in one place"),
    ("torrent/src/swarm_task/upkeep.rs", "a fact of the start, told in one place"),
];

const FILE_LINES_MAX: usize = 800;
const STRUCT_FIELDS_MAX: usize = 20;
const VAGUE_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

#[test]
fn the_crates_depend_on_each_other_as_the_table_says() {
    let mut wrong = Vec::new();
    for (package, manifest) in manifests() {
        let Some((_, normal, dev)) = CRATE_EDGES.iter().find(|(name, ..)| *name == package) else {
            wrong.push(format!("{package}: a new crate needs a row in CRATE_EDGES"));
            continue;
        };
        for (section, allowed) in
            [("dependencies", *normal), ("dev-dependencies", *dev), ("build-dependencies", &[][..])]
        {
            for used in dependency_names(&manifest, section) {
                if used.starts_with("wtfs") && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{package}: [{section}] {used}"));
                }
            }
        }
    }
    report("crate edges outside the table", wrong);
}

#[test]
fn a_foreign_library_is_known_to_one_crate() {
    let mut wrong = Vec::new();
    for (package, manifest) in manifests() {
        for used in all_dependencies(&manifest) {
            if let Some((_, owners)) = FOREIGN_OWNERS.iter().find(|(library, _)| *library == used)
                && !owners.contains(&package.as_str())
            {
                wrong.push(format!("{package} uses {used}, which belongs to {}", owners.join(" and ")));
            }
            if package == "wtfs-proto" && NOT_IN_PROTO.contains(&used.as_str()) {
                wrong.push(format!("wtfs-proto uses {used}: it has no clock, no randomness and no I/O"));
            }
        }
    }
    report("foreign libraries outside their crate", wrong);
}

#[test]
fn versions_are_pinned_and_stand_in_one_place() {
    let mut wrong = Vec::new();
    for (package, manifest) in manifests() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for (name, entry) in table {
                if entry.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    wrong.push(format!("{package}: {name} does not say `workspace = true`"));
                }
            }
        }
        let Some(pins) = manifest.get("workspace").and_then(|w| w.get("dependencies")?.as_table()) else {
            continue;
        };
        for (name, entry) in pins {
            let version = entry.as_str().or_else(|| entry.get("version")?.as_str());
            let is_ours = entry.get("path").is_some();
            if !is_ours && !version.is_some_and(|version| version.starts_with('=')) {
                wrong.push(format!("{name}: {version:?} is not an exact `=` version"));
            }
        }
    }
    report("versions", wrong);
}

#[test]
fn files_are_short() {
    let long = sources().into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", source.path))
    });
    report(&format!("files over {FILE_LINES_MAX} lines"), long.collect());
}

#[test]
fn names_of_files_say_what_is_in_them() {
    let vague = sources().into_iter().filter_map(|source| {
        let stem = Path::new(&source.path).file_stem()?.to_str()?.to_owned();
        (stem == "mod" || VAGUE_NAMES.contains(&stem.as_str())).then(|| source.path.clone())
    });
    report("`mod.rs` or a name that says nothing", vague.collect());
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let bare = sources().into_iter().filter_map(|source| {
        let first = source.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
        (!first.is_some_and(|line| line.starts_with("//!"))).then(|| source.path.clone())
    });
    report("files without a `//!` header", bare.collect());
}

#[test]
fn structs_stay_small_outside_config() {
    let mut wrong = Vec::new();
    for source in sources() {
        if is_config(&source.path) {
            continue;
        }
        for (name, fields) in struct_fields(&source.code) {
            if fields > STRUCT_FIELDS_MAX {
                wrong.push(format!("{}: struct {name} has {fields} fields", source.path));
            }
        }
    }
    report(&format!("structs over {STRUCT_FIELDS_MAX} fields"), wrong);
}

#[test]
fn no_unbounded_queue_no_glob_export_no_unfinished_work() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "tests/tidy.rs") {
        for (number, line) in source.code.lines().enumerate() {
            let banned = ["unbounded_channel", "todo!(", "unimplemented!(", "dbg!("]
                .into_iter()
                .find(|word| line.contains(word))
                .or_else(|| {
                    let line = line.trim();
                    (line.starts_with("pub use ") && line.ends_with("::*;")).then_some("pub use ::*")
                });
            if let Some(banned) = banned {
                wrong.push(format!("{}:{}: {banned}", source.path, number + 1));
            }
        }
    }
    report("banned words", wrong);
}

#[test]
fn unsafe_stands_only_where_the_table_allows_it() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "tests/tidy.rs") {
        if UNSAFE_ALLOWED.iter().any(|(prefix, _)| source.path.starts_with(prefix)) {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            if ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|word| line.contains(word))
            {
                wrong.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report("`unsafe` outside the table", wrong);
}

#[test]
fn the_crates_without_unsafe_forbid_it() {
    let missing =
        ["proto/src/lib.rs", "torrent/src/lib.rs", "server/src/lib.rs", "testkit/src/lib.rs", "src/main.rs"]
            .into_iter()
            .filter(|path| !read(&root().join(path)).contains("#![forbid(unsafe_code)]"));
    report("`#![forbid(unsafe_code)]` missing", missing.map(str::to_owned).collect());
}

#[test]
fn the_environment_is_read_in_one_file() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.path == "src/config.rs"
            || source.path.starts_with("testkit/")
            || !is_production(&source.path)
        {
            continue;
        }
        for (number, line) in source.production().lines().enumerate() {
            let reads = ["env::var(", "env::var_os(", "env::vars(", "env::vars_os(", "from_default_env("];
            if reads.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report("the environment is read outside src/config.rs", wrong);
}

#[test]
fn libraries_do_not_print() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.path.starts_with("src/")
            || source.path.starts_with("testkit/")
            || !is_production(&source.path)
        {
            continue;
        }
        for (number, line) in source.production().lines().enumerate() {
            if ["println!(", "eprintln!(", "print!(", "eprint!("].iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report("a library prints", wrong);
}

#[test]
fn no_function_that_others_call_takes_a_bool() {
    let mut wrong = Vec::new();
    for source in sources() {
        if !is_production(&source.path)
            || BOOL_PARAMETERS_ALLOWED.iter().any(|(path, _)| *path == source.path)
        {
            continue;
        }
        for signature in public_signatures(source.production()) {
            if signature.contains(": bool") {
                wrong.push(format!("{}: {signature}", source.path));
            }
        }
    }
    report("a function takes a bool: two variants of an enum say what is meant", wrong);
}

#[test]
fn an_exception_that_nobody_needs_is_gone() {
    let stale = BOOL_PARAMETERS_ALLOWED.iter().filter(|(path, _)| {
        sources().iter().find(|source| source.path == *path).is_none_or(|source| {
            !public_signatures(source.production()).iter().any(|text| text.contains(": bool"))
        })
    });
    report("stale exceptions", stale.map(|(path, _)| (*path).to_owned()).collect());
}

/// A name as long as this and without a space is that of a test.
const SHORTEST_TEST_NAME: usize = 25;

#[test]
fn a_test_that_the_documentation_names_is_there() {
    let text = read(&root().join("docs/hugging-face.md"));
    let is_name = |word: &&str| {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        word.len() >= SHORTEST_TEST_NAME && word.bytes().all(is_letter)
    };
    let named: Vec<_> = text.split('`').filter(is_name).collect();
    assert!(!named.is_empty(), "it names tests");
    let sources = sources();
    let is_missing = |name: &&str| !sources.iter().any(|source| source.code.contains(&format!("fn {name}(")));
    report("tests that are not there", named.into_iter().filter(is_missing).map(str::to_owned).collect());
}

// ---- reading the tree ------------------------------------------------------------------------------------------

/// One source file: `text` as it is, `code` with comments blanked (line numbers stay).
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The part before the unit tests, which by this project's habit stand at the end of their file.
    fn production(&self) -> &str {
        self.code.split("#[cfg(test)]").next().unwrap_or_default()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "proto", "torrent", "mount", "server", "testkit", "bench", "fuzz"] {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 10, "the sources were not found");
    paths
        .into_iter()
        .map(|path| {
            let text = read(&path);
            let path = path.strip_prefix(root()).expect("collected below the root").display().to_string();
            let code = text.lines().map(without_comment).collect::<Vec<_>>().join("\n");
            Source { path, text, code }
        })
        .collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "node_modules") {
                collect(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Cuts a line comment; `//` inside a string (a URL) stays, because a quote stands before it.
fn without_comment(line: &str) -> &str {
    match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    }
}

fn is_production(path: &str) -> bool {
    let is_test_file = path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || path.contains("/tests/")
        || path.starts_with("tests/")
        || path.contains("/benches/");
    path.contains("src/") && !is_test_file
}

fn is_config(path: &str) -> bool {
    path.ends_with("/config.rs") || path.contains("/config/")
}

fn manifests() -> BTreeMap<String, toml::Value> {
    let root_manifest = parse_manifest(&root().join("Cargo.toml"));
    let members: Vec<String> = root_manifest["workspace"]["members"]
        .as_array()
        .expect("the workspace lists its members")
        .iter()
        .map(|member| member.as_str().expect("a member is a path").to_owned())
        .collect();
    let mut found = BTreeMap::new();
    for manifest in members
        .iter()
        .map(|member| parse_manifest(&root().join(member).join("Cargo.toml")))
        .chain([root_manifest])
    {
        let name = manifest["package"]["name"].as_str().expect("a package has a name").to_owned();
        found.insert(name, manifest);
    }
    found
}

fn parse_manifest(path: &Path) -> toml::Value {
    toml::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dependency_names(manifest: &toml::Value, section: &str) -> BTreeSet<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

fn all_dependencies(manifest: &toml::Value) -> BTreeSet<String> {
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .into_iter()
        .flat_map(|section| dependency_names(manifest, section))
        .collect()
}

/// Name and number of fields of each braced struct. Relies on rustfmt: a field stands on a line of its own.
fn struct_fields(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut open: Option<(String, usize, usize)> = None;
    for line in code.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some((name, at, fields)) = &mut open {
            if indent == *at && trimmed.starts_with('}') {
                found.push((name.clone(), *fields));
                open = None;
            } else if indent == *at + 4 && is_field(trimmed) {
                *fields += 1;
            }
        } else if trimmed.ends_with('{')
            && let Some(rest) = without_visibility(trimmed).strip_prefix("struct ")
        {
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            open = Some((name.to_owned(), indent, 0));
        }
    }
    found
}

fn without_visibility(line: &str) -> &str {
    let rest = line.strip_prefix("pub").unwrap_or(line);
    let rest = if rest.starts_with('(') { rest.split_once(')').map_or(rest, |(_, rest)| rest) } else { rest };
    rest.trim_start()
}

fn is_field(line: &str) -> bool {
    without_visibility(line).split_once(':').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    })
}

/// Each function that is visible outside of its module, from `fn` to the closing parenthesis, on one line. A private
/// one is read together with its callers, and the methods of a foreign trait are as they are.
fn public_signatures(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("fn ") {
        let from = &rest[at..];
        let before = rest[..at].rsplit('\n').next().unwrap_or_default().trim_start();
        rest = &from[3..];
        if !before.starts_with("pub") {
            continue;
        }
        let mut depth = 0_u32;
        for (offset, c) in from.char_indices() {
            match c {
                '(' => depth += 1,
                ')' if depth == 1 => {
                    found.push(from[..=offset].split_whitespace().collect::<Vec<_>>().join(" "));
                    break;
                }
                ')' => depth = depth.saturating_sub(1),
                '{' | ';' if depth == 0 => break,
                _ => {}
            }
        }
    }
    found
}

fn report(rule: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let code = "pub(crate) struct Wide<T> {\n    pub a: u8,\n    b: Vec<(u8, u8)>,\n}\nstruct Unit;\n";
    assert_eq!(struct_fields(code), [("Wide".to_owned(), 2)]);
    let code = "pub fn open(\n    path: &Path,\n    force: bool,\n) -> bool {\n}\npub(crate) fn is_open(&self) -> bool {\n}\nfn own(a: bool) {\n}\n";
    let found = public_signatures(code);
    assert_eq!(found, ["fn open( path: &Path, force: bool, )", "fn is_open(&self)"]);
    assert_eq!(without_comment("let a = 1; // unsafe {"), "let a = 1; ");
    assert_eq!(without_comment("let a = \"http://x\";"), "let a = \"http://x\";");
}
