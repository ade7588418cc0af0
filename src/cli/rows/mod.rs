#![forbid(unsafe_code)]
//! Owns the answers that are rows of a table, as Parquet: one map, or one interval after the other. Must never know how the bits
//! of a map are found, nor how rows are stored.

#[cfg(not(feature = "parquet"))]
mod absent;
#[cfg(feature = "parquet")]
mod sheet;

#[cfg(not(feature = "parquet"))]
pub(crate) use absent::Sheet;
#[cfg(feature = "parquet")]
pub(crate) use sheet::Sheet;

use crate::args::MapArgs;
use crate::exit::Failure;
use crate::map::Format;
use checkmap::chain::{KnownModel, Model, Name};
use checkmap::image::Scope;
use checkmap::progress::Observer;
use checkmap::{Error, ErrorKind, Image};
use std::ffi::OsString;

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    Extents,
    Intervals,
}

/// What the options say of the rows.
#[derive(Debug)]
#[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "a build without Parquet has refused before"))]
pub(crate) struct RowsWish {
    rows: Rows,
    /// The name of the disk, where the command line has one.
    disk: Option<OsString>,
    /// The window that the person asked for; `None` for the whole disk.
    window: Option<(u64, Option<u64>)>,
}

impl RowsWish {
    /// `None` for a format that has no rows; `each_interval` are rows too.
    pub(crate) fn new(args: &MapArgs, format: Format, each_interval: bool) -> Result<Option<Self>, Failure> {
        let rows = match format {
            Format::Parquet => Rows::Extents,
            Format::ParquetRoaring => Rows::Intervals,
            _ => {
                let asked = [("--disk", args.disk.is_some()), ("--each-interval", each_interval)];
                return match asked.iter().find(|(_, is_there)| *is_there) {
                    Some((option, _)) => Err(Failure::Usage(format!(
                        "{option} goes with --format parquet and --format parquet-roaring only"
                    ))),
                    None => Ok(None),
                };
            }
        };
        Sheet::check_built()?;
        let window = (args.start > 0 || args.length.is_some()).then_some((args.start, args.length));
        Ok(Some(Self { rows, disk: args.disk.clone(), window }))
    }
}

/// The checkpoints that bound the intervals from `since` until `until`, or now, oldest first; `until` itself is among them.
pub(crate) fn bounds(
    image: &Image,
    since: &Name,
    until: Option<&Name>,
    model: Option<KnownModel>,
    observer: &mut dyn Observer,
) -> Result<Vec<Name>, Failure> {
    let words: Vec<&[u8]> = [Some(since), until].into_iter().flatten().map(Name::as_bytes).collect();
    let chain = image.chain_for(model, &words)?;
    if chain.model() == Model::Cumulative {
        let message =
            "cumulative checkpoints have no intervals: what changed since one contains what changed since the next";
        let error = Error::new(ErrorKind::Model, message).advise("take the whole diff, without --each-interval");
        return Err(error.in_file(image.path()).into());
    }
    let mut names: Vec<Name> = Vec::new();
    if chain.checkpoint(since.as_bytes()).is_none() {
        // It may be one that only layers below the image have.
        let overview = image.overview(model, Scope::Increments, observer)?;
        names.extend(overview.below.into_iter().map(|below| below.checkpoint.name));
    }
    names.extend(chain.checkpoints().iter().map(|checkpoint| checkpoint.name.clone()));
    let at = |name: &Name| names.iter().position(|other| other == name);
    let first = at(since);
    let last = match until {
        Some(until) => at(until),
        None => names.len().checked_sub(1),
    };
    Ok(match (first, last) {
        (Some(first), Some(last)) if first <= last => names.get(first..=last).unwrap_or_default().to_vec(),
        // The diff itself refuses them, and says why.
        _ => [since].into_iter().chain(until).cloned().collect(),
    })
}
