#![forbid(unsafe_code)]
//! Owns the look over a whole image: the sums of its bitmaps, and the order of cumulative checkpoints, with each bitmap
//! read once as far as memory allows. Must never change anything.

use super::{Access, DiffRequest, Image};
use crate::bitmap::Bitmap;
use crate::chain::{Chain, Checkpoint, Contents, KnownModel, Model, Name, StackCheckpoint};
use crate::error::{Error, Result};
use crate::host::Summary;
use crate::memory;
use crate::progress::{Observer, tell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

/// Which bitmaps an overview reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// Every bitmap of the image.
    Bitmaps,
    /// Those of checkpoints.
    Checkpoints,
    /// Those of checkpoints, and how much changed since each of them until now.
    Increments,
}

/// The content of an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Overview {
    /// The checkpoints, oldest first as far as that can be told; or why the names of the bitmaps form no chain.
    pub chain: Result<Chain>,
    /// The cumulative checkpoints beside those of `chain`, where the caller did not pick one of the two, see
    /// [`Chain::beside`]. In the order of their names unless the overview is of [`Scope::Bitmaps`], which reads them too.
    pub beside: Option<Chain>,
    /// The sums of each bitmap that was read, or why it cannot be read.
    pub summaries: BTreeMap<Name, Result<Summary>>,
    /// The checkpoints that only layers below the image have, oldest first, where a diff since them is answered.
    pub below: Vec<CheckpointBelow>,
    since: HashMap<Name, u64>,
}

/// A checkpoint that the image has from a layer below it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointBelow {
    /// The checkpoint, as that layer has it.
    pub checkpoint: Checkpoint,
    /// The layer, by the name that it has in messages.
    pub layer: String,
    /// How many bytes changed until the next checkpoint; `None` where the scope does not ask for it, or nobody can tell.
    pub dirty_bytes: Option<u64>,
    /// How many bytes changed until now, likewise.
    pub since_bytes: Option<u64>,
}

impl Overview {
    /// The chains of the image that can be read: that of `chain`, unless there are no bitmaps, then the one `beside` it.
    pub fn chains(&self) -> impl Iterator<Item = &Chain> {
        let own = self.chain.as_ref().ok().filter(|chain| chain.model() != Model::None);
        own.into_iter().chain(&self.beside)
    }

    /// How many bytes changed since a checkpoint until now: those of [`Image::diff`] since then. `None` where that would be
    /// refused, and where the overview is not of [`Scope::Increments`].
    pub fn since_bytes(&self, checkpoint: &Name) -> Option<u64> {
        self.since.get(checkpoint).copied()
    }

    /// The sums of `bitmap`; nothing where it was not or cannot be read.
    pub fn summary(&self, bitmap: &Name) -> Summary {
        self.summaries.get(bitmap).and_then(|summary| summary.as_ref().ok()).copied().unwrap_or_default()
    }

    /// Why bitmaps cannot be read, by their names.
    pub fn damage(&self) -> impl Iterator<Item = &Error> {
        self.summaries.values().filter_map(|summary| summary.as_ref().err())
    }
}

impl Image {
    /// Reads the bitmaps of the image: the sums of each, and the order of cumulative checkpoints. `insist` decides
    /// where the model is unknown.
    ///
    /// Each bitmap is read once; of cumulative ones that take more than 256 MiB of memory together, some are read a second
    /// time. An image that was opened for names only, or whose bitmaps cannot be used, is not read: its cumulative
    /// checkpoints stay in the order of their names. Fails only where `observer` stops it, or where somebody else changes the
    /// image meanwhile.
    pub fn overview(&self, insist: Option<KnownModel>, scope: Scope, observer: &mut dyn Observer) -> Result<Overview> {
        self.steady(|| self.look_over(insist, scope, observer))
    }

    fn look_over(&self, insist: Option<KnownModel>, scope: Scope, observer: &mut dyn Observer) -> Result<Overview> {
        self.survey(observer)?;
        let mut chain = match self.read_chain(insist) {
            Err(error) if error.is_of_the_call() => return Err(error),
            chain => chain,
        };
        let mut beside = match insist {
            None => match Chain::beside(&self.states()?) {
                Err(error) if error.is_of_the_call() => return Err(error),
                beside => beside.ok().flatten(),
            },
            Some(_) => None,
        };
        let names: Vec<Name> = match (scope, &chain) {
            (Scope::Bitmaps, _) => memory::gather(self.host.bitmaps().map(|bitmap| bitmap.name))?,
            (Scope::Checkpoints | Scope::Increments, Ok(chain)) => {
                memory::gather(chain.checkpoints().iter().map(|checkpoint| checkpoint.bitmap.clone()))?
            }
            (Scope::Checkpoints | Scope::Increments, Err(_)) => Vec::new(),
        };
        let can_read = self.options.access != Access::Names && self.trouble().is_none();
        let mut reader = Reader::new(self, names.len(), observer);
        match &mut chain {
            Ok(chain) if can_read && chain.model() == Model::Cumulative => chain.order_cumulative(&mut reader)?,
            _ => {}
        }
        if let Some(beside) = beside.as_mut().filter(|_| can_read && scope == Scope::Bitmaps) {
            beside.order_cumulative(&mut reader)?;
        }
        let since = match &chain {
            Ok(chain) if can_read && scope == Scope::Increments => reader.sum_up(chain)?,
            _ => HashMap::new(),
        };
        for name in names {
            if !reader.summaries.contains_key(&name) {
                reader.summarize(&name)?;
            }
        }
        let summaries = reader.finish()?;
        let below = match can_read && self.has_layers() {
            true => self.look_below(insist, scope, observer)?,
            false => Vec::new(),
        };
        Ok(Overview { chain, beside, summaries, below, since })
    }
}

impl Image {
    /// The checkpoints that only layers below have. Where these cannot be read, there are none to be shown.
    fn look_below(
        &self,
        insist: Option<KnownModel>,
        scope: Scope,
        observer: &mut dyn Observer,
    ) -> Result<Vec<CheckpointBelow>> {
        let stacked = match self.stacked(insist, false, &[]) {
            Err(error) if error.is_of_the_call() => return Err(error),
            Err(_) => return Ok(Vec::new()),
            Ok(stacked) => stacked,
        };
        let all = stacked.stack.checkpoints()?;
        let own = self.read_chain(insist).ok();
        let mut below = Vec::new();
        for (at, StackCheckpoint { checkpoint, layer, .. }) in all.iter().enumerate() {
            let is_own = own.as_ref().is_some_and(|own| own.checkpoint(checkpoint.name.as_bytes()).is_some());
            if is_own || stacked.plan_diff(checkpoint.name.as_bytes(), None).is_err() {
                continue;
            }
            let mut dirty = |until: Option<&Name>| -> Result<Option<u64>> {
                if scope != Scope::Increments || self.host.is_live() {
                    return Ok(None);
                }
                let mut request = DiffRequest::since(checkpoint.name.as_bytes()).model(insist);
                if let Some(until) = until {
                    request = request.until(until.as_bytes());
                }
                match self.read_diff(&request, observer) {
                    Err(error) if error.is_of_the_call() => Err(error),
                    diff => Ok(diff.ok().map(|diff| diff.bitmap.dirty_bytes())),
                }
            };
            let next = all.get(at + 1).map(|next| &next.checkpoint.name);
            let next = next.filter(|_| stacked.stack.model() == Model::Interval);
            let (dirty_bytes, since_bytes) = (dirty(next)?, dirty(None)?);
            let layer = stacked.label(*layer);
            let checkpoint = checkpoint.clone();
            memory::push(&mut below, CheckpointBelow { checkpoint, layer, dirty_bytes, since_bytes })?;
        }
        Ok(below)
    }
}

/// Bitmaps are kept for their comparison up to this many bytes.
const MOST_HELD_BYTES: u64 = 256 << 20;

/// The number of bitmaps kept after a second reading: the two that are compared, and the next one.
const MOST_AGAIN: usize = 3;

/// Reads bitmaps, sums them up, and compares them.
struct Reader<'a> {
    image: &'a Image,
    observer: &'a mut dyn Observer,
    summaries: BTreeMap<Name, Result<Summary>>,
    /// How many bitmaps there are to be read.
    total: u64,
    held: HashMap<Name, Rc<Bitmap>>,
    held_bytes: u64,
    /// Bitmaps that were read again, the latest last.
    again: VecDeque<(Name, Rc<Bitmap>)>,
    comparisons: u64,
}

impl<'a> Reader<'a> {
    fn new(image: &'a Image, total: usize, observer: &'a mut dyn Observer) -> Self {
        Self {
            image,
            observer,
            summaries: BTreeMap::new(),
            total: total as u64,
            held: HashMap::new(),
            held_bytes: 0,
            again: VecDeque::new(),
            comparisons: 0,
        }
    }

    fn tell(&mut self) -> Result<()> {
        tell(self.observer, "reading bitmaps", (self.summaries.len() as u64).min(self.total), self.total)
    }

    /// Reads a bitmap and sums it up. An error that is only the bitmap's stands in the summaries.
    fn summarize(&mut self, name: &Name) -> Result<Option<Bitmap>> {
        self.tell()?;
        let (summary, bitmap) = match self.image.summarize_and_keep(name) {
            Err(error) if error.is_of_the_call() => return Err(error),
            Err(error) => (Err(error), None),
            Ok((summary, bitmap)) => (Ok(summary), bitmap),
        };
        self.summaries.insert(name.clone(), summary);
        Ok(bitmap)
    }

    /// How much changed since each checkpoint until now, where a diff since then is answered. From the newest to the oldest,
    /// so that each bitmap is read once, and no more than it and one union are in memory.
    fn sum_up(&mut self, chain: &Chain) -> Result<HashMap<Name, u64>> {
        let mut since = HashMap::new();
        let below = self.image.known_to_layers();
        let mut union: Option<Bitmap> = None;
        for (own, is_answered) in chain.checkpoints().iter().zip(chain.answer_until_now()?).rev() {
            let known = match chain.model() {
                // Each is a diff of its own, and was read when they were put in order.
                Model::Cumulative => self.summaries.get(&own.bitmap).and_then(|read| read.as_ref().ok()?.dirty_bytes),
                _ => {
                    union = match (self.summarize(&own.bitmap)?, union.take()) {
                        (Some(bitmap), _) if own.recording => Some(bitmap),
                        (Some(bitmap), Some(union)) => Some(unite(union, bitmap)?),
                        _ => None,
                    };
                    union.as_ref().map(Bitmap::dirty_bytes)
                }
            };
            let Some(mut known) = known.filter(|_| is_answered) else { continue };
            if self.image.has_layers() {
                let of_layers = match &below {
                    // A copy of a checkpoint whose original is gone.
                    Ok(below) if below.is_empty() => own.gap,
                    Ok(below) => {
                        let span = chain.plan_diff(own.name.as_bytes(), None)?;
                        own.gap || span.takes_part.iter().any(|name| below.contains(name))
                    }
                    Err(error) if error.is_of_the_call() => return Err(error.clone()),
                    Err(_) => continue,
                };
                if of_layers {
                    match self.image.read_diff(&DiffRequest::since(own.name.as_bytes()), self.observer) {
                        Err(error) if error.is_of_the_call() => return Err(error),
                        Err(_) => continue,
                        Ok(diff) => known = diff.bitmap.dirty_bytes(),
                    }
                }
            }
            memory::insert(&mut since, own.name.clone(), known)?;
        }
        Ok(since)
    }

    fn finish(mut self) -> Result<BTreeMap<Name, Result<Summary>>> {
        self.tell()?;
        Ok(self.summaries)
    }

    /// The bits of a bitmap that was read before.
    fn bits(&mut self, name: &Name) -> Result<Rc<Bitmap>> {
        let again = self.again.iter().find(|(known, _)| known == name).map(|(_, bitmap)| bitmap);
        if let Some(known) = self.held.get(name).or(again) {
            return Ok(Rc::clone(known));
        }
        let bitmap = Rc::new(self.image.load(name, 0, u64::MAX)?);
        if self.again.len() >= MOST_AGAIN {
            self.again.pop_front();
        }
        self.again.push_back((name.clone(), Rc::clone(&bitmap)));
        Ok(bitmap)
    }
}

/// The union of both, at the finer of their granularities.
fn unite(mut union: Bitmap, other: Bitmap) -> Result<Bitmap> {
    if other.granularity() < union.granularity() {
        return union.union(&other);
    }
    union.union_with(&other)?;
    Ok(union)
}

impl Contents for Reader<'_> {
    fn dirty_bytes(&mut self, name: &Name) -> Result<Option<u64>> {
        let Some(mut bitmap) = self.summarize(name)? else { return Ok(None) };
        let dirty_bytes = bitmap.dirty_bytes();
        bitmap.optimize()?;
        let bytes = bitmap.heap_bytes() as u64;
        if self.held_bytes + bytes <= MOST_HELD_BYTES {
            self.held_bytes += bytes;
            memory::insert(&mut self.held, name.clone(), Rc::new(bitmap))?;
        }
        Ok(Some(dirty_bytes))
    }

    fn contains(&mut self, large: &Name, small: &Name) -> Result<bool> {
        let checkpoints = self.summaries.len() as u64;
        tell(self.observer, "ordering checkpoints", self.comparisons.min(checkpoints), checkpoints)?;
        self.comparisons += 1;
        let (large, small) = (self.bits(large)?, self.bits(small)?);
        small.is_subset(&large)
    }
}
