//! Reads that get no bytes end when their reader is called away, and disturb nobody else.
//!
//! No source ever answers here, so whatever ends a read or is done beside one was let go by the mount: how long that may
//! take is a matter of the machine, and is only printed.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use wtfs_testkit::wait::eventually;

use crate::content::{Supply, TestTree};
use crate::support::{Mounted, PATIENCE, Reader, program, run, shell};

fn signal(reader: &Reader, signal: Signal) {
    let pid = Pid::from_raw(reader.pid().cast_signed()).expect("a child's pid");
    kill_process(pid, signal).expect("signalling a child");
}

#[test]
fn a_stuck_cat_ends_by_a_signal_and_its_demand_is_withdrawn() {
    let Some(mounted) = Mounted::with(&[("stuck", Supply::Never, 64 << 20)]) else { return };
    for how in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut cat = Reader::cat(&mounted.path("stuck"));
        eventually("the read arrives", PATIENCE, || (mounted.waiting() > 0).then_some(()));
        signal(&cat, how);
        let took = cat.ends();
        eprintln!("a stuck cat ended {took:?} after {how:?}");
        eventually("the demand is withdrawn", PATIENCE, || (mounted.waiting() == 0).then_some(()));
    }
}

/// A program that catches the signal gets EINTR, as Python needs to raise KeyboardInterrupt.
#[test]
fn a_handled_request_to_stop_reaches_its_handler() {
    let Some(mounted) = Mounted::with(&[("stuck", Supply::Never, 1 << 20)]) else { return };
    let script =
        "import os,sys\ntry:\n open(sys.argv[1],'rb',0).read(4096)\nexcept KeyboardInterrupt:\n os._exit(42)";
    let stuck = mounted.path("stuck").display().to_string();
    let mut python = Reader::of(["python3", "-c", script, &stuck]);
    eventually("the read arrives", PATIENCE, || (mounted.waiting() > 0).then_some(()));
    signal(&python, Signal::INT);
    python.ends();
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
    other.ends();
    assert!(cat.is_running());
}

#[test]
fn a_thousand_stalled_reads_keep_nobody_from_names_and_local_bytes() {
    let tree = TestTree::with(&[("stuck", Supply::Never, 8 << 30), ("local", Supply::Local, 16 << 20)]);
    let Some(mounted) = Mounted::start(tree.and_many(500)) else { return };
    // Threads with a position each, 8 MiB apart, so that no two wait for one page.
    let script = "import os,sys,threading\n\
        fd=os.open(sys.argv[1],os.O_RDONLY)\n\
        os.posix_fadvise(fd,0,0,os.POSIX_FADV_RANDOM)\n\
        [threading.Thread(target=os.pread,args=(fd,4096,n<<23)).start() for n in range(1000)]";
    let stuck = mounted.path("stuck").display().to_string();
    let mut readers = Reader::of(["python3", "-c", script, &stuck]);
    eventually("all reads wait", PATIENCE, || (mounted.waiting() >= 1000).then_some(()));

    let started = Instant::now();
    let listed = shell(&mounted.dir(), "ls -l . many > /dev/null && stat stuck local > /dev/null");
    let names = started.elapsed();
    assert!(listed.status.success(), "{listed:?}");
    let started = Instant::now();
    let read = run(["cat".into(), mounted.path("local")]);
    let bytes = started.elapsed();
    assert_eq!(TestTree::ramp("local").check(0, &read.stdout), Ok(()));
    assert_eq!(read.stdout.len(), 16 << 20);
    eprintln!("with 1000 stalled reads: ls and stat {names:?}, 16 MiB local {bytes:?}");
    assert!(mounted.waiting() >= 1000 && readers.is_running());

    signal(&readers, Signal::KILL);
    let took = readers.ends();
    eprintln!("1000 stalled reads ended {took:?} after SIGKILL");
    eventually("all demand is withdrawn", PATIENCE, || (mounted.waiting() == 0).then_some(()));
}

/// `timeout` is what scripts use; the reader must not outlive it. It does the same at its time as when it is told to end.
#[test]
fn timeout_ends_a_stuck_reader_of_a_memory_map() {
    let Some(mounted) = Mounted::with(&[("stuck", Supply::Never, 64 << 20)]) else { return };
    let script =
        "import mmap,os,sys\nm=mmap.mmap(os.open(sys.argv[1],os.O_RDONLY),0,prot=mmap.PROT_READ)\nm[5<<20]";
    let stuck = mounted.path("stuck").display().to_string();
    let mut timeout = Reader::spawn(&mut program(["python3", "-c", script, &stuck]));
    eventually("the fault arrives", PATIENCE, || (mounted.waiting() > 0).then_some(()));
    signal(&timeout, Signal::TERM);
    timeout.ends();
    assert_ne!(timeout.exit_code(), Some(0));
    eventually("the demand is withdrawn", PATIENCE, || (mounted.waiting() == 0).then_some(()));
}
