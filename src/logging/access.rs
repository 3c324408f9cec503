//! Lines of the hub's access log: an event of the target `wtfs::access` is a line on stderr, as text or as JSON.
//!
//! Owns how a line looks. What stands in it is a stranger's word: a line is one line whatever it holds.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use wtfs_server::ACCESS_TARGET;

/// Whether requests are logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AccessLines {
    Off,
    On,
    Json,
}

/// A word that is none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccessLinesError(String);

impl std::error::Error for AccessLinesError {}

impl fmt::Display for AccessLinesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not off, on or json", self.0)
    }
}

impl FromStr for AccessLines {
    type Err = AccessLinesError;

    fn from_str(typed: &str) -> Result<Self, AccessLinesError> {
        match typed {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            "json" => Ok(Self::Json),
            _ => Err(AccessLinesError(typed.to_owned())),
        }
    }
}

impl AccessLines {
    /// Makes lines look so from now on. Logging starts before it is known what the hub is told.
    pub(crate) fn apply(self) {
        IS_JSON.store(self == Self::Json, Ordering::Relaxed);
    }
}

static IS_JSON: AtomicBool = AtomicBool::new(false);

/// The layer that writes them.
pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Lines.with_filter(tracing_subscriber::filter::filter_fn(|event| event.target() == ACCESS_TARGET))
}

struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut time = String::new();
        if SystemTime.format_time(&mut Writer::new(&mut time)).is_err() {
            time.push('-');
        }
        let line = if IS_JSON.load(Ordering::Relaxed) { json(time, fields) } else { text(&time, &fields) };
        // Nobody is left to tell that stderr is closed.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// The fields of an event, in their order.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // To a microsecond.
        self.0.push((field.name(), ((value * 1e3).round() / 1e3).into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), value.into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.into()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}").into()));
    }
}

fn json(time: String, fields: Fields) -> String {
    let mut line = Map::from_iter([("time".to_owned(), Value::from(time))]);
    let said = fields.0.into_iter().filter(|(_, value)| value.as_str() != Some(""));
    line.extend(said.map(|(name, value)| (name.to_owned(), value)));
    format!("{}\n", Value::from(line))
}

fn text(time: &str, fields: &Fields) -> String {
    let mut line = format!("{time} access");
    for (name, value) in &fields.0 {
        // Writing to a String does not fail.
        let _ = match value {
            Value::String(word) if word.is_empty() => Ok(()),
            Value::String(word) if word.bytes().all(is_plain) => write!(line, " {name}={word}"),
            // Quoted, and with nothing in it that ends a line.
            value => write!(line, " {name}={value}"),
        };
    }
    line.push('\n');
    line
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields(vec![
            ("client", "192.0.2.1".into()),
            ("path", "/a%20b".into()),
            ("status", 200_u64.into()),
            ("range", "".into()),
            ("agent", "evil\n\"x\"\u{1b}[2J".into()),
        ])
    }

    #[test]
    fn a_line_is_one_line_whatever_a_client_says() {
        let line = text("T", &fields());
        assert_eq!(
            line,
            "T access client=192.0.2.1 path=/a%20b status=200 agent=\"evil\\n\\\"x\\\"\\u001b[2J\"\n"
        );
        let line = json("T".into(), fields());
        assert_eq!(line.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["agent"], "evil\n\"x\"\u{1b}[2J");
        assert_eq!((&read["time"], &read["status"], read.get("range")), (&"T".into(), &200.into(), None));
    }

    #[test]
    fn three_words_are_known() {
        assert_eq!("json".parse(), Ok(AccessLines::Json));
        assert_eq!("on".parse(), Ok(AccessLines::On));
        assert_eq!("off".parse(), Ok(AccessLines::Off));
        assert!("yes".parse::<AccessLines>().is_err());
    }
}
