//! Which directories programs are in. When the kernel is made to forget the name of one, getcwd(2) fails in who is there.
//!
//! As far as can be seen: of other users' programs root alone is told, and of none outside of our own container. Nothing
//! here asks the mount for anything: what /proc says of a directory is its name alone.

use std::fs;

/// The current directory of each program, by its path from whatever root it has.
pub(super) fn directories() -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let links = processes.flatten().filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    links.filter_map(|link| link.into_os_string().into_string().ok()).collect()
}

/// Whether a directory may be, or be below, a place of a mount that may stand anywhere.
pub(super) fn is_in(dir: &str, place: &str) -> bool {
    dir.match_indices(place).any(|(at, _)| matches!(dir.as_bytes().get(at + place.len()), None | Some(b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_ourselves_are_somewhere() {
        let here = std::env::current_dir().expect("a directory");
        assert!(directories().iter().any(|dir| is_in(dir, here.to_str().expect("UTF-8"))));
    }

    #[test]
    fn a_place_is_where_its_path_ends() {
        for (dir, is_it) in [
            ("/mnt/hf/org/r", true),
            ("/mnt/hf/org/r/d/e", true),
            ("/org/r", true),
            ("/mnt/hf/org/r2", false),
            ("/mnt/hf/org/r2/org/r", true),
            ("/mnt/hf/org", false),
            ("/mnt/hf/xorg/r", false),
        ] {
            assert_eq!(is_in(dir, "/org/r"), is_it, "{dir}");
        }
    }
}
