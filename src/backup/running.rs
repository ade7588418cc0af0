#![forbid(unsafe_code)]
//! Owns the disks of a running machine as the disks of a backup. Must never know the directory, but for its id.
//!
//! All disks are read as they were at one moment of the machine ([`crate::qemu::Moment`]), which begins with the checkpoint. It has
//! the id of the directory and the name of the checkpoint, so that the next run takes it up where this one is killed.

use super::DiskRecord;
use super::SourceFile;
use super::images::{is_of_the_map, keeps_no_checkpoint};
use super::origin::{Disk, IsDone, Origin, Reading};
use crate::bitmap::Bitmap;
use crate::chain::{Action, Plan};
use crate::content::{Content, Remote};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Access, DiffRequest, Image, Layers, OpenOptions};
use crate::progress::{Observer, Step, Unobserved};
use crate::qemu::{self, Machine, Moment, MomentOptions, ScratchWatch};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often it is looked how full the scratch is.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// A disk of a running machine that is to be backed up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunningSource {
    /// The disk, of the machine that is given with it.
    pub disk: qemu::Disk,
    /// Its name in the directory, any bytes. Without one it has that of the disk which the directory knows by one of its files, else that of
    /// its file.
    pub name: Option<Vec<u8>>,
}

impl RunningSource {
    /// The disk, without a name of its own.
    pub fn new(disk: qemu::Disk) -> Self {
        Self { disk, name: None }
    }
}

/// Called with what a user should know at once.
pub(super) type Say<'a> = &'a dyn Fn(&str);

/// Disks of one machine.
pub(super) struct Running<'a> {
    disks: Vec<RunningDisk>,
    machine: Machine,
    /// The id of the directory.
    id: String,
    options: MomentOptions,
    moment: Option<Moment>,
    say: Say<'a>,
    watch: &'a RefCell<Option<ScratchWatch>>,
}

impl<'a> Running<'a> {
    /// `known` are the disks of the directory of this id.
    pub(super) fn new(
        (machine, sources): (&Machine, &[RunningSource]),
        (id, known): (&str, &[DiskRecord]),
        (options, threads): (&MomentOptions, usize),
        say: Say<'a>,
        watch: &'a RefCell<Option<ScratchWatch>>,
    ) -> Result<Self> {
        let mut disks = Vec::new();
        for RunningSource { disk, name } in sources {
            let mut files = vec![disk.file().to_owned()];
            files.extend(machine.layers_below(disk)?.iter().map(|layer| layer.file().to_owned()));
            let places: Vec<Vec<u8>> = files.iter().map(|file| place_of(file)).collect();
            // A snapshot puts another file on top of the disk, and it stays the same disk.
            let is_of_disk = |record: &&DiskRecord| places.contains(&record.image);
            let is_named = |record: &&DiskRecord| name.as_ref().is_none_or(|name| record.name == *name);
            let known = known.iter().find(|record| is_of_disk(record) && is_named(record));
            // A name that is no path stands for an export, or for a file by its options.
            let path = Some(Path::new(disk.file())).filter(|path| path.is_absolute() || path.exists());
            let own = path.and_then(Path::file_name).map_or(disk.title().as_bytes(), OsStr::as_bytes);
            let name = name.clone().or_else(|| known.map(|known| known.name.clone()));
            disks.push(RunningDisk {
                machine: machine.clone(),
                node: disk.node().to_owned(),
                title: disk.title().to_owned(),
                unfit: disk.unfit().cloned(),
                name: name.unwrap_or_else(|| own.to_vec()),
                places,
                files,
                threads,
                shown: None,
            });
        }
        let (id, options) = (id.to_owned(), options.clone());
        Ok(Self { disks, machine: machine.clone(), id, options, moment: None, say, watch })
    }

    /// The id of a moment of this directory with this checkpoint.
    fn id_of(&self, checkpoint: &[u8]) -> String {
        format!("{}/{}", self.id, String::from_utf8_lossy(checkpoint))
    }

    /// The moment of this directory that stands in the machine, with the name of its checkpoint.
    fn standing(&self, observer: &mut dyn Observer) -> Result<Option<(Moment, Vec<u8>)>> {
        let standing = self.machine.standing_moment(observer)?;
        let Some(id) = standing.and_then(|standing| standing.id) else { return Ok(None) };
        let checkpoint = id.strip_prefix(&self.id).and_then(|rest| rest.strip_prefix('/'));
        let Some(checkpoint) = checkpoint.map(|name| name.as_bytes().to_vec()) else { return Ok(None) };
        Ok(self.machine.take_up_moment(&id, observer)?.map(|moment| (moment, checkpoint)))
    }

    /// Ends the moment of this directory that stands in the machine.
    pub(super) fn abandon(&self, observer: &mut dyn Observer) -> Result<()> {
        if let Some((moment, _)) = self.standing(observer)? {
            moment.end(observer)?;
            (self.say)("the moment that stood in the machine was given up");
        }
        Ok(())
    }

    /// From now on the disks show this moment.
    fn show(&mut self, moment: Moment, checkpoint: &[u8], apart: &[bool]) -> Result<()> {
        for disk in &mut self.disks {
            let at = moment.disks().iter().position(|of_moment| of_moment.node == disk.node);
            let at = at.ok_or_else(|| Error::new(ErrorKind::NotFound, "the moment does not have this disk"))?;
            let of_moment = moment.disks().get(at).cloned();
            let is_exact = moment.ends_at_checkpoint() && !apart.get(at).copied().unwrap_or(true);
            disk.shown = of_moment.map(|of_moment| Shown {
                address: moment.address(),
                export: of_moment.export,
                size_bytes: of_moment.size_bytes,
                time: moment.time(),
                until: is_exact.then(|| checkpoint.to_vec()),
            });
        }
        *self.watch.borrow_mut() = Some(moment.scratch_watch());
        self.moment = Some(moment);
        Ok(())
    }

    /// Makes the checkpoints, and begins the moment; where it cannot begin, no checkpoint stays as far as that works.
    fn begin(&mut self, checkpoint: &[u8], wanted: &[bool], observer: &mut dyn Observer) -> Result<Vec<Vec<String>>> {
        let mut plans: Vec<Option<Plan>> = Vec::new();
        let mut warnings: Vec<Vec<String>> = Vec::new();
        let mut apart = Vec::new();
        for (disk, wanted) in self.disks.iter().zip(wanted) {
            let mut own = Vec::new();
            let mut is_apart = false;
            let mut planned = None;
            if *wanted {
                let mut image = disk.image(Access::Write)?;
                image.survey(observer)?;
                let plan = image.plan_create(checkpoint, None, None)?;
                own.extend(plan.risks().iter().chain(plan.warnings()).cloned());
                let reads = plan.actions().iter().any(|action| matches!(action, Action::AddAllocated { .. }));
                is_apart = reads || !plan.below().is_empty();
                match is_apart {
                    // It takes more than one transaction. The moment is later then, and its map goes as far as now.
                    true => own.extend(image.commit(&plan, &mut Unobserved)?),
                    false => planned = Some(plan),
                }
            }
            plans.push(planned);
            warnings.push(own);
            apart.push(is_apart);
        }
        let disks: Result<Vec<qemu::Disk>> = self.disks.iter().map(|disk| self.machine.find(&disk.node)).collect();
        let disks = disks?;
        let pairs: Vec<_> = disks.iter().zip(plans.iter().map(Option::as_ref)).collect();
        let options = self.options.clone().id(Some(self.id_of(checkpoint)));
        let mut say = |sentence: &str| (self.say)(sentence);
        let moment = self.machine.begin_moment(&pairs, &options, &mut say, observer)?;
        if let Some(first) = warnings.first_mut() {
            first.extend(moment.warnings().iter().cloned());
        }
        self.show(moment, checkpoint, &apart)?;
        Ok(warnings)
    }
}

/// By what a directory knows the disk of a file: as that of an image which no machine runs.
fn place_of(file: &str) -> Vec<u8> {
    let place = fs::canonicalize(file).unwrap_or_else(|_| PathBuf::from(file));
    place.into_os_string().into_vec()
}

impl Origin for Running<'_> {
    fn disks(&mut self) -> Vec<&mut dyn Disk> {
        self.disks.iter_mut().map(|disk| disk as &mut dyn Disk).collect()
    }

    fn take_up(&mut self, is_done: IsDone<'_>, observer: &mut dyn Observer) -> Result<Option<Vec<u8>>> {
        let Some((moment, checkpoint)) = self.standing(observer)? else { return Ok(None) };
        let has = |node: &str| moment.disks().iter().any(|disk| disk.node == node);
        if let Some(other) = self.disks.iter().find(|disk| !has(&disk.node)) {
            let message =
                format!("a moment of this directory stands in the machine, without the disk {:?}", other.title);
            moment.leave();
            return Err(Error::new(ErrorKind::InUse, message)
                .advise("back up the disks that it has, or abandon it")
                .nothing_changed());
        }
        // Ending it would lose the moment of the others.
        if let Some(other) = moment.disks().iter().find(|disk| !self.disks.iter().any(|own| own.node == disk.node)) {
            let message =
                format!("a moment of this directory stands in the machine, with the disk {:?} too", other.node);
            moment.leave();
            return Err(Error::new(ErrorKind::InUse, message)
                .advise("back up all disks that it has, or abandon it")
                .nothing_changed());
        }
        // That run was killed after its last disk.
        if self.disks.iter().all(|disk| is_done(&disk.name, &checkpoint)) {
            moment.end(observer)?;
            return Ok(None);
        }
        match moment.check(observer) {
            Ok(()) => {
                (self.say)("an earlier run left its moment in the machine: it is backed up now");
                self.show(moment, &checkpoint, &[])?;
                Ok(Some(checkpoint))
            }
            Err(error) if error.is_of_the_call() => {
                moment.leave();
                Err(error)
            }
            Err(lost) => {
                (self.say)(&format!(
                    "an earlier run left its moment in the machine, and a new one begins: {}",
                    lost.reason()
                ));
                moment.end(observer)?;
                Ok(None)
            }
        }
    }

    fn create(
        &mut self,
        checkpoint: &[u8],
        wanted: &[bool],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Result<Vec<String>>>> {
        let error = match self.begin(checkpoint, wanted, observer) {
            Ok(warnings) => return Ok(warnings.into_iter().map(Ok).collect()),
            Err(error) => error,
        };
        if let Some(moment) = self.moment.take() {
            moment.end(&mut Unobserved)?;
        }
        let mut undone = Ok(());
        for disk in &mut self.disks {
            undone = undone.and(disk.delete(&[checkpoint.to_vec()]).map(drop));
        }
        match undone {
            Ok(()) => Err(error.nothing_changed()),
            // The next run looks for it.
            Err(_) => {
                let reason = error.reason().to_string();
                let in_doubt = Error::new(ErrorKind::CommitInDoubt, reason).with_source(error);
                Ok(wanted.iter().map(|_| Err(in_doubt.clone())).collect())
            }
        }
    }

    fn leave(&mut self) {
        *self.watch.borrow_mut() = None;
        if let Some(moment) = self.moment.take() {
            moment.leave();
        }
    }

    fn end(&mut self) -> Option<String> {
        *self.watch.borrow_mut() = None;
        let ended = self.moment.take()?.end(&mut Unobserved);
        ended.err().map(|error| format!("the moment may be left in the hypervisor: {}", error.reason()))
    }
}

/// A disk of the machine as of the moment.
#[derive(Clone, Debug)]
struct Shown {
    address: crate::nbd::Address,
    export: String,
    size_bytes: u64,
    time: SystemTime,
    /// The checkpoint with which the map ends; without it, it is read as far as now.
    until: Option<Vec<u8>>,
}

#[derive(Debug)]
struct RunningDisk {
    machine: Machine,
    node: String,
    title: String,
    unfit: Option<Error>,
    name: Vec<u8>,
    /// Of all its layers, the top one first, and by what a directory knows each.
    files: Vec<String>,
    places: Vec<Vec<u8>>,
    threads: usize,
    shown: Option<Shown>,
}

impl RunningDisk {
    fn image(&self, access: Access) -> Result<Image> {
        let disk = self.machine.find(&self.node)?;
        let options = OpenOptions::new(access).threads(self.threads);
        Ok(Image::on(self.machine.host(&disk)?, Path::new(&self.title), &options))
    }
}

impl Disk for RunningDisk {
    fn name(&self) -> &[u8] {
        &self.name
    }

    fn place(&self) -> &[u8] {
        self.places.first().map(Vec::as_slice).unwrap_or_default()
    }

    fn is_at(&self, place: &[u8]) -> bool {
        self.places.iter().any(|own| own == place)
    }

    fn named(&self, error: Error) -> Error {
        error.in_file(Path::new(&self.title))
    }

    fn check_usable(&mut self, _observer: &mut dyn Observer) -> Result<()> {
        match &self.unfit {
            Some(error) if error.kind() == ErrorKind::InUse => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn check_create(&mut self, checkpoint: &[u8]) -> Result<Option<Error>> {
        if let Some(unfit) = &self.unfit {
            return Ok(Some(unfit.clone()));
        }
        let image = self.image(Access::Write)?;
        let planned = image.survey(&mut Unobserved).and_then(|()| image.plan_create(checkpoint, None, None));
        match planned {
            Ok(_) => Ok(None),
            Err(error) if keeps_no_checkpoint(&error) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    fn delete(&mut self, checkpoints: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, Vec<String>)> {
        if self.unfit.is_some() || checkpoints.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut image = self.image(Access::Write)?;
        let chain = image.chain(None)?;
        let there: Vec<&Vec<u8>> = checkpoints.iter().filter(|name| chain.checkpoint(name).is_some()).collect();
        if there.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let plan = image.plan_delete_many(&there, false, Layers::Check, None)?;
        let warnings = image.commit(&plan, &mut Unobserved)?;
        Ok((there.into_iter().cloned().collect(), warnings))
    }

    fn open(&mut self, observer: &mut dyn Observer) -> Result<Box<dyn Reading>> {
        let shown = self.shown.clone();
        let shown = shown.ok_or_else(|| Error::new(ErrorKind::NotFound, "the moment does not have this disk"))?;
        let content = Remote::new(shown.address.clone(), &shown.export, shown.size_bytes);
        content.connect(observer)?;
        let image = match self.unfit {
            Some(_) => None,
            None => Some(self.image(Access::Read)?),
        };
        if let Some(image) = image.as_ref().filter(|image| image.virtual_size() != shown.size_bytes) {
            let message = format!("the moment has {} bytes, its map {}", shown.size_bytes, image.virtual_size());
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        Ok(Box::new(AtMoment { image, content, shown, files: self.files.clone() }))
    }
}

/// A disk of a moment that is read.
#[derive(Debug)]
struct AtMoment {
    /// None where the disk has no bitmaps.
    image: Option<Image>,
    content: Remote,
    shown: Shown,
    files: Vec<String>,
}

impl Reading for AtMoment {
    fn content(&self) -> &dyn Content {
        &self.content
    }

    fn time(&self) -> SystemTime {
        self.shown.time
    }

    fn changed_since(
        &self,
        checkpoint: &[u8],
        observer: &mut dyn Observer,
    ) -> Result<std::result::Result<Bitmap, String>> {
        let Some(image) = &self.image else { return Ok(Err("the disk keeps no bitmaps".into())) };
        let request = DiffRequest::since(checkpoint);
        let exact = self.shown.until.as_ref().map(|until| image.diff(&request.until(until), observer));
        let diff = match exact {
            // A cumulative chain has maps that end now only: they have a few blocks more.
            Some(Err(error)) if error.kind() == ErrorKind::Model => image.diff(&request, observer),
            Some(diff) => diff,
            None => image.diff(&request, observer),
        };
        match diff {
            Err(error) if is_of_the_map(&error) => Ok(Err(error.reason().to_string())),
            diff => Ok(Ok(diff?.bitmap)),
        }
    }

    fn files(&self) -> Vec<SourceFile> {
        let file = |(at, path): (usize, &String)| SourceFile {
            path: PathBuf::from(path),
            format: "by the hypervisor".into(),
            role: if at == 0 { "the image" } else { "a backing file" },
        };
        self.files.iter().enumerate().map(file).collect()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn through_qemu(&self) -> Option<&str> {
        None
    }
}

/// Tells once where the scratch is nearly full, while another observer is told of the work.
pub(super) struct Watching<'a> {
    pub(super) inner: &'a mut (dyn Observer + 'a),
    pub(super) watch: &'a RefCell<Option<ScratchWatch>>,
    pub(super) say: Say<'a>,
    pub(super) looked: Instant,
    pub(super) is_told: bool,
}

impl Observer for Watching<'_> {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        if !self.is_told && self.looked.elapsed() >= BETWEEN_LOOKS {
            self.looked = Instant::now();
            if self.watch.borrow().as_ref().is_some_and(ScratchWatch::is_nearly_full) {
                self.is_told = true;
                (self.say)("the scratch is nearly full: soon the moment is lost, and the guest goes on");
            }
        }
        self.inner.step(step)
    }
}
