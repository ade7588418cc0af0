#![forbid(unsafe_code)]
//! Owns pictures made of characters, for terminals. Must never know what they are of.
//!
//! With colours a character shows two cells, one above the other; without, it shows one.

use super::Picture;
use super::colors::{CHARACTERS, DARK, Level, channel};
use super::history::{Bar, Chart, bounded};
use crate::table::shortened;
use crate::words::amount;
use checkmap::Result;
use checkmap::picture::Shape;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// The most lines that the grid of one disk takes.
const LINES: u32 = 16;

/// The level that gives bars their colour.
const OF_BARS: Level = 4;

const RESET: &str = "\x1b[0m";

/// The shape of a grid that fits into `width` columns.
pub(super) fn shape(width: usize, has_colors: bool) -> Result<Shape> {
    let rows = if has_colors { 2 * LINES } else { LINES };
    Shape::within(u32::try_from(width).unwrap_or(u32::MAX).clamp(1, 2000), rows)
}

pub(super) fn write_maps(pictures: &[Picture], width: usize, has_colors: bool, out: &mut dyn Write) -> io::Result<()> {
    for (at, picture) in pictures.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        write_wrapped(&format!("{}: {}", picture.title, picture.headline), "", width, out)?;
        match has_colors {
            true => write_grid_of_halves(picture, out)?,
            false => write_grid(picture, out)?,
        }
        write_wrapped(&picture.note(), "", width, out)?;
        write_scale(picture, width, has_colors, out)?;
        if !picture.largest.is_empty() {
            writeln!(out, "{}", picture.named_title())?;
        }
        for (at, words) in picture.named().iter().enumerate() {
            write_wrapped(&format!("{}  {words}", at + 1), "   ", width, out)?;
        }
    }
    Ok(())
}

fn write_grid(picture: &Picture, out: &mut dyn Write) -> io::Result<()> {
    let shape = picture.grid.shape();
    for row in 0..shape.rows() {
        let levels = (0..shape.columns()).filter_map(|column| picture.level_at(column, row));
        let line: String = levels.map(character).collect();
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn character(level: Level) -> char {
    CHARACTERS.get(level).copied().unwrap_or('?')
}

fn write_grid_of_halves(picture: &Picture, out: &mut dyn Write) -> io::Result<()> {
    let shape = picture.grid.shape();
    for row in (0..shape.rows()).step_by(2) {
        let mut line = String::new();
        let mut before = None;
        for column in 0..shape.columns() {
            let both = (picture.level_at(column, row), picture.level_at(column, row + 1));
            if before != Some(both) {
                let (above, below) = both;
                if above.is_none() || below.is_none() {
                    line += RESET;
                }
                above.iter().for_each(|level| line += &painted(38, *level));
                below.iter().for_each(|level| line += &painted(48, *level));
                before = Some(both);
            }
            line.push(if both.0.is_some() { '▀' } else { ' ' });
        }
        writeln!(out, "{line}{RESET}")?;
    }
    Ok(())
}

/// The order to a terminal to take the colour of a level: 38 for characters, 48 for the ground behind them.
fn painted(what: u8, level: Level) -> String {
    let color = DARK.get(level).copied().unwrap_or_default();
    format!("\x1b[{what};2;{};{};{}m", channel(color, 0), channel(color, 1), channel(color, 2))
}

fn write_scale(picture: &Picture, width: usize, has_colors: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut used = 0;
    for (level, words) in picture.scale() {
        let item = words.width() + if has_colors { 3 } else { 2 };
        let gap = if used == 0 {
            ""
        } else if used + 2 + item > width {
            "\n"
        } else {
            "  "
        };
        used = if gap == "  " { used + 2 + item } else { item };
        match has_colors {
            true => write!(out, "{gap}{}  {RESET} {words}", painted(48, level))?,
            false => write!(out, "{gap}{} {words}", character(level))?,
        }
    }
    writeln!(out)
}

/// The widths of a label, of a label that is a granularity, of an amount that may be an upper bound, and of a number.
const LABEL: usize = 32;
const GRANULE: usize = 8;
const AMOUNT: usize = 12;
const NUMBER: usize = 9;

/// From which width on a row has all figures.
const WIDE: usize = 72;

pub(super) fn write_charts(charts: &[Chart], width: usize, has_colors: bool, out: &mut dyn Write) -> io::Result<()> {
    for (at, chart) in charts.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        write_wrapped(&format!("{}: {}", chart.title, chart.headline), "", width, out)?;
        if !chart.bars_title.is_empty() {
            write_wrapped(&chart.bars_title, "", width, out)?;
        }
        let labels = chart.bars.iter().map(|bar| bar.label.width()).max().unwrap_or_default();
        let labels = labels.min(LABEL).min(width / 3);
        let most = chart.bars.iter().filter_map(|bar| bar.bytes).max().unwrap_or_default();
        for bar in &chart.bars {
            let label = shortened(&bar.label, labels);
            let blank = " ".repeat(labels.saturating_sub(label.width()));
            let bytes = bar.bytes.map_or_else(|| "?".to_owned(), amount);
            let room = width.saturating_sub(labels + AMOUNT + 1);
            writeln!(out, "{label}{blank}{bytes:>AMOUNT$} {}", drawn(bar, most, room, has_colors))?;
        }
        if !chart.rows_title.is_empty() {
            write_wrapped(&chart.rows_title, "", width, out)?;
        }
        write_rows(chart, width, has_colors, out)?;
        if let Some(note) = chart.note() {
            write_wrapped(&note, "", width, out)?;
        }
    }
    Ok(())
}

fn write_rows(chart: &Chart, width: usize, has_colors: bool, out: &mut dyn Write) -> io::Result<()> {
    if chart.rows.is_empty() {
        return Ok(());
    }
    let is_wide = width >= WIDE;
    let most = chart.rows.iter().map(|row| row.next.dirty_bytes).max().unwrap_or_default();
    write!(out, "{:>GRANULE$}{:>AMOUNT$}", "GRANULE", "CARRIES")?;
    match is_wide {
        true => writeln!(out, "{:>AMOUNT$}{:>NUMBER$}{:>AMOUNT$}", "MEAN BEFORE", "EXTENTS", "BITMAP")?,
        false => writeln!(out)?,
    }
    for row in &chart.rows {
        let bar = row.bar();
        write!(out, "{:>GRANULE$}{:>AMOUNT$}", bar.label, bounded(row.next.dirty_bytes, row.next.is_upper_bound))?;
        let mut room = width.saturating_sub(GRANULE + AMOUNT + 1);
        if is_wide {
            let mean = row.mean.map_or_else(|| "-".to_owned(), |mean| bounded(mean.bytes, mean.is_upper_bound));
            let extents = row.next.extents.map_or_else(|| "?".to_owned(), |extents| extents.to_string());
            write!(out, "{mean:>AMOUNT$}{extents:>NUMBER$}{:>AMOUNT$}", amount(row.next.bitmap_bytes))?;
            room = room.saturating_sub(2 * AMOUNT + NUMBER);
        }
        writeln!(out, " {}", drawn(&bar, most, room, has_colors))?;
    }
    Ok(())
}

/// A bar of eighths of characters; of shade where it is an upper bound. Every amount above 0 has a bar.
fn drawn(bar: &Bar, most: u64, room: usize, has_colors: bool) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let Some(bytes) = bar.bytes.filter(|bytes| *bytes > 0) else { return String::new() };
    let eighths = (u128::from(bytes) * room as u128 * 8).div_ceil(u128::from(most.max(1)));
    let eighths = usize::try_from(eighths).unwrap_or_default();
    let line = match bar.is_upper_bound {
        true => "░".repeat(eighths.div_ceil(8)),
        false => {
            let rest = EIGHTHS.get(eighths % 8).filter(|_| eighths % 8 > 0);
            "█".repeat(eighths / 8) + &rest.map(char::to_string).unwrap_or_default()
        }
    };
    if has_colors { format!("{}{line}{RESET}", painted(38, OF_BARS)) } else { line }
}

/// Writes words in lines of at most `width` columns, those after the first behind `indent`. A word that is too long is cut.
fn write_wrapped(text: &str, indent: &str, width: usize, out: &mut dyn Write) -> io::Result<()> {
    let mut line = String::new();
    for word in text.split(' ') {
        let mut word = word.to_owned();
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            writeln!(out, "{}", line.trim_end())?;
            line = indent.to_owned();
        } else if !line.is_empty() {
            line.push(' ');
        }
        while line.width() + word.width() > width {
            let room = width.saturating_sub(line.width()).max(1);
            let mut used = 0;
            let fits = |char: &char| {
                used += unicode_width::UnicodeWidthChar::width(*char).unwrap_or_default();
                used <= room
            };
            let part: String = word.chars().take_while(fits).collect();
            if part.is_empty() {
                break;
            }
            writeln!(out, "{line}{part}")?;
            word = word.chars().skip(part.chars().count()).collect();
            line = indent.to_owned();
        }
        line += &word;
    }
    writeln!(out, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str, indent: &str, width: usize) -> String {
        let mut out = Vec::new();
        assert!(write_wrapped(text, indent, width, &mut out).is_ok());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn lines_are_broken_between_words_and_long_words_are_cut() {
        assert_eq!(wrapped("one two three", "", 7), "one two\nthree\n");
        assert_eq!(wrapped("1  two three", "   ", 8), "1  two\n   three\n");
        assert_eq!(wrapped("/a/very/long/path.qcow2: it", "", 10), "/a/very/lo\nng/path.qc\now2: it\n");
        assert_eq!(wrapped("月曜日火", "", 5), "月曜\n日火\n");
    }
}
