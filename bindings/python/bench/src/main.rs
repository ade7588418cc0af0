//! The Rust half of overhead.py: walks the bitmaps it is given on standard input, one line for each walk, and says how
//! long that took and what it saw.

use std::error::Error;
use std::hint::black_box;
use std::io::{self, BufRead, Write};
use std::time::Instant;

use checkmap::{Bitmap, Extent, Granularity};

const BATCH: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let mut bitmap = Bitmap::new(0, Granularity::from_bytes(1)?)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let begin;
        let mut seen = (0_u64, 0_u64);
        match words[..] {
            // The dirty granules, as portable Roaring in a file.
            ["load", path, size, granularity] => {
                begin = Instant::now();
                bitmap = Bitmap::from_roaring(
                    &std::fs::read(path)?,
                    size.parse()?,
                    Granularity::from_bytes(granularity.parse()?)?,
                )?;
            }
            ["extents"] => {
                let mut batch = Vec::with_capacity(BATCH);
                begin = Instant::now();
                let mut extents = bitmap.extents(0, u64::MAX);
                loop {
                    batch.clear();
                    batch.extend(extents.by_ref().take(BATCH));
                    black_box::<&[Extent]>(&batch);
                    seen.0 += batch.len() as u64;
                    if batch.len() < BATCH {
                        break;
                    }
                }
            }
            // One extent at a time, as a plain loop does.
            ["loop"] => {
                begin = Instant::now();
                for extent in bitmap.extents(0, u64::MAX) {
                    seen = (seen.0 + 1, seen.1.wrapping_add(black_box(extent).len_bytes));
                }
            }
            _ => return Err(format!("no such thing: {line}").into()),
        }
        writeln!(io::stdout(), "{} {} {}", begin.elapsed().as_nanos(), seen.0, seen.1)?;
        io::stdout().flush()?;
    }
    Ok(())
}
