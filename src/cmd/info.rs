//! `wtfs info`: what a torrent or a magnet link says. Asks no peer and no tracker.

use std::fmt::Write as _;

use serde::Serialize;
use wtfs_proto::magnet::Magnet;
use wtfs_proto::metainfo::{Layout, Metainfo, Version};
use wtfs_torrent::Source;

use super::{print_json, print_text};
use crate::cli::Info;
use crate::engine;
use crate::exit::Exit;
use crate::table::printable;
use crate::units::{ByteSize, count};

/// Files listed for people; `--json` lists all.
const FILES_SHOWN: usize = 50;

pub(super) fn run(args: &Info) -> anyhow::Result<Exit> {
    match engine::block_on(engine::source(&args.source))? {
        Source::Metainfo(metainfo) => {
            let described = Described::of(&metainfo);
            if args.json { print_json(&described)? } else { print_text(&described.text()?)? }
        }
        Source::Magnet(magnet) => {
            let described = DescribedMagnet::of(&magnet);
            if args.json { print_json(&described)? } else { print_text(&described.text()?)? }
        }
    }
    Ok(Exit::Success)
}

#[derive(Debug, Serialize)]
struct Described {
    name: String,
    info_hash: String,
    info_hash_v2: Option<String>,
    version: &'static str,
    layout: &'static str,
    total_bytes: u64,
    piece_bytes: u32,
    pieces: u32,
    private: bool,
    source: Option<String>,
    comment: Option<String>,
    created_by: Option<String>,
    creation_date: Option<i64>,
    trackers: Vec<Vec<String>>,
    web_seeds: Vec<String>,
    http_seeds: Vec<String>,
    files: Vec<DescribedFile>,
    magnet: String,
}

#[derive(Debug, Serialize)]
struct DescribedFile {
    path: String,
    bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    executable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink: Option<String>,
}

impl Described {
    fn of(metainfo: &Metainfo) -> Self {
        let info = &metainfo.info;
        let shown = info.files.iter().filter(|file| !file.is_pad);
        Self {
            name: info.name.clone(),
            info_hash: metainfo.hashes.primary().to_string(),
            info_hash_v2: metainfo.hashes.v2.map(|hash| hash.to_string()),
            version: match info.version {
                Version::V1 => "v1",
                Version::V2 => "v2",
                Version::Hybrid => "hybrid",
            },
            layout: match info.layout {
                Layout::SingleFile => "file",
                Layout::Directory => "directory",
            },
            total_bytes: info.display_total(),
            piece_bytes: info.piece_bytes,
            pieces: info.geometry.piece_count(),
            private: info.is_private,
            source: info.source.clone(),
            comment: metainfo.comment.clone(),
            created_by: metainfo.created_by.clone(),
            creation_date: metainfo.creation_date,
            trackers: metainfo.announce.clone(),
            web_seeds: metainfo.url_list.clone(),
            http_seeds: metainfo.http_seeds.clone(),
            files: shown
                .map(|file| DescribedFile {
                    path: file.path.to_string(),
                    bytes: file.bytes,
                    executable: file.is_executable,
                    symlink: file.symlink.as_ref().map(ToString::to_string),
                })
                .collect(),
            magnet: Magnet::from_metainfo(metainfo).to_string(),
        }
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| writeln!(text, "{label:<13}{}", printable(value));
        line("name", &self.name)?;
        line("info hash", &self.info_hash)?;
        if let Some(hash) = &self.info_hash_v2 {
            line("v2 hash", hash)?;
        }
        let files = count(self.files.len(), "file");
        line("size", &format!("{} in {files}", ByteSize(self.total_bytes)))?;
        line(
            "pieces",
            &format!("{} of {}, {}", self.pieces, ByteSize(self.piece_bytes.into()), self.version),
        )?;
        if self.private {
            line("private", "yes: peers come from its trackers only")?;
        }
        for (label, value) in
            [("source", &self.source), ("comment", &self.comment), ("created by", &self.created_by)]
        {
            if let Some(value) = value {
                line(label, value)?;
            }
        }
        for (tier, urls) in self.trackers.iter().enumerate() {
            line("tracker", &format!("{} (tier {})", urls.join(" "), tier + 1))?;
        }
        for url in self.web_seeds.iter().chain(&self.http_seeds) {
            line("web seed", url)?;
        }
        line("magnet", &self.magnet)?;
        if self.layout == "directory" {
            writeln!(text, "files")?;
            for file in self.files.iter().take(FILES_SHOWN) {
                let size = ByteSize(file.bytes);
                match &file.symlink {
                    None => writeln!(text, "  {size:>10}  {}", printable(&file.path))?,
                    Some(to) => {
                        writeln!(text, "  {:>10}  {} -> {}", "link", printable(&file.path), printable(to))?
                    }
                }
            }
            if self.files.len() > FILES_SHOWN {
                writeln!(text, "  and {} more; --json lists all", self.files.len() - FILES_SHOWN)?;
            }
        }
        Ok(text)
    }
}

#[derive(Debug, Serialize)]
struct DescribedMagnet {
    name: Option<String>,
    info_hash: String,
    info_hash_v2: Option<String>,
    trackers: Vec<String>,
    web_seeds: Vec<String>,
    exact_sources: Vec<String>,
    acceptable_sources: Vec<String>,
    peers: Vec<String>,
    magnet: String,
}

impl DescribedMagnet {
    fn of(magnet: &Magnet) -> Self {
        Self {
            name: magnet.display_name.clone(),
            info_hash: magnet.hashes.primary().to_string(),
            info_hash_v2: magnet.hashes.v2.map(|hash| hash.to_string()),
            trackers: magnet.trackers.clone(),
            web_seeds: magnet.web_seeds.clone(),
            exact_sources: magnet.exact_sources.clone(),
            acceptable_sources: magnet.acceptable_sources.clone(),
            peers: magnet.peers.iter().map(ToString::to_string).collect(),
            magnet: magnet.to_string(),
        }
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| writeln!(text, "{label:<13}{}", printable(value));
        if let Some(name) = &self.name {
            line("name", name)?;
        }
        line("info hash", &self.info_hash)?;
        if let Some(hash) = &self.info_hash_v2 {
            line("v2 hash", hash)?;
        }
        for (label, values) in [
            ("tracker", &self.trackers),
            ("web seed", &self.web_seeds),
            ("source", &self.exact_sources),
            ("source", &self.acceptable_sources),
            ("peer", &self.peers),
        ] {
            for value in values {
                line(label, value)?;
            }
        }
        line("magnet", &self.magnet)?;
        line("files", "not known until its metadata comes from peers: mount it or get it")?;
        Ok(text)
    }
}
