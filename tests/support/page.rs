//! A hub that shares a long file, and a browser that looks at its page.

use std::fs;

use serde_json::{Value, json};
use wtfs_testkit::ramp::Ramp;

use super::{
    browser::{Browser, sha256_of},
    hub::Hub,
    stage::Stage,
};

/// Length of the file that [`World`] shares.
pub(crate) const BYTES: u64 = 9_000_007;

/// What is in it.
pub(crate) fn content() -> Ramp {
    Ramp::new(67)
}

/// A hub that shares a long file, and a browser that looks at its page.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) browser: Browser,
    pub(crate) hub: Option<Hub>,
    // Last: its directory goes when nobody writes there any more.
    pub(crate) stage: Stage,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_flags(name, &[])
    }

    pub(crate) fn with_flags(name: &str, flags: &[&str]) -> Self {
        Self::on(Stage::new(name), flags)
    }

    pub(crate) fn on(stage: Stage, flags: &[&str]) -> Self {
        let root = stage.subdir("shared");
        content().write_file(&root.join("long.bin"), BYTES).expect("the scratch directory can be written");
        let hub = Hub::start(&stage, &root, flags);
        hub.wait_ready("long.bin");
        let browser = Browser::start(&stage);
        Self { stage, hub: Some(hub), browser }
    }

    pub(crate) fn hub(&self) -> &Hub {
        self.hub.as_ref().expect("it runs")
    }

    #[track_caller]
    pub(crate) fn visit(&mut self, tab: &str, more: Value) {
        let mut options = json!({ "tab": tab, "url": self.hub().url("/browser") });
        if let (Some(options), Value::Object(more)) = (options.as_object_mut(), more) {
            options.extend(more);
        }
        self.browser.ask("visit", options);
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, tab: &str, command: &str, mut options: Value) -> Value {
        options["tab"] = json!(tab);
        self.browser.ask(command, options)
    }

    /// The SHA-256 of a range of the long file.
    #[track_caller]
    fn range_hash(&self, start: u64, len: u64) -> String {
        let path = self.stage.join("range");
        let bytes = content().bytes(start, usize::try_from(len).expect("fits"));
        fs::write(&path, bytes).expect("the scratch directory can be written");
        sha256_of(&path)
    }

    #[track_caller]
    pub(crate) fn check_read(&self, said: &Value, start: u64, len: u64) {
        assert_eq!(said["start"], start.to_string(), "{said}");
        assert_eq!(said["sha256"], self.range_hash(start, len), "{said}");
    }

    /// Nothing was reported on the console, and no policy was broken.
    #[track_caller]
    pub(crate) fn check_calm(&mut self, tab: &str) {
        let problems = self.ask(tab, "problems", json!({}));
        assert_eq!(problems, json!([]), "{tab}");
    }
}
