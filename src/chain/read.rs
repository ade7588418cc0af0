#![forbid(unsafe_code)]
//! Owns the reading of a chain from the names of the bitmaps, and every way in which names can fail to be one.
//! Knows nothing of the use of the chain.

use super::stretch::{Loose, Stretch, line_up};
use super::{BitmapState, Chain, Checkpoint, KnownModel, Model, Name, beside, name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::collections::{BTreeMap, BTreeSet, HashMap};

impl Chain {
    /// Reads the chain from the bitmaps of an image, in any order.
    ///
    /// `insist` says what bitmaps of an unknown model are, and picks one of two chains: where cumulative checkpoints stand
    /// beside a chain of intervals, which is read without it, [`KnownModel::Cumulative`] reads those, also where the names
    /// of the others form no chain. It is refused ([`ErrorKind::Model`]) where the bitmaps contradict it. On an image without
    /// bitmaps it decides what [`Chain::plan_create`] starts, and so does [`KnownModel::Interval`] beside several bitmaps
    /// without arrows that record: none of them can be told for a first checkpoint, so there is none yet.
    ///
    /// A bitmap that follows a checkpoint without one is no error: the chain has a gap, see [`Checkpoint::gap`]. Two
    /// bitmaps for one checkpoint, two children of one and cycles are [`ErrorKind::BrokenChain`]. [`Model::Unknown`] is no error here, but every call
    /// that needs the chain refuses it.
    pub fn read(bitmaps: &[BitmapState], insist: Option<KnownModel>) -> Result<Chain> {
        refuse_duplicates(bitmaps)?;
        let detected = Model::of(bitmaps);
        let others = memory::gather(bitmaps.iter().filter(|bitmap| !bitmap.name.is_helper()))?;
        let helpers = bitmaps.iter().map(|bitmap| &bitmap.name).filter(|name| name.is_helper()).cloned();
        let mut chain = Chain {
            model: if detected == Model::None { detected } else { insist.map_or(detected, Model::from) },
            insist,
            checkpoints: Vec::new(),
            places: HashMap::new(),
            stretches: Vec::new(),
            foreign: Vec::new(),
            helpers: memory::gather(helpers)?,
            states: memory::gather(bitmaps.iter().cloned())?,
        };
        match chain.model {
            Model::None | Model::Unknown => {}
            Model::Interval => {
                let intervals = intervals(&others).map_err(|broken| beside::lead_beside(broken, bitmaps));
                (chain.checkpoints, chain.stretches) = intervals?;
            }
            Model::Cumulative => chain.checkpoints = cumulative(bitmaps, &others)?,
        }
        if matches!(chain.model, Model::Interval | Model::Cumulative) {
            let own = memory::sorted_set(chain.checkpoints.iter().map(|checkpoint| &checkpoint.bitmap));
            let foreign = others.iter().map(|other| &other.name).filter(|name| !own.contains(name)).cloned();
            chain.foreign = memory::gather(foreign)?;
            chain.foreign.sort_unstable();
        }
        chain.helpers.sort_unstable();
        chain.note_places()?;
        Ok(chain)
    }

    /// The model of these bitmaps; never fails, and also names the model of a broken chain.
    pub fn model_of(bitmaps: &[BitmapState]) -> Model {
        Model::of(bitmaps)
    }
}

/// The error for bitmaps that form no chain as long as these are among them.
fn broken(message: String, culprits: &[&Name]) -> Error {
    let mut way_out = WayOut::from("drop the bitmap that does not belong with ");
    for (at, culprit) in culprits.iter().enumerate() {
        way_out = way_out.words(if at == 0 { "" } else { " or " }).control(culprit.drop_it());
    }
    let way_out = way_out.words(", or all of them with ").control(Control::DropAll);
    Error::new(ErrorKind::BrokenChain, message).advise(way_out.words("; then take a full backup"))
}

/// Refuses names that stand twice: no operation could say which one it means.
pub(super) fn refuse_duplicates(bitmaps: &[BitmapState]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match bitmaps.iter().find(|bitmap| !seen.insert(&bitmap.name)) {
        Some(twice) => {
            let way_out = WayOut::from("drop all of them with ").control(Control::DropAll);
            Err(Error::new(ErrorKind::BrokenChain, format!("two bitmaps are named {}", twice.name))
                .advise(way_out.words(", then take a full backup")))
        }
        None => Ok(()),
    }
}

fn cumulative(bitmaps: &[BitmapState], others: &[&BitmapState]) -> Result<Vec<Checkpoint>> {
    let link = others.iter().find(|other| other.name.has_arrow());
    let beside = if link.is_some() { beside::recording_beside(bitmaps)? } else { Vec::new() };
    if let (Some(link), []) = (link, beside.as_slice()) {
        return Err(Error::new(
            ErrorKind::Model,
            format!("these are not cumulative checkpoints: {} covers an interval", link.name),
        )
        .advise(
            WayOut::from("leave out ")
                .control(Control::Model(None))
                .words(", or ask for ")
                .control(Control::Model(Some("interval"))),
        ));
    }
    let own = if link.is_some() { beside.as_slice() } else { others };
    let alone = own.len() < 2;
    let checkpoints = own.iter().map(|other| Checkpoint::of(other, other.name.clone(), None, alone));
    let mut checkpoints = memory::gather(checkpoints)?;
    checkpoints.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(checkpoints)
}

/// A bitmap `parent->own`, or `->own`: a marked root.
struct Link<'a> {
    parent: Option<Name>,
    own: Name,
    bitmap: &'a BitmapState,
}

fn intervals(others: &[&BitmapState]) -> Result<(Vec<Checkpoint>, Vec<Stretch>)> {
    let mut links = Vec::new();
    for &bitmap in others {
        match bitmap.name.split() {
            None => {}
            Some(Ok((parent, own))) => memory::push(&mut links, Link { parent, own, bitmap })?,
            Some(Err(why)) => {
                let message = format!("the bitmap {} is no link of a chain: {}", bitmap.name, why.message());
                return Err(broken(message, &[&bitmap.name]));
            }
        }
    }
    if links.is_empty() {
        let root = lone_root(others)?;
        return line_up(memory::gather(root.map(|root| Loose::lone(root, root.name.clone())))?);
    }

    let plain = others.iter().filter(|other| !other.name.has_arrow()).map(|other| (&other.name, *other));
    let plain: BTreeMap<&Name, &BitmapState> = memory::sorted_map(plain);
    let mut by_own: BTreeMap<&Name, &Link<'_>> = BTreeMap::new();
    let mut by_parent: BTreeMap<&Name, &Link<'_>> = BTreeMap::new();
    for link in &links {
        if let Some(twin) = by_own.insert(&link.own, link) {
            let message =
                format!("both {} and {} begin at checkpoint {}", twin.bitmap.name, link.bitmap.name, link.own);
            return Err(broken(message, &[&twin.bitmap.name, &link.bitmap.name]));
        }
        if let Some(parent) = &link.parent
            && let Some(twin) = by_parent.insert(parent, link)
        {
            let message =
                format!("checkpoint {parent} has two children, {} and {}", twin.bitmap.name, link.bitmap.name);
            return Err(broken(message, &[&twin.bitmap.name, &link.bitmap.name]));
        }
    }

    // Every link hangs on another link, or on a plain bitmap, the root, or on nothing: a gap; a marked root is one itself.
    // Where it could hang on a link and on a plain bitmap, nobody can say which one, unless the plain one records: a root is
    // frozen as soon as anything follows it, so that one belongs to somebody else.
    let mut stretches: Vec<Loose> = Vec::new();
    for link in &links {
        let Some(parent) = &link.parent else {
            memory::push(&mut stretches, Loose::lone(link.bitmap, link.own.clone()))?;
            continue;
        };
        match (by_own.get(parent), plain.get(parent)) {
            (Some(other), Some(root)) if !root.recording => {
                let message = format!(
                    "{} follows checkpoint {parent}, where both {} and {} begin",
                    link.bitmap.name, root.name, other.bitmap.name
                );
                return Err(broken(message, &[&root.name, &other.bitmap.name]));
            }
            (None, Some(root)) => memory::push(&mut stretches, Loose::lone(root, root.name.clone()))?,
            (None, None) => {
                let loose = Loose { missing: Some(parent.clone()), checkpoints: Vec::new() };
                memory::push(&mut stretches, loose)?;
            }
            (Some(_), _) => {}
        }
    }
    for stretch in &mut stretches {
        let Loose { missing, checkpoints } = stretch;
        let mut after = checkpoints.first().map(|root| root.name.clone()).or_else(|| missing.clone());
        while let Some(link) = after.and_then(|after| by_parent.remove(&after)) {
            let parent = link.parent.clone().filter(|_| !checkpoints.is_empty());
            memory::push(checkpoints, Checkpoint::of(link.bitmap, link.own.clone(), parent, true))?;
            after = Some(link.own.clone());
        }
    }
    if let Some(left) = by_parent.values().next() {
        return Err(broken(format!("{} lies on a cycle", left.bitmap.name), &[&left.bitmap.name]));
    }

    // The gap can lie right after the root, which then looks like a foreign bitmap. There it is the only plain one that
    // is frozen, as a root is once anything follows it.
    if stretches.iter().all(|stretch| stretch.missing.is_some()) {
        let mut frozen = plain.values().filter(|plain| !plain.recording);
        if let (Some(root), None) = (frozen.next(), frozen.next()) {
            memory::push(&mut stretches, Loose::lone(root, root.name.clone()))?;
        }
    }
    line_up(stretches)
}

/// The root of a chain without links: the one plain bitmap that records, else the only one there is. The latter can be
/// reached only by insisting; it shows the gap in the recording instead of hiding it. Of several that record none is taken
/// for it: each of them is a valid cumulative checkpoint, and would not be after it was frozen.
fn lone_root<'a>(others: &[&'a BitmapState]) -> Result<Option<&'a BitmapState>> {
    let others = memory::gather(others.iter().filter(|other| !other.of_libvirt).copied())?;
    let recording = memory::gather(others.iter().filter(|other| other.recording).copied())?;
    match (recording.as_slice(), others.as_slice()) {
        (_, []) => Ok(None),
        ([root], _) | ([], [root]) => Ok(Some(root)),
        ([_, _, ..], _) => Ok(None),
        ([], _) => {
            let names = others.iter().map(|other| &other.name);
            Err(Error::new(
                ErrorKind::Model,
                format!(
                    "any of {} could be the first checkpoint of a chain of intervals: none of them records",
                    name::list(names)
                ),
            )
            .advise(
                WayOut::from("ask for ")
                    .control(Control::Model(Some("cumulative")))
                    .words(", or drop the bitmaps that do not belong with ")
                    .control(Control::DropBitmap),
            ))
        }
    }
}
