//! `top` drawn.
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Text},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table},
};

use super::{
    Top,
    model::{Column, Sample, sparkline},
};
use crate::cli::{rates::Rates, table::cut, units};

/// Widths of the columns that have numbers, in the order of [`Column::ALL`] from the second on.
const NUMBERS: [u16; 7] = [7, 8, 7, 8, 7, 6, 7];
const SHORTEST_NAME: u16 = 9;
const LONGEST_NAME: u16 = 40;
const SHORTEST_LINE: u16 = 8;

const HELP: &str = "\
  ← →  or  < >   sort by the column to the left, to the right
  r              the other way round
  /              show only rows with this in a name; Enter keeps it, Esc drops it
  p  or  Space   pause
  + -            look less often, more often
  ↑ ↓  PgUp PgDn  scroll
  q  or  Ctrl-C  quit

BYPASS: frames that the netdev or the PF counted, and our hooks did not see.
Any key closes this.";

/// Columns that fit: all, or without the hook, and so on down to names and Rx alone.
struct Shape {
    columns: Vec<Column>,
    name: u16,
    network: u16,
    line: u16,
}

fn shape(width: u16) -> Shape {
    let mut columns = Column::ALL.to_vec();
    let taken = |columns: &[Column]| -> u16 {
        let numbers = Column::ALL[1..].iter().zip(NUMBERS);
        numbers.filter(|(column, _)| columns.contains(column)).map(|(_, width)| width + 1).sum()
    };
    for goes in
        [Column::Hook, Column::TxPackets, Column::RxPackets, Column::Bypass, Column::Spoofed, Column::TxBits]
    {
        if taken(&columns) + SHORTEST_NAME <= width {
            break;
        }
        columns.retain(|column| *column != goes);
    }
    let mut left = width.saturating_sub(taken(&columns));
    let name = left.min(if left > SHORTEST_NAME + SHORTEST_LINE { left - SHORTEST_LINE - 1 } else { left });
    let name = name.min(LONGEST_NAME / 2 + left / 8).max(1);
    left = left.saturating_sub(name + 1);
    let network = if left >= 30 { (left / 3).min(LONGEST_NAME) } else { 0 };
    let line = left.saturating_sub(if network > 0 { network + 1 } else { 0 });
    Shape { columns, name, network, line: if line >= SHORTEST_LINE { line } else { 0 } }
}

/// The whole screen.
pub fn draw(frame: &mut Frame<'_>, top: &mut Top) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(title(top, head.width), head);
    table(frame, top, body);
    frame.render_widget(footer(top), foot);
    if top.help {
        help(frame);
    }
}

fn title(top: &Top, width: u16) -> Line<'static> {
    let (shown, total) = (top.model.rows().len(), top.model.total());
    let count = if shown == total { format!("{total}") } else { format!("{shown} of {total}") };
    let paused = if top.model.paused { ", paused" } else { "" };
    let text =
        format!("docker-passthrough top: {count} containers, every {:.1} s{paused}", top.every.as_secs_f64());
    Line::styled(cut(&text, width.into()), Style::new().add_modifier(Modifier::BOLD))
}

fn footer(top: &Top) -> Line<'_> {
    if let Some(filter) = &top.typing {
        return Line::from(format!("/{filter}█"));
    }
    if let Some(error) = &top.error {
        return Line::styled(plain(error), Style::new().fg(Color::Red));
    }
    let filter = if top.model.filter.is_empty() { String::new() } else { format!("  /{}", top.model.filter) };
    Line::styled(
        format!("q quit  ←→ sort  r reverse  / filter  p pause  +- interval  ? help{filter}"),
        Style::new().add_modifier(Modifier::DIM),
    )
}

fn table(frame: &mut Frame<'_>, top: &mut Top, area: Rect) {
    let Shape { columns, name, network, line } = shape(area.width);
    let rows = top.model.rows();
    let visible = usize::from(area.height.saturating_sub(1));
    top.offset = top.offset.min(rows.len().saturating_sub(visible));
    top.page = visible;
    let mut header = Vec::new();
    let mut widths = Vec::new();
    for column in &columns {
        let sorted = *column == top.model.sort;
        let style = if sorted { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let alignment = if is_name(*column) { Alignment::Left } else { Alignment::Right };
        header.push(Cell::from(Text::from(column.title()).alignment(alignment)).style(style));
        widths.push(width(*column, name));
        if *column == Column::Container && network > 0 {
            header.push(Cell::from("NETWORK"));
            widths.push(network);
        }
    }
    if line > 0 {
        header.push(Cell::from("RX+TX BIT/S"));
        widths.push(line);
    }
    let body = rows.iter().skip(top.offset).take(visible).map(|row| {
        let mut cells = Vec::new();
        for column in &columns {
            cells.push(cell(row, *column, width(*column, name)));
            if *column == Column::Container && network > 0 {
                cells.push(Cell::from(cut(&plain(&row.network), network.into())));
            }
        }
        if line > 0 {
            let bars = sparkline(top.model.history(&row.id), line.into());
            cells.push(Cell::from(bars).style(Style::new().fg(Color::Cyan)));
        }
        Row::new(cells)
    });
    let table = Table::new(body.collect::<Vec<_>>(), widths.into_iter().map(Constraint::Length))
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::BOLD)));
    frame.render_widget(table, area);
    if rows.is_empty() && area.height > 1 {
        let text = if top.model.total() > 0 {
            "No name has this in it."
        } else {
            "No container has a netdev of this driver."
        };
        let below = Rect { y: area.y + 1, height: area.height - 1, ..area };
        frame.render_widget(Paragraph::new(if top.looked { text } else { "Looking …" }), below);
    }
}

fn is_name(column: Column) -> bool {
    matches!(column, Column::Container | Column::Hook)
}

fn width(column: Column, name: u16) -> u16 {
    let numbers = Column::ALL[1..].iter().zip(NUMBERS);
    numbers.into_iter().find(|(one, _)| **one == column).map_or(name, |(_, width)| width)
}

fn cell(row: &Sample, column: Column, width: u16) -> Cell<'static> {
    let rate =
        |of: fn(&Rates) -> f64| row.rates.as_ref().map_or_else(|| "-".into(), |rates| units::rate(of(rates)));
    let count = |count: Option<u64>| count.map_or_else(|| "-".into(), units::count);
    let text = match column {
        Column::Container => cut(&plain(&row.container), width.into()),
        Column::RxPackets => rate(|rates| rates.rx_packets_per_second),
        Column::RxBits => rate(|rates| rates.rx_bits_per_second),
        Column::TxPackets => rate(|rates| rates.tx_packets_per_second),
        Column::TxBits => rate(|rates| rates.tx_bits_per_second),
        Column::Spoofed => count(Some(row.spoofed)),
        Column::Bypass => count(row.bypass),
        Column::Hook => row.hooks.clone(),
    };
    let alarming = match column {
        Column::Spoofed => row.spoofed > 0,
        Column::Bypass => row.bypass.is_some_and(|bypass| bypass > 0),
        _ => false,
    };
    let style = if alarming { Style::new().fg(Color::Yellow) } else { Style::new() };
    let alignment = if is_name(column) { Alignment::Left } else { Alignment::Right };
    Cell::from(Text::from(text).alignment(alignment)).style(style)
}

/// Names are not all ours.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (area.width.min(84), area.height.min(13));
    let area =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" Keys ")), area);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_width_is_used_and_none_exceeded() {
        for width in 1..400 {
            let Shape { columns, name, network, line } = shape(width);
            let numbers: u16 = columns[1..].iter().map(|column| super::width(*column, name) + 1).sum();
            let others =
                [network, line].into_iter().filter(|width| *width > 0).map(|width| width + 1).sum::<u16>();
            let total = name + numbers + others;
            assert!(total <= width.max(name + numbers) && (width < 18 || total <= width), "{width}: {total}");
        }
        let wide = shape(80);
        assert_eq!(wide.columns, Column::ALL);
        assert!(wide.line >= SHORTEST_LINE && wide.name >= SHORTEST_NAME, "{} {}", wide.line, wide.name);
    }
}
