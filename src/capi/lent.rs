//! Owns the values that an image has handed out to C by pointer, for as long as C may use them: until a change of the image
//! succeeds. Must never know the use of the pointers.

use super::image::text;
use crate::chain::{BitmapState, Checkpoint, KnownModel};
use crate::error::Result;
use std::any::Any;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::sync::Arc;

/// The checkpoints as they are listed, each with its dirty bytes.
pub(super) type Checkpoints = Vec<(Checkpoint, i64)>;

/// The name of an image's format, and the names of the files behind it as they are stored.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) format: CString,
    pub(super) backing: Option<Vec<u8>>,
    pub(super) data: Option<Vec<u8>>,
}

/// The values that were handed out.
#[derive(Debug, Default)]
pub(super) struct Lent {
    /// By the model that was insisted on.
    checkpoints: Vec<(Option<KnownModel>, Arc<Checkpoints>)>,
    bitmaps: Option<Arc<Vec<BitmapState>>>,
    files: Option<Arc<Files>>,
    /// Values of an earlier state of the image, which C may still use.
    outdated: Vec<Arc<dyn Any + Send + Sync>>,
    /// Those of the opening, or of the last call that changed the image or tried to.
    warnings: Vec<Arc<CStr>>,
    /// Every warning since the last change, each text once: one that comes again takes no more memory.
    texts: BTreeSet<Arc<CStr>>,
}

impl Lent {
    /// The checkpoints of a model, where they were listed before.
    pub(super) fn listed(&self, model: Option<KnownModel>) -> Option<Arc<Checkpoints>> {
        self.checkpoints.iter().find(|(own, _)| *own == model).map(|(_, listed)| Arc::clone(listed))
    }

    /// The checkpoints of a model, listed once.
    pub(super) fn checkpoints(
        &mut self,
        model: Option<KnownModel>,
        list: impl FnOnce() -> Result<Checkpoints>,
    ) -> Result<Arc<Checkpoints>> {
        if let Some(listed) = self.listed(model) {
            return Ok(listed);
        }
        let listed = Arc::new(list()?);
        self.checkpoints.push((model, Arc::clone(&listed)));
        Ok(listed)
    }

    /// The bitmaps, listed once.
    pub(super) fn bitmaps(&mut self, list: impl FnOnce() -> Result<Vec<BitmapState>>) -> Result<Arc<Vec<BitmapState>>> {
        once(&mut self.bitmaps, list)
    }

    /// The names of the files, looked up once.
    pub(super) fn files(&mut self, look: impl FnOnce() -> Files) -> Result<Arc<Files>> {
        once(&mut self.files, || Ok(look()))
    }

    /// Notes that a call tries to change the image: the warnings are its own from now on.
    pub(super) fn begin_change(&mut self) {
        self.warnings.clear();
    }

    pub(super) fn warn(&mut self, warnings: &[String]) {
        for warning in warnings {
            let warning: Arc<CStr> = text(warning).into();
            let known = self.texts.get(&warning).cloned().unwrap_or(warning);
            self.texts.insert(Arc::clone(&known));
            self.warnings.push(known);
        }
    }

    pub(super) fn warnings(&self) -> &[Arc<CStr>] {
        &self.warnings
    }

    /// Notes that the image may hold something else now, although no change succeeded: the next call lists it anew.
    pub(super) fn outdate(&mut self) {
        let checkpoints = std::mem::take(&mut self.checkpoints);
        self.outdated.extend(checkpoints.into_iter().map(|(_, all)| all as Arc<dyn Any + Send + Sync>));
        let bitmaps = self.bitmaps.take().map(|all| all as Arc<dyn Any + Send + Sync>);
        let files = self.files.take().map(|all| all as Arc<dyn Any + Send + Sync>);
        self.outdated.extend([bitmaps, files].into_iter().flatten());
    }

    /// Notes that a change succeeded: no pointer that was handed out before is good any more.
    pub(super) fn end_change(&mut self) {
        let warnings = std::mem::take(&mut self.warnings);
        *self = Self { texts: warnings.iter().cloned().collect(), warnings, ..Self::default() };
    }
}

fn once<T>(place: &mut Option<Arc<T>>, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
    match place {
        Some(made) => Ok(Arc::clone(made)),
        None => Ok(Arc::clone(place.insert(Arc::new(make()?)))),
    }
}
