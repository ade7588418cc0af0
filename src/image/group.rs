#![forbid(unsafe_code)]
//! Owns the change of several images in one step. Must never know how their hosts make it one.

use super::checkpoints::UNTRIED;
use super::several::Several;
use super::{Image, at_once};
use crate::chain::{Origin, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Membership, Share};
use crate::memory;
use crate::progress::Observer;

/// The disks of one virtual machine, whose checkpoints are created, deleted and renamed in one step: on all of them, or on
/// none.
///
/// Their hosts must share a [`Transaction`](crate::host::Transaction), as the disks of one hypervisor do; images in files change by a
/// journal, see [`Group::journaled`]. A single image needs neither.
///
/// ```no_run
/// use checkmap::image::{Group, Image};
/// use checkmap::progress::Unobserved;
///
/// # fn disks() -> Vec<Image> { Vec::new() }
/// let mut disks: Vec<Image> = disks();
/// let mut machine = Group::new(&mut disks)?;
/// let plans = machine.plan(|disk| disk.plan_create(b"monday", None, None))?;
/// machine.commit(&plans, &mut Unobserved)?;
/// # Ok::<(), checkmap::Error>(())
/// ```
#[derive(Debug)]
pub struct Group<'a> {
    pub(super) images: Vec<&'a mut Image>,
    /// The part of each image in their transaction; empty for a single image that takes part in none.
    pub(super) members: Vec<Membership>,
    /// The step by a journal, where they share no transaction.
    pub(super) several: Option<Several>,
}

impl<'a> Group<'a> {
    /// The images that are to change together.
    ///
    /// Fails with [`ErrorKind::Unsupported`] where their hosts share no transaction, and with
    /// [`ErrorKind::InvalidArgument`] for no image at all, or for the same disk twice.
    pub fn new(images: impl IntoIterator<Item = &'a mut Image>) -> Result<Self> {
        let images = memory::gather(images)?;
        let Some((first, others)) = images.split_first() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "there is no image to change"));
        };
        let mut members = Vec::new();
        memory::extend(&mut members, first.host.membership())?;
        for other in others {
            let member = other.host.membership();
            let Some(member) = member.filter(|member| members.first().is_some_and(|one| one.shares_with(member)))
            else {
                let message =
                    format!("cannot change in one step with {}: they share no transaction", first.path.display());
                return Err(
                    other.name_it(Error::new(ErrorKind::Unsupported, message).advise("change one after the other"))
                );
            };
            if members.iter().any(|one| one.disk == member.disk) {
                let message = format!("the disk {} is given twice", member.disk);
                return Err(other.name_it(Error::new(ErrorKind::InvalidArgument, message)));
            }
            memory::push(&mut members, member)?;
        }
        Ok(Self { images, members, several: None })
    }

    /// The images, in the order in which they were given.
    pub fn images(&self) -> impl ExactSizeIterator<Item = &Image> {
        self.images.iter().map(|image| &**image)
    }

    /// Plans the same for each image: one plan for each, in their order. The first that cannot be planned ends it.
    pub fn plan(&self, each: impl FnMut(&Image) -> Result<Plan>) -> Result<Vec<Plan>> {
        let mut plans = memory::room(self.images.len())?;
        for plan in self.images().map(each) {
            plans.push(plan?);
        }
        Ok(plans)
    }

    /// Finds out whether [`Group::commit`] could carry out the plans, without a change. For each image the warnings that a
    /// commit would give; where the transaction cannot be tried, one says so.
    pub fn rehearse(&self, plans: &[Plan], observer: &mut dyn Observer) -> Result<Vec<Vec<String>>> {
        self.check(plans)?;
        let (Some(member), true) = (self.members.first(), self.is_one_step(plans)) else {
            return self.images().zip(plans).map(|(image, plan)| image.rehearse(plan, observer)).collect();
        };
        let (shares, places) = self.shares(plans)?;
        let rehearsed = member.transaction.rehearse(&shares, observer).map_err(Error::nothing_changed)?;
        let rehearsed = rehearsed.unwrap_or_else(|| shares.iter().map(|_| vec![UNTRIED.into()]).collect());
        Ok(self.spread(&places, rehearsed))
    }

    /// Carries out the plans in one atomic step, one for each image in their order; those that have nothing to do take no
    /// part. What it returns are the warnings of each image.
    ///
    /// On any error no image has changed, except [`ErrorKind::CommitInDoubt`]: then all of them hold the state before or
    /// after. `observer` can stop the work until the commit begins.
    pub fn commit(&mut self, plans: &[Plan], observer: &mut dyn Observer) -> Result<Vec<Vec<String>>> {
        self.check(plans)?;
        for (image, plan) in self.images().zip(plans) {
            image.check_commit(plan)?;
        }
        if let Some(several) = &self.several {
            return several.commit(&mut self.images, plans, observer);
        }
        let (Some(member), true) = (self.members.first(), self.is_one_step(plans)) else {
            return self.images.iter_mut().zip(plans).map(|(image, plan)| image.commit(plan, observer)).collect();
        };
        for image in self.images() {
            image.look().map_err(Error::nothing_changed)?;
        }
        let (shares, places) = self.shares(plans)?;
        if shares.is_empty() {
            return Ok(self.spread(&places, Vec::new()));
        }
        let mut changed = memory::gather(places.iter().copied())?;
        changed.dedup();
        let applied = member.transaction.apply(&shares, observer);
        drop(shares);
        if applied.as_ref().is_err_and(|error| error.kind() != ErrorKind::CommitInDoubt) {
            return applied.map_err(Error::nothing_changed);
        }
        let mut unread = Vec::new();
        for place in &changed {
            let Some(image) = self.images.get_mut(*place) else { continue };
            let read = image.host.read_again();
            // Plans made before are void, also where the reading fails.
            image.origin = Origin::default();
            unread.push((*place, read.err().map(|error| image.name_it(error))));
        }
        let mut warnings = self.spread(&places, applied?);
        for (place, error) in unread {
            // The change is done, also where the image cannot be read again.
            let warning = error.map(|error| format!("done, but the image could not be read again: {}", error.reason()));
            warnings.get_mut(place).into_iter().for_each(|own| own.extend(warning.clone()));
        }
        Ok(warnings)
    }

    /// Whether several disks change, or several layers of one.
    fn is_one_step(&self, plans: &[Plan]) -> bool {
        self.images.len() > 1 || plans.iter().any(|plan| !plan.below().is_empty())
    }

    fn check(&self, plans: &[Plan]) -> Result<()> {
        if plans.len() == self.images.len() {
            return Ok(());
        }
        let message = format!("{} plans are given for {} images", plans.len(), self.images.len());
        Err(Error::new(ErrorKind::InvalidArgument, message).nothing_changed())
    }

    /// The shares of the images that have something to do, those of their layers among them, and the place of the image of each.
    fn shares<'p>(&'p self, plans: &'p [Plan]) -> Result<(Vec<Share<'p>>, Vec<usize>)> {
        let (mut shares, mut places) = (Vec::new(), Vec::new());
        for (place, (member, plan)) in self.members.iter().zip(plans).enumerate() {
            let before = shares.len();
            at_once::add_shares(&mut shares, &member.disk, plan)?;
            memory::extend(&mut places, (before..shares.len()).map(|_| place))?;
        }
        Ok((shares, places))
    }

    /// The warnings for the images at these places, with none for the others.
    fn spread(&self, places: &[usize], said: Vec<Vec<String>>) -> Vec<Vec<String>> {
        let mut all: Vec<Vec<String>> = self.images.iter().map(|_| Vec::new()).collect();
        for (place, said) in places.iter().zip(said) {
            if let Some(own) = all.get_mut(*place) {
                own.extend(said);
            }
        }
        all
    }
}
