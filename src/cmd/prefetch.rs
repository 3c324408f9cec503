//! `wtfs prefetch`: files of a mount, or parts of them, to be local before they are read. Ctrl-C ends it; what came stays.

use std::path::Path;

use serde_json::Value;
use wtfs_proto::hf::HfSource;

use super::{print_json, print_text};
use crate::cli::Prefetch;
use crate::config::{Layer, Loaded};
use crate::control::{self, Request};
use crate::exit::{Exit, OrEnd as _};
use crate::place;
use crate::progress::{Progress, Show};
use crate::roster::{Extent, Far};
use crate::table::printable;
use crate::units::{ByteRange, ByteSize, count};

pub(super) fn run(args: &Prefetch, loaded: Loaded, show: Show) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(Layer::default())?;
    let mut all = Extent::default();
    for typed in &args.paths {
        let (path, range) = path_and_range(typed, Path::exists)?;
        let (socket, path) = place::meant(&settings, path)?;
        let progress = Progress::bytes(0, &printable(typed), show);
        let order = Request::Prefetch { path, range };
        let done = control::order(&socket, &order, |told: Value| {
            if let Ok(far) = serde_json::from_value::<Far>(told) {
                progress.set_total(far.total_bytes);
                progress.set(far.done_bytes);
            }
        })?;
        let done: Extent = serde_json::from_value(done)?;
        all.files += done.files;
        all.bytes += done.bytes;
    }
    if args.json {
        print_json(&all)?;
    } else {
        print_text(&format!("{} of {} are local\n", ByteSize(all.bytes), count(all.files, "file")))?;
    }
    Ok(Exit::Success)
}

/// `PATH` or `PATH:RANGE`; a file whose name has a colon in it is itself.
fn path_and_range(typed: &str, is_there: impl Fn(&Path) -> bool) -> anyhow::Result<(&str, ByteRange)> {
    let is_repository = HfSource::is_meant_by(typed);
    match typed.rsplit_once(':') {
        // Whether it is a file's name in the repository is not known here: what can be a range is one.
        Some((path, range)) if is_repository => match range.parse() {
            Ok(range) => Ok((path, range)),
            Err(_) => Ok((typed, ByteRange::All)),
        },
        Some((path, range)) if !is_there(Path::new(typed)) => {
            let range = range.parse().or_end(Exit::Usage, || printable(typed))?;
            Ok((path, range))
        }
        _ => Ok((typed, ByteRange::All)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_stands_behind_the_last_colon_unless_the_file_is_called_so() {
        let read = |typed, is_there| path_and_range(typed, |_| is_there).expect("understood");
        assert_eq!(read("/m/a", true), ("/m/a", ByteRange::All));
        assert_eq!(read("/m/a:0-1K", true), ("/m/a:0-1K", ByteRange::All));
        assert_eq!(read("/m/a:b:1K-", false), ("/m/a:b", ByteRange::From(1024)));
        assert_eq!(read("hf://a/b", false), ("hf://a/b", ByteRange::All));
        assert_eq!(read("hf://a/b/c:1K-", false), ("hf://a/b/c", ByteRange::From(1024)));
        assert_eq!(read("hf://a/b/c:d", false), ("hf://a/b/c:d", ByteRange::All));
        assert!(path_and_range("/m/a:b", |_| false).is_err());
    }
}
