//! Tables for people: columns that line up, in any width, with colour on terminals only.
use std::{collections::BTreeSet, fmt::Write as _, io::IsTerminal as _};

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr as _;

/// What stands between columns.
const GAP: &str = "  ";

/// No column of names becomes narrower than this.
const NARROWEST: usize = 8;

/// Stands for what was cut out.
const CUT: char = '…';

/// A table without lines, as Docker's own commands print them.
#[derive(Debug, Default)]
pub struct Table {
    header: Vec<String>,
    right: BTreeSet<usize>,
    names: BTreeSet<usize>,
    rows: Vec<Vec<Cell>>,
}

/// What stands in a row and a column.
#[derive(Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        // Names are not all ours: none of them commands the terminal.
        let text = text.as_ref().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        Self { text, style: Style::new() }
    }
}

impl Cell {
    /// In a colour, where there is any.
    pub fn coloured(mut self, colour: AnsiColor) -> Self {
        self.style = Style::new().fg_color(Some(colour.into()));
        self
    }
}

/// A table with these columns; those in `right` hold numbers.
pub fn new(header: &[&str], right: impl IntoIterator<Item = usize>) -> Table {
    Table {
        header: header.iter().map(|&name| name.to_owned()).collect(),
        right: right.into_iter().collect(),
        ..Table::default()
    }
}

impl Table {
    /// These columns hold names, which are cut in the middle where the terminal is narrow.
    #[must_use]
    pub fn names(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.names = columns.into_iter().collect();
        self
    }

    /// One more row.
    pub fn add_row<I>(&mut self, row: I) -> &mut Self
    where
        I: IntoIterator<Item: Into<Cell>>,
    {
        self.rows.push(row.into_iter().map(Into::into).collect());
        self
    }

    fn render(&self, width: Option<usize>, colour: bool) -> String {
        let header: Vec<Cell> = self.header.iter().map(Cell::from).collect();
        let widths = self.widths(width);
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if column > 0 {
                    line.push_str(GAP);
                }
                let shown = cut(&cell.text, width);
                let padding = " ".repeat(width.saturating_sub(shown.width()));
                let styled = if colour && cell.style != Style::new() {
                    format!("{}{shown}{:#}", cell.style, cell.style)
                } else {
                    shown
                };
                let (before, after) =
                    if self.right.contains(&column) { (&*padding, "") } else { ("", &*padding) };
                let _ = write!(line, "{before}{styled}{after}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// How wide each column is: as wide as what stands in it, unless the table would be too wide.
    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let column = |index: usize| {
            let cells = self.rows.iter().filter_map(move |row| row.get(index)).map(|cell| cell.text.width());
            cells.chain([self.header[index].width()]).max().unwrap_or_default()
        };
        let mut widths: Vec<usize> = (0..self.header.len()).map(column).collect();
        let Some(limit) = limit else { return widths };
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > limit {
            let widest = self.names.iter().copied().max_by_key(|&name| widths[name]);
            match widest.filter(|&name| widths[name] > NARROWEST.max(self.header[name].width())) {
                Some(name) => widths[name] -= 1,
                None => break,
            }
        }
        widths
    }
}

/// The table's text, a line a row, nothing after the last column. As wide as the terminal, if it is one.
pub fn text(table: &Table) -> String {
    let out = std::io::stdout();
    let size = if out.is_terminal() { size() } else { None };
    table.render(size.map(|(columns, _)| columns), colour())
}

/// Columns and rows of the terminal. None if it doesn't say: a serial console has none until it is told.
pub fn size() -> Option<(usize, usize)> {
    let (columns, rows) = crossterm::terminal::size().ok()?;
    (columns > 0 && rows > 0).then_some((columns.into(), rows.into()))
}

/// Whether standard output takes colours: a terminal that can, and a user who has not set NO_COLOR.
pub fn colour() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
        && std::io::stdout().is_terminal()
}

/// The text in at most `width` columns: both ends of it if it is too long, as both tell names apart.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let half = width.saturating_sub(1) / 2;
    let mut head: Vec<char> = text.chars().take(width.saturating_sub(1) - half).collect();
    let mut tail: Vec<char> = text.chars().rev().take(half).collect();
    // As a whole: characters that belong together have not the sum of their widths.
    loop {
        let shown: String = head.iter().chain([&CUT]).chain(tail.iter().rev()).collect();
        let longer = if head.len() > tail.len() { &mut head } else { &mut tail };
        if shown.width() <= width || longer.pop().is_none() {
            return shown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = new(&["NAME", "PACKETS"], [1]);
        table.add_row(["web", "7"]).add_row(["database", "1234567890"]);
        let lines = "NAME         PACKETS\nweb                7\ndatabase  1234567890\n";
        assert_eq!(table.render(None, false), lines);
    }

    #[test]
    fn long_names_are_cut_and_numbers_are_not() {
        let mut table = new(&["NAME", "NETDEVICE", "PACKETS"], [2]).names([0, 1]);
        table.add_row(["customer-4711-firewall-a", "enp129s0f1np1", "1234567890"]);
        let lines = "NAME               NETDEVICE         PACKETS\n\
                     customer…rewall-a  enp129s0f1np1  1234567890\n";
        assert_eq!(table.render(Some(44), false), lines);
        assert!(table.render(Some(10), false).contains("1234567890"));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(cut("网络网络网络", 7), "网络…络");
        assert_eq!(cut("网络", 4), "网络");
        // Of two characters, one of them without a width of its own.
        let clouds = "☁\u{fe0f}".repeat(20);
        for width in 1..45 {
            assert!(cut(&clouds, width).width() <= width, "{width}");
        }
        let mut table = new(&["NAME"], []).names([0]);
        table.add_row([&clouds]);
        assert!(table.render(Some(10), false).contains('…'));
    }

    #[test]
    fn colours_do_not_move_columns_and_names_do_not_command() {
        let mut table = new(&["A", "B"], [0]);
        table.add_row([Cell::from("7").coloured(AnsiColor::Yellow), Cell::from("x\x1b[2Jy")]);
        assert_eq!(table.render(None, true), "A  B\n\x1b[33m7\x1b[0m  x\u{fffd}[2Jy\n");
        assert_eq!(table.render(None, false), "A  B\n7  x\u{fffd}[2Jy\n");
    }
}
