//! The commands do what they say, say it in JSON where asked, and exit with the codes that are documented.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use wtfs_testkit::{
    http_tracker::{Answer, HttpTracker},
    peer::{Content, Fault, ScriptedPeer, Start},
    process,
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    content::Tree,
    libtorrent,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text, torrents, walk},
};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

fn repository(stage: &Stage) -> (Tree, PathBuf) {
    let tree = Tree::repository();
    let root = stage.subdir("data").join("repo");
    tree.write(&root);
    (tree, root)
}

#[test]
fn a_torrent_made_by_wtfs_is_the_one_libtorrent_makes() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let stage = Stage::new("create-lt");
    let (tree, root) = repository(&stage);
    let theirs = libtorrent::create_with(&stage, &root, 64 << 10, &json!({ "private": true }));
    let out = text(&stage.join("ours.torrent"));
    let tracker = "http://tracker.example/announce";
    let args = [
        "create",
        &text(&root),
        "-o",
        &out,
        "--piece-size",
        "64K",
        "--private",
        "-t",
        tracker,
        "--comment",
        "hello",
    ];
    let _said = stage.run(&args).expect_success("wtfs create");

    let loaded = libtorrent::describe(&stage, out.as_ref());
    assert_eq!(loaded["total_bytes"].as_u64(), Some(tree.total_bytes()));
    assert_eq!(loaded["private"], true);
    assert_eq!(loaded["info_hash"], *theirs.info_hash);
    let info = json(&stage.run(&["info", "--json", &out]).expect_success("wtfs info"));
    assert_eq!(info["info_hash"], *theirs.info_hash);
    assert_eq!(info["trackers"], json!([[tracker]]));
    assert_eq!(info["comment"], "hello");
    assert_eq!(info["private"], true);
    assert_eq!(info["piece_bytes"], 64 << 10);
    assert_eq!(info["files"].as_array().map(Vec::len), Some(tree.files.len()));
}

#[test]
fn a_single_file_made_by_wtfs_has_libtorrents_info_hash_too() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let stage = Stage::new("create-single");
    let data = stage.subdir("data").join("ünïcode 🦀.bin");
    Ramp::new(71).write_file(&data, 3_000_001).expect("the scratch directory can be written");
    let theirs = libtorrent::create(&stage, &data, 32 << 10, &[]);
    let out = text(&stage.join("ours.torrent"));
    let said = stage.run(&["create", &text(&data), "-o", &out, "--piece-size", "32K", "--json"]);
    let said = json(&said.expect_success("wtfs create --json"));
    assert_eq!(said["info_hash"], *theirs.info_hash, "{said}");
}

#[test]
fn create_does_not_overwrite_unless_told() {
    let stage = Stage::new("create-force");
    let data = stage.join("data.bin");
    Ramp::new(72).write_file(&data, 100_000).expect("the scratch directory can be written");
    let out = stage.join("out.torrent");
    fs::write(&out, "precious").expect("the scratch directory can be written");
    let (data, out_text) = (text(&data), text(&out));
    let done = stage.run(&["create", &data, "-o", &out_text]);
    assert!(!done.success() && done.stderr.contains("out.torrent"), "{done:?}");
    assert_eq!(fs::read(&out).expect("it is there"), b"precious");
    let _said = stage.run(&["create", &data, "-o", &out_text, "--force"]).expect_success("create --force");
    assert!(fs::read(&out).expect("it is there").starts_with(b"d"));
}

#[test]
fn info_understands_files_urls_magnets_and_hashes() {
    let stage = Stage::new("info");
    let torrent = TorrentFile::ramp("shown.bin", Ramp::new(73), 100_000, 16 << 10, &[]);
    let server = HttpTracker::start(Answer::Body(torrent.bytes.clone()));
    let hash = torrent.hash_hex();
    let sources = [
        text(&stage.write_torrent(&torrent)),
        server.url("/shown.torrent"),
        format!("magnet:?xt=urn:btih:{hash}&dn=shown.bin"),
        hash.clone(),
    ];
    for source in &sources {
        let info = json(&stage.run(&["info", "--json", source]).expect_success(source));
        assert_eq!(info["info_hash"], *hash, "{source}");
        let said = stage.run(&["info", source]).expect_success(source);
        assert!(said.contains(&hash), "{source}: {said}");
    }
}

#[test]
fn verify_tells_right_data_from_wrong_and_names_the_file() {
    let stage = Stage::new("verify");
    let (tree, root) = repository(&stage);
    let out = text(&stage.join("repo.torrent"));
    let root_text = text(&root);
    let _said = stage.run(&["create", &root_text, "-o", &out]).expect_success("wtfs create");
    for place in [&root_text, &text(root.parent().expect("it has one"))] {
        let verdict = json(&stage.run(&["verify", &out, place, "--json"]).expect_success("wtfs verify"));
        assert_eq!(verdict["is_right"], true, "{verdict}");
    }

    let damaged = &tree.files[1];
    let path = root.join(&damaged.path);
    let mut bytes = fs::read(&path).expect("it is there");
    bytes[12_345_678] ^= 1;
    fs::write(&path, bytes).expect("it can be written");
    let done = stage.run(&["verify", &out, &root_text, "--json"]);
    assert_eq!(done.code(), Some(6), "{done:?}");
    let verdict = json(&done.out());
    assert_eq!(verdict["wrong"], 1, "{verdict}");
    assert_eq!(verdict["bad_files"], json!([damaged.path]), "{verdict}");
    let done = stage.run(&["verify", &out, &root_text]);
    assert_eq!(done.code(), Some(6), "{done:?}");
    assert!(done.out().contains(&*damaged.path.to_string_lossy()), "{done:?}");
}

#[test]
fn get_fetches_verifies_and_goes_on_after_an_interruption() {
    let stage = Stage::new("get");
    let (ramp, bytes) = (Ramp::new(74), 6_000_001);
    let torrent = TorrentFile::ramp("got.bin", ramp, bytes, 64 << 10, &[]);
    let source = text(&stage.write_torrent(&torrent));
    let out = stage.subdir("out");
    let out_text = text(&out);
    // The first source gives up half-way.
    let half = ScriptedPeer::with_fault(&torrent, Content::Ramp(ramp), Fault::StallAfter(180));
    let peer = half.addr().to_string();
    let args = ["get", &source, "-o", &out_text, "--peer", &peer];
    let mut get = stage.spawn("get", &args);
    eventually("a third is there", PATIENCE, || {
        let status = stage.try_status()?;
        let present = torrents(&status).next()?["pieces_present"].as_u64()?;
        (present * (64 << 10) >= bytes / 3).then_some(())
    });
    get.signal(Signal::INT);
    let status = get.wait(PATIENCE);
    assert_eq!(status.code(), Some(5), "{}", get.text());
    let done = stage.run(&[&args[..], &["--stall-timeout", "3s"]].concat());
    assert_eq!(done.code(), Some(5), "{done:?}");
    assert!(done.stderr.contains("nothing came for 3 s"), "{done:?}");
    drop(half);

    let whole = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Open);
    let peer = whole.addr().to_string();
    let said = stage.run(&["get", &source, "-o", &out_text, "--peer", &peer, "--json"]);
    let said = json(&said.expect_success("wtfs get --json"));
    assert!(said.is_object(), "{said}");
    ramp.check_file(&out.join("got.bin"), bytes).expect("every byte is right");
    let asked = whole.counts().payload_sent;
    assert!(asked < bytes * 3 / 4, "{asked} bytes were fetched again, though half was there");

    // A third run has nothing to do.
    drop(whole);
    let _said = stage.run(&["get", &source, "-o", &out_text]).expect_success("wtfs get of what is there");
}

#[test]
fn exit_codes_are_those_of_the_table() {
    let stage = Stage::new("exit-codes");
    fs::write(stage.join("garbage.torrent"), "this is no torrent").expect("it can be written");
    let garbage = text(&stage.join("garbage.torrent"));
    let help = stage.run(&["--help"]).expect_success("wtfs --help");
    assert!(help.contains("Exit codes"), "{help}");
    assert!(stage.run(&["--version"]).expect_success("wtfs --version").starts_with("wtfs "));
    let cases: [(&[&str], i32); 9] = [
        (&["mount"], 2),
        (&["no-such-command"], 2),
        (&["info", "--no-such-flag"], 2),
        (&["create", "/no/such/data"], 2),
        (&["info", &garbage], 3),
        (&["info", "/no/such/file.torrent"], 3),
        (&["info", "magnet:?xt=urn:btih:tooshort"], 3),
        (&["info", "http://127.0.0.1:1/x.torrent"], 3),
        (&["unmount", "/no/such/mount"], 4),
    ];
    for (args, code) in cases {
        let done = stage.run(args);
        assert_eq!(done.code(), Some(code), "{args:?}: {done:?}");
        assert!(!done.stderr.trim().is_empty(), "{args:?} must say why");
        assert!(!done.stderr.contains("panicked"), "{args:?}: {done:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_said_to_be_that() {
    let stage = Stage::new("full-output");
    let mut command = stage.wtfs();
    command.args(["completions", "bash"]).stdout(fs::File::create("/dev/full").expect("Linux has it"));
    let done = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output") && said.trim_end().lines().count() == 1, "{said}");
}

/// The line that a terminal is shown about a torrent that nobody is known to have.
fn warning_on_a_terminal(stage: &Stage, no_color: &str) -> String {
    let wtfs = stage.wtfs();
    let program = wtfs.get_program().to_str().expect("a path of this repository");
    let line = format!("'{program}' get --stall-timeout 1ms {}", "01".repeat(20));
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).current_dir(stage.join(""));
    let set = wtfs.get_envs().filter_map(|(key, value)| Some((key, value?)));
    terminal.envs(set).env("NO_COLOR", no_color).stdin(Stdio::null());
    let shown = process::run(terminal, PATIENCE).out();
    let line = shown.lines().find(|line| line.contains("nobody is known to ask"));
    line.unwrap_or_else(|| panic!("no warning in {shown}")).to_owned()
}

#[test]
fn warnings_on_a_terminal_are_in_colour_unless_no_color_says_otherwise() {
    let stage = Stage::new("no-color");
    assert!(warning_on_a_terminal(&stage, "").contains("\u{1b}["));
    let plain = warning_on_a_terminal(&stage, "1");
    // What the progress line sends to clear itself may stand in front of it.
    assert!(!plain.contains("\u{1b}[3") && !plain.contains("\u{1b}[0m"), "{plain:?}");
}

#[test]
fn the_status_of_a_running_mount_is_shown_as_a_table() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("status-table");
    let torrent = TorrentFile::ramp("tabled.bin", Ramp::new(76), 100_000, 16 << 10, &[]);
    let mount = stage.mount(&[&text(&stage.write_torrent(&torrent))], &[]);
    let said = stage.run(&["status"]).expect_success("wtfs status");
    for part in ["tabled.bin", &text(mount.dir()), &mount.listen().to_string()] {
        assert!(said.contains(part), "{part} is missing in: {said}");
    }
}

#[test]
fn the_demo_shows_the_main_job_and_leaves_nothing_behind() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let mut stage = Stage::new("demo");
    let litter = stage.subdir("tmp");
    stage.set_variable("TMPDIR", &text(&litter));
    let said = stage.run(&["demo", "--size", "16M"]).expect_success("wtfs demo");
    assert!(said.contains("/s"), "it tells how fast it was: {said}");
    assert_eq!(walk(&litter), Vec::<PathBuf>::new());
    assert_eq!(stage.status(), json!([]));
}

#[test]
fn completions_are_printed_for_each_shell() {
    let stage = Stage::new("completions");
    for shell in ["bash", "zsh", "fish"] {
        let script = stage.run(&["completions", shell]).expect_success(shell);
        assert!(script.contains("wtfs") && script.contains("mount"), "{shell}");
    }
}

#[test]
fn manual_pages_are_printed_and_written() {
    let stage = Stage::new("man");
    let page = stage.run(&["man"]).expect_success("wtfs man");
    assert!(page.contains(".TH wtfs 1") && page.contains("wtfs\\-mount(1)"), "{page}");
    let page = stage.run(&["man", "get"]).expect_success("wtfs man get");
    assert!(page.contains(".TH wtfs-get 1") && page.contains("\\-\\-stall\\-timeout"), "{page}");
    let done = stage.run(&["man", "no-such-command"]);
    assert_eq!(done.code(), Some(2), "{done:?}");
    let dir = stage.join("man/man1");
    let _said = stage.run(&["man", "-o", &text(&dir)]).expect_success("wtfs man -o");
    assert_eq!(fs::read_to_string(dir.join("wtfs-get.1")).expect("written"), page);
    assert!(dir.join("wtfs.1").exists());
}

#[test]
fn with_nothing_running_the_status_is_empty() {
    let stage = Stage::new("status-empty");
    assert_eq!(stage.status(), json!([]));
    let _said = stage.run(&["status"]).expect_success("wtfs status");
}

#[test]
fn settings_come_from_the_file_the_environment_and_the_flags_in_this_order() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let mut stage = Stage::new("settings");
    let torrent = TorrentFile::ramp("set.bin", Ramp::new(75), 100_000, 16 << 10, &[]);
    let source = text(&stage.write_torrent(&torrent));
    let configured = stage.join("from-file");
    let dir = stage.subdir("config/wtfs");
    fs::write(dir.join("config.toml"), format!("cache_dir = \"{}\"\n", text(&configured))).expect("writable");
    stage.mount(&[&source], &[]).unmount();
    assert!(configured.is_dir(), "the file was not honoured");
    let varied = stage.join("from-variable");
    stage.set_variable("WTFS_CACHE_DIR", &text(&varied));
    stage.mount(&[&source], &[]).unmount();
    assert!(varied.is_dir(), "the variable was not honoured");
    let flagged = stage.join("from-flag");
    stage.mount(&[&source], &["--cache-dir", &text(&flagged)]).unmount();
    assert!(flagged.is_dir(), "the flag was not honoured");
    fs::write(dir.join("config.toml"), "cash_dir = \"/x\"\n").expect("writable");
    let done = stage.run(&["status"]);
    assert_eq!(done.code(), Some(2), "{done:?}");
    assert!(done.stderr.contains("cash_dir"), "{done:?}");
}
