//! `wtfs remove`: a torrent out of a running mount.

use serde_json::Value;

use super::{print_json, print_text};
use crate::cli::Remove;
use crate::config::{Layer, Loaded};
use crate::control::{self, Fate, Request};
use crate::exit::Exit;
use crate::place;
use crate::roster::Changed;
use crate::table::printable;

pub(super) fn run(args: &Remove, loaded: Loaded) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(Layer::default())?;
    let socket = place::socket_of(&settings, &args.dir)?;
    let data = if args.drop_data { Fate::Drop } else { Fate::Keep };
    let order = Request::Remove { torrent: args.torrent.trim_end_matches('/').to_owned(), data };
    let changed: Changed = serde_json::from_value(control::order(&socket, &order, |_: Value| {})?)?;
    if args.json {
        print_json(&changed)?;
    } else {
        let fate = if args.drop_data { " and its data" } else { "" };
        print_text(&format!("removed {}{fate}\n", printable(&changed.name)))?;
    }
    Ok(Exit::Success)
}
