#![forbid(unsafe_code)]
//! Owns the checkpoints of a disk that lies on several layers: which layer knows which, and which of them are not older than
//! another. Knows nothing of files, nor of the bits of a layer.
//!
//! The rules stand in `docs/layers.md`.

mod commit;
mod create;
mod delete;
mod diff;
mod rename_in_one_step;

pub use commit::{CommitPlan, Taken};
pub use delete::LayerActions;
pub use diff::{Part, StackSpan};

use super::{BitmapState, Chain, Checkpoint, KnownModel, Model, Name, nearest};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::collections::BTreeSet;

/// The facts of one layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// The name of the layer in messages.
    pub label: String,
    /// Its bitmaps; those whose content cannot be trusted count as inconsistent.
    pub bitmaps: Vec<BitmapState>,
    /// The size of its disk in bytes.
    pub size_bytes: u64,
}

impl Layer {
    /// A layer with these bitmaps.
    pub fn new(label: impl Into<String>, bitmaps: Vec<BitmapState>, size_bytes: u64) -> Self {
        Self { label: label.into(), bitmaps, size_bytes }
    }
}

/// The checkpoints of a disk on several layers: the top one, which gets the writes, and those below it, which get none.
///
/// Where a hypervisor puts a layer on top, the recording goes on there under the same name; the layers below keep the bits
/// that they have. So a checkpoint's bits are spread over the layers, and what no bitmap of a layer recorded is known by
/// its allocation.
///
/// ```
/// use checkmap::Granularity;
/// use checkmap::chain::{BitmapState, Layer, Name, Stack};
///
/// let granularity = Granularity::from_bytes(65536)?;
/// let bitmap = |name: &str, recording| BitmapState::new(Name::new(name), granularity, recording);
/// let base = Layer::new("base", vec![bitmap("mon", false), bitmap("mon->tue", true)], 1 << 30);
/// let top = Layer::new("top", vec![bitmap("mon->tue", false), bitmap("tue->wed", true)], 1 << 30);
/// let stack = Stack::read(&[top, base], false, None)?;
/// let span = stack.plan_diff(b"tue", None)?;
/// let of_top = &span.parts[0];
/// assert_eq!((of_top.layer, of_top.bitmaps.len(), of_top.allocation), (0, 2, true));
/// let of_base = &span.parts[1];
/// assert_eq!((of_base.layer, of_base.bitmaps.len(), of_base.allocation), (1, 1, false));
/// # Ok::<(), checkmap::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Stack {
    model: Model,
    /// Top first.
    layers: Vec<Read>,
    /// Whether something lies below the last of them that can hold no bitmaps.
    stands_on_more: bool,
}

/// A layer, and the chain that its bitmaps are.
#[derive(Clone, Debug)]
struct Read {
    label: String,
    size_bytes: u64,
    states: Vec<BitmapState>,
    chain: Result<Chain>,
    /// Every checkpoint that the name of a bitmap speaks of.
    mentions: BTreeSet<Name>,
}

impl Read {
    fn of(layer: &Layer, insist: Option<KnownModel>) -> Result<Read> {
        let chain = Chain::read(&layer.bitmaps, insist);
        if let Err(error) = &chain
            && error.is_of_the_call()
        {
            return Err(error.clone());
        }
        let own = layer.bitmaps.iter().filter(|state| !state.name.is_helper());
        let mentions = own.flat_map(|state| state.name.mentions()).collect();
        let states = memory::gather(layer.bitmaps.iter().cloned())?;
        Ok(Read { label: layer.label.clone(), size_bytes: layer.size_bytes, states, chain, mentions })
    }

    /// The checkpoints; none where the names form no chain.
    fn checkpoints(&self) -> &[Checkpoint] {
        self.chain.as_ref().map(Chain::checkpoints).unwrap_or_default()
    }

    fn knows_any(&self, names: &BTreeSet<Name>) -> bool {
        self.mentions.iter().any(|mention| names.contains(mention))
    }
}

/// A checkpoint of a disk on several layers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackCheckpoint {
    /// The checkpoint, as the lowest layer has it that knows it: there it was created.
    pub checkpoint: Checkpoint,
    /// That layer; the top one is 0.
    pub layer: usize,
}

impl Stack {
    /// Reads the checkpoints of a disk from its layers, the top one first. `stands_on_more` says whether the last of them
    /// stands on a layer that can hold no bitmaps. `insist` says which model the bitmaps are, where that is unknown.
    ///
    /// Fails only without a layer or without memory: a layer whose bitmaps form no chain is refused by the calls that need it.
    pub fn read(layers: &[Layer], stands_on_more: bool, insist: Option<KnownModel>) -> Result<Stack> {
        let Some(top) = layers.first() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "a disk has one layer at least"));
        };
        let model = model_of(layers, insist);
        let mut read = memory::room(layers.len())?;
        for layer in layers {
            let insist = match (Model::of(&layer.bitmaps), model) {
                (Model::None, _) => insist,
                // What the top one is alone, its own reading tells.
                (Model::Unknown, _) if std::ptr::eq(layer, top) => insist,
                (_, Model::Interval) => insist.or(Some(KnownModel::Interval)),
                (_, Model::Cumulative) => insist.or(Some(KnownModel::Cumulative)),
                _ => insist,
            };
            read.push(Read::of(layer, insist)?);
        }
        Ok(Stack { model, layers: read, stands_on_more })
    }

    /// The model of the disk's checkpoints.
    pub fn model(&self) -> Model {
        self.model
    }

    /// The checkpoints of all layers, each once: those of the lowest layer first, and in each layer oldest first.
    pub fn checkpoints(&self) -> Result<Vec<StackCheckpoint>> {
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        for (layer, read) in self.layers.iter().enumerate().rev() {
            for own in read.checkpoints() {
                if seen.insert(&own.name) {
                    memory::push(&mut all, StackCheckpoint { checkpoint: own.clone(), layer })?;
                }
            }
        }
        Ok(all)
    }

    /// The chain of the top layer.
    fn top(&self) -> Result<&Chain> {
        match self.layers.first().map(|top| &top.chain) {
            Some(Ok(chain)) => chain.check_known().map(|()| chain),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::new(ErrorKind::InvalidArgument, "a disk has one layer at least")),
        }
    }

    /// Whether anything lies below this layer.
    fn stands_on(&self, layer: usize) -> bool {
        layer + 1 < self.layers.len() || self.stands_on_more
    }

    /// The lowest layer that knows one of these.
    fn lowest(&self, names: &BTreeSet<Name>) -> Option<usize> {
        self.layers.iter().rposition(|layer| layer.knows_any(names))
    }

    /// Whether a layer below this one knows one of these.
    fn is_known_below(&self, layer: usize, names: &BTreeSet<Name>) -> bool {
        self.layers.iter().skip(layer + 1).any(|below| below.knows_any(names))
    }

    /// This checkpoint and all that are not known to be older, as far as the layers tell: where one of these has the
    /// other, its chain says so. Two that no layer links are none of each other's business.
    fn not_older_than(&self, checkpoint: &Name) -> Result<BTreeSet<Name>> {
        let mut known = BTreeSet::from([checkpoint.clone()]);
        if self.model == Model::Cumulative {
            return Ok(known);
        }
        let mut waiting = vec![checkpoint.clone()];
        let mut done: Vec<Option<usize>> = memory::gather(self.layers.iter().map(|_| None))?;
        while let Some(name) = waiting.pop() {
            for (read, done) in self.layers.iter().zip(&mut done) {
                let Ok(chain) = &read.chain else { continue };
                let Some(at) = chain.place_known(&name) else { continue };
                // From a place on, all that follow were added with it.
                if chain.is_ordered() && done.is_some_and(|done| done <= at) {
                    continue;
                }
                *done = Some(done.map_or(at, |done| done.min(at)));
                for younger in chain.not_older_than(at)? {
                    if known.insert(younger.clone()) {
                        memory::push(&mut waiting, younger)?;
                    }
                }
            }
        }
        Ok(known)
    }

    /// Whether `older` is known to be older than `younger`.
    fn is_older(&self, older: &Name, younger: &Name) -> Result<bool> {
        Ok(older != younger
            && self.not_older_than(older)?.contains(younger)
            && !self.not_older_than(younger)?.contains(older))
    }

    fn not_found(&self, name: &Name) -> Error {
        let mut seen = BTreeSet::new();
        let all = self.layers.iter().rev().flat_map(|layer| layer.checkpoints()).map(|own| &own.name);
        let all: Vec<&Name> = all.filter(|name| seen.insert(*name)).collect();
        match (all.is_empty(), self.top()) {
            (_, Err(error)) => error,
            (true, Ok(top)) => top.not_found(name),
            (false, Ok(top)) if top.states.iter().any(|state| state.name == *name) => top.not_found(name),
            (false, Ok(_)) => Error::new(ErrorKind::NotFound, format!("no checkpoint is named {name}"))
                .advise(nearest::suggestion(name, all.into_iter())),
        }
    }

    /// Refuses where a layer below knows one of these, and its bitmaps form no chain of the disk's model.
    fn refuse_unreadable(&self, names: &BTreeSet<Name>) -> Result<()> {
        for layer in self.layers.iter().skip(1) {
            let Err(why) = &layer.chain else { continue };
            let knows = layer.states.iter().find_map(|state| {
                let known = state.name.mentions().into_iter().find(|mention| names.contains(mention))?;
                Some((known, &state.name))
            });
            let Some((known, bitmap)) = knows else { continue };
            let message = format!(
                "the layer {} below it knows the checkpoint {known} too, by its bitmap {bitmap}, but its bitmaps form no \
                 chain with those above",
                layer.label
            );
            return Err(Error::new(ErrorKind::BackingLayer, message).with_source(why.clone()).advise(insist()));
        }
        Ok(())
    }
}

/// The way out where a layer below is in the way.
fn insist() -> WayOut {
    WayOut::from("insist with ")
        .control(Control::TopLayerOnly)
        .words(" if what the layers below recorded does not matter")
}

/// The model of a disk: that of its top layer where its bitmaps tell, else that of the nearest layer whose bitmaps do.
fn model_of(layers: &[Layer], insist: Option<KnownModel>) -> Model {
    if let Some(insist) = insist {
        return insist.into();
    }
    let mut lone = Model::None;
    for layer in layers {
        let has_arrow = layer.bitmaps.iter().any(|state| !state.name.is_helper() && state.name.has_arrow());
        match Model::of(&layer.bitmaps) {
            Model::Interval if has_arrow => return Model::Interval,
            Model::Cumulative => return Model::Cumulative,
            Model::None => {}
            // One plain bitmap says the same in both models.
            Model::Interval | Model::Unknown => lone = Model::Interval,
        }
    }
    lone
}
