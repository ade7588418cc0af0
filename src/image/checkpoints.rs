#![forbid(unsafe_code)]
//! Owns the operations on checkpoints: each is planned by the chain, checked against the image and its lower layers,
//! and carried out in one step.

use super::in_layers::Edit;
use super::stacked::Stacked;
use super::{Access, Group, Image};
use crate::bitmap::Bitmap;
use crate::chain::{self, Chain, CreateOptions, KnownModel, Name, Origin, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::host::UnionRequest;
use crate::memory;
use crate::progress::{Observer, Unobserved};

/// The warning of a rehearsal that a host does not offer.
pub(super) const UNTRIED: &str =
    "the change was planned and not tried: only carrying it out tells whether it can be done";

/// Where no checkpoint tells which of two chains is meant.
const NO_WORDS: &[&[u8]] = &[];

/// Whether the layers below the image are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layers {
    /// A lower layer that takes part, or cannot be read, is an error: the answer would be short.
    #[default]
    Check,
    /// The caller knows that the layers below do not matter.
    TopOnly,
}

/// Which changes are asked for.
///
/// ```
/// use checkmap::image::DiffRequest;
///
/// let request = DiffRequest::since(b"monday").until(b"tuesday").window(1 << 30, 1 << 20);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DiffRequest<'a> {
    since: &'a [u8],
    until: Option<&'a [u8]>,
    offset: u64,
    len_bytes: u64,
    layers: Layers,
    model: Option<KnownModel>,
    memory_bytes: u64,
}

impl<'a> DiffRequest<'a> {
    /// What changed since a checkpoint, until now, on the whole disk.
    pub fn since(checkpoint: &'a [u8]) -> Self {
        Self {
            since: checkpoint,
            until: None,
            offset: 0,
            len_bytes: u64::MAX,
            layers: Layers::Check,
            model: None,
            memory_bytes: 64 << 20,
        }
    }

    /// Up to another checkpoint instead of now.
    pub fn until(self, checkpoint: &'a [u8]) -> Self {
        Self { until: Some(checkpoint), ..self }
    }

    /// Only what lies in a window of the disk, which is cut at the disk's end; a length of `u64::MAX` is "to the end".
    /// What lies outside is neither read nor computed.
    pub fn window(self, offset: u64, len_bytes: u64) -> Self {
        Self { offset, len_bytes, ..self }
    }

    /// Whether the layers below the image are looked at; by default they are.
    pub fn layers(self, layers: Layers) -> Self {
        Self { layers, ..self }
    }

    /// The model to insist on, where the image's own is unknown, or where it has two chains. Without it, names that only
    /// one of two chains has tell which is meant.
    pub fn model(self, model: Option<KnownModel>) -> Self {
        Self { model, ..self }
    }

    pub(super) fn window_bytes(&self) -> (u64, u64) {
        (self.offset, self.len_bytes)
    }

    pub(super) fn memory(&self) -> u64 {
        self.memory_bytes
    }

    /// How many bytes of bitmaps are held at once, beside the one that is being read and the result: 64 MiB by default.
    /// A larger span is united in several passes, with the same answer.
    pub fn memory_bytes(self, memory_bytes: u64) -> Self {
        Self { memory_bytes, ..self }
    }
}

/// The blocks that changed in a span of time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diff {
    /// The checkpoint since which.
    pub since: Name,
    /// The checkpoint until which; `None` is now.
    pub until: Option<Name>,
    /// The changed blocks, at the finest granularity of the span; outside of the granules that the window touches it is
    /// clean.
    pub bitmap: Bitmap,
}

impl Image {
    /// The checkpoints of the image, read from names and flags alone: cumulative ones stand in the order of their names,
    /// and [`Image::overview`] tells which is older. `insist` decides where the model is unknown, and picks the cumulative
    /// ones where they stand beside intervals, see [`Chain::read`].
    pub fn chain(&self, insist: Option<KnownModel>) -> Result<Chain> {
        self.steady(|| self.read_chain(insist))
    }

    /// The chain that `words` speak of, where the image may have two, see [`Chain::read_for`].
    pub fn chain_for(&self, insist: Option<KnownModel>, words: &[impl AsRef<[u8]>]) -> Result<Chain> {
        self.steady(|| self.read_chain_for(insist, words))
    }

    pub(super) fn read_chain_for(&self, insist: Option<KnownModel>, words: &[impl AsRef<[u8]>]) -> Result<Chain> {
        Chain::read_for(&self.states()?, insist, words).map_err(|error| self.name_it(error))
    }

    pub(super) fn read_chain(&self, insist: Option<KnownModel>) -> Result<Chain> {
        Chain::read(&self.states()?, insist).map_err(|error| self.name_it(error))
    }

    /// The chain that `words` speak of, of an image whose bitmaps may be trusted.
    pub(super) fn usable_chain(&self, insist: Option<KnownModel>, words: &[impl AsRef<[u8]>]) -> Result<Chain> {
        self.check_readable()?;
        self.read_chain_for(insist, words)
    }

    /// As [`Image::usable_chain`], of an image that is to be changed: what cannot be trusted must not be built upon.
    pub(super) fn chain_to_change(&self, insist: Option<KnownModel>, words: &[impl AsRef<[u8]>]) -> Result<Chain> {
        self.check_writable()?;
        self.check_readable()?;
        let states = self.surveyed(&mut Unobserved)?;
        Chain::read_for(&states, insist, words).map_err(|error| self.name_it(error))
    }

    /// Plans a new checkpoint. `granularity` is by default that of the newest checkpoint, else QEMU's.
    pub fn plan_create(
        &self,
        checkpoint: &[u8],
        granularity: Option<Granularity>,
        model: Option<KnownModel>,
    ) -> Result<Plan> {
        let named = |error: Error| self.name_it(error);
        let chain = self.chain_to_change(model, NO_WORDS)?;
        if let Some(granularity) = granularity {
            self.host.check_granularity(granularity).map_err(named)?;
        }
        let stacked = self.layers_to_create_on(model)?;
        let newest = chain.checkpoints().last().map(|newest| newest.granularity);
        let default_granularity = match newest {
            Some(newest) => self.host.fitting_granularity(newest),
            None => self.host.default_granularity(),
        }
        .map_err(named)?;
        // The one of the newest checkpoint below, where the top layer has none.
        let is_open = granularity.is_none() && newest.is_none() && stacked.is_ok();
        let granularity = if is_open { None } else { Some(granularity.unwrap_or(default_granularity)) };
        let options = CreateOptions { granularity, model, ..CreateOptions::new(default_granularity) };
        match stacked {
            Ok(stacked) => {
                let fit = |granularity| self.host.fitting_granularity(granularity);
                self.finish(stacked.stack.plan_create(checkpoint, options, &fit))
            }
            Err(unread) => {
                let mut plan = self.finish(chain.plan_create(checkpoint, options))?;
                if let Some(why) = unread {
                    plan.warn(format!("the new checkpoint follows none of the layers below: {}", why.reason()));
                }
                Ok(plan)
            }
        }
    }

    /// The layers with which a new checkpoint has to agree; or why they cannot be read, where there are any: that keeps
    /// nobody from recording, and a diff will say it.
    fn layers_to_create_on(
        &self,
        insist: Option<KnownModel>,
    ) -> Result<std::result::Result<Stacked<'_>, Option<Error>>> {
        if !self.has_layers() {
            return Ok(Err(None));
        }
        match self.stacked(insist, true, &[]) {
            Err(error) if error.is_of_the_call() => Err(error),
            Err(unread) => Ok(Err(Some(unread))),
            Ok(stacked) => Ok(Ok(stacked)),
        }
    }

    /// Plans the deletion of a checkpoint. With `force_inconsistent`, what older checkpoints know is given up with it.
    pub fn plan_delete(
        &self,
        checkpoint: &[u8],
        force_inconsistent: bool,
        layers: Layers,
        model: Option<KnownModel>,
    ) -> Result<Plan> {
        self.plan_delete_many(&[checkpoint], force_inconsistent, layers, model)
    }

    /// Plans the deletion of several checkpoints in one step, see [`Chain::plan_delete_many`].
    pub fn plan_delete_many(
        &self,
        checkpoints: &[impl AsRef<[u8]>],
        force_inconsistent: bool,
        layers: Layers,
        model: Option<KnownModel>,
    ) -> Result<Plan> {
        let chain = self.chain_to_change(model, checkpoints)?;
        if layers == Layers::Check {
            let names: Vec<Name> = memory::gather(checkpoints.iter().map(|name| Name::new(name.as_ref())))?;
            let edit = if force_inconsistent { Edit::ForceDelete(&names) } else { Edit::Delete(&names) };
            if let Some(plan) = self.plan_at_once(&edit, model)? {
                return Ok(plan);
            }
        }
        self.finish_with_layers(chain.plan_delete_many(checkpoints, force_inconsistent), layers)
    }

    /// Plans the removal of every inconsistent bitmap, and of what depends on it, in one step.
    pub fn plan_delete_all_inconsistent(&self, layers: Layers, model: Option<KnownModel>) -> Result<Plan> {
        if layers == Layers::Check
            && let Some(plan) = self.plan_at_once(&Edit::DeleteAllInconsistent, model)?
        {
            return Ok(plan);
        }
        let plan = self.chain_to_change(model, NO_WORDS)?.plan_delete_all_inconsistent();
        self.finish_with_layers(plan, layers)
    }

    /// Plans the renaming of a checkpoint. No layer below may know the new name.
    pub fn plan_rename(
        &self,
        checkpoint: &[u8],
        new_name: &[u8],
        layers: Layers,
        model: Option<KnownModel>,
    ) -> Result<Plan> {
        if layers == Layers::Check {
            let names = [Name::new(checkpoint), Name::new(new_name)];
            let [from, to] = &names;
            if let Some(plan) = self.plan_at_once(&Edit::Rename(from, to), model)? {
                return Ok(plan);
            }
        }
        let plan = self.chain_to_change(model, &[checkpoint])?.plan_rename(checkpoint, new_name);
        let plan = self.finish_with_layers(plan, layers)?;
        if layers == Layers::Check {
            self.refuse_known_below(&Name::new(new_name))?;
        }
        Ok(plan)
    }

    /// Plans the union of bitmaps into one of them, by their stored names; the sources stay.
    pub fn plan_merge(&self, sources: &[&[u8]], into: &[u8]) -> Result<Plan> {
        self.check_writable()?;
        self.check_readable()?;
        self.finish(chain::plan_merge(&self.surveyed(&mut Unobserved)?, sources, into))
    }

    pub(super) fn finish(&self, plan: Result<Plan>) -> Result<Plan> {
        self.look()?;
        let mut plan = plan.map_err(|error| self.name_it(self.explain(error, &mut Unobserved)))?;
        let remarks = self.host.remarks(plan.actions());
        self.end_plan(&mut plan, remarks);
        Ok(plan)
    }

    fn finish_with_layers(&self, plan: Result<Plan>, layers: Layers) -> Result<Plan> {
        let plan = self.finish(plan)?;
        if layers == Layers::Check && !plan.takes_part().is_empty() {
            self.check_layers(plan.takes_part())?;
            self.look()?;
        }
        Ok(plan)
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        self.look()?;
        let unfinished = || self.host.unfinished().map(|unfinished| self.name_it(unfinished));
        let trouble = || self.trouble().map(|trouble| self.name_it(trouble.clone()));
        match self.unclean().or_else(unfinished).or_else(trouble) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    /// Carries out `plan` in one atomic step; what it returns are warnings.
    ///
    /// On any error nothing has changed, except [`ErrorKind::CommitInDoubt`]: then the image holds the state before or
    /// after, whole. `observer` can stop the work until the commit begins.
    pub fn commit(&mut self, plan: &Plan, observer: &mut dyn Observer) -> Result<Vec<String>> {
        self.check_commit(plan)?;
        if plan.is_empty() {
            return Ok(Vec::new());
        }
        if !plan.below().is_empty() {
            let all = Group::new([&mut *self])?.commit(std::slice::from_ref(plan), observer)?;
            return Ok(all.into_iter().flatten().collect());
        }
        self.look().map_err(Error::nothing_changed)?;
        let applied = self.host.apply(plan.actions(), observer);
        self.note_change(applied)
    }

    /// Refuses a plan that this image cannot carry out, whatever its host says.
    pub(super) fn check_commit(&self, plan: &Plan) -> Result<()> {
        if self.options.access != Access::Write {
            let read_only = Error::new(ErrorKind::ReadOnly, "was not opened for writing");
            return Err(self.name_it(read_only.advise("open it for writing").nothing_changed()));
        }
        if plan.is_empty() { Ok(()) } else { self.check_bound(plan) }
    }

    /// Notes what became of a change: where the host may have read anew, plans for what it had read before are void.
    pub(super) fn note_change<T>(&mut self, changed: Result<T>) -> Result<T> {
        if changed.as_ref().map_or_else(|error| error.kind() == ErrorKind::CommitInDoubt, |_| true) {
            self.origin = Origin::default();
        }
        changed.map_err(|error| self.name_it(error))
    }

    /// Finds out whether [`Image::commit`] could carry out `plan`, without writing: everything but the commit is done.
    ///
    /// Room that only the file system can give is not tried. What it returns are the warnings that a commit would give; where
    /// a host cannot try a change, a warning says so.
    pub fn rehearse(&self, plan: &Plan, observer: &mut dyn Observer) -> Result<Vec<String>> {
        if plan.is_empty() {
            return Ok(Vec::new());
        }
        self.check_bound(plan)?;
        self.steady(|| {
            self.rehearsed(match plan.below().is_empty() {
                true => self.host.rehearse(plan.actions(), observer),
                false => self.rehearse_at_once(plan, observer),
            })
        })
    }

    /// The warnings of a rehearsal, or that there was none.
    pub(super) fn rehearsed(&self, rehearsed: Result<Option<Vec<String>>>) -> Result<Vec<String>> {
        let warnings = rehearsed.map_err(|error| self.name_it(error).nothing_changed())?;
        Ok(warnings.unwrap_or_else(|| vec![UNTRIED.into()]))
    }

    /// Refuses a plan of another image, or of this one before a change.
    fn check_bound(&self, plan: &Plan) -> Result<()> {
        if plan.is_bound_to(&self.origin) {
            return Ok(());
        }
        let foreign = "the plan was made for another image, or for this one before it was changed or opened again";
        Err(self.name_it(Error::new(ErrorKind::Changed, foreign).advise("plan again").nothing_changed()))
    }

    /// The blocks that changed in a span between two checkpoints, or between a checkpoint and now.
    ///
    /// An error wherever the answer could be short: an inconsistent bitmap in the span, a gap in recording, a lower
    /// layer that takes part.
    pub fn diff(&self, request: &DiffRequest<'_>, observer: &mut dyn Observer) -> Result<Diff> {
        self.steady(|| self.read_diff(request, observer))
    }

    pub(super) fn read_diff(&self, request: &DiffRequest<'_>, observer: &mut dyn Observer) -> Result<Diff> {
        self.survey(observer)?;
        let words: &[&[u8]] = &[request.since, request.until.unwrap_or(request.since)];
        let chain = self.usable_chain(request.model, words)?;
        if request.layers == Layers::Check
            && self.has_layers()
            && (request.until != Some(request.since) || chain.checkpoint(request.since).is_none())
        {
            // The names picked this chain where two stand side by side: the layers below are read by the same model.
            let picked = chain.model().known().filter(|model| *model == KnownModel::Cumulative);
            return self.read_diff_of_layers(&request.model(request.model.or(picked)), observer);
        }
        let span = chain.plan_diff(request.since, request.until).map_err(|error| self.name_it(error))?;
        for name in &span.bitmaps {
            self.check_trusted(name)?;
        }
        let bitmap = match span.bitmaps.is_empty() {
            true => Bitmap::new(self.virtual_size(), span.granularity)?,
            false => {
                let mut wanted = UnionRequest::new(&span.bitmaps, span.granularity);
                wanted = wanted.window(request.offset, request.len_bytes);
                (wanted.memory_bytes, wanted.threads) = (request.memory_bytes, self.options.threads);
                self.united(&wanted, observer)?
            }
        };
        Ok(Diff { since: span.since, until: span.until, bitmap })
    }

    fn read_diff_of_layers(&self, request: &DiffRequest<'_>, observer: &mut dyn Observer) -> Result<Diff> {
        let stacked = self.stacked(request.model, false, &[])?;
        let span = stacked.plan_diff(request.since, request.until)?;
        let bitmap = stacked.unite(&span, request, observer)?;
        // Without locks a layer below may have got a bitmap meanwhile.
        stacked.check_unchanged()?;
        Ok(Diff { since: span.since, until: span.until, bitmap })
    }
}
