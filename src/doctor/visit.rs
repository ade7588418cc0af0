#![forbid(unsafe_code)]
//! Owns a visit: the disks that are examined together, the place of libvirt's notes, and the order in which bitmaps and notes change. Must
//! never know a kind of disagreement.

use super::notes::Notes;
use super::{Case, Diagnosis, Options, Patient, diagnose};
use crate::chain::{Action, Model, Name, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Excess, Group, Image, ToInterval};
use crate::libvirt::{Change, Metadata};
use crate::memory;
use crate::progress::{Observer, Unobserved};
use crate::qemu::{self, Machine};
use std::path::{Path, PathBuf};

/// A disk that takes part.
#[derive(Debug)]
pub struct Seen<'a> {
    image: &'a mut Image,
    of_machine: Option<&'a qemu::Disk>,
    target: Option<String>,
}

impl<'a> Seen<'a> {
    /// An image, with its name in libvirt's domain where the caller knows it.
    pub fn image(image: &'a mut Image, target: Option<String>) -> Self {
        Self { image, of_machine: None, target }
    }

    /// A disk of the machine that is visited, and its image.
    pub fn of_machine(disk: &'a qemu::Disk, image: &'a mut Image) -> Self {
        Self { image, of_machine: Some(disk), target: None }
    }

    fn title(&self) -> String {
        self.target.clone().unwrap_or_else(|| self.image.path().display().to_string())
    }
}

/// The files of the layers below a disk.
fn layers_of(disk: &Seen<'_>, machine: Option<&Machine>) -> Result<Vec<PathBuf>> {
    if let (Some(own), Some(machine)) = (disk.of_machine, machine) {
        return Ok(memory::gather(machine.layers_below(own)?.iter().map(|layer| PathBuf::from(layer.file())))?);
    }
    match disk.image.bitmaps_below() {
        Err(error) if error.is_of_the_call() => Err(error),
        Err(_) => Ok(Vec::new()),
        Ok(below) => Ok(memory::gather(below.into_iter().map(|(layer, _)| PathBuf::from(layer)))?),
    }
}

/// The way from cumulative checkpoints to intervals, for all disks of a visit.
#[derive(Debug)]
#[non_exhaustive]
pub struct Conversion {
    /// The plan of each disk; an empty one where there is nothing to convert.
    pub plans: Vec<Plan>,
    /// How much too large past diffs become, each with the name of its disk.
    pub excess: Vec<(String, Excess)>,
    /// libvirt forgets the checkpoints whose bitmaps are intervals then.
    pub changes: Vec<Change>,
}

/// Disks that are examined together, and libvirt's notes of them.
#[derive(Debug)]
pub struct Visit<'a> {
    disks: Vec<Seen<'a>>,
    machine: Option<&'a Machine>,
    folder: Option<PathBuf>,
    metadata: Option<Metadata>,
    options: Options,
    has_changed: bool,
}

impl<'a> Visit<'a> {
    /// Reads libvirt's notes, from a folder or from the domain that the machine is, and finds out which disk is which.
    ///
    /// Fails as [`Metadata::read`] and [`Machine::libvirt_metadata`] do, and with [`ErrorKind::NotFound`] where the notes do not tell
    /// which of the domain's disks one is.
    pub fn begin(
        disks: Vec<Seen<'a>>,
        machine: Option<&'a Machine>,
        folder: Option<&Path>,
        options: Options,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let mut visit =
            Self { disks, machine, folder: folder.map(Path::to_owned), metadata: None, options, has_changed: false };
        visit.read_notes(observer)?;
        visit.find_targets()?;
        Ok(visit)
    }

    fn read_notes(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.metadata = match (&self.folder, self.machine) {
            (Some(folder), _) => Some(Metadata::read(folder)?),
            (None, Some(machine)) => machine.libvirt_metadata(true, observer)?,
            (None, None) => None,
        };
        // A host that asks libvirt itself knows.
        if let (Some(metadata), Some(_)) = (&self.metadata, &self.folder) {
            for disk in &mut self.disks {
                disk.image.note_libvirt(metadata.checkpoints().iter().map(|own| own.name().clone()));
            }
        }
        Ok(())
    }

    fn find_targets(&mut self) -> Result<()> {
        let Some(metadata) = &self.metadata else { return Ok(()) };
        let (is_alone, targets) = (self.disks.len() == 1, metadata.targets());
        for disk in self.disks.iter_mut().filter(|disk| disk.target.is_none()) {
            let path = disk.image.path().to_owned();
            disk.target = match (disk.of_machine, &self.folder) {
                (Some(own), None) => own.libvirt_target().map(str::to_owned),
                (of_machine, _) => {
                    let file = of_machine.map_or(path.as_path(), |own| Path::new(own.file()));
                    let only = targets.first().copied().filter(|_| is_alone && targets.len() == 1);
                    match (metadata.target_of(file), only) {
                        (Some(target), _) => Some(target.to_owned()),
                        // The folder could be that of another domain.
                        (None, Some(only)) if metadata.may_be(only, &layers_of(disk, self.machine)?) => {
                            Some(only.to_owned())
                        }
                        _ => None,
                    }
                }
            };
            // Without any note there is nothing to compare with.
            if disk.target.is_none() && !targets.is_empty() {
                let message = "libvirt's notes do not tell which disk of the domain it is";
                let error = Error::new(ErrorKind::NotFound, message).in_file(&path);
                return Err(match self.folder {
                    None => error.advise("examine the other disks, each by its name"),
                    // Those who call know how they are told of its name.
                    Some(_) => error,
                });
            }
        }
        Ok(())
    }

    /// The name of a disk for messages: that in libvirt's domain, where it is known.
    pub fn title(&self, at: usize) -> String {
        self.disks.get(at).map(Seen::title).unwrap_or_default()
    }

    /// Compares bitmaps, chains and libvirt's notes; changes nothing.
    pub fn diagnose(&self, observer: &mut dyn Observer) -> Result<Diagnosis> {
        let mut patients = Vec::new();
        for disk in &self.disks {
            let patient =
                Patient::examine(disk.image, disk.target.as_deref(), self.metadata.as_ref(), &self.options, observer)?;
            let files = match (disk.of_machine, self.machine) {
                (Some(own), Some(machine)) => {
                    let below = machine.layers_below(own)?;
                    memory::gather([own].into_iter().chain(&below).map(|layer| layer.file().to_owned()))?
                }
                _ => memory::gather(patient.layers.iter().map(|layer| layer.layer.clone()))?,
            };
            memory::push(&mut patients, patient.files(files))?;
        }
        let targets = self.machine.filter(|_| self.folder.is_none()).and_then(Machine::libvirt_targets);
        let case = Case::new(&patients).metadata(self.metadata.as_ref());
        let mut found = diagnose(&case.targets(targets.map(memory::sorted_set)), &self.options)?;
        if let (Some(folder), Some(metadata)) = (&self.folder, &self.metadata)
            && metadata.checkpoints().is_empty()
        {
            memory::push(&mut found.notes, format!("{} has no document *.xml of a checkpoint", folder.display()))?;
        }
        Ok(found)
    }

    /// Reads libvirt's notes again, after a change, and compares once more. Once something was changed nobody can stop it.
    ///
    /// Where it fails, the change stands all the same; the error is of a kind that never says that nothing was changed.
    pub fn diagnose_again(&mut self, observer: &mut dyn Observer) -> Result<Diagnosis> {
        let again = |visit: &mut Self, observer: &mut dyn Observer| {
            visit.read_notes(observer)?;
            visit.diagnose(observer)
        };
        match self.has_changed {
            false => again(self, observer),
            true => again(self, &mut Unobserved)
                .map_err(|error| self.after_change("the change is done, but what is left cannot be told", &error)),
        }
    }

    /// An error behind a change. Its kind must be none of a refusal, which promises that nothing was changed.
    fn after_change(&self, done: &str, error: &Error) -> Error {
        let kind = match (error.kind(), self.machine) {
            (kind @ (ErrorKind::OutOfMemory | ErrorKind::NoSpace), _) => kind,
            (_, Some(_)) if self.folder.is_none() => ErrorKind::Hypervisor,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{done}: {error}")).advise("do the same again: it goes on from there")
    }

    /// The plan of each disk that a diagnosis came to.
    pub fn plan_repair(&self, diagnosis: &Diagnosis) -> Result<Vec<Plan>> {
        let mut plans = memory::room(self.disks.len())?;
        for (at, disk) in self.disks.iter().enumerate() {
            let actions = diagnosis.actions.get(at).map(Vec::as_slice).unwrap_or_default();
            plans.push(disk.image.plan_mend(actions)?);
        }
        Ok(plans)
    }

    /// Plans that cumulative checkpoints become intervals, see [`Image::plan_to_interval`].
    pub fn plan_conversion(&self, observer: &mut dyn Observer) -> Result<Conversion> {
        let records = self.metadata.as_ref().map(Metadata::records).unwrap_or_default();
        let mut notes = Notes::new(self.metadata.as_ref());
        let (mut plans, mut excess) = (memory::room(self.disks.len())?, Vec::new());
        for disk in &self.disks {
            let ToInterval { plan, bitmaps, excess: of_disk } =
                disk.image.plan_to_interval(&records, self.options.model, observer)?;
            memory::extend(&mut excess, of_disk.into_iter().map(|one| (disk.title(), one)))?;
            if let Some(target) = &disk.target {
                let mut noted = notes.of_disk(target);
                match bitmaps.is_empty() {
                    true => self.keep_converted(disk, &mut noted)?,
                    false => noted.retain(|(_, bitmap)| bitmaps.contains(bitmap)),
                }
                noted.iter().for_each(|(checkpoint, _)| notes.forget_disk(checkpoint, target));
            }
            plans.push(plan);
        }
        Ok(Conversion { plans, excess, changes: notes.changes(self.options.now_seconds)? })
    }

    /// Keeps the checkpoints of libvirt's whose bitmap is frozen or renamed in a chain of intervals: a conversion ended before libvirt was
    /// told to forget them.
    fn keep_converted(&self, disk: &Seen<'_>, noted: &mut Vec<(Name, Name)>) -> Result<()> {
        let chain = disk.image.chain(self.options.model)?;
        if chain.model() != Model::Interval {
            noted.clear();
        }
        let bitmaps = disk.image.states()?;
        let is_there = |name: &Name| bitmaps.iter().any(|state| state.name == *name);
        noted.retain(|(checkpoint, bitmap)| {
            let own = chain.checkpoints().iter().find(|own| own.name == *checkpoint);
            own.is_some_and(|own| match own.bitmap == *bitmap {
                true => !own.recording,
                false => !is_there(bitmap),
            })
        });
        Ok(())
    }

    /// The steps in words, in their order.
    pub fn steps<'p>(
        &self,
        of_disks: impl IntoIterator<Item = &'p [Action]>,
        changes: &[Change],
    ) -> Result<Vec<String>> {
        let mut steps = Vec::new();
        for (disk, actions) in self.disks.iter().zip(of_disks) {
            let title = disk.title();
            memory::extend(&mut steps, actions.iter().map(|action| format!("{title}: {action}")))?;
        }
        memory::extend(&mut steps, changes.iter().map(ToString::to_string))?;
        Ok(steps)
    }

    /// Finds out whether the plans could be carried out, and changes nothing. Returns warnings.
    pub fn rehearse(&self, plans: &[Plan], observer: &mut dyn Observer) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for (disk, plan) in self.disks.iter().zip(plans) {
            memory::extend(&mut warnings, plan.risks().iter().chain(plan.warnings()).cloned())?;
            memory::extend(&mut warnings, disk.image.rehearse(plan, observer)?)?;
        }
        Ok(warnings)
    }

    /// Carries out plans and changes of the notes. The bitmaps come first, in one step for all disks: libvirt compares what it is told with
    /// them. Returns warnings.
    ///
    /// Where a change of the bitmaps fails nothing has changed, but for [`ErrorKind::CommitInDoubt`]. Where one of the notes fails behind
    /// them, or behind other notes, the error says how many are changed, and is of kind [`ErrorKind::Io`], [`ErrorKind::Hypervisor`],
    /// [`ErrorKind::NoSpace`] or [`ErrorKind::OutOfMemory`]: another visit goes on from there. `observer` can stop the work until the bitmaps
    /// are changed, not between them and the notes.
    pub fn carry_out(
        &mut self,
        plans: &[Plan],
        changes: &[Change],
        observer: &mut dyn Observer,
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let in_folder = match (&self.folder, &self.metadata) {
            (Some(folder), Some(metadata)) if !changes.is_empty() => {
                memory::push(&mut warnings, "libvirt's daemon reads its own folder only when it starts".to_owned())?;
                Some(metadata.change_folder(folder, changes).map_err(Error::nothing_changed)?)
            }
            _ => None,
        };
        let changes_bitmaps = !plans.iter().all(Plan::is_empty);
        if changes_bitmaps {
            memory::extend(&mut warnings, plans.iter().flat_map(Plan::warnings).cloned())?;
            let mut group = Group::new(self.disks.iter_mut().map(|disk| &mut *disk.image))?;
            let said = group.commit(plans, observer)?;
            memory::extend(&mut warnings, said.into_iter().flatten())?;
        }
        let (mut done, mut all) = (0, changes.len());
        let noted = match (in_folder, self.machine) {
            (Some(ready), _) => {
                all = ready.len();
                ready.commit(&mut done)
            }
            (None, Some(machine)) if !changes.is_empty() => machine.change_libvirt(changes, &mut done, &mut Unobserved),
            _ => Ok(()),
        };
        self.has_changed |= changes_bitmaps || done > 0;
        noted.map_err(|error| match changes_bitmaps {
            true => {
                let said = format!("the bitmaps are changed, and {done} of {all} of libvirt's notes");
                self.after_change(&said, &error)
            }
            false if done > 0 => self.after_change(&format!("{done} of {all} of libvirt's notes are changed"), &error),
            false => error,
        })?;
        Ok(warnings)
    }
}
