#![forbid(unsafe_code)]
//! Owns how a table fits into 80 columns: which of its columns give way, and how long names are shortened. Must never
//! know what stands in it.

use comfy_table::{CellAlignment, Table, presets};
use std::io::{self, Write};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Tables are as wide as this at most, on a terminal and elsewhere, so that a pipe sees what a person saw.
const WIDTH: usize = 80;

/// Blanks between two columns.
const GAP: usize = 2;

/// Columns give way before names are shortened below this width.
const LEGIBLE: usize = 20;

/// Names are never shortened below this width.
const SHORTEST: usize = 5;

/// One column: its heading and its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Names, which are shortened where there is no room.
    Names(&'static str),
    /// Words.
    Words(&'static str),
    /// Numbers and sizes.
    Numbers(&'static str),
    /// Names that give way first where there is no room.
    SpareNames(&'static str),
    /// Numbers and sizes that give way first where there is no room.
    SpareNumbers(&'static str),
}

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Column::Names(heading)
            | Column::Words(heading)
            | Column::Numbers(heading)
            | Column::SpareNames(heading)
            | Column::SpareNumbers(heading) => heading,
        }
    }

    fn has_names(self) -> bool {
        matches!(self, Column::Names(_) | Column::SpareNames(_))
    }

    fn is_spare(self) -> bool {
        matches!(self, Column::SpareNames(_) | Column::SpareNumbers(_))
    }
}

/// A table with a heading for each column.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    columns: &'a [Column],
    rows: Vec<Vec<String>>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(columns: &'a [Column]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: impl Into<Vec<String>>) {
        self.rows.push(row.into());
    }

    /// Writes the table: all of it if it may be `wide`, else within 80 columns.
    pub(crate) fn write(&self, wide: bool, out: &mut dyn Write) -> io::Result<()> {
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| self.width_of(at)).collect();
        let shown = if wide { vec![true; widths.len()] } else { self.with_room(&widths) };
        let most = if wide { usize::MAX } else { self.most_for_names(&widths, &shown).max(SHORTEST) };
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let shown_columns = || self.columns.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(column, _)| *column);
        table.set_header(shown_columns().map(Column::heading));
        for row in &self.rows {
            let cells = row.iter().zip(self.columns).zip(&shown).filter(|(_, shown)| **shown);
            table.add_row(cells.map(|((cell, column), _)| match column.has_names() {
                true => shortened(cell, most),
                false => cell.clone(),
            }));
        }
        for (column, what) in table.column_iter_mut().zip(shown_columns()) {
            if matches!(what, Column::Numbers(_) | Column::SpareNumbers(_)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            column.set_padding((0, 2));
        }
        table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
    }

    fn width_of(&self, at: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.width());
        cells.chain(self.columns.get(at).map(|column| column.heading().len())).max().unwrap_or_default()
    }

    /// Which columns are shown: spare ones give way, the last first, until names are legible.
    fn with_room(&self, widths: &[usize]) -> Vec<bool> {
        let mut shown = vec![true; widths.len()];
        for (at, _) in self.columns.iter().enumerate().rev().filter(|(_, column)| column.is_spare()) {
            if self.most_for_names(widths, &shown) >= LEGIBLE {
                break;
            }
            if let Some(shown) = shown.get_mut(at) {
                *shown = false;
            }
        }
        shown
    }

    /// How wide a name can be at most, so that the table fits.
    fn most_for_names(&self, widths: &[usize], shown: &[bool]) -> usize {
        let columns = self.columns.iter().zip(widths).zip(shown).filter(|(_, shown)| **shown).map(|(both, _)| both);
        let fixed = columns.clone().filter(|(column, _)| !column.has_names()).map(|(_, width)| width).sum::<usize>();
        let gaps = GAP * columns.clone().count().saturating_sub(1);
        let mut left = WIDTH.saturating_sub(fixed + gaps);
        let mut names: Vec<usize> = columns.filter(|(column, _)| column.has_names()).map(|(_, width)| *width).collect();
        names.sort_unstable();
        // Narrow columns leave room for the wide ones.
        for (at, width) in names.iter().enumerate() {
            let share = left / (names.len() - at);
            if *width > share {
                return share;
            }
            left -= width;
        }
        usize::MAX
    }
}

/// `text` without its middle where it is wider than `most`.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let room = most.saturating_sub(1);
    let take = |chars: &mut dyn Iterator<Item = char>, room: usize| -> Vec<char> {
        let mut used = 0;
        let fits = |char: &char| {
            used += char.width().unwrap_or_default();
            used <= room
        };
        chars.take_while(fits).collect()
    };
    let head: String = take(&mut text.chars(), room / 2).into_iter().collect();
    let tail = take(&mut text.chars().rev(), room - room / 2);
    format!("{head}…{}", tail.into_iter().rev().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(columns: &[Column], rows: &[&[&str]], wide: bool) -> String {
        let rows = rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        let mut out = Vec::new();
        assert!(Rows { columns, rows }.write(wide, &mut out).is_ok());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn names_lose_their_middle() {
        assert_eq!(shortened("'20261125T020000Z'", 18), "'20261125T020000Z'");
        assert_eq!(shortened("'20261125T020000Z'", 10), "'202…000Z'");
        assert_eq!(shortened("'20261125T020000Z'", 5), "'2…Z'");
        // Characters that take two columns.
        assert_eq!(shortened("'月曜日火曜日'", 8), "'月…日'");
    }

    #[test]
    fn a_table_fits_whatever_its_names_and_wide_shows_all() {
        let columns = [
            Column::Names("A"),
            Column::SpareNames("B"),
            Column::Words("C"),
            Column::Numbers("D"),
            Column::SpareNumbers("E"),
        ];
        let long = "'".to_owned() + &"x".repeat(510) + "'";
        let rows: [&[&str]; 2] =
            [&["'a'", "'b'", "recording", "1 MiB", "1"], &[&long, &long, "frozen", "64 KiB", "22"]];
        let narrow = printed(&columns, &rows, false);
        assert!(narrow.lines().all(|line| line.width() <= 80), "{narrow}");
        assert!(narrow.lines().any(|line| line.width() > 76) && narrow.contains('…'), "{narrow}");
        let wide = printed(&columns, &rows, true);
        assert!(wide.contains(&format!("{long}  {long}")) && !wide.contains('…'), "{wide}");
        let short = printed(&columns, &rows[..1], false);
        assert_eq!(short, "A    B    C              D  E\n'a'  'b'  recording  1 MiB  1\n");
    }

    #[test]
    fn spare_columns_give_way_before_names_become_illegible() {
        let columns = [
            Column::Names("N"),
            Column::Names("P"),
            Column::SpareNames("B"),
            Column::Words("W"),
            Column::SpareNumbers("S"),
        ];
        let (name, words) = ("'20261125T020000Z'", "x".repeat(30));
        let bitmap = "'20261124T020000Z->20261125T020000Z'";
        let printed = printed(&columns, &[&[name, name, bitmap, &words, "7"]], false);
        assert_eq!(printed.lines().nth(1), Some(&*format!("{name}  {name}  {words}")));
    }
}
