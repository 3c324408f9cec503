//! Programs read exactly the bytes that the content holds, however they read, and can change nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use wtfs_testkit::ramp::Ramp;
use wtfs_testkit::wait::eventually;

use crate::content::{Supply, TestTree};
use crate::support::{Mounted, PATIENCE, run, shell};

const MIB: u64 = 1 << 20;

fn original(dir: &std::path::Path, name: &str, bytes: u64) -> std::path::PathBuf {
    let path = dir.join(name);
    TestTree::ramp(name).write_file(&path, bytes).expect("writing the original");
    path
}

#[test]
fn whole_files_are_equal_from_memory_and_from_tasks() {
    let files = [
        ("local.bin", Supply::Local, 9 * MIB + 12_345),
        ("remote.bin", Supply::Remote, 33 * MIB + 1),
        ("empty", Supply::Remote, 0),
        ("one byte", Supply::Remote, 1),
    ];
    let Some(mounted) = Mounted::with(&files) else { return };
    let scratch = wtfs_testkit::scratch::Scratch::new("originals");
    for (name, _, bytes) in files {
        let original = original(scratch.path(), name, bytes);
        let compared = run([&std::path::PathBuf::from("cmp"), &original, &mounted.path(name)]);
        assert!(compared.status.success(), "{name}: {compared:?}");
    }
}

#[test]
fn random_backward_parallel_and_mapped_reads_are_equal() {
    let bytes = 24 * MIB + 777;
    let Some(mounted) = Mounted::with(&[("data", Supply::Remote, bytes)]) else { return };
    let scratch = wtfs_testkit::scratch::Scratch::new("originals");
    let original = original(scratch.path(), "data", bytes);
    let script = r#"
import mmap, os, random, sys, threading
want = open(sys.argv[1], 'rb').read()
fd = os.open(sys.argv[2], os.O_RDONLY)
rng = random.Random(5)
for _ in range(200):
    at, n = rng.randrange(len(want) + 9), rng.randrange(1, 300000)
    assert os.pread(fd, n, at) == want[at:at+n], ('pread', at, n)
for at in range(len(want) - 1, 0, -1234567):
    assert os.pread(fd, 4096, at) == want[at:at+4096], ('back', at)
for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
    m = mmap.mmap(fd, 0, flags=flags, prot=mmap.PROT_READ)
    for _ in range(50):
        at = rng.randrange(len(want)); assert m[at:at+9] == want[at:at+9], ('map', at)
    assert m[:] == want
    m.close()
failed = []
def reader(seed):
    r = random.Random(seed); f = os.open(sys.argv[2], os.O_RDONLY)
    for _ in range(40):
        at, n = r.randrange(len(want)), r.randrange(1, 1 << 20)
        if os.pread(f, n, at) != want[at:at+n]: failed.append((seed, at, n))
threads = [threading.Thread(target=reader, args=(s,)) for s in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not failed, failed
assert os.pread(fd, 10, len(want)) == b''
assert os.pread(fd, 10, (1 << 62)) == b''
assert os.lseek(fd, 0, os.SEEK_DATA) == 0 and os.lseek(fd, 5, os.SEEK_HOLE) == len(want)
assert os.getxattr(fd, 'user.wtfs.infohash') == b'0123456789abcdef'
assert os.listxattr(sys.argv[2]) == ['user.wtfs.infohash']
"#;
    let (original, mounted_file) =
        (original.display().to_string(), mounted.path("data").display().to_string());
    let done = run(["python3", "-c", script, &original, &mounted_file]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A copy that trusts holes and block counts must not turn bytes that are not local into zeros.
#[test]
fn sparse_copies_of_a_cold_file_hold_its_bytes() {
    let bytes = 5 * MIB + 99;
    let Some(mounted) = Mounted::with(&[("cold", Supply::Remote, bytes)]) else { return };
    let scratch = wtfs_testkit::scratch::Scratch::new("copies");
    let copies = [
        ("cp --sparse=auto", "cp --sparse=auto \"$0\"/cold auto && mv auto out"),
        ("tar -S", "tar -C \"$0\" -Scf all.tar cold && tar -xf all.tar && mv cold out"),
    ];
    for (what, script) in copies {
        let script = script.replace("$0", &mounted.dir().display().to_string());
        let copied = shell(scratch.path(), &script);
        assert!(copied.status.success(), "{what}: {copied:?}");
        TestTree::ramp("cold").check_file(&scratch.join("out"), bytes).expect(what);
        fs::remove_file(scratch.join("out")).expect("removing the copy");
    }
}

#[test]
fn a_failing_read_is_an_input_output_error_and_never_zeros() {
    let Some(mounted) = Mounted::with(&[("broken", Supply::Fails, MIB)]) else { return };
    let output = run(["cat".into(), mounted.path("broken")]);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("Input/output error"), "{output:?}");
}

#[test]
fn every_attempt_to_change_something_is_refused_as_read_only() {
    let Some(mounted) = Mounted::with(&[("file", Supply::Local, 100)]) else { return };
    let attempts = [
        "echo x > file",
        "echo x >> file",
        "echo x > new",
        "mkdir new",
        "rm -f file",
        "mv file other",
        "ln file hard",
        "ln -s file soft",
        "chmod 777 file",
        "touch file",
        "truncate -s 0 file",
        "mknod pipe p",
    ];
    for attempt in attempts {
        let output = shell(&mounted.dir(), attempt);
        assert!(!output.status.success(), "{attempt} succeeded");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(says.contains("Read-only file system"), "{attempt}: {says}");
    }
    let read = run(["cat".into(), mounted.path("file")]);
    assert_eq!(TestTree::ramp("file").check(0, &read.stdout), Ok(()));
}

#[test]
fn a_directory_of_thousands_is_listed_completely() {
    let tree = TestTree::with(&[("file", Supply::Local, 100)]).and_many(20_000);
    let Some(mounted) = Mounted::start(tree) else { return };
    for script in
        ["ls -U many | wc -l", "find many -type f -size -1k | wc -l", "ls -l many | grep -c '^-r--r--r--'"]
    {
        let listed = shell(&mounted.dir(), script);
        assert!(listed.status.success(), "{script}: {listed:?}");
        let expected = if script.starts_with("find") { "2000" } else { "20000" };
        assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), expected, "{script}");
    }
}

#[test]
fn the_mount_shows_its_type_its_size_and_its_times() {
    let Some(mounted) = Mounted::with(&[("file", Supply::Remote, 3 * MIB)]) else { return };
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
    let ours = format!("wtfs {} fuse.wtfs ro,nosuid,nodev", mounted.dir().display());
    assert!(mounts.lines().any(|line| line.starts_with(&ours)), "{mounts}");
    let listed = wtfs_mount::list_mounts().expect("the mount table");
    assert!(listed.iter().any(|mount| mount.mount_point == mounted.dir()));
    let volume = shell(&mounted.dir(), "stat -f -c '%S %b %f %c' . && stat -c '%s %b %Y %h %a' file");
    let text = String::from_utf8_lossy(&volume.stdout);
    assert_eq!(text.trim(), "4096 2621440 524288 77\n3145728 1 1000000000 1 444");
}

#[test]
fn a_file_that_changes_by_itself_is_never_read_from_a_cache() {
    let Some(mounted) = Mounted::with(&[("status", Supply::Changes, 4096)]) else { return };
    for opened in 1..4 {
        let read = run(["cat".into(), mounted.path("status")]);
        assert_eq!(Ramp::new(opened).check(0, &read.stdout), Ok(()), "opening {opened}");
    }
}

#[test]
fn pages_are_kept_over_opens() {
    let Some(mounted) = Mounted::with(&[("data", Supply::Remote, 8 * MIB)]) else { return };
    // Once none of its pages had to make way for others' in between, a second reading asks for nothing.
    eventually("a file that was read is read from the kernel's pages", PATIENCE, || {
        assert!(run(["cat".into(), mounted.path("data")]).status.success());
        let asked = mounted.counters().reads();
        assert!(asked > 0);
        assert!(run(["cat".into(), mounted.path("data")]).status.success());
        (mounted.counters().reads() == asked).then_some(())
    });
}

/// The kernel may keep a name for a day; it has to be told when one goes.
#[test]
fn a_removed_name_is_gone_at_once_and_open_files_are_read_on() {
    let files = [("goes", Supply::Remote, 4 * MIB), ("stays", Supply::Remote, MIB)];
    let Some(mounted) = Mounted::with(&files) else { return };
    let script = "exec 3<goes; cat goes | wc -c; echo ready; read; tail -c 1000 <&3 | wc -c; ls";
    let mut command = crate::support::program(["bash", "-c", script]);
    let mut child = command.current_dir(mounted.dir()).stdin(Stdio::piped()).spawn().expect("bash starts");
    let mut says = BufReader::new(child.stdout.take().expect("piped"));
    let mut text = String::new();
    while !text.ends_with("ready\n") {
        assert_ne!(says.read_line(&mut text).expect("reading what bash says"), 0, "{text}");
    }
    mounted.tree.remove("goes");
    eventually("the name goes", PATIENCE, || {
        let listed = run(["stat".into(), mounted.path("goes")]);
        (!listed.status.success()).then_some(())
    });
    child.stdin.take().expect("piped").write_all(b"\n").expect("telling bash to go on");
    says.read_to_string(&mut text).expect("reading what bash says");
    assert!(child.wait().expect("waiting for bash").success());
    assert_eq!(text, format!("{}\nready\n1000\nstays\n", 4 * MIB));
}
