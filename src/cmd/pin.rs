//! `wtfs pin` and `wtfs unpin`: files of a mount that stay on this machine whatever the cache's size says.

use serde_json::Value;

use super::{print_json, print_text};
use crate::cli::Pin;
use crate::config::{Layer, Loaded};
use crate::control::{self, Request};
use crate::exit::Exit;
use crate::place;
use crate::roster::{Extent, Keep};
use crate::units::{ByteSize, count};

pub(super) fn run(args: &Pin, keep: Keep, loaded: Loaded) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(Layer::default())?;
    let mut all = Extent::default();
    for path in &args.paths {
        let (socket, path) = place::meant(&settings, path)?;
        let order = match keep {
            Keep::Pinned => Request::Pin { path },
            Keep::Unpinned => Request::Unpin { path },
        };
        let done: Extent = serde_json::from_value(control::order(&socket, &order, |_: Value| {})?)?;
        all.files += done.files;
        all.bytes += done.bytes;
    }
    if args.json {
        print_json(&all)?;
    } else {
        let verb = if keep == Keep::Pinned { "pinned" } else { "unpinned" };
        print_text(&format!("{verb} {}, {}\n", count(all.files, "file"), ByteSize(all.bytes)))?;
    }
    Ok(Exit::Success)
}
