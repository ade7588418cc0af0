#![forbid(unsafe_code)]
//! Owns what a picture of a disk is made of, and which medium it goes to; a file for each verb and for each medium. Must never know
//! how changes are found.

pub(crate) mod args;
mod colors;
mod history;
mod html;
pub(crate) mod map;
mod png;
pub(crate) mod report;
mod svg;
mod text;
pub(crate) mod trend;

use crate::disks::Disk;
use crate::exit::Failure;
use crate::output::Destination;
use crate::session::Session;
use crate::target::{Target, TargetArgs, exactly};
use crate::words::{amount, count, one_line};
use args::{Color, DrawnArgs, Medium};
use checkmap::chain::Name;
use checkmap::image::Access;
use checkmap::picture::{Grid, Shape, largest_extents};
use checkmap::{Bitmap, Extent};
use colors::{LEVELS, Level, is_possible, level};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;

/// The number of extents that a map names.
const NAMED: usize = 5;

/// Opens the disks that are meant: of images, or of a running hypervisor.
fn open(target: &TargetArgs, others: &[OsString], session: &Session) -> Result<Vec<Disk>, Failure> {
    let (target, others) = target.split(others)?;
    let Target::Image(first) = target else {
        let [] = exactly(&others, [])?;
        let mut disks = session.open_disks(target, Access::Read)?;
        for left_out in disks.leave_out_unfit() {
            let why = left_out.unfit().map(|why| why.reason().to_string()).unwrap_or_default();
            session.warn(&format!("the disk {} is left out: {why}", left_out.title()));
        }
        if disks.disks.is_empty() {
            return Err(Failure::Usage("the machine has no disk that can keep bitmaps".into()));
        }
        return Ok(disks.disks);
    };
    let paths = std::iter::once(first).chain(others.into_iter().map(Path::new));
    paths.map(|path| Ok(Disk { image: session.open(path, Access::Read)?, of_machine: None })).collect()
}

/// The medium that is wanted, and where the answer goes.
fn medium(format: Option<Medium>, output: &DrawnArgs, target: &TargetArgs) -> Result<(Medium, Destination), Failure> {
    let ending = output.output.as_deref().and_then(Path::extension).map(|ending| ending.to_ascii_lowercase());
    let by_name = match ending.as_ref().and_then(|ending| ending.to_str()) {
        Some("svg") => Some(Medium::Svg),
        Some("png") => Some(Medium::Png),
        Some("json") => Some(Medium::Json),
        _ => None,
    };
    let medium = match (output.json, format) {
        (true, None | Some(Medium::Json)) => Medium::Json,
        (true, Some(_)) => return Err(Failure::Usage("--json and another --format contradict each other".into())),
        (false, format) => format.or(by_name).unwrap_or(Medium::Text),
    };
    let first = target.split([])?.0.image();
    let destination = Destination::new(output.output.as_deref(), first, medium == Medium::Png)?;
    Ok((medium, destination))
}

/// How a text looks: its columns, and whether it has colours.
fn look(output: &DrawnArgs) -> (usize, bool) {
    let is_terminal = output.output.is_none() && std::io::stdout().is_terminal();
    let of_terminal =
        || terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0).filter(|_| is_terminal);
    let width = output.width.or_else(of_terminal).unwrap_or(80).clamp(8, 2000);
    let is_set = |name| std::env::var_os(name).is_some_and(|value: OsString| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let has_colors = match output.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => is_terminal && !is_set("NO_COLOR") && !is_dumb,
    };
    (width.into(), has_colors)
}

/// One disk of a map: what changed, and between which points in time.
struct Changed {
    title: String,
    node: Option<String>,
    since: Name,
    until: Option<Name>,
    bitmap: Bitmap,
}

impl Changed {
    fn picture(&self, shape: Shape) -> Result<Picture, Failure> {
        let (size, dirty) = (self.bitmap.size_bytes(), self.bitmap.dirty_bytes());
        let span = match &self.until {
            None => format!("since {}", self.since),
            Some(until) => format!("since {} until {until}", self.since),
        };
        let what = match dirty {
            0 => format!("nothing changed {span}, on {}", amount(size)),
            _ => format!("changed {span}: {}", sums(&self.bitmap)),
        };
        Picture::new(&self.title, &what, &self.bitmap, shape)
    }
}

/// `2 extents, 128 KiB of 1 GiB`.
fn sums(bitmap: &Bitmap) -> String {
    let extents = count(bitmap.extent_count(), "extent");
    format!("{extents}, {} of {}", amount(bitmap.dirty_bytes()), amount(bitmap.size_bytes()))
}

/// The picture of one disk, as every medium draws it.
struct Picture {
    title: String,
    headline: String,
    grid: Grid,
    granule: u64,
    largest: Vec<Extent>,
}

impl Picture {
    /// The picture of a bitmap, with what its bits mean.
    fn new(title: &str, what: &str, bitmap: &Bitmap, shape: Shape) -> Result<Self, Failure> {
        let granule = bitmap.granularity().bytes();
        Ok(Self {
            title: one_line(title),
            headline: format!("{what}, granularity {}", amount(granule)),
            grid: Grid::new(bitmap, shape)?,
            granule,
            largest: largest_extents(bitmap, NAMED)?,
        })
    }

    /// The bytes of the largest cell.
    fn cell_bytes(&self) -> u64 {
        self.grid.cells().iter().map(|cell| cell.extent.len_bytes).max().unwrap_or_default()
    }

    /// The level of the cell at a column and a row, in a grid that has cells.
    fn level_at(&self, column: u32, row: u32) -> Option<Level> {
        self.grid.cell_at(column, row).map(|cell| level(cell.dirty_bytes, cell.extent.len_bytes))
    }

    /// What a cell is.
    fn note(&self) -> String {
        match (self.grid.cells().len(), self.cell_bytes()) {
            (0, _) => "The disk has no bytes, and so no cell.".to_owned(),
            (1, bytes) => format!("The one cell is the whole disk, {}.", amount(bytes)),
            (_, bytes) if bytes <= self.granule => {
                format!(
                    "A cell is one granule, {}. The disk begins at the top left and ends at the top right.",
                    amount(bytes)
                )
            }
            (_, bytes) => {
                format!(
                    "A cell is {} of the disk, which begins at the top left and ends at the top right.",
                    amount(bytes)
                )
            }
        }
    }

    /// The levels of the scale: those that a cell can have, and their words.
    fn scale(&self) -> Vec<(Level, String)> {
        let bytes = self.cell_bytes();
        let mut is_used = [false; LEVELS];
        for cell in self.grid.cells() {
            if let Some(used) = is_used.get_mut(level(cell.dirty_bytes, cell.extent.len_bytes)) {
                *used = true;
            }
        }
        let shown =
            is_used.into_iter().enumerate().filter(|(level, used)| *used || is_possible(*level, bytes, self.granule));
        shown.map(|(level, _)| (level, colors::words(level, bytes))).collect()
    }

    /// The words for the largest extents, the first of them has the number 1.
    fn named(&self) -> Vec<String> {
        let words = |extent: &Extent| {
            format!("{} at {} (byte {})", amount(extent.len_bytes), amount(extent.offset), extent.offset)
        };
        self.largest.iter().map(words).collect()
    }

    fn named_title(&self) -> &'static str {
        match self.largest.len() {
            1 => "The largest extent:",
            _ => "The largest extents:",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkmap::Granularity;

    /// The map of a disk in every medium: text without and with colours, SVG, PNG.
    fn drawn(size: u64, granularity: u64, dirty: &[(u64, u64)]) -> Option<[Vec<u8>; 4]> {
        let mut bitmap = Bitmap::new(size, Granularity::from_bytes(granularity).ok()?).ok()?;
        for (offset, len_bytes) in dirty {
            bitmap.set(*offset, *len_bytes).ok()?;
        }
        let title = "a <&> b".to_owned();
        let changed = Changed { title, node: None, since: Name::new(*b"mon"), until: None, bitmap };
        let mut media: [Vec<u8>; 4] = Default::default();
        let [text, colored, svg, png] = &mut media;
        for (has_colors, out) in [(false, text), (true, colored)] {
            let pictures = [changed.picture(text::shape(80, has_colors).ok()?).ok()?];
            text::write_maps(&pictures, 80, has_colors, out).ok()?;
        }
        let pictures = [changed.picture(map::shape().ok()?).ok()?];
        svg::write_maps(&pictures, svg).ok()?;
        png::write_maps(&pictures, png).ok()?;
        Some(media)
    }

    fn lines(text: &[u8]) -> Vec<String> {
        String::from_utf8_lossy(text).lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_disk_of_one_granule_says_so() {
        let [text, colored, svg, _] = drawn(1000, 65536, &[(0, 1)]).unwrap_or_default();
        let lines = lines(&text);
        assert!(lines.contains(&"█".to_owned()), "{lines:?}");
        assert!(lines.contains(&"The one cell is the whole disk, 1000 bytes.".to_owned()), "{lines:?}");
        assert!(lines.contains(&"· clean  █ all".to_owned()), "{lines:?}");
        assert!(String::from_utf8_lossy(&colored).contains("\x1b[38;2;247;237;108m▀\x1b[0m\n"));
        let svg = String::from_utf8_lossy(&svg).into_owned();
        assert!(svg.contains("scale(48)") && svg.contains("<path class=\"c6\" d=\"M0 0h1v1h-1z\"/>"), "{svg}");
        assert!(svg.contains("a &lt;&amp;&gt; b") && !svg.contains("<&>"), "{svg}");
    }

    #[test]
    fn a_disk_without_a_change_and_one_without_a_byte_say_so() {
        let [text, _, svg, png] = drawn(1 << 40, 65536, &[]).unwrap_or_default();
        let lines = lines(&text);
        assert!(lines.first().is_some_and(|line| line.contains("nothing changed since 'mon', on 1 TiB")), "{lines:?}");
        assert_eq!(lines.get(1), Some(&"·".repeat(80)));
        assert!(String::from_utf8_lossy(&svg).contains("nothing changed"));
        assert!(!String::from_utf8_lossy(&svg).contains("largest"));
        assert!(png.starts_with(b"\x89PNG"));
        let [text, colored, svg, png] = drawn(0, 65536, &[]).unwrap_or_default();
        for medium in [text, colored, svg] {
            assert!(String::from_utf8_lossy(&medium).contains("has no bytes"));
        }
        assert!(png.starts_with(b"\x89PNG"));
    }

    #[test]
    fn the_most_granules_have_a_picture_and_one_of_them_is_seen() {
        let [text, _, svg, _] = drawn(1 << 57, 65536, &[(1 << 56, 1)]).unwrap_or_default();
        let lines = lines(&text);
        assert!(lines.first().is_some_and(|line| line.contains("1 extent, 64 KiB of 128 PiB")), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.chars().count() == 80 && line.contains('▁')).count(), 1);
        assert!(lines.contains(&"1  64 KiB at 64 PiB (byte 72057594037927936)".to_owned()), "{lines:?}");
        // The first cell of the second square.
        assert!(String::from_utf8_lossy(&svg).contains("<path class=\"c1\" d=\"M64 0h1v1h-1z\"/>"));
    }
}
