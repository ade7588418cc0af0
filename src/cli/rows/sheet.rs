#![forbid(unsafe_code)]
//! Owns the Parquet file of an answer: names as text, and the facts that stand beside the rows. Must never know which maps there are.

use super::{Rows, RowsWish};
use crate::exit::Failure;
use crate::map::Subject;
use crate::words::{hex, text};
use checkmap::Bitmap;
use checkmap::chain::Name;
use checkmap::formats::parquet::{self, Writer};
use serde_json::json;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

/// The file that the rows go to.
pub(crate) struct Sheet<'a> {
    rows: parquet::Rows,
    writer: Writer<'a>,
    window: (u64, u64),
    /// Names that are not UTF-8 as they stand in the rows, and their bytes.
    inexact: Vec<(String, String)>,
}

impl<'a> Sheet<'a> {
    /// Refuses in a build that has no Parquet.
    pub(crate) fn check_built() -> Result<(), Failure> {
        Ok(())
    }

    /// Begins it; the rows are of `disk`, unless the command line has another name.
    pub(crate) fn begin(wish: &RowsWish, disk: &[u8], out: &'a mut dyn Write) -> Result<Self, Failure> {
        let disk = Name::new(wish.disk.as_ref().map_or(disk, |disk| disk.as_bytes()));
        let rows = match wish.rows {
            Rows::Extents => parquet::Rows::Extents,
            Rows::Intervals => parquet::Rows::Roaring,
        };
        let mut writer = Writer::new(rows, &text(&disk), out)?;
        if let Some((start, length)) = wish.window {
            writer.note("checkmap.start", &start.to_string());
            if let Some(length) = length {
                writer.note("checkmap.length", &length.to_string());
            }
        }
        let window = wish.window.map_or((0, u64::MAX), |(start, length)| (start, length.unwrap_or(u64::MAX)));
        let mut sheet = Self { rows, writer, window, inexact: Vec::new() };
        sheet.name(&disk);
        Ok(sheet)
    }

    /// Adds the rows of one map.
    pub(crate) fn add(&mut self, subject: &Subject, bitmap: &Bitmap) -> Result<(), Failure> {
        Writer::check(self.rows, bitmap)?;
        let (since, until) = match subject {
            Subject::Diff { since, until } => (Some(self.name(since)), until.as_ref().map(|until| self.name(until))),
            Subject::Bitmap { name, .. } => {
                let name = self.name(name);
                self.writer.note("checkmap.bitmap", &name);
                (None, None)
            }
        };
        let (start, length) = self.window;
        Ok(self.writer.write(since.as_deref(), until.as_deref(), bitmap, start, length)?)
    }

    pub(crate) fn end(mut self) -> Result<(), Failure> {
        if !self.inexact.is_empty() {
            let names: Vec<_> =
                self.inexact.iter().map(|(name, hex)| json!({ "name": name, "name_hex": hex })).collect();
            self.writer.note("checkmap.names", &json!(names).to_string());
        }
        Ok(self.writer.finish()?)
    }

    /// The name as text. Where it is not UTF-8, its bytes are noted beside the rows.
    fn name(&mut self, name: &Name) -> String {
        let shown = text(name);
        if let Some(hex) = hex(name) {
            let entry = (shown.clone(), hex);
            if !self.inexact.contains(&entry) {
                self.inexact.push(entry);
            }
        }
        shown
    }
}
