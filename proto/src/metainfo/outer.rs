//! The `.torrent` around `info`: trackers, web seeds and notes. No hash covers it, so nothing here can refuse a
//! torrent; what makes no sense is skipped, and lists are cut at a length no honest torrent has.

use std::collections::HashSet;

use super::Metainfo;
use crate::bencode::{Dict, Encoder, Value};

/// Most URLs kept of one list; public torrents have a few dozen trackers at most.
const MAX_URLS: usize = 1000;

/// Longest URL kept, as in most HTTP servers.
const MAX_URL_BYTES: usize = 8 * 1024;

/// Longest text kept for people to read.
const MAX_TEXT_BYTES: usize = 64 * 1024;

pub(super) fn read(metainfo: &mut Metainfo, root: &Dict<'_>) {
    metainfo.announce = tiers(root);
    metainfo.url_list = clean_urls(urls(root.get("url-list")));
    metainfo.http_seeds = clean_urls(urls(root.get("httpseeds")));
    metainfo.creation_date = root.get_int("creation date");
    metainfo.comment = text(root, "comment");
    metainfo.created_by = text(root, "created by");
    metainfo.nodes =
        root.get_list("nodes").unwrap_or_default().iter().filter_map(node).take(MAX_URLS).collect();
}

/// `announce-list` if it has any URL, else `announce` (BEP 12). A flat list, which some makers write, is read as one
/// tier for each URL.
fn tiers(root: &Dict<'_>) -> Vec<Vec<String>> {
    let list = root.get_list("announce-list").unwrap_or_default();
    let tiers = clean_tiers(list.iter().map(|tier| urls(Some(tier))));
    if tiers.is_empty() { clean_tiers([urls(root.get("announce"))]) } else { tiers }
}

/// A string or a list of strings, as text; anything else in it is left out.
fn urls(value: Option<&Value<'_>>) -> Vec<String> {
    let one = value.and_then(Value::as_str);
    let many = value.and_then(Value::as_list).unwrap_or_default();
    one.into_iter().chain(many.iter().filter_map(Value::as_str)).map(str::to_owned).collect()
}

/// Trims, and drops what is empty, too long or a repetition; then tiers that are empty.
pub(super) fn clean_tiers(tiers: impl IntoIterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    let mut seen = HashSet::new();
    let clean = tiers.into_iter().map(|tier| clean(tier, &mut seen));
    clean.filter(|tier| !tier.is_empty()).collect()
}

pub(super) fn clean_urls(urls: Vec<String>) -> Vec<String> {
    clean(urls, &mut HashSet::new())
}

fn clean(urls: Vec<String>, seen: &mut HashSet<String>) -> Vec<String> {
    let mut kept = Vec::new();
    for url in urls {
        let url = url.trim();
        let is_usable = !url.is_empty() && url.len() <= MAX_URL_BYTES && seen.len() < MAX_URLS;
        if is_usable && seen.insert(url.to_owned()) {
            kept.push(url.to_owned());
        }
    }
    kept
}

/// The `.utf-8` form if there is one, else the plain one with anything that is not UTF-8 replaced.
fn text(root: &Dict<'_>, key: &str) -> Option<String> {
    let utf8 = root.get_str(format!("{key}.utf-8")).map(str::as_bytes);
    let raw = utf8.or_else(|| root.get_bytes(key)).filter(|text| !text.is_empty())?;
    Some(String::from_utf8_lossy(&raw[..raw.len().min(MAX_TEXT_BYTES)]).into_owned())
}

fn node(value: &Value<'_>) -> Option<(String, u16)> {
    let [host, port] = value.as_list()? else { return None };
    let host = host.as_str().filter(|host| !host.is_empty() && host.len() <= 255)?;
    Some((host.to_owned(), u16::try_from(port.as_int()?).ok().filter(|&port| port != 0)?))
}

pub(super) fn write(metainfo: &Metainfo) -> Vec<u8> {
    let mut out = Encoder::new();
    out.dict(|d| {
        d.raw("info", &metainfo.info_bytes);
        if let Some(first) = metainfo.announce.iter().flatten().next() {
            d.bytes("announce", first);
        }
        if metainfo.announce.iter().flatten().nth(1).is_some() {
            d.list("announce-list", |l| {
                metainfo.announce.iter().for_each(|tier| l.list(|l| strings(l, tier)))
            });
        }
        for (key, urls) in [("url-list", &metainfo.url_list), ("httpseeds", &metainfo.http_seeds)] {
            if !urls.is_empty() {
                d.list(key, |l| strings(l, urls));
            }
        }
        for (key, text) in [("comment", &metainfo.comment), ("created by", &metainfo.created_by)] {
            if let Some(text) = text {
                d.bytes(key, text);
            }
        }
        if let Some(date) = metainfo.creation_date {
            d.int("creation date", date);
        }
        if !metainfo.nodes.is_empty() {
            d.list("nodes", |l| {
                metainfo.nodes.iter().for_each(|(host, port)| {
                    l.list(|l| {
                        l.bytes(host);
                        l.int(i64::from(*port));
                    });
                })
            });
        }
        if metainfo.hashes.v2.is_some() {
            d.dict("piece layers", |d| {
                metainfo.piece_layers.iter().for_each(|(root, layer)| d.bytes(root, layer));
            });
        }
    });
    out.finish()
}

fn strings(list: &mut Encoder, strings: &[String]) {
    strings.iter().for_each(|string| list.bytes(string));
}
