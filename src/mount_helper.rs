//! This program as `mount.fuse.wtfs`, the helper that mount(8) runs for `mount -t fuse.wtfs` and lines of /etc/fstab.
//!
//! Turns the helper's command line, `SOURCE DIR [-o options] [-sfnv] [-N namespace] [-t type]`, into one of `wtfs mount
//! --daemon`, and knows nothing else. An option nobody knows is an error that names it: a line of fstab that does not
//! mean what its writer thinks must not pass unseen.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use wtfs_mount::unescape_octal;

/// Names under which this program is the helper.
const NAMES: &[&str] = &["mount.fuse.wtfs", "mount.wtfs"];

/// Sources that name no torrent: a mount of what was added to it before.
const NO_SOURCE: &[&[u8]] = &[b"none", b"wtfs"];

/// Options with a value, and the flag that takes it.
const VALUES: &[(&str, &str)] = &[
    ("allow_upstream_host", "--allow-upstream-host"),
    ("cache_dir", "--cache-dir"),
    ("cache_size", "--cache-size"),
    ("config", "--config"),
    ("download_limit", "--download-limit"),
    ("hf_endpoint", "--hf-endpoint"),
    ("hub", "--hub"),
    ("ice_server", "--ice-server"),
    ("listen", "--listen"),
    ("max_peers", "--max-peers"),
    ("memory", "--memory"),
    ("metrics", "--metrics"),
    ("min_free", "--min-free"),
    ("peer", "--peer"),
    ("pid_file", "--pid-file"),
    ("pin", "--pin"),
    ("read_timeout", "--read-timeout"),
    ("tracker", "--tracker"),
    ("turn_password_file", "--turn-password-file"),
    ("upload_limit", "--upload-limit"),
    ("web_seed", "--web-seed"),
];

/// Options without one.
const SWITCHES: &[(&str, &str)] = &[
    ("allow_other", "--allow-other"),
    ("allow_private_hosts", "--allow-private-hosts"),
    ("fresh", "--fresh"),
    ("ice_relay_only", "--ice-relay-only"),
    ("no_passthrough", "--no-passthrough"),
    ("no_upload", "--no-upload"),
    ("no_webrtc", "--no-webrtc"),
    ("offline", "--offline"),
    ("rm_drops_data", "--rm-drops-data"),
];

/// What mount(8) and the service manager act on, and what holds for each of our mounts anyway.
const PASSED_OVER: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "default_permissions",
    "defaults",
    "dev",
    "exec",
    "group",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "nosuid",
    "nouser",
    "owner",
    "relatime",
    "ro",
    "rw",
    "suid",
    "user",
    "users",
];

/// What the helper was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The command line of `wtfs` that does it, the program's name first.
    Run(Vec<OsString>),
    /// `-f`: to do nothing.
    Nothing,
}

/// Whether the program was started under the helper's name.
pub(crate) fn is_helper(program: &OsStr) -> bool {
    let name = Path::new(program).file_name();
    name.is_some_and(|name| NAMES.iter().any(|ours| name == *ours))
}

/// Reads the words behind the program's name.
///
/// # Errors
/// A sentence for whoever wrote the line.
pub(crate) fn translate(words: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let mut words = words.into_iter();
    let mut places = Vec::new();
    let mut options = Vec::new();
    let (mut is_fake, mut is_sloppy, mut is_verbose) = (false, false, false);
    while let Some(word) = words.next() {
        let Some(letters) = word.as_bytes().strip_prefix(b"-").filter(|letters| !letters.is_empty()) else {
            places.push(word);
            continue;
        };
        let mut letters = letters.iter();
        while let Some(letter) = letters.next() {
            match letter {
                b'f' => is_fake = true,
                b's' => is_sloppy = true,
                b'v' => is_verbose = true,
                b'n' => {}
                b'o' | b'N' | b't' => {
                    // The value is the rest of the word, or the next one.
                    let rest = letters.as_slice();
                    let mut next = || words.next().map(OsString::into_vec);
                    let value = if rest.is_empty() { next() } else { Some(rest.to_vec()) };
                    let value = value.ok_or_else(|| format!("-{} lacks its value", char::from(*letter)))?;
                    if *letter == b'o' {
                        options.extend(value.split(|byte| *byte == b',').map(<[u8]>::to_vec));
                    }
                    break;
                }
                _ => return Err(format!("mount(8) helpers have no flag {}", word.display())),
            }
        }
    }
    let [source, dir] = <[OsString; 2]>::try_from(places)
        .map_err(|_| "usage: mount.fuse.wtfs SOURCE DIR [-o option,option=value] [-n] [-s] [-v] [-f]")?;
    let mut line: Vec<OsString> = ["wtfs", "mount", "--daemon"].map(Into::into).into();
    if is_verbose {
        line.push("-v".into());
    }
    for option in options {
        match flag(&option) {
            Some(flags) => line.extend(flags),
            None if is_sloppy => {}
            None => {
                let option = String::from_utf8_lossy(&option);
                return Err(format!("`{option}` is no mount option of wtfs; README.md lists them"));
            }
        }
    }
    line.push("--".into());
    let source = unescape_octal(source.as_bytes());
    if !NO_SOURCE.contains(&source.as_slice()) {
        line.push(OsString::from_vec(source));
    }
    line.push(OsString::from_vec(unescape_octal(dir.as_bytes())));
    Ok(if is_fake { Asked::Nothing } else { Asked::Run(line) })
}

/// The flags that stand for an option; none for one that is passed over; `None` where it is not known.
fn flag(option: &[u8]) -> Option<Vec<OsString>> {
    let (name, value) = match option.iter().position(|byte| *byte == b'=') {
        Some(at) => (&option[..at], Some(&option[at + 1..])),
        None => (option, None),
    };
    let name = std::str::from_utf8(name).ok()?;
    let flag_in = |table: &[(&str, &'static str)]| {
        table.iter().find(|(option, _)| *option == name).map(|(_, flag)| *flag)
    };
    if name.starts_with("x-") || name.starts_with("X-") || name == "comment" {
        return Some(Vec::new());
    }
    match value {
        Some(value) => {
            let mut flag = OsString::from(flag_in(VALUES)?);
            flag.push("=");
            flag.push(OsString::from_vec(unescape_octal(value)));
            Some(vec![flag])
        }
        None if name.is_empty() || PASSED_OVER.contains(&name) => Some(Vec::new()),
        None => Some(vec![flag_in(SWITCHES)?.into()]),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn translated(words: &[&str]) -> Result<Vec<String>, String> {
        let words = words.iter().map(OsString::from);
        match translate(words)? {
            Asked::Run(line) => Ok(line.into_iter().map(|word| word.into_string().expect("UTF-8")).collect()),
            Asked::Nothing => Ok(Vec::new()),
        }
    }

    #[test]
    fn the_program_knows_its_names() {
        assert!(is_helper(OsStr::new("/sbin/mount.fuse.wtfs")));
        assert!(is_helper(OsStr::new("mount.wtfs")));
        assert!(!is_helper(OsStr::new("/usr/bin/wtfs")));
    }

    #[test]
    fn a_line_of_fstab_becomes_a_command_line() {
        let options = "rw,noauto,user,_netdev,x-systemd.automount,allow_other,cache_dir=/big\\040disk,peer=a:1,peer=b:2";
        let line =
            translated(&["/x.torrent", "/mnt/my\\040models", "-n", "-o", options]).expect("understood");
        let expected = [
            "wtfs",
            "mount",
            "--daemon",
            "--allow-other",
            "--cache-dir=/big disk",
            "--peer=a:1",
            "--peer=b:2",
            "--",
            "/x.torrent",
            "/mnt/my models",
        ];
        assert_eq!(line, expected);
    }

    #[test]
    fn every_option_is_a_flag_of_the_command() {
        for (option, flag) in VALUES.iter().chain(SWITCHES) {
            let value = match *option {
                "peer" => "=a:1",
                "read_timeout" => "=5s",
                "metrics" => "=unix:/run/wtfs.metrics",
                _ if flag.is_empty() || SWITCHES.contains(&(*option, *flag)) => "",
                _ => "=1",
            };
            let line = translated(&["x", "/mnt", "-o", &format!("{option}{value}")]).expect("understood");
            let cli = Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{option}: {error}"));
            assert!(matches!(cli.command, Command::Mount(_)));
        }
    }

    #[test]
    fn an_unknown_option_is_named_unless_sloppiness_is_asked_for() {
        let error = translated(&["x", "/mnt", "-o", "ro,cachedir=/x"]).expect_err("refused");
        assert!(error.contains("`cachedir=/x`"), "{error}");
        assert!(translated(&["x", "/mnt", "-s", "-o", "cachedir=/x"]).is_ok());
        assert!(translated(&["x", "/mnt", "-o", "peer"]).is_err());
        assert!(translated(&["x", "/mnt", "-x"]).is_err());
        assert!(translated(&["x", "/mnt", "-o"]).is_err());
        assert!(translated(&["x"]).is_err());
    }

    #[test]
    fn flags_may_stand_together_and_values_may_stick() {
        let line =
            translated(&["-svo", "ro", "none", "/mnt", "-Nns", "-t", "fuse.wtfs"]).expect("understood");
        assert_eq!(line, ["wtfs", "mount", "--daemon", "-v", "--", "/mnt"]);
        assert_eq!(translate(["-f", "x", "/mnt"].map(OsString::from)), Ok(Asked::Nothing));
    }

    #[test]
    fn the_readme_lists_every_option() {
        let readme = include_str!("../README.md");
        for (option, _) in VALUES.iter().chain(SWITCHES) {
            assert!(readme.contains(&format!("`{option}`")), "README.md does not name {option}");
        }
    }
}
