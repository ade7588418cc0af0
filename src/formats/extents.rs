#![forbid(unsafe_code)]
//! Maps of dirty extents as other tools print them.
//!
//! Each writer covers the window from `offset` on, `len_bytes` long, cut at the disk's end; `u64::MAX` is "to the end".

// Owns these forms. Must never know where the bitmap came from.

use crate::bitmap::Bitmap;
use crate::geometry::{Extent, clip_end};
use std::io::{Result, Write};

/// Writes `start,length`, then one dirty extent a line.
pub fn write_csv(bitmap: &Bitmap, offset: u64, len_bytes: u64, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "start,length")?;
    for extent in bitmap.extents(offset, len_bytes) {
        writeln!(out, "{},{}", extent.offset, extent.len_bytes)?;
    }
    Ok(())
}

/// Writes the array of dirty extents that stands under `extents` in checkmap's own JSON.
pub fn write_json_array(bitmap: &Bitmap, offset: u64, len_bytes: u64, out: &mut dyn Write) -> Result<()> {
    out.write_all(b"[")?;
    for (number, extent) in bitmap.extents(offset, len_bytes).enumerate() {
        let comma = if number == 0 { "" } else { "," };
        write!(out, "{comma}\n  {{\"start\": {}, \"length\": {}}}", extent.offset, extent.len_bytes)?;
    }
    out.write_all(b"]")
}

/// Writes the output of `nbdinfo --map=qemu:dirty-bitmap:NAME --json` (libnbd 1.14): clean and dirty runs in turn.
pub fn write_nbdinfo(bitmap: &Bitmap, offset: u64, len_bytes: u64, out: &mut dyn Write) -> Result<()> {
    out.write_all(b"[")?;
    let mut comma = "";
    for_each_run(bitmap, offset, len_bytes, |run, dirty| {
        let (kind, description) = if dirty { (1, "dirty") } else { (0, "clean") };
        write!(
            out,
            "{comma}\n{{ \"offset\": {}, \"length\": {}, \"type\": {kind}, \"description\": \"{description}\"}}",
            run.offset, run.len_bytes
        )?;
        comma = ",";
        Ok(())
    })?;
    out.write_all(b"\n]\n")
}

/// Writes the output of `qemu-img map --output=json` (QEMU 10.0) for an NBD export opened with `x-dirty-bitmap`, where a
/// dirty run reads as absent.
pub fn write_qemu_map(bitmap: &Bitmap, offset: u64, len_bytes: u64, out: &mut dyn Write) -> Result<()> {
    out.write_all(b"[")?;
    let mut comma = "";
    for_each_run(bitmap, offset, len_bytes, |run, dirty| {
        let Extent { offset, len_bytes } = run;
        write!(
            out,
            "{comma}{{ \"start\": {offset}, \"length\": {len_bytes}, \"depth\": 0, \"present\": {0}, \"zero\": false, \
             \"data\": {0}, \"compressed\": false",
            !dirty
        )?;
        if !dirty {
            write!(out, ", \"offset\": {offset}")?;
        }
        comma = ",\n";
        out.write_all(b"}")
    })?;
    out.write_all(b"]\n")
}

/// Calls `run` for each clean and dirty run of the window, ascending.
fn for_each_run(
    bitmap: &Bitmap,
    offset: u64,
    len_bytes: u64,
    mut run: impl FnMut(Extent, bool) -> Result<()>,
) -> Result<()> {
    let end = clip_end(offset, len_bytes, bitmap.size_bytes());
    let mut clean_from = offset;
    for extent in bitmap.extents(offset, len_bytes) {
        if extent.offset > clean_from {
            run(Extent { offset: clean_from, len_bytes: extent.offset - clean_from }, false)?;
        }
        run(extent, true)?;
        clean_from = extent.end();
    }
    if end > clean_from {
        run(Extent { offset: clean_from, len_bytes: end - clean_from }, false)?;
    }
    Ok(())
}
