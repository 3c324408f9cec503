//! Complete files are read by the kernel alone where it and our privileges allow; elsewhere nobody sees a difference.
//! Opens files in this process, to hold them open: nothing here waits for a source that may not answer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use wtfs_mount::MappedFile;
use wtfs_testkit::scratch::Scratch;
use wtfs_testkit::wait::eventually;

use crate::content::{Supply, TestTree};
use crate::support::{Mounted, PATIENCE, run};

const MIB: u64 = 1 << 20;
const NAMES: [&str; 2] = ["model", "other"];

struct Setup {
    mounted: Mounted,
    _data: Scratch,
}

fn setup(bytes: u64) -> Option<Setup> {
    let data = Scratch::new("data");
    let files = NAMES.map(|name| (name, Supply::Filling, bytes));
    let mounted = Mounted::start(TestTree::with(&files).and_data_in(data.path()))?;
    Some(Setup { mounted, _data: data })
}

impl Setup {
    fn complete(&self) {
        self.mounted.counters().is_whole.store(true, Ordering::SeqCst);
    }

    fn held(&self) -> usize {
        self.mounted.counters().held.load(Ordering::SeqCst)
    }

    /// That of files closed just before may be let go a moment after the next is opened.
    fn holds_at_most_one(&self) {
        eventually("one data file for all handles", PATIENCE, || (self.held() <= 1).then_some(()));
    }

    fn equals(&self, name: &str, bytes: u64) {
        let read = run(["cat".into(), self.mounted.path(name)]);
        assert!(read.status.success(), "{name}: {read:?}");
        assert_eq!(read.stdout.len() as u64, bytes, "{name}");
        assert_eq!(TestTree::ramp(name).check(0, &read.stdout), Ok(()), "{name}");
    }
}

/// Whether the kernel reads data files here: Linux 6.9 and the privilege. `WTFS_REQUIRE_PASSTHROUGH=1` insists.
fn is_possible(setup: &Setup) -> bool {
    let open = File::open(setup.mounted.path("model")).expect("opened");
    let is_possible = setup.held() == 1;
    drop(open);
    eventually("the close is noticed", PATIENCE, || (setup.held() == 0).then_some(()));
    let is_required = std::env::var_os("WTFS_REQUIRE_PASSTHROUGH").is_some_and(|value| value == "1");
    assert!(is_possible || !is_required, "no passthrough here");
    if !is_possible {
        eprintln!("passthrough is not possible here");
    }
    is_possible
}

#[test]
fn a_complete_file_is_read_without_this_process_and_released_at_the_last_close() {
    let bytes = 9 * MIB + 77;
    let Some(setup) = setup(bytes) else { return };
    setup.equals("model", bytes);
    assert!(setup.mounted.counters().reads() > 0, "a file that is not complete is read through the daemon");
    setup.complete();
    let is_possible = is_possible(&setup);
    let before = setup.mounted.counters().reads();
    setup.equals("other", bytes);
    if is_possible {
        assert_eq!(setup.mounted.counters().reads(), before, "reads seen by the daemon");
    }
    let mapped = MappedFile::open(&setup.mounted.path("other")).expect("mapped");
    let mut page = vec![0; 300_000];
    assert_eq!(mapped.copy_at(4_567_890, &mut page), page.len());
    assert_eq!(TestTree::ramp("other").check(4_567_890, &page), Ok(()));
    if is_possible {
        assert_eq!(setup.mounted.counters().reads(), before, "page faults seen by the daemon");
        let second = File::open(setup.mounted.path("other")).expect("opened again");
        setup.holds_at_most_one();
        drop(mapped);
        assert_eq!(setup.held(), 1, "one data file for all handles, until the last is closed");
        drop(second);
    } else {
        drop(mapped);
    }
    eventually("the data file is let go", PATIENCE, || (setup.held() == 0).then_some(()));
    assert_eq!(fs::metadata(setup.mounted.path("other")).expect("there").len(), bytes);
}

#[test]
fn a_file_opened_before_it_was_complete_stays_as_it_is_beside_others_read_directly() {
    let bytes = 3 * MIB + 5;
    let Some(setup) = setup(bytes) else { return };
    let early = File::open(setup.mounted.path("model")).expect("opened");
    setup.complete();
    let late = File::open(setup.mounted.path("model")).expect("a second handle while the first is open");
    assert_eq!(setup.held(), 0, "one inode is never read in both ways");
    setup.equals("other", bytes);
    for (file, at) in [(&early, 1_000_000), (&late, 2_000_000), (&early, 3 * MIB - 10)] {
        let mut read = vec![0; 1000];
        let count = file.read_at(&mut read, at).expect("read");
        assert_eq!(count as u64, 1000.min(bytes - at));
        assert_eq!(TestTree::ramp("model").check(at, &read[..count]), Ok(()));
    }
    drop((early, late));
    eventually("a fresh open is read directly, or cannot be", PATIENCE, || {
        let fresh = File::open(setup.mounted.path("model")).expect("opened");
        let is_direct = setup.held() > 0;
        drop(fresh);
        (is_direct || !is_possible(&setup)).then_some(())
    });
    setup.equals("model", bytes);
}

#[test]
fn many_opens_at_once_agree_on_one_way() {
    let bytes = 2 * MIB;
    let Some(setup) = setup(bytes) else { return };
    setup.complete();
    for _ in 0..20 {
        let path = setup.mounted.path("model");
        let openers: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || File::open(path).expect("opened"))
            })
            .collect();
        let files: Vec<File> = openers.into_iter().map(|opener| opener.join().expect("no panic")).collect();
        setup.holds_at_most_one();
        for file in &files {
            let mut read = [0; 64];
            file.read_exact_at(&mut read, MIB).expect("read");
            assert_eq!(TestTree::ramp("model").check(MIB, &read), Ok(()));
        }
    }
}
