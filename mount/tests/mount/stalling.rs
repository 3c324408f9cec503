//! Reads that get no bytes end when their reader is called away, and disturb nobody else.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wtfs_testkit::wait::eventually;

use crate::content::{Supply, TestTree};
use crate::support::{Mounted, Reader, program, run, shell};

const PATIENCE: Duration = Duration::from_secs(10);

fn signal(reader: &Reader, signal: Signal) {
    let pid = Pid::from_raw(reader.pid().cast_signed()).expect("a child's pid");
    kill_process(pid, signal).expect("signalling a child");
}

#[test]
fn a_stuck_cat_ends_within_two_seconds_of_a_signal_and_its_demand_is_withdrawn() {
    let Some(mounted) = Mounted::with(&[("stuck", Supply::Never, 64 << 20)]) else { return };
    for how in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut cat = Reader::cat(&mounted.path("stuck"));
        eventually("the read arrives", PATIENCE, || (mounted.waiting() > 0).then_some(()));
        signal(&cat, how);
        let took = cat.ends_within(PATIENCE);
        eprintln!("a stuck cat ended {took:?} after {how:?}");
        assert!(took < Duration::from_secs(2), "{how:?} took {took:?}");
        eventually("the demand is withdrawn", PATIENCE, || (mounted.waiting() == 0).then_some(()));
    }
}

/// A program that catches the signal gets EINTR, as Python needs to raise KeyboardInterrupt.
#[test]
fn a_handled_request_to_stop_reaches_its_handler() {
    let Some(mounted) = Mounted::with(&[("stuck", Supply::Never, 1 << 20)]) else { return };
    let script =
        "import os,sys\ntry:\n open(sys.argv[1],'rb',0).read(4096)\nexcept KeyboardInterrupt:\n os._exit(42)";
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]).arg(mounted.path("stuck"));
    let mut python = Reader::spawn(&mut command);
    eventually("the read arrives", PATIENCE, || (mounted.waiting() > 0).then_some(()));
    signal(&python, Signal::INT);
    let took = python.ends_within(PATIENCE);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(python.exit_code(), Some(42));
}

#[test]
fn signals_that_nobody_sends_to_stop_a_read_leave_it_waiting() {
    let files = [("stuck", Supply::Never, 1 << 20), ("other", Supply::Never, 1 << 20)];
    let Some(mounted) = Mounted::with(&files) else { return };
    let mut cat = Reader::cat(&mounted.path("stuck"));
    eventually("the read arrives", PATIENCE, || (mounted.waiting() > 0).then_some(()));
    for harmless in [Signal::CHILD, Signal::WINCH, Signal::URG, Signal::CONT] {
        signal(&cat, harmless);
    }
    // A second reader that is interrupted proves that the first has been looked at since.
    let mut other = Reader::cat(&mounted.path("other"));
    eventually("the second read arrives", PATIENCE, || (mounted.waiting() > 1).then_some(()));
    signal(&other, Signal::INT);
    other.ends_within(PATIENCE);
    assert!(cat.is_running());
}

#[test]
fn a_thousand_stalled_reads_leave_names_and_local_bytes_quick() {
    let tree = TestTree::with(&[("stuck", Supply::Never, 8 << 30), ("local", Supply::Local, 16 << 20)]);
    let Some(mounted) = Mounted::start(tree.and_many(500)) else { return };
    // Threads with a position each, 8 MiB apart, so that no two wait for one page.
    let script = "import os,sys,threading\n\
        fd=os.open(sys.argv[1],os.O_RDONLY)\n\
        os.posix_fadvise(fd,0,0,os.POSIX_FADV_RANDOM)\n\
        [threading.Thread(target=os.pread,args=(fd,4096,n<<23)).start() for n in range(1000)]";
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]).arg(mounted.path("stuck"));
    let mut readers = Reader::spawn(&mut command);
    eventually("all reads wait", Duration::from_secs(60), || (mounted.waiting() >= 1000).then_some(()));

    let started = Instant::now();
    let listed = shell(20, &mounted.dir(), "ls -l . many > /dev/null && stat stuck local > /dev/null");
    let names = started.elapsed();
    assert!(listed.status.success(), "{listed:?}");
    let started = Instant::now();
    let read = run(20, ["cat".into(), mounted.path("local")]);
    let bytes = started.elapsed();
    assert_eq!(TestTree::ramp("local").check(0, &read.stdout), Ok(()));
    assert_eq!(read.stdout.len(), 16 << 20);
    eprintln!("with 1000 stalled reads: ls and stat {names:?}, 16 MiB local {bytes:?}");
    assert!(names < Duration::from_secs(2) && bytes < Duration::from_secs(2), "{names:?} {bytes:?}");

    signal(&readers, Signal::KILL);
    let took = readers.ends_within(PATIENCE);
    eprintln!("1000 stalled reads ended {took:?} after SIGKILL");
    assert!(took < Duration::from_secs(4), "{took:?}");
    eventually("all demand is withdrawn", PATIENCE, || (mounted.waiting() == 0).then_some(()));
}

/// `timeout` is what scripts use; the reader must not outlive it.
#[test]
fn timeout_ends_a_stuck_reader_of_a_memory_map() {
    let Some(mounted) = Mounted::with(&[("stuck", Supply::Never, 64 << 20)]) else { return };
    let script =
        "import mmap,os,sys\nm=mmap.mmap(os.open(sys.argv[1],os.O_RDONLY),0,prot=mmap.PROT_READ)\nm[5<<20]";
    let stuck = mounted.path("stuck").display().to_string();
    let started = Instant::now();
    let output = program(1, ["python3", "-c", script, &stuck]).output().expect("python3 starts");
    assert!(!output.status.success());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    eventually("the demand is withdrawn", PATIENCE, || (mounted.waiting() == 0).then_some(()));
}
