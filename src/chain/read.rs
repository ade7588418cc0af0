#![forbid(unsafe_code)]
//! Owns the reading of a chain from the names of the bitmaps, and every way in which names can fail to be one.
//! Knows nothing of what is done with the chain.

use super::name;
use super::{BitmapState, Chain, Checkpoint, Model, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use std::collections::{BTreeMap, BTreeSet};

impl Chain {
    /// Reads the chain from the bitmaps of an image, in any order.
    ///
    /// `insist` says what bitmaps of an unknown model are: [`Model::Interval`] or [`Model::Cumulative`]. It is refused
    /// ([`ErrorKind::Model`]) where the bitmaps contradict it. On an image without bitmaps it decides what
    /// [`Chain::plan_create`] starts.
    ///
    /// Names that form no chain are [`ErrorKind::BrokenChain`]. [`Model::Unknown`] is no error here, but every call
    /// that needs the chain refuses it.
    pub fn read(bitmaps: &[BitmapState], insist: Option<Model>) -> Result<Chain> {
        if let Some(model @ (Model::None | Model::Unknown)) = insist {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("the model {model} cannot be asked for"))
                .advise("ask for interval or cumulative"));
        }
        refuse_duplicates(bitmaps)?;
        let detected = Model::of(bitmaps);
        let (helpers, others): (Vec<&BitmapState>, Vec<&BitmapState>) =
            bitmaps.iter().partition(|bitmap| bitmap.name.is_helper());
        let mut chain = Chain {
            model: if detected == Model::None { detected } else { insist.unwrap_or(detected) },
            insist,
            checkpoints: Vec::new(),
            foreign: Vec::new(),
            helpers: helpers.iter().map(|helper| helper.name.clone()).collect(),
            states: bitmaps.to_vec(),
        };
        chain.checkpoints = match chain.model {
            Model::None | Model::Unknown => Vec::new(),
            Model::Interval => intervals(&others)?,
            Model::Cumulative => cumulative(&others)?,
        };
        if chain.model == Model::Interval {
            let own: BTreeSet<&Name> = chain.checkpoints.iter().map(|checkpoint| &checkpoint.bitmap).collect();
            chain.foreign =
                others.iter().map(|other| &other.name).filter(|name| !own.contains(name)).cloned().collect();
            chain.foreign.sort();
        }
        chain.helpers.sort();
        Ok(chain)
    }

    /// The model of these bitmaps; never fails, and also names the model of a broken chain.
    pub fn model_of(bitmaps: &[BitmapState]) -> Model {
        Model::of(bitmaps)
    }
}

fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::BrokenChain, message)
        .advise("remove or rename the bitmap that does not belong; if in doubt remove them all and take a full backup")
}

/// Refuses names that stand twice: no operation could say which one it means.
pub(super) fn refuse_duplicates(bitmaps: &[BitmapState]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match bitmaps.iter().find(|bitmap| !seen.insert(&bitmap.name)) {
        Some(twice) => Err(broken(format!("two bitmaps are named {}", twice.name))),
        None => Ok(()),
    }
}

fn cumulative(others: &[&BitmapState]) -> Result<Vec<Checkpoint>> {
    if let Some(link) = others.iter().find(|other| other.name.has_arrow()) {
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
    let alone = others.len() < 2;
    let mut checkpoints: Vec<Checkpoint> =
        others.iter().map(|other| Checkpoint::of(other, other.name.clone(), None, alone)).collect();
    checkpoints.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(checkpoints)
}

/// A bitmap `parent->own`.
struct Link<'a> {
    parent: Name,
    own: Name,
    bitmap: &'a BitmapState,
}

fn intervals(others: &[&BitmapState]) -> Result<Vec<Checkpoint>> {
    let mut links = Vec::new();
    for &bitmap in others {
        match bitmap.name.split() {
            None => {}
            Some(Ok((parent, own))) => links.push(Link { parent, own, bitmap }),
            Some(Err(why)) => {
                return Err(broken(format!("the bitmap {} is no link of a chain: {}", bitmap.name, why.message())));
            }
        }
    }
    let Some(first) = links.first() else {
        let root = lone_root(others)?;
        return Ok(vec![Checkpoint::of(root, root.name.clone(), None, true)]);
    };

    let plain: BTreeMap<&Name, &BitmapState> =
        others.iter().filter(|other| !other.name.has_arrow()).map(|other| (&other.name, *other)).collect();
    let mut by_own: BTreeMap<&Name, &Link<'_>> = BTreeMap::new();
    let mut by_parent: BTreeMap<&Name, &Link<'_>> = BTreeMap::new();
    for link in &links {
        if let Some(twin) = by_own.insert(&link.own, link) {
            return Err(broken(format!(
                "both {} and {} begin at checkpoint {}",
                twin.bitmap.name, link.bitmap.name, link.own
            )));
        }
        if let Some(twin) = by_parent.insert(&link.parent, link) {
            return Err(broken(format!(
                "checkpoint {} has two children, {} and {}",
                link.parent, twin.bitmap.name, link.bitmap.name
            )));
        }
    }

    // Every link hangs on another link or on a plain bitmap, the root; on both, it could not be said on which.
    let mut roots: Vec<&BitmapState> = Vec::new();
    for link in &links {
        match (by_own.get(&link.parent), plain.get(&link.parent)) {
            (None, None) => {
                return Err(broken(format!(
                    "{} follows checkpoint {}, which has no bitmap",
                    link.bitmap.name, link.parent
                )));
            }
            (Some(other), Some(root)) => {
                return Err(broken(format!(
                    "{} follows checkpoint {}, where both {} and {} begin",
                    link.bitmap.name, link.parent, root.name, other.bitmap.name
                )));
            }
            (None, Some(root)) => roots.push(root),
            (Some(_), None) => {}
        }
    }
    let root = match roots.as_slice() {
        [root] => root,
        [] => {
            return Err(broken(format!("the chain has no beginning: {} lies on a cycle", first.bitmap.name)));
        }
        [one, two, ..] => {
            return Err(broken(format!("there are two chains, from {} and from {}", one.name, two.name)));
        }
    };

    let mut checkpoints = vec![Checkpoint::of(root, root.name.clone(), None, true)];
    let mut newest = &root.name;
    while let Some(link) = by_parent.remove(newest) {
        checkpoints.push(Checkpoint::of(link.bitmap, link.own.clone(), Some(link.parent.clone()), true));
        newest = &link.own;
    }
    match by_parent.values().next() {
        Some(left) => Err(broken(format!("{} lies on a cycle", left.bitmap.name))),
        None => Ok(checkpoints),
    }
}

/// The root of a chain without links: the one plain bitmap that records, else the only one there is. The latter can be
/// reached only by insisting; it shows the gap in the recording instead of hiding it.
fn lone_root<'a>(others: &[&'a BitmapState]) -> Result<&'a BitmapState> {
    let recording: Vec<&'a BitmapState> = others.iter().filter(|other| other.recording).copied().collect();
    match (recording.as_slice(), others) {
        ([root], _) | ([], [root]) => Ok(root),
        (candidates, _) => {
            let names: Vec<&Name> = match candidates {
                [] => others.iter().map(|other| &other.name).collect(),
                some => some.iter().map(|other| &other.name).collect(),
            };
            let what = if candidates.is_empty() { "none of them records" } else { "all of them record" };
            Err(Error::new(
                ErrorKind::Model,
                format!("any of {} could be the first checkpoint of a chain of intervals: {what}", name::list(&names)),
            )
            .advise("ask for cumulative, or remove the bitmaps that do not belong"))
        }
    }
}
