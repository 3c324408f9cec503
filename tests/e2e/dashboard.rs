//! In a browser the dashboard shows what the hub has as text, follows changes, searches and sorts, copies the right links,
//! breaks no policy of its own, fits a phone, and says when the hub is gone and back.

use std::{fs, process::Command};

use wtfs_testkit::{net, process::Process};

use crate::support::{
    hub::Hub,
    need::{Need, find_program, missing, node_modules},
    stage::{PATIENCE, Stage, text},
};

#[test]
fn the_dashboard_works_in_chromium() {
    if missing(&[Need::Program("chromium"), Need::Program("node"), Need::Playwright]) {
        return;
    }
    let mut stage = Stage::new("dashboard");
    // Longer than `end` waits: the page's stream must not hold the hub up.
    stage.set_variable("WTFS_HUB_GRACE", "600s");
    let root = stage.subdir("shared");
    for (name, bytes) in [(r#"<img src=x onerror="window.ran=1">"#, 5000), ("large.bin", 900_000)] {
        fs::write(root.join(name), vec![1; bytes]).expect("the scratch directory can be written");
    }
    let addr = net::fresh_addr();
    let hub = Hub::start_at(&stage, &root, addr, &[]);
    hub.wait_ready("large.bin");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/dashboard.mjs");
    let playwright = node_modules().join("playwright-core/index.mjs");
    let chromium = find_program("chromium").expect("it is there");
    let mut command = Command::new("node");
    stage.isolate(&mut command);
    command.args([script, &text(&playwright), &text(&chromium), &hub.url(""), &text(&root)]);
    let mut browser = Process::spawn("browser", command, &stage.log("browser"));
    browser.wait_for_line("the page passes", PATIENCE, 0, |line| (line == "end the hub").then_some(()));
    hub.end();
    browser.wait_for_line("it says so", PATIENCE, 0, |line| (line == "a lost hub is told").then_some(()));
    let hub = Hub::start_at(&stage, &root, addr, &[]);
    let status = browser.wait(PATIENCE);
    assert!(status.success(), "{}", browser.text());
    hub.end();
}

#[test]
fn the_page_forbids_what_it_does_not_need() {
    let stage = Stage::new("dashboard-policy");
    let hub = Hub::start(&stage, &stage.subdir("shared"), &[]);
    let answer = hub.ask("/", "Accept: text/html\r\n");
    assert_eq!(answer.status, 200);
    let head = answer.head.to_lowercase();
    for part in ["default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert!(!head.contains("unsafe") && head.contains("x-content-type-options: nosniff"), "{head}");
    // Programs are told in a line where to look.
    assert!(hub.get("/").head.to_lowercase().contains("content-type: text/plain"));
    hub.end();
}
