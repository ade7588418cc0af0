#![forbid(unsafe_code)]
//! Owns pictures as PNG: the cells of a grid and the colours of the scale, without words. Must never know what they are of.
//!
//! A PNG of colours by number is a header, the colours, and packed rows; so a crate that packs is all that it takes.

use super::Picture;
use super::colors::{LEVELS, LIGHT, channel};
use super::svg::cell_side;
use miniz_oxide::deflate::compress_to_vec_zlib;
use std::io::{self, Write};

/// The number of the ground behind everything, after those of the levels.
const GROUND: u8 = 7;
const _: () = assert!(GROUND as usize == LEVELS);
const WHITE: u32 = 0x00ff_ffff;

const MARGIN: u32 = 16;
const SWATCH: (u32, u32) = (32, 16);

/// How hard it is packed: more makes it little smaller.
const EFFORT: u8 = 6;

pub(super) fn write_maps(pictures: &[Picture], out: &mut dyn Write) -> io::Result<()> {
    let sides =
        pictures.iter().map(|picture| picture.grid.shape().columns()).map(|columns| columns * cell_side(columns));
    let scale = (SWATCH.0 + 2) * u32::from(GROUND);
    let width = sides.max().unwrap_or_default().max(scale) + 2 * MARGIN;
    let mut dots = Dots { width, rows: Vec::new() };
    dots.blank(MARGIN);
    for picture in pictures {
        dots.grid(picture);
        dots.blank(MARGIN / 2);
        dots.scale(picture);
        dots.blank(MARGIN);
    }
    dots.write(out)
}

/// An image from the top to the bottom, each dot by the number of its colour.
struct Dots {
    width: u32,
    rows: Vec<Vec<u8>>,
}

impl Dots {
    /// Rows of stretches: how many dots, of which colour. The rest of a row is ground.
    fn add(&mut self, height: u32, stretches: impl Iterator<Item = (u32, u8)>) {
        let mut row = vec![GROUND; MARGIN as usize];
        for (len, color) in stretches {
            row.extend(std::iter::repeat_n(color, len as usize));
        }
        row.resize(self.width as usize, GROUND);
        self.rows.extend(std::iter::repeat_n(row, height as usize));
    }

    fn blank(&mut self, height: u32) {
        self.add(height, std::iter::empty());
    }

    fn grid(&mut self, picture: &Picture) {
        let shape = picture.grid.shape();
        let side = cell_side(shape.columns());
        for row in 0..shape.rows() {
            let levels = (0..shape.columns()).filter_map(|column| picture.level_at(column, row));
            self.add(side, levels.map(|level| (side, color(level))));
        }
    }

    fn scale(&mut self, picture: &Picture) {
        let levels: Vec<u8> = picture.scale().into_iter().map(|(level, _)| color(level)).collect();
        self.add(SWATCH.1, levels.iter().flat_map(|level| [(SWATCH.0, *level), (2, GROUND)]));
    }

    fn write(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"\x89PNG\r\n\x1a\n")?;
        let height = u32::try_from(self.rows.len()).map_err(io::Error::other)?;
        let mut header = [self.width.to_be_bytes(), height.to_be_bytes()].concat();
        // Eight bits a dot, colours by number, packed, filtered and in order as everywhere.
        header.extend([8, 3, 0, 0, 0]);
        write_chunk(b"IHDR", &header, out)?;
        let colors = LIGHT.iter().chain([&WHITE]);
        let palette: Vec<u8> = colors.flat_map(|color| [0, 1, 2].map(|which| channel(*color, which))).collect();
        write_chunk(b"PLTE", &palette, out)?;
        // Before each row stands how it is filtered: not at all.
        let rows: Vec<u8> = self.rows.into_iter().flat_map(|row| std::iter::once(0).chain(row)).collect();
        write_chunk(b"IDAT", &compress_to_vec_zlib(&rows, EFFORT), out)?;
        write_chunk(b"IEND", &[], out)
    }
}

fn color(level: usize) -> u8 {
    u8::try_from(level).unwrap_or(GROUND)
}

fn write_chunk(kind: &[u8; 4], bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&u32::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes())?;
    out.write_all(kind)?;
    out.write_all(bytes)?;
    out.write_all(&checksum(kind.iter().chain(bytes)).to_be_bytes())
}

/// The CRC-32 that PNG has, bit by bit: pictures are small.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    let by_bit = |sum: u32| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| by_bit(sum)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(super::checksum(b"123456789".iter()), 0xcbf4_3926);
        assert_eq!(super::checksum(b"IEND".iter()), 0xae42_6082);
    }
}
