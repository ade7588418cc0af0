#![forbid(unsafe_code)]
//! Owns reports about an image that change nothing: the sums of a bitmap, and the report of a check.

use super::{Access, Image};
use crate::bitmap::Bitmap;
use crate::chain::{Chain, Name};
use crate::error::Result;
use crate::host::{CheckReport, Problem, Severity, Summary};
use crate::memory;
use crate::progress::Observer;

impl Image {
    /// The sums of the bitmap stored as `name`. A damaged bitmap gives its error; one that cannot be trusted for
    /// another reason, or an image opened for names only, gives nothing.
    pub fn summarize(&self, name: &Name) -> Result<Summary> {
        self.steady(|| self.summarize_and_keep(name)).map(|(summary, _)| summary)
    }

    /// The SHA-256 of the bitmap stored as `name`, see [`Bitmap::sha256`]. A running QEMU computes it itself, so no bit is moved.
    ///
    /// Fails as [`Image::read_bitmap`] does.
    #[cfg(feature = "sha256")]
    pub fn sha256(&self, name: &Name, observer: &mut dyn Observer) -> Result<[u8; 32]> {
        self.steady(|| {
            self.check_readable()?;
            self.check_trusted(name)?;
            match self.host.sha256(name, observer).map_err(|error| self.name_it(error))? {
                Some(hash) => Ok(hash),
                None => self.load(name, 0, u64::MAX)?.sha256(),
            }
        })
    }

    /// As [`Image::summarize`], with the bits where they were read.
    pub(super) fn summarize_and_keep(&self, name: &Name) -> Result<(Summary, Option<Bitmap>)> {
        let state = self.state_of(name)?;
        if self.options.access == Access::Names || self.trouble().is_some() {
            return Ok((Summary::default(), None));
        }
        let known = self.host.summary(name).map_err(|error| self.name_it(error));
        if state.inconsistent || state.unusable {
            let stored_bytes = match known {
                Err(error) if error.is_of_the_call() => return Err(error),
                known => known.ok().and_then(|known| known.stored_bytes),
            };
            return Ok((Summary { stored_bytes, ..Summary::default() }, None));
        }
        let known = known?;
        if self.host.is_live() {
            return Ok((known, None));
        }
        let bitmap = self.load(name, 0, u64::MAX)?;
        let (dirty_bytes, dirty_extents) = (Some(bitmap.dirty_bytes()), Some(bitmap.extent_count()));
        Ok((Summary { dirty_bytes, dirty_extents, ..known }, Some(bitmap)))
    }
}

pub(super) fn check(image: &Image, observer: &mut dyn Observer) -> Result<CheckReport> {
    let mut report = image.host.check(observer)?;
    if let Err(broken) = Chain::read(&image.states()?, None) {
        if broken.is_of_the_call() {
            return Err(broken);
        }
        report.unusable += 1;
        let problem = Problem::new(Severity::Unusable, "checkpoint chain", broken.message());
        memory::push(&mut report.problems, problem)?;
    }
    Ok(report)
}
