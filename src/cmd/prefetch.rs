//! `wtfs prefetch`: files of a mount, or parts of them, to be local before they are read. Ctrl-C ends it; what came stays.

use std::path::{Path, PathBuf};

use serde_json::Value;

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
        let (socket, path) = place::inside(&settings, &path)?;
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
fn path_and_range(typed: &str, is_there: impl Fn(&Path) -> bool) -> anyhow::Result<(PathBuf, ByteRange)> {
    let whole = PathBuf::from(typed);
    match typed.rsplit_once(':') {
        Some((path, range)) if !is_there(&whole) => {
            let range = range.parse().or_end(Exit::Usage, || printable(typed))?;
            Ok((path.into(), range))
        }
        _ => Ok((whole, ByteRange::All)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_stands_behind_the_last_colon_unless_the_file_is_called_so() {
        let read = |typed, is_there| path_and_range(typed, |_| is_there).expect("understood");
        assert_eq!(read("/m/a", true), ("/m/a".into(), ByteRange::All));
        assert_eq!(read("/m/a:0-1K", true), ("/m/a:0-1K".into(), ByteRange::All));
        assert_eq!(read("/m/a:b:1K-", false), ("/m/a:b".into(), ByteRange::From(1024)));
        assert!(path_and_range("/m/a:b", |_| false).is_err());
    }
}
