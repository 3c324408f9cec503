//! `wtfs add`: torrents into a running mount, by the process that serves it.

use std::path::Path;

use serde_json::Value;
use wtfs_proto::id::InfoHash;

use super::{print_json, print_text};
use crate::cli::Add;
use crate::config::{Layer, Loaded};
use crate::control::{self, Request};
use crate::exit::{Exit, exit_of, sentence_of};
use crate::place;
use crate::roster::Changed;
use crate::table::printable;

/// Adds what can be added; ends with the code of the last one that could not.
pub(super) fn run(args: &Add, loaded: Loaded) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(Layer::default())?;
    let socket = place::socket_of(&settings, &args.dir)?;
    let mut exit = Exit::Success;
    let mut added = Vec::new();
    for typed in &args.sources {
        let order = Request::Add { source: from_anywhere(typed)?, web_seeds: args.web_seeds.clone() };
        match control::order(&socket, &order, |_: Value| {}) {
            Ok(done) => {
                let changed: Changed = serde_json::from_value(done)?;
                if !args.json {
                    let path = args.dir.join(&changed.name);
                    print_text(&format!("added {}\n", printable(&path.display().to_string())))?;
                }
                added.push(changed);
            }
            Err(error) => {
                eprintln!("wtfs: {}: {}", printable(typed), sentence_of(&error));
                exit = exit_of(&error);
            }
        }
    }
    if args.json {
        print_json(&added)?;
    }
    Ok(exit)
}

/// The other process has another working directory: a path is made absolute, whatever else a SOURCE is stays as it is.
fn from_anywhere(typed: &str) -> anyhow::Result<String> {
    let is_scheme =
        |scheme: &str| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+');
    let is_url = typed.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme));
    let is_magnet = typed.get(..7).is_some_and(|head| head.eq_ignore_ascii_case("magnet:"));
    let is_hash = typed.parse::<InfoHash>().is_ok() || (typed.len() == 68 && typed.starts_with("1220"));
    if is_url || is_magnet || is_hash {
        return Ok(typed.to_owned());
    }
    let path = std::path::absolute(Path::new(typed))?;
    Ok(path.into_os_string().into_string().unwrap_or_else(|_| typed.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_is_made_absolute() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        for typed in ["magnet:?xt=urn:btih:x", "https://a/b.torrent", "file:///a/b.torrent", hash] {
            assert_eq!(from_anywhere(typed).expect("text"), typed);
        }
        let here = std::env::current_dir().expect("a directory");
        for typed in ["x.torrent", "a b/x.torrent"] {
            assert_eq!(Path::new(&from_anywhere(typed).expect("a path")), here.join(typed));
        }
        assert_eq!(from_anywhere("/x").expect("a path"), "/x");
    }
}
