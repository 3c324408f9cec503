//! Every setting with its meaning, as a configuration file: what `--print-config` prints.
//!
//! The meanings are those of docs/config.md, so that there is one text; a test holds that file to the keys.

use std::fmt::Write as _;

use anyhow::Context as _;
use wtfs_torrent::IceServer;

use super::Layer;

const DOCUMENTATION: &str = include_str!("../../docs/config.md");

/// One row of the documentation's table.
struct Row<'d> {
    key: &'d str,
    variable: &'d str,
    flag: &'d str,
    default: &'d str,
    meaning: &'d str,
}

fn rows() -> impl Iterator<Item = Row<'static>> {
    DOCUMENTATION.lines().filter_map(|line| {
        // A cell may be empty: the bars alone stand between cells.
        let mut cells = line.strip_prefix("| `")?.trim_end_matches(" |").splitn(5, '|');
        let mut cell = || cells.next().map(str::trim);
        let key = cell()?.trim_matches('`');
        Some(Row { key, variable: cell()?, flag: cell()?, default: cell()?, meaning: cell()? })
    })
}

/// The settings of `layer`; what it leaves out stands there as a comment.
pub(crate) fn printed(layer: &Layer) -> anyhow::Result<String> {
    let mut layer = layer.clone();
    // Passwords are no settings to be shown around.
    for server in layer.ice_servers.iter_mut().flatten() {
        *server = IceServer::without_password(server);
    }
    let table = toml::Table::try_from(layer).context("the settings cannot be written")?;
    let mut out = String::from("# Settings of wtfs. A line that begins with # is not set.\n");
    let (hub, top): (Vec<Row<'_>>, Vec<Row<'_>>) = rows().partition(|row| row.key.starts_with("hub."));
    let own = table.get("hub").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    for (rows, values, head) in [(top, &table, ""), (hub, &own, "\n[hub]\n")] {
        // Writing to a String does not fail.
        let _ = write!(out, "{head}");
        for row in rows {
            let key = row.key.trim_start_matches("hub.");
            let flag = if row.flag.is_empty() { String::new() } else { format!(", {}", row.flag) };
            let _ = writeln!(out, "\n# {}\n# {}{flag}. Default: {}.", row.meaning, row.variable, row.default);
            let _ = match values.get(key) {
                Some(value) => writeln!(out, "{key} = {value}"),
                None => writeln!(out, "#{key} ="),
            };
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::layer::tests::full;
    use super::*;

    #[test]
    fn what_is_printed_reads_back_as_the_same_settings() {
        for layer in [Layer::default(), full()] {
            let text = printed(&layer).expect("printed");
            assert_eq!(toml::from_str::<Layer>(&text).expect("read"), layer, "{text}");
        }
    }

    #[test]
    fn every_key_is_printed_with_its_meaning() {
        let text = printed(&Layer::default()).expect("printed");
        let table = toml::Table::try_from(full()).expect("a table");
        let hub = table.get("hub").and_then(toml::Value::as_table).expect("a table");
        for key in table.keys().filter(|key| *key != "hub").chain(hub.keys()) {
            assert!(text.contains(&format!("\n#{key} =")), "{key}");
        }
    }
}
