#![forbid(unsafe_code)]
//! Owns what is told about an image without changing it: what a bitmap amounts to, and the report of a check.

use super::{Access, Image};
use crate::bitmap::Bitmap;
use crate::chain::{Chain, Name};
use crate::error::Result;
use crate::formats::qcow2::{Problem, Severity};
use crate::memory;
use crate::progress::Observer;

/// What one bitmap amounts to; `None` where its content cannot be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The sum of its dirty extents, cut at the disk's end, in bytes.
    pub dirty_bytes: Option<u64>,
    /// The number of its dirty extents.
    pub dirty_extents: Option<u64>,
    /// The bytes of the clusters that hold its table and its data.
    pub stored_bytes: Option<u64>,
}

/// What a check of an image found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// How many rules are broken.
    pub errors: u64,
    /// How many bitmaps, or all of them together, cannot be used.
    pub unusable: u64,
    /// The bytes of clusters that are counted as used and that nothing uses.
    pub leaked_bytes: u64,
    /// The findings: the first thousand where there are more.
    pub problems: Vec<Problem>,
}

impl Image {
    /// What the bitmap stored as `name` amounts to. A damaged bitmap gives its error; one that cannot be trusted for
    /// another reason, or an image opened for names only, gives nothing.
    pub fn summarize(&self, name: &Name) -> Result<Summary> {
        self.steady(|| self.summarize_and_keep(name)).map(|(summary, _)| summary)
    }

    /// As [`Image::summarize`], with the bits where they were read.
    pub(super) fn summarize_and_keep(&self, name: &Name) -> Result<(Summary, Option<Bitmap>)> {
        let state = self.state_of(name)?;
        if self.options.access == Access::Names || self.trouble().is_some() {
            return Ok((Summary::default(), None));
        }
        let stored_bytes = self.format.stored_bytes(name).map_err(|error| self.name_it(error));
        if state.inconsistent || state.unusable {
            let stored_bytes = match stored_bytes {
                Err(error) if error.is_of_the_call() => return Err(error),
                stored_bytes => stored_bytes.ok(),
            };
            return Ok((Summary { stored_bytes, ..Summary::default() }, None));
        }
        let stored_bytes = Some(stored_bytes?);
        let bitmap = self.load(name, 0, u64::MAX)?;
        let (dirty_bytes, dirty_extents) = (Some(bitmap.dirty_bytes()), Some(bitmap.extent_count()));
        Ok((Summary { dirty_bytes, dirty_extents, stored_bytes }, Some(bitmap)))
    }
}

pub(super) fn check(image: &Image, observer: &mut dyn Observer) -> Result<CheckReport> {
    let found = image.format.check(observer)?;
    let mut report = CheckReport {
        errors: found.errors,
        unusable: found.unusable,
        leaked_bytes: found.leaked_bytes,
        problems: found.problems,
    };
    if let Err(broken) = Chain::read(&image.states()?, None) {
        if broken.is_of_the_call() {
            return Err(broken);
        }
        report.unusable += 1;
        let problem = Problem {
            severity: Severity::Unusable,
            structure: "checkpoint chain".into(),
            offset: None,
            message: broken.message().to_owned(),
        };
        memory::push(&mut report.problems, problem)?;
    }
    Ok(report)
}
