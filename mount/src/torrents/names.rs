//! Names of the entries in a mount's root: safe, unique, and the same the next time.
//!
//! A torrent's name is checked by the parser; a magnet's display name is anything a stranger typed. Of two torrents of one
//! name the later one gets a part of its info hash, which does not depend on when or in which order they came.

/// The kernel's limit for one component.
const MAX_NAME_BYTES: usize = 255;

/// Where a distinguishing mark goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameShape {
    /// Before the extension, by which programs know the format.
    File,
    /// At the end.
    Directory,
}

/// A component out of anything: what the kernel or a terminal cannot take is replaced, and nothing is left that leads out
/// of the directory.
pub(super) fn tame(name: &str, otherwise: &str) -> String {
    let tame: String = name.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    let tame = tame.trim();
    if tame.is_empty() || tame.chars().all(|c| c == '.') { otherwise.to_owned() } else { tame.to_owned() }
}

/// `stem` + `suffix`, the stem cut at a character so that both fit.
pub(super) fn fitted(stem: &str, suffix: &str) -> String {
    let room = MAX_NAME_BYTES.saturating_sub(suffix.len());
    format!("{}{suffix}", &stem[..stem.floor_char_boundary(room)])
}

/// The first of `name`, `name [12345678]` and `name [<info hash>]` that is not taken.
pub(super) fn unique(
    name: &str,
    shape: NameShape,
    info_hash: &str,
    is_taken: impl Fn(&str) -> bool,
) -> String {
    let name = fitted(name, "");
    if !is_taken(&name) {
        return name;
    }
    let (stem, extension) = match (shape, name.rfind('.')) {
        (NameShape::File, Some(at)) if at > 0 => name.split_at(at),
        (NameShape::File | NameShape::Directory, _) => (name.as_str(), ""),
    };
    let marked = |mark: &str| fitted(stem, &fitted(&format!(" [{mark}]{extension}"), ""));
    let short = marked(info_hash.get(..8).unwrap_or(info_hash));
    if is_taken(&short) { marked(info_hash) } else { short }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::is_name;

    const HASH: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_taken_name_gets_a_part_of_the_hash_where_it_does_not_hide_the_format() {
        let taken = |name: &str| ["model.gguf", "model", ".hidden"].contains(&name);
        assert_eq!(unique("other", NameShape::File, HASH, taken), "other");
        assert_eq!(unique("model.gguf", NameShape::File, HASH, taken), "model [01234567].gguf");
        assert_eq!(unique("model", NameShape::Directory, HASH, taken), "model [01234567]");
        assert_eq!(unique(".hidden", NameShape::File, HASH, taken), ".hidden [01234567]");
        let taken = |name: &str| name == "model" || name == "model [01234567]";
        assert_eq!(unique("model", NameShape::Directory, HASH, taken), format!("model [{HASH}]"));
    }

    #[test]
    fn names_of_strangers_stay_in_their_directory() {
        assert_eq!(tame("../../etc/passwd", HASH), ".._.._etc_passwd");
        for nothing in ["", ".", "..", "...", "  "] {
            assert_eq!(tame(nothing, HASH), HASH);
        }
        assert_eq!(tame("a\u{1b}[31mb\nc\0", HASH), "a_[31mb_c_");
    }

    proptest! {
        #[test]
        fn any_display_name_becomes_a_component(name in any::<String>(), long in 0_usize..400) {
            let tamed = tame(&(name + &"ü".repeat(long)), HASH);
            let waiting = fitted(&tamed, ".waiting-for-metadata");
            prop_assert!(is_name(&waiting), "{:?}", waiting);
            for shape in [NameShape::File, NameShape::Directory] {
                let other = unique(&tamed, shape, HASH, |found| found == fitted(&tamed, ""));
                prop_assert!(is_name(&other), "{:?}", other);
                prop_assert_ne!(other, fitted(&tamed, ""));
            }
        }
    }
}
