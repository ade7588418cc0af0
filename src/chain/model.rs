#![forbid(unsafe_code)]
//! Owns the facts of each bitmap and checkpoint, and the detection of the model. Knows nothing of plans.

use super::name::Name;
use crate::geometry::Granularity;
use std::collections::BTreeSet;
use std::fmt;

/// What a chain has to know of one bitmap of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BitmapState {
    /// The bitmap's own name.
    pub name: Name,
    /// The bytes that one bit stands for.
    pub granularity: Granularity,
    /// Whether the bitmap records, as it is stored. A crash does not change it: the stored flag stays, so that a
    /// crash never changes the model.
    pub recording: bool,
    /// Whether the bitmap was not stored when its writer ended: its content cannot be trusted.
    pub inconsistent: bool,
    /// Whether the bitmap has a type or extra data that we do not know: it is listed and preserved, never used.
    pub unusable: bool,
    /// Whether libvirt tells of a checkpoint of its own by this name. False where nobody asked it.
    pub of_libvirt: bool,
}

impl BitmapState {
    /// A consistent bitmap that can be used.
    pub fn new(name: Name, granularity: Granularity, recording: bool) -> Self {
        Self { name, granularity, recording, inconsistent: false, unusable: false, of_libvirt: false }
    }
}

/// How the bitmaps of an image stand for checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Model {
    /// No bitmaps.
    None,
    /// Each bitmap covers the interval from its checkpoint to the next; only the last one records.
    Interval,
    /// Each bitmap records since its checkpoint, until it is deleted.
    Cumulative,
    /// Bitmaps that could be either: nobody can tell what they mean.
    Unknown,
}

impl Model {
    /// The model in one lower-case word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Model::None => "none",
            Model::Interval => "interval",
            Model::Cumulative => "cumulative",
            Model::Unknown => "unknown",
        }
    }

    /// The model as a caller can ask for it; `None` for [`Model::None`] and [`Model::Unknown`].
    pub const fn known(self) -> Option<KnownModel> {
        match self {
            Model::Interval => Some(KnownModel::Interval),
            Model::Cumulative => Some(KnownModel::Cumulative),
            Model::None | Model::Unknown => None,
        }
    }

    /// Who made checkpoints of this model, as far as the names of their bitmaps tell.
    pub const fn owner(self) -> Owner {
        match self {
            Model::Interval => Owner::Checkmap,
            Model::Cumulative => Owner::Libvirt,
            Model::None | Model::Unknown => Owner::Unknown,
        }
    }

    /// The model of these bitmaps, by their names and by which of them record. Helpers do not count; consistency and
    /// damage do not count either, since a crash must not change the model.
    pub(super) fn of(bitmaps: &[BitmapState]) -> Model {
        let counted = bitmaps.iter().filter(|bitmap| !bitmap.name.is_helper());
        let mut names = BTreeSet::new();
        let all_record = counted.clone().all(|bitmap| bitmap.recording && names.insert(&bitmap.name));
        match counted.clone().count() {
            _ if counted.clone().any(|bitmap| bitmap.name.has_arrow()) => Model::Interval,
            0 => Model::None,
            // Of one alone the flags do not tell.
            1 if all_record && !counted.clone().any(|bitmap| bitmap.of_libvirt) => Model::Interval,
            _ if all_record => Model::Cumulative,
            _ => Model::Unknown,
        }
    }
}

/// Who made the checkpoints of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Owner {
    /// checkmap, or another program that keeps a bitmap for each interval.
    Checkmap,
    /// libvirt, or another program that keeps a bitmap for each checkpoint.
    Libvirt,
    /// Nobody can tell.
    Unknown,
}

impl Owner {
    /// The owner in one lower-case word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Owner::Checkmap => "checkmap",
            Owner::Libvirt => "libvirt",
            Owner::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A model that checkpoints can be made by, or be taken for: what a caller can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KnownModel {
    /// See [`Model::Interval`].
    Interval,
    /// See [`Model::Cumulative`].
    Cumulative,
}

impl From<KnownModel> for Model {
    fn from(known: KnownModel) -> Self {
        match known {
            KnownModel::Interval => Model::Interval,
            KnownModel::Cumulative => Model::Cumulative,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A point in time, and the bitmap that begins there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The checkpoint's name.
    pub name: Name,
    /// The checkpoint before it. `None` for the first one and after a gap, and in the cumulative model, where no bitmap
    /// tells it, unless [`Chain::follow`](super::Chain::follow) was called.
    pub parent: Option<Name>,
    /// Whether what lies before it is missing: its bitmap follows a checkpoint that has no bitmap any more, or nothing
    /// links it to the checkpoints that are listed before it.
    pub gap: bool,
    /// The bitmap of the writes after this checkpoint.
    pub bitmap: Name,
    /// The granularity of that bitmap.
    pub granularity: Granularity,
    /// Whether that bitmap records.
    pub recording: bool,
    /// Whether that bitmap's content cannot be trusted.
    pub inconsistent: bool,
    /// Whether that bitmap is one that we cannot use, see [`BitmapState::unusable`].
    pub unusable: bool,
    /// Whether this checkpoint's place among the others is known. In the interval model it is, unless there are several
    /// gaps: what lies between two of them can have been in any order. In the cumulative model only if the bits decide it
    /// against *every* other checkpoint, by strict containment in one direction or the other; else its place is a guess
    /// by name, however plausible its neighbours look.
    pub ordered: bool,
    /// When it was made, in seconds since 1970 (UTC), where somebody noted that, see [`Chain::follow`](super::Chain::follow).
    pub time_seconds: Option<u64>,
}

/// The time that a bitmap covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The checkpoint with which it begins.
    pub since: Name,
    /// Where it ends.
    pub until: Until,
}

/// Where the interval of a bitmap ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// At the next checkpoint.
    Checkpoint(Name),
    /// At a checkpoint that is missing: a gap follows.
    Gap,
    /// It goes on.
    Now,
}

impl Until {
    /// The checkpoint with which it ends.
    pub fn checkpoint(&self) -> Option<&Name> {
        match self {
            Until::Checkpoint(next) => Some(next),
            Until::Gap | Until::Now => None,
        }
    }
}

impl Checkpoint {
    pub(super) fn of(bitmap: &BitmapState, name: Name, parent: Option<Name>, ordered: bool) -> Checkpoint {
        Checkpoint {
            name,
            parent,
            gap: false,
            bitmap: bitmap.name.clone(),
            granularity: bitmap.granularity,
            recording: bitmap.recording,
            inconsistent: bitmap.inconsistent,
            unusable: bitmap.unusable,
            ordered,
            time_seconds: None,
        }
    }
}
