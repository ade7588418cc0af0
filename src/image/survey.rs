#![forbid(unsafe_code)]
//! Owns the question which bitmaps can be trusted for the place where they lie: in clusters of their own, counted as
//! used. Must never read their bits.

use super::{Access, Image};
use crate::chain::BitmapState;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Observer;

impl Image {
    /// Finds out what occupies the image's clusters, which every reading of a bitmap and every plan needs to know. The
    /// first of them does it without an observer where nobody called this.
    pub fn survey(&self, observer: &mut dyn Observer) -> Result<()> {
        match self.is_surveyable() {
            true => self.host.survey(observer).map_err(|error| self.name_it(error)),
            false => Ok(()),
        }
    }

    fn is_surveyable(&self) -> bool {
        self.options.access != Access::Names && self.trouble().is_none()
    }

    /// The bitmaps as a change finds them: one that cannot be trusted counts as inconsistent, whatever its flags say.
    pub(super) fn surveyed(&self, observer: &mut dyn Observer) -> Result<Vec<BitmapState>> {
        let mut states = self.states()?;
        if self.is_surveyable() {
            for state in &mut states {
                let doubt = self.host.doubt(&state.name, observer).map_err(|error| self.name_it(error))?;
                state.inconsistent |= doubt.is_some();
            }
        }
        Ok(states)
    }

    /// Replaces the refusal of a bitmap that counts as inconsistent by the fault, and its place, for which it cannot be trusted.
    pub(super) fn explain(&self, refused: Error, observer: &mut dyn Observer) -> Error {
        if refused.kind() != ErrorKind::Inconsistent || !self.is_surveyable() {
            return refused;
        }
        let mut states = self.host.bitmaps().map(|bitmap| self.state(bitmap));
        let meant = states.find(|state| !state.inconsistent && refused.message().contains(&state.name.to_string()));
        match meant.map(|meant| self.host.doubt(&meant.name, observer)) {
            Some(Ok(Some(doubt))) => {
                let error = Error::new(doubt.kind(), doubt.message());
                let error = match doubt.structure() {
                    Some(structure) => error.at(structure, doubt.offset()),
                    None => error,
                };
                match refused.way_out() {
                    Some(way_out) => error.advise(way_out.clone()),
                    None => error,
                }
            }
            _ => refused,
        }
    }
}
