//! What a catalog promises: a tree that matches the file list, numbers that stay, nothing outside of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn tag() -> TreeTag {
    TreeTag::derive(&[9; 20], 0)
}

fn path(text: &str) -> Vec<String> {
    text.split('/').map(str::to_owned).collect()
}

fn file(number: u32) -> Leaf {
    Leaf::File { file: number, bytes: u64::from(number) * 10, executable: Executable::No }
}

fn build(leaves: &[(&str, Leaf)]) -> Result<Catalog, CatalogError> {
    Catalog::build(
        tag(),
        &[9; 20],
        modified_from(None),
        leaves.iter().map(|(at, leaf)| (path(at), leaf.clone())),
    )
}

fn walk(catalog: &Catalog, text: &str) -> Option<u32> {
    text.split('/').try_fold(Catalog::ROOT, |at, name| catalog.lookup(at, OsStr::new(name)))
}

/// All paths of a catalog with their numbers, found by listing.
fn listing(catalog: &Catalog) -> BTreeMap<String, InodeNo> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(Catalog::ROOT, String::new())];
    while let Some((index, prefix)) = todo.pop() {
        for child in catalog.children(index).into_iter().flatten() {
            let entry = catalog.entry(child).unwrap();
            assert_eq!(entry.parent(), index);
            let name = format!("{prefix}{}", entry.name());
            if entry.kind() == NodeKind::Directory {
                todo.push((child, format!("{name}/")));
            }
            found.insert(name, catalog.ino(entry));
        }
    }
    found
}

#[test]
fn nested_unicode_and_odd_names_are_found_where_they_were_put() {
    let names = ["config.json", "sub/ä/模型.bin", "sub/ä b", "sub-b", "sub!", "sub/ä/\u{301}e", "Sub/x"];
    let leaves: Vec<(&str, Leaf)> =
        names.iter().zip(0..).map(|(name, number)| (*name, file(number))).collect();
    let catalog = build(&leaves).unwrap();
    for (name, number) in names.iter().zip(0..) {
        let entry = catalog.entry(walk(&catalog, name).unwrap()).unwrap();
        assert_eq!(entry.file(), Some(number));
        assert_eq!(entry.bytes(), u64::from(number) * 10);
        assert_eq!(catalog.find(catalog.ino(entry)), walk(&catalog, name));
    }
    assert_eq!(walk(&catalog, "sub/missing"), None);
    assert_eq!(walk(&catalog, "config.json/x"), None);
    assert_eq!(catalog.total_bytes(), 210);
}

#[test]
fn links_of_a_directory_count_its_subdirectories() {
    let catalog = build(&[("a/b/c", file(0)), ("a/d/e", file(1)), ("a/f", file(2))]).unwrap();
    let links = |at: &str| catalog.entry(walk(&catalog, at).unwrap()).unwrap().links();
    assert_eq!(catalog.entry(Catalog::ROOT).unwrap().links(), 3);
    assert_eq!((links("a"), links("a/b"), links("a/f")), (4, 2, 1));
}

#[test]
fn what_is_no_tree_is_refused_by_name() {
    let collision = |name: &str| CatalogError::Collision(name.into());
    assert_eq!(build(&[("a/b", file(0)), ("a/b", file(1))]).unwrap_err(), collision("a/b"));
    assert_eq!(build(&[("a", file(0)), ("a/b", file(1))]).unwrap_err(), collision("a/b"));
    let long = "x".repeat(256);
    for bad in ["..", "a/../b", "a//b", "", "./a", "a\0b", long.as_str()] {
        assert_eq!(build(&[(bad, file(0))]).unwrap_err(), CatalogError::NotAPath(bad.into()), "{bad:?}");
    }
    assert!(matches!(
        Catalog::build(tag(), b"", modified_from(None), [(vec!["a/b".to_owned()], file(0))]),
        Err(CatalogError::NotAPath(_))
    ));
}

#[test]
fn links_point_inside_the_torrent_from_any_depth() {
    let link = |target: &str| Leaf::Symlink { target: path(target) };
    let catalog =
        build(&[("a/b/link", link("a/file")), ("top", link("a/file")), ("evil", link("../../etc"))]).unwrap();
    let target = |at: &str| catalog.entry(walk(&catalog, at).unwrap()).unwrap().target().unwrap().clone();
    assert_eq!(target("a/b/link"), PathBuf::from("../../a/file"));
    assert_eq!(target("top"), PathBuf::from("a/file"));
    assert_eq!(target("evil"), PathBuf::from("refused-link-target"));
}

#[test]
fn executable_files_can_be_run_and_nothing_can_be_written() {
    let run = Leaf::File { file: 0, bytes: 1, executable: Executable::Yes };
    let catalog = build(&[("run", run), ("data", file(1))]).unwrap();
    let mode = |at: &str| catalog.entry(walk(&catalog, at).unwrap()).unwrap().permissions();
    assert_eq!((mode("run"), mode("data")), (0o555, 0o444));
}

#[test]
fn a_torrent_of_sixty_thousand_files_is_quick() {
    let leaves: Vec<(Vec<String>, Leaf)> = (0..60_000)
        .map(|n| (path(&format!("dir{}/part{}/file-{n:06}.bin", n % 7, n % 300)), file(n)))
        .collect();
    let started = Instant::now();
    let catalog = Catalog::build(tag(), &[9; 20], modified_from(None), leaves.clone()).unwrap();
    let built = started.elapsed();
    for (path, leaf) in &leaves {
        let index = walk(&catalog, &path.join("/")).unwrap();
        let Leaf::File { file, .. } = leaf else { unreachable!("only files here") };
        assert_eq!(catalog.entry(index).unwrap().file(), Some(*file));
    }
    // Hundreds of times what it takes; a scan per look-up would take minutes.
    assert!(started.elapsed().as_secs() < 60, "built in {built:?}, all in {:?}", started.elapsed());
}

#[test]
fn wide_directories_do_not_make_building_quadratic() {
    let leaves = (0..200_000).map(|n| (vec![format!("{n:07}")], file(n)));
    let started = Instant::now();
    let catalog = Catalog::build(tag(), &[9; 20], modified_from(None), leaves).unwrap();
    assert_eq!(catalog.len(), 200_001);
    // Likewise: with a scan per file these are twenty thousand million steps.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn dates_out_of_range_become_the_fixed_one() {
    for odd in [None, Some(-5), Some(0), Some(i64::MAX), Some(i64::MIN)] {
        assert_eq!(modified_from(odd), SystemTime::UNIX_EPOCH + Duration::from_secs(994_032_000));
    }
    assert_eq!(modified_from(Some(1)), SystemTime::UNIX_EPOCH + Duration::from_secs(1));
}

proptest! {
    #[test]
    fn numbers_are_unique_and_do_not_depend_on_the_order_of_files(
        names in prop::collection::btree_set("[a-c]{1,2}(/[a-c]{1,2}){0,3}", 1..40),
        rotate in 0_usize..40,
    ) {
        let mut leaves: Vec<(Vec<String>, Leaf)> =
            names.iter().zip(0..).map(|(name, number)| (path(name), file(number))).collect();
        let forward = Catalog::build(tag(), &[9; 20], modified_from(None), leaves.clone());
        let turn = rotate % leaves.len();
        leaves.rotate_left(turn);
        leaves.reverse();
        let shuffled = Catalog::build(tag(), &[9; 20], modified_from(None), leaves);
        prop_assert_eq!(forward.is_ok(), shuffled.is_ok());
        if let (Ok(forward), Ok(shuffled)) = (forward, shuffled) {
            let listed = listing(&forward);
            prop_assert_eq!(&listed, &listing(&shuffled));
            let distinct: BTreeSet<InodeNo> = listed.values().copied().collect();
            prop_assert_eq!(distinct.len(), listed.len());
            prop_assert!(distinct.iter().all(|ino| ino.get() as u32 >= FIRST_SLOT));
            for name in &names {
                prop_assert!(listed.contains_key(name));
            }
        }
    }
}
