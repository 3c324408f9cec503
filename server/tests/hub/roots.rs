//! What stands in a root is a torrent for as long as it stays as it is, and is known again after a restart.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::stage::{PATIENCE, Served, Stage, age, noise};

#[tokio::test]
async fn what_was_hashed_is_known_after_a_restart() {
    let stage = Stage::new();
    for at in 0..5 {
        stage.write(&format!("file {at}"), &noise(50_000 + at));
    }
    stage.write("dir/one", &noise(70_000));
    stage.write("dir/two", &noise(80_000));
    let served = stage.start().await;
    for at in 0..5 {
        served.hash_of(&format!("file {at}")).await;
    }
    let before = served.hash_of("dir").await;
    assert_eq!(served.hub.hashed_count(), 6);
    served.end().await;

    stage.write("new", &noise(90_000));
    let served = stage.start().await;
    assert_eq!(served.hash_of("dir").await, before);
    served.hash_of("new").await;
    assert_eq!(served.hub.hashed_count(), 1, "only what is new");
    served.end().await;
}

#[tokio::test]
async fn files_that_come_change_move_and_go_are_followed() {
    let stage = Stage::new();
    let served = stage.start().await;
    let path = stage.write("a", &noise(60_000));
    let first = served.hash_of("a").await;

    fs::write(&path, noise(61_000)).expect("written");
    served.wait_for(&format!("/seed/{first}/a"), 404).await;
    // The file is looked at when it is asked for; that it changed is told to the hub a little later.
    served.wait_for(&format!("/torrent/{first}.torrent"), 404).await;
    let second = served.hash_of("a").await;
    assert_ne!(first, second);
    assert_eq!(served.get("/files/a").await.body, noise(61_000));

    fs::rename(&path, stage.root().join("b")).expect("renamed");
    served.wait_for("/files/a", 404).await;
    assert!(served.wait_for("/files/b", 200).await.body == noise(61_000));
    assert_eq!(served.hub.hashed_count(), 2, "a file that was only moved is not hashed again");

    fs::remove_file(stage.root().join("b")).expect("removed");
    served.wait_for("/files/b", 404).await;
    let start = Instant::now();
    while served.list().await != r#"{"torrents":[]}"# {
        assert!(start.elapsed() < PATIENCE, "{}", served.list().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    served.end().await;
}

#[tokio::test]
async fn a_moved_directory_is_the_torrent_that_hashing_would_make() {
    let stage = Stage::new();
    stage.write("old/a", &noise(60_000));
    stage.write("old/sub/b", &noise(70_000));
    let served = stage.start().await;
    served.hash_of("old").await;
    fs::rename(stage.root().join("old"), stage.root().join("new")).expect("renamed");
    let moved = served.hash_of("new").await;
    assert_eq!(served.hub.hashed_count(), 1);
    served.end().await;
    // Without a memory it is hashed.
    fs::remove_dir_all(stage.dir.path().join("cache")).expect("removed");
    let served = stage.start().await;
    assert_eq!(served.hash_of("new").await, moved);
    assert_eq!(served.hub.hashed_count(), 1);
    served.end().await;
}

#[tokio::test]
async fn a_directory_is_made_anew_when_a_file_is_added_deep_in_it() {
    let stage = Stage::new();
    stage.write("d/sub/a", &noise(60_000));
    let served = stage.start().await;
    let before = served.hash_of("d").await;
    stage.write("d/sub/b", &noise(10_000));
    served.wait_for("/files/d/sub/b", 200).await;
    assert_ne!(served.hash_of("d").await, before);
    served.wait_for(&format!("/seed/{before}/d/sub/a"), 404).await;
    served.end().await;
}

#[tokio::test]
async fn a_file_is_not_hashed_while_it_grows() {
    let stage = Stage::new();
    let mut config = stage.config();
    // Longer than any machine stops between two writes, and shorter than it is written to.
    config.quiet = Duration::from_secs(8);
    let served = Served::start(config).await;
    let path = stage.root().join("growing");
    let start = Instant::now();
    let mut file = fs::File::create(&path).expect("made");
    while start.elapsed() < Duration::from_secs(12) {
        file.write_all(&noise(10_000)).expect("written");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(served.hub.hashed_count(), 0);
    drop(file);
    served.wait_for("/files/growing", 200).await;
    assert_eq!(served.hub.hashed_count(), 1);
    served.end().await;
}

#[tokio::test]
async fn what_cannot_be_shared_is_told_and_leaves_the_rest_alone() {
    let stage = Stage::new();
    stage.write("empty", b"");
    fs::create_dir(stage.root().join("nothing")).expect("made");
    stage.write("fine", b"fine");
    stage.write("download.part", b"half");
    stage.write("backup~", b"old");
    let served = stage.start().await;
    served.hash_of("fine").await;
    let start = Instant::now();
    loop {
        let list: serde_json::Value = serde_json::from_str(&served.list().await).expect("JSON");
        let entries = list["torrents"].as_array().expect("a list").clone();
        let refused = entries.iter().filter(|entry| entry["state"] == "refused").count();
        if refused == 2 {
            assert_eq!(entries.len(), 3, "{entries:?}");
            assert!(entries.iter().all(|e| e["state"] != "refused" || e["reason"].is_string()));
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{entries:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(served.get("/readyz").await.status, 200);
    served.end().await;
}

#[tokio::test]
async fn a_file_put_back_as_it_was_is_served_again_without_hashing() {
    let stage = Stage::new();
    let path = stage.write("f", &noise(60_000));
    let served = stage.start().await;
    let hash = served.hash_of("f").await;
    let aside = stage.dir.path().join("aside");
    fs::rename(&path, &aside).expect("renamed");
    served.wait_for("/files/f", 404).await;
    fs::rename(&aside, &path).expect("renamed");
    assert_eq!(served.hash_of("f").await, hash);
    assert_eq!(served.hub.hashed_count(), 1);
    served.end().await;
}

#[tokio::test]
async fn two_roots_are_shared_side_by_side() {
    let stage = Stage::new();
    stage.write("same name", &noise(10_000));
    let other = stage.dir.path().join("other");
    fs::create_dir(&other).expect("made");
    for (name, bytes) in [("same name", 20_000), ("only there", 30_000)] {
        fs::write(other.join(name), noise(bytes)).expect("written");
        age(&other.join(name), Duration::from_secs(60));
    }
    let mut config = stage.config();
    config.roots.push(other);
    let served = Served::start(config).await;
    served.wait_for("/files/only%20there", 200).await;
    let start = Instant::now();
    while served.list().await.matches("\"ready\"").count() < 3 {
        assert!(start.elapsed() < PATIENCE, "{}", served.list().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(served.get("/files/same%20name").await.body.len(), 10_000, "the first root has the name");
    served.end().await;
}
