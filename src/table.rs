//! Plain text tables for people: columns as wide as their widest cell, numbers to the right, no frame.

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a heading.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [(&'static str, Align); N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// The table as lines, each ending in a line break, indented by `indent` blanks.
    pub(crate) fn render(&self, indent: usize) -> String {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| width(&row[column]));
            cells.chain([width(self.columns[column].0)]).max().unwrap_or(0)
        });
        let heading = self.columns.map(|(title, _)| title.to_owned());
        let mut text = String::new();
        for row in [&heading].into_iter().chain(&self.rows) {
            let mut line = " ".repeat(indent);
            for ((cell, size), (_, align)) in row.iter().zip(widths).zip(self.columns) {
                let padding = " ".repeat(size - width(cell));
                match align {
                    Align::Left => line += &format!("{cell}{padding}  "),
                    Align::Right => line += &format!("{padding}{cell}  "),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// A text from a stranger (a torrent's name, a tracker's answer) with nothing in it that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// Control characters move the cursor; the bidirectional ones reorder what is read.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("name", Align::Left), ("size", Align::Right)]);
        table.row(["a".into(), "1 B".into()]);
        table.row(["größer".into(), "10 KiB".into()]);
        assert_eq!(table.render(2), "  name      size\n  a          1 B\n  größer  10 KiB\n");
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{202e}c"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(printable("模型 größer"), "模型 größer");
    }
}
