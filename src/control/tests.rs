//! Both sides of the socket against each other.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::exit::{Exit, ended, exit_of};

/// Adds what is called `good`, waits for ever for `slow`.
#[derive(Debug, Default)]
struct Toy {
    dropped: CancellationToken,
}

impl Answers for Toy {
    fn status(&self) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(&[7])
    }

    fn who(&self) -> Who {
        Who { pid: 1, role: Role::Mount, path: Some("/mnt".into()), shows: None }
    }

    fn carry_out(&self, order: Request, tell: Tell) -> Carried {
        let guard: DropGuard = self.dropped.clone().drop_guard();
        Box::pin(async move {
            let Request::Add { source, .. } = order else { return Err(ended(Exit::Usage, "only add")) };
            let _told = tell.send(json!(1)).await;
            match source.as_str() {
                "good" => {
                    let _kept = guard.disarm();
                    Ok(json!("added"))
                }
                "slow" => std::future::pending().await,
                _ => Err(ended(Exit::Source, "no such thing")),
            }
        })
    }
}

fn add(source: &str) -> Request {
    Request::Add { source: source.into(), web_seeds: Vec::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_running_process_is_asked_and_a_dead_one_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    let sockets = dir.path().join("wtfs");
    let control = Control::open(&sockets, Arc::new(Toy::default())).expect("opened");
    let dead = sockets.join("1.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("bound"));
    let asked = sockets.clone();
    let answers = tokio::task::spawn_blocking(move || ask_all::<Vec<u32>>(&[&asked])).await.expect("asked");
    assert_eq!(answers.expect("answered"), [[7]]);
    assert!(!dead.exists());
    drop(control);
    assert_eq!(fs::read_dir(&sockets).expect("there").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_mount_is_found_by_its_mount_point_and_carries_out_orders() {
    let dir = tempfile::tempdir().expect("a directory");
    let sockets = dir.path().join("wtfs");
    let _control = Control::open(&sockets, Arc::new(Toy::default())).expect("opened");
    let outcome = tokio::task::spawn_blocking(move || {
        assert!(find_mount(&[&sockets], Path::new("/other")).expect("asked").is_none());
        let socket = find_mount(&[&sockets], Path::new("/mnt")).expect("asked").expect("found");
        let mut progress = Vec::new();
        let done = order(&socket, &add("good"), |told| progress.push(told)).expect("carried out");
        assert_eq!((done, progress), (json!("added"), vec![json!(1)]));
        order(&socket, &add("bad"), |_: Value| {}).expect_err("refused")
    });
    let error = outcome.await.expect("asked");
    assert_eq!((exit_of(&error), error.to_string()), (Exit::Source, "no such thing".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_order_ends_when_its_asker_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let toy = Arc::new(Toy::default());
    let control = Control::open(&dir.path().join("wtfs"), toy.clone()).expect("opened");
    let mut stream = UnixStream::connect(&control.path).await.expect("connected");
    stream.write_all(b"{\"op\":\"add\",\"source\":\"slow\"}\n").await.expect("sent");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.expect("read");
    assert_eq!(line, "{\"progress\":1}\n");
    drop(stream);
    toy.dropped.cancelled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_no_request_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let control = Control::open(&dir.path().join("wtfs"), Arc::new(Toy::default())).expect("opened");
    let mut stream = UnixStream::connect(&control.path).await.expect("connected");
    stream.write_all(b"{\"op\":\"explode\"}\n").await.expect("sent");
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).await.expect("read");
    assert!(reply.starts_with("{\"error\":\"not a request"), "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_process_is_found_wherever_its_socket_may_stand_and_once_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let [theirs, ours] = ["theirs", "ours"].map(|name| dir.path().join(name));
    let _control = Control::open(&theirs, Arc::new(Toy::default())).expect("opened");
    let outcome = tokio::task::spawn_blocking(move || {
        assert_eq!(ask_all::<Vec<u32>>(&[&ours, &theirs]).expect("answered"), [[7]]);
        assert_eq!(find_mount(&[&ours, &theirs], Path::new("/mnt")).expect("asked").iter().count(), 1);
        // What cannot be trusted hides nothing else.
        make_private(&ours).expect("made");
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o777)).expect("set");
        assert_eq!(ask_all::<Vec<u32>>(&[&ours, &theirs]).expect("answered"), [[7]]);
        assert_eq!(ask_all::<Vec<u32>>(&[&theirs.join("."), &theirs]).expect("answered"), [[7]]);
    });
    outcome.await.expect("asked");
}

#[test]
fn a_directory_others_may_write_to_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("set");
    let error = ask_all::<u32>(&[dir.path()]).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(make_private(dir.path()).is_err());
}

#[test]
fn no_directory_means_nothing_runs() {
    assert!(ask_all::<u32>(&[Path::new("/nonexistent/wtfs")]).expect("fine").is_empty());
}
