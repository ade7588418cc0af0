#![forbid(unsafe_code)]
//! Owns the plan: the actions on bitmaps that one operation on checkpoints comes to, and the proof that carrying them
//! out leaves a chain that reads back as meant. Knows nothing of who carries them out.

use super::beside::has_arrow;
use super::name::{self, MAX_BITMAP_NAME};
use super::{BitmapState, Chain, Model, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::geometry::Granularity;
use crate::memory;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One action on the bitmaps of an image. `Display` says it in words, for a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Adds an empty bitmap that records from now on.
    Add {
        /// The name of the new bitmap.
        name: Name,
        /// The granularity of the new bitmap.
        granularity: Granularity,
    },
    /// Adds a bitmap that does not record, in which every block is dirty that this layer of the disk holds itself: data,
    /// and clusters that read as zeros. It stands for the writes of a time in which nothing recorded. Without anything
    /// below, every block that is in use is one.
    AddAllocated {
        /// The name of the new bitmap.
        name: Name,
        /// The granularity of the new bitmap.
        granularity: Granularity,
    },
    /// Makes `target` the union of itself and the sources; the sources stay.
    Merge {
        /// The bitmaps to read.
        sources: Vec<Name>,
        /// The bitmap that grows.
        target: Name,
    },
    /// Removes a bitmap with its content.
    Remove {
        /// The bitmap.
        name: Name,
    },
    /// Renames a bitmap; content and flags stay, also those of an inconsistent bitmap.
    Rename {
        /// The name until now.
        from: Name,
        /// The name from now on, which no bitmap has.
        to: Name,
    },
    /// Makes a bitmap record, or freezes it.
    SetRecording {
        /// The bitmap.
        name: Name,
        /// Whether it records from now on.
        recording: bool,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Add { name, granularity } => {
                write!(f, "add {name}, recording, granularity {}", granularity.bytes())
            }
            Action::AddAllocated { name, granularity } => {
                let granularity = granularity.bytes();
                write!(f, "add {name}, not recording, granularity {granularity}, with all that this layer holds")
            }
            Action::Merge { sources, target } => {
                let sources: Vec<String> = sources.iter().map(Name::to_string).collect();
                write!(f, "merge {} into {target}", sources.join(", "))
            }
            Action::Remove { name } => write!(f, "remove {name}"),
            Action::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Action::SetRecording { name, recording: true } => write!(f, "start recording in {name}"),
            Action::SetRecording { name, recording: false } => write!(f, "stop recording in {name}"),
        }
    }
}

/// The actions on bitmaps that an operation on checkpoints comes to. The actions are carried out in their order, in one atomic
/// step: all of them or none. A plan without actions has nothing to do.
///
/// A plan cannot be edited, so exactly the planned actions are committed. One that an [`Image`](crate::Image) made belongs to
/// that image as it is then; one that a [`Chain`] made by itself says what would be done, and no image carries it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) warnings: Vec<String>,
    pub(super) risks: Vec<String>,
    pub(super) takes_part: Vec<Name>,
    below: Vec<BelowActions>,
    origin: Option<Origin>,
}

/// The actions of a plan on a layer below the top one of its disk, in the same step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BelowActions {
    /// The name of the layer in messages.
    pub label: String,
    /// The name by which its host takes part in the step.
    pub disk: String,
    /// The actions on its bitmaps, in order.
    pub actions: Vec<Action>,
    /// The bitmaps that it had when this was planned.
    pub planned_on: Vec<BitmapState>,
}

impl BelowActions {
    pub(crate) fn new(label: String, disk: String, actions: Vec<Action>, planned_on: Vec<BitmapState>) -> Self {
        Self { label, disk, actions, planned_on }
    }
}

impl Plan {
    /// The actions, in order; on a disk of several layers those on the top one.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// The actions on layers below the top one, which are carried out in the same step: where a running hypervisor changes all
    /// layers at once.
    pub fn below(&self) -> &[BelowActions] {
        &self.below
    }

    /// Warnings for the caller's user that are true once the plan is carried out, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Warnings for the caller's user before the plan is carried out, one sentence each.
    pub fn risks(&self) -> &[String] {
        &self.risks
    }

    /// The checkpoints that lose their name or their place while older ones go on: a lower layer that knows one of them
    /// makes the plan unsafe, as what that layer recorded would no longer be found. For a creation, the new checkpoint.
    pub fn takes_part(&self) -> &[Name] {
        &self.takes_part
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.below.is_empty()
    }

    /// A plan for several layers of a disk.
    pub(crate) fn in_layers(actions: Vec<Action>, below: Vec<BelowActions>) -> Plan {
        Plan { below, ..Self::of(actions) }
    }

    pub(super) fn of(actions: Vec<Action>) -> Plan {
        Plan { actions, ..Plan::default() }
    }

    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Warns of what the caller should tell its user before it carries the plan out.
    pub(crate) fn warn_before(&mut self, risk: impl Into<String>) {
        self.risks.push(risk.into());
    }

    /// Ties the plan to the bitmaps that `origin` stands for.
    pub(crate) fn bind(&mut self, origin: &Origin) {
        self.origin = Some(origin.clone());
    }

    /// Whether the plan was made for the bitmaps that `origin` stands for.
    pub(crate) fn is_bound_to(&self, origin: &Origin) -> bool {
        self.origin.as_ref() == Some(origin)
    }
}

/// Stands for the bitmaps of one image as they were read once: equal to its clones, and to nothing else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin(Arc<()>);

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Origin {}

impl Chain {
    /// Ends every plan: refuses one that collides, would leave names that read back as something else than the
    /// `expected` checkpoints, or would change how another chain reads, and warns if the image will be taken for another
    /// model than the `intended` one.
    pub(super) fn finish(&self, mut plan: Plan, intended: Model, expected: &[Name]) -> Result<Plan> {
        if intended == Model::Interval {
            self.mark_root(&mut plan, expected)?;
        }
        let after = carry_out(&self.states, &plan.actions)?;
        if intended == Model::Interval && has_arrow(&after) {
            let chain = Chain::read(&after, None)?;
            if !is_expected(&chain, expected)? {
                let mut silent = self.states.iter().filter(|state| !state.recording).map(|state| &state.name);
                let foreign = silent.find(|name| self.foreign.binary_search(name).is_ok());
                let way_out = WayOut::from("drop the plain-named bitmaps that belong to no checkpoint with ")
                    .control(foreign.map_or(Control::DropBitmap, Name::drop_it));
                return Err(Error::new(ErrorKind::BrokenChain, "the bitmaps would no longer read as the same chain")
                    .advise(way_out));
            }
        }
        self.check_other(&after, expected)?;
        let is_beside = match self.model {
            Model::Cumulative => has_arrow(&after),
            _ => !has_arrow(&after) && expected.is_empty() && Model::of(&after) == Model::Cumulative,
        };
        if expected.is_empty() && !self.checkpoints.is_empty() {
            match is_beside {
                true => plan.warn(format!("no {intended} checkpoint is left: what used them needs a full backup next")),
                false => plan.warn("no checkpoint is left: tracking ends, and the next backup must be full"),
            }
        }
        let own = memory::sorted_set(self.foreign.iter().chain(&self.helpers));
        let records = |states: &[BitmapState]| states.iter().any(|state| state.recording && !own.contains(&state.name));
        if !expected.is_empty() && records(&self.states) && !records(&after) {
            plan.warn("nothing records any more: writes are missing from now on, and the next backup must be full");
        }
        let detected = Model::of(&after);
        if detected != intended && detected != Model::None && !is_beside && !plan.actions.is_empty() {
            let left = after.iter().map(|bitmap| &bitmap.name).filter(|name| !name.is_helper());
            plan.warn(format!(
                "afterwards {} will read as model {detected}: the model {intended} has to be said",
                name::list(left)
            ));
        }
        Ok(plan)
    }
}

/// Whether these are the checkpoints of the chain: in this order too, where gaps leave no doubt of it.
fn is_expected(chain: &Chain, expected: &[Name]) -> Result<bool> {
    let mut names = memory::gather(chain.names())?;
    let mut expected = memory::gather(expected)?;
    if !chain.is_ordered() {
        names.sort_unstable();
        expected.sort_unstable();
    }
    Ok(names == expected)
}

/// The bitmaps after these actions, by name; refuses an action that cannot be carried out.
pub(crate) fn carry_out(bitmaps: &[BitmapState], actions: &[Action]) -> Result<Vec<BitmapState>> {
    let mut after = memory::sorted_map(bitmaps.iter().map(|bitmap| (bitmap.name.clone(), bitmap.clone())));
    for action in actions {
        match action {
            Action::Add { name, granularity } => {
                insert(&mut after, BitmapState::new(name.clone(), *granularity, true))?;
            }
            Action::AddAllocated { name, granularity } => {
                insert(&mut after, BitmapState::new(name.clone(), *granularity, false))?;
            }
            Action::Merge { sources, target } => {
                for name in sources.iter().chain([target]) {
                    trusted(find(&mut after, name)?)?;
                }
            }
            Action::Remove { name } => {
                after.remove(name).ok_or_else(|| not_found(name))?;
            }
            Action::Rename { from, to } => {
                let renamed = BitmapState { name: to.clone(), ..find(&mut after, from)?.clone() };
                insert(&mut after, renamed)?;
                after.remove(from);
            }
            Action::SetRecording { name, recording } => {
                let bitmap = find(&mut after, name)?;
                trusted(bitmap)?;
                bitmap.recording = *recording;
            }
        }
    }
    Ok(memory::gather(after.into_values())?)
}

/// A plan of these actions, which a mend of what names and flags cannot tell comes to.
pub(crate) fn plan_actions(bitmaps: &[BitmapState], actions: &[Action]) -> Result<Plan> {
    carry_out(bitmaps, actions)?;
    Ok(Plan::of(memory::gather(actions.iter().cloned())?))
}

/// The error for a bitmap whose content cannot be trusted.
pub(super) fn inconsistent(bitmap: &Name) -> Error {
    Error::new(
        ErrorKind::Inconsistent,
        format!("the bitmap {bitmap} is inconsistent: its writer ended without storing it, so writes are missing"),
    )
}

/// The error for a bitmap that we do not understand.
pub(super) fn unusable(bitmap: &Name) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the bitmap {bitmap} has a type or extra data that is not known"))
        .advise(WayOut::from("use the software that made it, or drop it with ").control(bitmap.drop_it()))
}

fn trusted(bitmap: &BitmapState) -> Result<()> {
    match bitmap.inconsistent {
        true => Err(inconsistent(&bitmap.name)
            .advise(WayOut::from("delete its checkpoint with ").control(Control::ForceInconsistent))),
        false => Ok(()),
    }
}

fn find<'a>(bitmaps: &'a mut BTreeMap<Name, BitmapState>, name: &Name) -> Result<&'a mut BitmapState> {
    match bitmaps.get_mut(name) {
        Some(bitmap) if bitmap.unusable => Err(unusable(name)),
        Some(bitmap) => Ok(bitmap),
        None => Err(not_found(name)),
    }
}

fn not_found(name: &Name) -> Error {
    Error::new(ErrorKind::NotFound, format!("no bitmap is named {name}"))
}

fn insert(bitmaps: &mut BTreeMap<Name, BitmapState>, bitmap: BitmapState) -> Result<()> {
    let name = &bitmap.name;
    if name.as_bytes().len() > MAX_BITMAP_NAME {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            format!("the bitmap would be named {name}, which is above {MAX_BITMAP_NAME} bytes"),
        )
        .advise("rename the checkpoints to shorter names"));
    }
    if bitmaps.contains_key(name) {
        return Err(exists(name));
    }
    bitmaps.insert(name.clone(), bitmap);
    Ok(())
}

/// The error for a bitmap whose name is wanted for another one.
pub(super) fn exists(name: &Name) -> Error {
    Error::new(ErrorKind::Exists, format!("a bitmap named {name} exists already")).advise(
        WayOut::from("choose another name, or, if that bitmap belongs to nobody, drop it with ")
            .control(name.drop_it()),
    )
}
