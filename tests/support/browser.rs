//! Chromium with tabs that are peers: webtorrent.js on a bare page, hand-made peers that misbehave, or the hub's own page,
//! driven by `tests/support/browser/driver.mjs` over its standard input and output.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{ChildStdin, Command},
    time::Duration,
};

use serde_json::{Value, json};
use wtfs_testkit::process::Process;

use super::{
    need::{Need, find_program, node_modules},
    stage::{Stage, text},
};

/// How long what a browser takes part in may take. On a machine with too much to do it starts slowly, and a channel that
/// did not open in time is tried again with the next announce, two minutes later.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The same for reads that wait for a browser, as `--read-timeout`.
pub(crate) const READ_TIMEOUT: &str = "500s";

/// What a test with a browser needs.
pub(crate) const BROWSER: &[Need] =
    &[Need::Fuse, Need::Program("chromium"), Need::Program("node"), Need::Playwright, Need::WebTorrent];

/// webtorrent.js, as the page of the hub is built with it.
pub(crate) fn webtorrent() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("web/node_modules/webtorrent/dist/webtorrent.min.js")
}

/// A running Chromium.
#[derive(Debug)]
pub(crate) struct Browser {
    process: Process,
    commands: Option<ChildStdin>,
    next_id: u32,
}

impl Browser {
    /// Starts it, and waits until it runs: nothing that is timed later waits for that.
    #[track_caller]
    pub(crate) fn start(stage: &Stage) -> Self {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/browser");
        let playwright = node_modules().join("playwright-core/index.mjs");
        let chromium = find_program("chromium").expect("it is there");
        let mut command = Command::new("node");
        stage.isolate(&mut command);
        // What plays sound leaves a directory there.
        command.env("TMPDIR", stage.subdir("tmp"));
        command.arg(format!("{here}/driver.mjs"));
        command.args([text(&playwright), text(&chromium), text(&webtorrent()), here.to_owned()]);
        let mut process = Process::spawn("browser", command, &stage.log("browser"));
        let commands = process.take_stdin();
        process.wait_for_line("the browser runs", PATIENCE, 0, |line| {
            line.starts_with(r#"{"ready""#).then_some(())
        });
        Self { process, commands, next_id: 0 }
    }

    /// Has a command carried out, and gives what it answers.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str, options: Value) -> Value {
        let id = self.begin(command, options);
        self.finish(id, command)
    }

    /// Has a command begun; [`Browser::finish`] waits for its answer.
    #[track_caller]
    pub(crate) fn begin(&mut self, command: &str, mut options: Value) -> u32 {
        self.next_id += 1;
        options["id"] = json!(self.next_id);
        options["command"] = json!(command);
        let commands = self.commands.as_mut().expect("taken only at the end");
        writeln!(commands, "{options}").expect("the driver reads");
        self.next_id
    }

    #[track_caller]
    pub(crate) fn finish(&mut self, id: u32, command: &str) -> Value {
        let (answer, _) =
            self.process.wait_for_line(&format!("`{command}` is answered"), PATIENCE, 0, |line| {
                let answer: Value = serde_json::from_str(line).ok()?;
                (answer["id"] == id).then_some(answer)
            });
        assert!(answer.get("error").is_none(), "`{command}`: {}", answer["error"]);
        answer["ok"].clone()
    }

    /// Opens a bare peer that has `data`, and waits until the tracker knows it.
    #[track_caller]
    pub(crate) fn seed(&mut self, tab: &str, torrent: &Path, data: &Path, trackers: &[&str]) {
        let options = json!({
            "tab": tab, "role": "seed", "torrent": text(torrent), "data": text(data), "trackers": trackers,
        });
        let opened = self.ask("open", options);
        assert_eq!(opened["errors"], json!([]), "{tab}");
    }

    /// Opens a bare peer that wants everything, and waits until the tracker knows it.
    #[track_caller]
    pub(crate) fn leech(&mut self, tab: &str, torrent: &Path, trackers: &[&str]) {
        let options = json!({ "tab": tab, "role": "leech", "torrent": text(torrent), "trackers": trackers });
        let opened = self.ask("open", options);
        assert_eq!(opened["errors"], json!([]), "{tab}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends Chromium when nobody will ask any more; killed, it could not.
        drop(self.commands.take());
        if !std::thread::panicking() {
            let _status = self.process.wait(PATIENCE);
        } else {
            let _ended = wtfs_testkit::wait::within(Duration::from_secs(15), || self.process.try_status());
        }
    }
}

/// The SHA-256 of a file in hexadecimal, by another program's word.
#[track_caller]
pub(crate) fn sha256_of(path: &Path) -> String {
    let mut command = Command::new("sha256sum");
    command.arg(path);
    let said = wtfs_testkit::process::run(command, PATIENCE).expect_success("sha256sum");
    said.split(' ').next().expect("a hash").to_owned()
}
