//! The torrents as a table: searched, sorted, by pages.
//!
//! Owns what a query means; pure. Names are strangers' words and only compared.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::Serialize;
use wtfs_proto::hub::{TorrentEntry, TorrentState};

use crate::names::percent_decode;

/// Rows of a page, if the query does not say, and at most.
const ROWS: usize = 50;
const ROWS_MAX: usize = 500;

/// One torrent.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) entry: TorrentEntry,
    /// Peers that announce to this hub and have everything.
    pub(crate) seeders: u32,
    /// Peers that announce to this hub and lack something.
    pub(crate) leechers: u32,
}

/// A part of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Page<'a> {
    /// All torrents.
    pub(crate) total: usize,
    /// Those that were searched for.
    pub(crate) matching: usize,
    /// Of them, how many come before the first row.
    pub(crate) offset: usize,
    pub(crate) rows: Vec<&'a Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Size,
    Peers,
    State,
}

/// What somebody wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Lower case, words that all must stand in the name or the info hash.
    words: Vec<String>,
    key: Key,
    is_descending: bool,
    offset: usize,
    limit: usize,
}

impl Query {
    /// Of a URL's query. What is not understood is passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let mut query =
            Self { words: Vec::new(), key: Key::Name, is_descending: false, offset: 0, limit: ROWS };
        for (name, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
            let Some(value) = percent_decode(&value.replace('+', " ")) else { continue };
            match name {
                "q" => {
                    query.words = value.to_lowercase().split_whitespace().take(8).map(str::to_owned).collect()
                }
                "sort" => {
                    query.key = match value.as_str() {
                        "size" => Key::Size,
                        "peers" => Key::Peers,
                        "state" => Key::State,
                        _ => Key::Name,
                    }
                }
                "order" => query.is_descending = value == "desc",
                "offset" => query.offset = value.parse().unwrap_or(0),
                "limit" => query.limit = value.parse().unwrap_or(ROWS).clamp(1, ROWS_MAX),
                _ => {}
            }
        }
        query
    }

    /// The page of these rows, which stand in the order of their names.
    pub(crate) fn page<'a>(&self, all: &'a Arc<[Row]>) -> Page<'a> {
        let mut rows: Vec<&Row> = all.iter().filter(|row| self.is_met_by(row)).collect();
        let matching = rows.len();
        let compare = |a: &&Row, b: &&Row| {
            let by_key = match self.key {
                Key::Name => lower(a).cmp(&lower(b)),
                Key::Size => a.entry.total_bytes.cmp(&b.entry.total_bytes),
                Key::Peers => peers(a).cmp(&peers(b)),
                Key::State => rank(a).cmp(&rank(b)),
            };
            if self.is_descending { by_key.reverse() } else { by_key }
        };
        rows.sort_by(|a, b| compare(a, b).then_with(|| a.entry.name.cmp(&b.entry.name)));
        // A search or a removal may have made the table shorter than where somebody stands in it.
        let offset = if self.offset < matching {
            self.offset
        } else {
            matching.saturating_sub(1) / self.limit * self.limit
        };
        let rows = rows.into_iter().skip(offset).take(self.limit).collect();
        Page { total: all.len(), matching, offset, rows }
    }

    fn is_met_by(&self, row: &Row) -> bool {
        if self.words.is_empty() {
            return true;
        }
        let name = row.entry.name.to_lowercase();
        let hash = row.entry.info_hash.as_deref().unwrap_or_default();
        self.words.iter().all(|word| name.contains(word) || hash.starts_with(word))
    }
}

fn lower(row: &Row) -> String {
    row.entry.name.to_lowercase()
}

fn peers(row: &Row) -> u64 {
    u64::from(row.seeders) + u64::from(row.leechers)
}

/// What is at work comes first.
fn rank(row: &Row) -> u8 {
    match row.entry.state {
        TorrentState::Hashing => 0,
        TorrentState::Waiting => 1,
        TorrentState::Metadata => 2,
        TorrentState::Refused => 3,
        TorrentState::Ready => 4,
    }
}

/// How many there are of each state, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct TorrentCounts {
    pub(crate) total: u64,
    pub(crate) ready: u64,
    pub(crate) hashing: u64,
    pub(crate) waiting: u64,
    pub(crate) metadata: u64,
    pub(crate) refused: u64,
    pub(crate) total_bytes: u64,
}

impl TorrentCounts {
    pub(crate) fn of(rows: &[Row]) -> Self {
        let mut counts = Self::default();
        for row in rows {
            counts.total += 1;
            counts.total_bytes = counts.total_bytes.saturating_add(row.entry.total_bytes);
            *match row.entry.state {
                TorrentState::Ready => &mut counts.ready,
                TorrentState::Hashing => &mut counts.hashing,
                TorrentState::Waiting => &mut counts.waiting,
                TorrentState::Metadata => &mut counts.metadata,
                TorrentState::Refused => &mut counts.refused,
            } += 1;
        }
        counts
    }
}

/// Orders rows as [`Query::page`] wants them.
pub(crate) fn by_name(a: &Row, b: &Row) -> Ordering {
    a.entry.name.cmp(&b.entry.name)
}

#[cfg(test)]
mod tests {
    use wtfs_proto::hub::Origin;

    use super::*;

    fn row(name: &str, total_bytes: u64, seeders: u32, state: TorrentState) -> Row {
        let entry = TorrentEntry {
            name: name.into(),
            info_hash: Some(format!("{total_bytes:040x}")),
            state,
            origin: Origin::Root,
            total_bytes,
            hashed_bytes: None,
            pieces: 1,
            pieces_present: 1,
            reason: None,
        };
        Row { entry, seeders, leechers: 0 }
    }

    fn rows() -> Arc<[Row]> {
        [
            row("Alpha one", 30, 1, TorrentState::Ready),
            row("beta two", 10, 3, TorrentState::Hashing),
            row("Gamma one", 20, 2, TorrentState::Ready),
        ]
        .into()
    }

    fn names(query: &str) -> Vec<String> {
        let all = rows();
        Query::parse(query).page(&all).rows.iter().map(|row| row.entry.name.clone()).collect()
    }

    #[test]
    fn the_table_is_searched_by_words_and_by_hash() {
        assert_eq!(names("q=ONE"), ["Alpha one", "Gamma one"]);
        assert_eq!(names("q=one+gam"), ["Gamma one"]);
        assert_eq!(names("q=a%6Cpha"), ["Alpha one"]);
        assert_eq!(names("q=000000"), ["Alpha one", "beta two", "Gamma one"]);
        assert_eq!(names("q=nothing"), [""; 0]);
    }

    #[test]
    fn the_table_is_sorted() {
        assert_eq!(names(""), ["Alpha one", "beta two", "Gamma one"]);
        assert_eq!(names("sort=name&order=desc"), ["Gamma one", "beta two", "Alpha one"]);
        assert_eq!(names("sort=size"), ["beta two", "Gamma one", "Alpha one"]);
        assert_eq!(names("sort=peers&order=desc"), ["beta two", "Gamma one", "Alpha one"]);
        assert_eq!(names("sort=state"), ["beta two", "Alpha one", "Gamma one"]);
        assert_eq!(names("sort=%zz&nonsense"), ["Alpha one", "beta two", "Gamma one"]);
    }

    #[test]
    fn pages_are_of_what_matches_and_the_last_is_given_for_one_beyond() {
        let all = rows();
        let page = Query::parse("limit=2&offset=2").page(&all);
        assert_eq!((page.total, page.matching, page.offset, page.rows.len()), (3, 3, 2, 1));
        let page = Query::parse("limit=2&offset=100").page(&all);
        assert_eq!((page.offset, page.rows.len()), (2, 1));
        let page = Query::parse("limit=2&offset=100&q=two").page(&all);
        assert_eq!((page.matching, page.offset, page.rows.len()), (1, 0, 1));
        assert_eq!(Query::parse("limit=99999999").limit, ROWS_MAX);
        assert_eq!(Query::parse("limit=0").limit, 1);
        let counts = TorrentCounts::of(&all);
        assert_eq!((counts.total, counts.ready, counts.hashing, counts.total_bytes), (3, 2, 1, 60));
    }
}
