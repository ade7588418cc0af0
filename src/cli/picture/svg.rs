#![forbid(unsafe_code)]
//! Owns pictures as SVG: shapes and words whose colours follow the light or dark scheme of the reader. Must never know what they are of.

use super::Picture;
use super::colors::{DARK, LEVELS, LIGHT};
use super::history::{Bar, Chart, bounded};
use crate::table::shortened;
use crate::words::amount;
use std::fmt::Write as _;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// The width of a picture, and the blank at each side.
const WIDTH: u32 = 800;
const MARGIN: u32 = 16;

/// The width of a grid.
const INNER: u32 = WIDTH - 2 * MARGIN;

/// The most that one side of a cell takes.
const LARGEST_CELL: u32 = 48;

/// From one line of words to the next, and how wide a character is at most, for the most part.
const LINE: u32 = 20;
const CHARACTER: u32 = 8;

/// A picture while it is drawn from the top to the bottom.
#[derive(Debug, Default)]
pub(super) struct Drawing {
    body: String,
    height: u32,
}

/// The side of a cell in a grid of this number of columns.
pub(super) fn cell_side(columns: u32) -> u32 {
    (INNER / columns.max(1)).clamp(1, LARGEST_CELL)
}

pub(super) fn write_maps(pictures: &[Picture], out: &mut dyn Write) -> io::Result<()> {
    let mut drawing = Drawing::default();
    pictures.iter().for_each(|picture| drawing.map(picture, true));
    let titles: Vec<&str> = pictures.iter().map(|picture| picture.title.as_str()).collect();
    writeln!(out, "{}", drawing.alone(&format!("What changed on {}", titles.join(", "))))
}

pub(super) fn write_charts(charts: &[Chart], out: &mut dyn Write) -> io::Result<()> {
    let mut drawing = Drawing::default();
    charts.iter().for_each(|chart| drawing.chart(chart, true));
    let titles: Vec<&str> = charts.iter().map(|chart| chart.title.as_str()).collect();
    writeln!(out, "{}", drawing.alone(&format!("How much changed on {}", titles.join(", "))))
}

/// Where the bars of a chart begin, and how long the longest is.
const BARS: u32 = 216;
const LONGEST: u32 = 280;

impl Drawing {
    /// Draws a chart, under its title if it is to have one.
    pub(super) fn chart(&mut self, chart: &Chart, has_title: bool) {
        self.height += 8;
        if has_title {
            self.words("h", &chart.title);
            self.words("t", &chart.headline);
        }
        if !chart.bars_title.is_empty() {
            self.words("t", &chart.bars_title);
        }
        let most = chart.bars.iter().filter_map(|bar| bar.bytes).max().unwrap_or_default();
        for bar in &chart.bars {
            self.bar(bar, most, &bar.bytes.map_or_else(|| "?".to_owned(), amount));
        }
        if !chart.rows_title.is_empty() {
            self.height += 8;
            self.words("t", &chart.rows_title);
        }
        let most = chart.rows.iter().map(|row| row.next.dirty_bytes).max().unwrap_or_default();
        for row in &chart.rows {
            let mean =
                row.mean.map(|mean| format!(", {} in the mean before", bounded(mean.bytes, mean.is_upper_bound)));
            let words = bounded(row.next.dirty_bytes, row.next.is_upper_bound) + &mean.unwrap_or_default();
            self.bar(&row.bar(), most, &words);
        }
        if let Some(note) = chart.note() {
            self.words("n", &note);
        }
        self.height += 8;
    }

    /// A bar between its label and its words. Every amount above 0 has a bar; an upper bound has an outline alone.
    fn bar(&mut self, bar: &Bar, most: u64, words: &str) {
        self.height += LINE;
        let label = shortened(&bar.label, ((BARS - MARGIN - 8) / CHARACTER) as usize);
        self.line("t", MARGIN, &label);
        let length = u128::from(bar.bytes.unwrap_or_default()) * u128::from(LONGEST);
        let length = u32::try_from(length.div_ceil(u128::from(most.max(1)))).unwrap_or(LONGEST);
        if length > 0 {
            let (class, top) = (if bar.is_upper_bound { "u" } else { "b" }, self.height - 16);
            let _ = writeln!(
                self.body,
                "<rect class=\"{class}\" x=\"{BARS}\" y=\"{top}\" width=\"{length}\" height=\"12\"/>"
            );
        }
        self.line("t", BARS + length + 8, words);
    }

    /// Draws a map, under its title if it is to have one.
    pub(super) fn map(&mut self, picture: &Picture, has_title: bool) {
        self.height += 8;
        if has_title {
            self.words("h", &picture.title);
        }
        self.words("t", &picture.headline);
        self.grid(picture);
        self.words("n", &picture.note());
        self.scale(picture);
        if !picture.largest.is_empty() {
            self.words("t", picture.named_title());
        }
        for (at, words) in picture.named().iter().enumerate() {
            self.mark(at + 1, MARGIN + 8, self.height + LINE / 2);
            self.height += LINE;
            self.line("t", MARGIN + 24, words);
        }
        self.height += 8;
    }

    /// Words in lines of their own.
    fn words(&mut self, class: &str, words: &str) {
        for line in lines(words) {
            self.height += LINE;
            self.line(class, MARGIN, &line);
        }
    }

    /// A line of words that stands on the height that is reached.
    fn line(&mut self, class: &str, left: u32, words: &str) {
        let bottom = self.height - 5;
        let words = escaped(&shortened(words, ((WIDTH - MARGIN - left) / CHARACTER) as usize));
        let _ = writeln!(self.body, "<text class=\"{class}\" x=\"{left}\" y=\"{bottom}\">{words}</text>");
    }

    fn grid(&mut self, picture: &Picture) {
        let shape = picture.grid.shape();
        let side = cell_side(shape.columns());
        let top = self.height + 6;
        if picture.grid.cells().is_empty() {
            return;
        }
        // The cells of a level in one path: each stretch of a row is a rectangle.
        let mut paths: [String; LEVELS] = Default::default();
        for row in 0..shape.rows() {
            let mut column = 0;
            while let Some(level) = picture.level_at(column, row) {
                let first = column;
                while picture.level_at(column, row) == Some(level) {
                    column += 1;
                }
                if let Some(path) = paths.get_mut(level) {
                    let _ = write!(path, "M{first} {row}h{}v1h-{}z", column - first, column - first);
                }
            }
        }
        let _ = writeln!(
            self.body,
            "<g transform=\"translate({MARGIN} {top}) scale({side})\" shape-rendering=\"crispEdges\">"
        );
        for (level, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let _ = writeln!(self.body, "<path class=\"c{level}\" d=\"{path}\"/>");
        }
        self.body += "</g>\n";
        let bottom = top + shape.rows() * side;
        let mut taken: Vec<(u32, u32)> = Vec::new();
        for (at, extent) in picture.largest.iter().enumerate() {
            if let Some((column, row)) = picture.grid.place_of(extent.offset + extent.len_bytes / 2) {
                let (x, y) = (MARGIN + column * side + side / 2, top + row * side + side / 2);
                let place = beside(x, y, (top, bottom), &taken);
                let _ = writeln!(self.body, "<path class=\"m\" d=\"M{x} {y}L{} {}\"/>", place.0, place.1);
                self.mark(at + 1, place.0, place.1);
                taken.push(place);
            }
        }
        self.height = bottom + 4;
    }

    /// A number in a circle.
    fn mark(&mut self, number: usize, x: u32, y: u32) {
        let _ = writeln!(
            self.body,
            "<circle class=\"m\" cx=\"{x}\" cy=\"{y}\" r=\"8\"/><text class=\"k\" x=\"{x}\" y=\"{}\">{number}</text>",
            y + 4
        );
    }

    fn scale(&mut self, picture: &Picture) {
        let mut left = MARGIN;
        self.height += LINE + 2;
        for (level, words) in picture.scale() {
            let width = 22 + u32::try_from(words.width()).unwrap_or(u32::MAX / 16) * (CHARACTER - 1) + 14;
            if left > MARGIN && left + width > WIDTH - MARGIN {
                left = MARGIN;
                self.height += LINE;
            }
            let top = self.height - 16;
            let _ =
                writeln!(self.body, "<rect class=\"c{level} s\" x=\"{left}\" y=\"{top}\" width=\"16\" height=\"12\"/>");
            self.line("t", left + 22, &words);
            left += width;
        }
    }

    /// The picture as a part of a page that has the [`style`].
    pub(super) fn inside(&self, title: &str) -> String {
        self.document(title, "")
    }

    /// The picture as a file of its own.
    fn alone(&self, title: &str) -> String {
        self.document(title, &format!("<style>{}</style>\n", style()))
    }

    fn document(&self, title: &str, style: &str) -> String {
        let (title, height) = (escaped(title), self.height + 8);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             role=\"img\">\n<title>{title}</title>\n{style}<rect class=\"g\" width=\"{WIDTH}\" height=\"{height}\"/>\n{}</svg>",
            self.body
        )
    }
}

/// The place for a mark beside a point, so that the cell there is seen: in a grid from `top` to `bottom`, and away from other marks where
/// there is such a place.
fn beside(x: u32, y: u32, (top, bottom): (u32, u32), taken: &[(u32, u32)]) -> (u32, u32) {
    const AWAY: u32 = 13;
    let right = MARGIN + INNER;
    let clamped =
        |x: u32, y: u32| (x.clamp(MARGIN + 8, right - 8), y.clamp(top + 8, bottom.saturating_sub(8).max(top + 8)));
    let (left, above) = (x.saturating_sub(AWAY), y.saturating_sub(AWAY));
    let places = [(x + AWAY, above), (x + AWAY, y + AWAY), (left, above), (left, y + AWAY), (x + 2 * AWAY, y)];
    let mut places = places.map(|(x, y)| clamped(x, y)).into_iter();
    let first = places.next().unwrap_or((x, y));
    let is_free = |place: &(u32, u32)| {
        let near = |other: &(u32, u32)| place.0.abs_diff(other.0) < 16 && place.1.abs_diff(other.1) < 16;
        !taken.iter().any(near)
    };
    std::iter::once(first).chain(places).find(is_free).unwrap_or(first)
}

/// The rules for everything that is drawn, on a light and on a dark ground.
pub(super) fn style() -> String {
    let mut style = "\
text{font:13px system-ui,sans-serif}
.h{font-weight:600;font-size:15px}
.k{font-size:11px;font-weight:600;text-anchor:middle}
.s{stroke-width:1}
"
    .to_owned();
    let levels = |style: &mut String, colors: [u32; LEVELS]| {
        let of_bars = colors.get(4).copied().unwrap_or_default();
        let _ = writeln!(style, ".b{{fill:#{of_bars:06x}}}.u{{fill:none;stroke:#{of_bars:06x}}}");
        for (level, color) in colors.iter().enumerate() {
            let _ = writeln!(style, ".c{level}{{fill:#{color:06x}}}");
        }
    };
    style += ".g{fill:#fff}.t,.h,.k{fill:#1b1e23}.n{fill:#50555c}.m{fill:#fff;stroke:#1b1e23}.s{stroke:#8a9099}\n";
    levels(&mut style, LIGHT);
    style += "@media (prefers-color-scheme:dark){\n";
    style +=
        ".g{fill:#15171a}.t,.h,.k{fill:#e8eaed}.n{fill:#a9afb8}.m{fill:#15171a;stroke:#e8eaed}.s{stroke:#6c727b}\n";
    levels(&mut style, DARK);
    style + "}\n"
}

/// Words in lines that are as wide as a picture.
fn lines(words: &str) -> Vec<String> {
    let most = (INNER / CHARACTER) as usize;
    let mut lines: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Text as it stands in XML. Characters that XML cannot hold are left out.
pub(super) fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, char| {
        match char {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => {}
            char => escaped.push(char),
        }
        escaped
    })
}
