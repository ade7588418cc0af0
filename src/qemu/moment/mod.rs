#![forbid(unsafe_code)]
//! Owns a moment of a running machine: chosen disks as they were when a checkpoint was made, to be read while the guest writes on. Must
//! never know the use of the data.
//!
//! Before a block of a disk is overwritten, QEMU copies it to a scratch image. Where the copy fails or takes too long, the guest's write
//! goes on and the moment is lost (`break-snapshot`): from then on every read of it fails, so nobody takes new data for old.
//!
//! Where the backup job knows that rule (QEMU 11.1), it begins in the transaction of the checkpoint. Else a filter is put above each
//! disk behind the transaction, and the map is to be read as far as now: a write between the two is in the data and in the newest
//! bitmap. The machine stands still between the two where several disks are to show one moment.

mod knows;
mod note;
mod scratch;
mod setup;
mod standing;

use super::machine::Shared;
use super::owner::{self, Life, Owner};
use super::work::Work;
use super::{Disk, Machine};
use crate::chain::Plan;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::{Address, Client, ConnectOptions};
use crate::progress::Observer;
use note::{Form, Note, Thing};
pub(super) use standing::{clear_dead, resume, server};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often it is looked whether a hypervisor is gone, and how long it waits between two looks.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// How a moment is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MomentOptions {
    scratch: Option<PathBuf>,
    most_scratch_bytes: Option<u64>,
    id: Option<String>,
}

impl MomentOptions {
    /// The folder in which scratch images are made, in a folder of their own with mode 0700 that belongs to the hypervisor's user. Without
    /// it, `TMPDIR`, or `/var/tmp`.
    #[must_use]
    pub fn scratch(self, folder: Option<PathBuf>) -> Self {
        Self { scratch: folder, ..self }
    }

    /// How many bytes the scratch images of all disks may take together; without it, half of the free room in their folder. It holds also when
    /// this process is gone.
    #[must_use]
    pub fn most_scratch_bytes(self, most: Option<u64>) -> Self {
        Self { most_scratch_bytes: most, ..self }
    }

    /// A name under which the moment is found again, by [`Machine::take_up_moment`]: it stays in the hypervisor when this process ends without
    /// [`Moment::end`]. Without a name the next client removes it then.
    #[must_use]
    pub fn id(self, id: Option<String>) -> Self {
        Self { id, ..self }
    }
}

/// A disk of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MomentDisk {
    /// The name of its top node, as [`Disk::node`] gives it.
    pub node: String,
    /// Its size at the moment, in bytes.
    pub size_bytes: u64,
    /// The name of its export on [`Moment::address`].
    pub export: String,
}

/// The room that a scratch image takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScratchUse {
    /// The bytes that it takes now.
    pub used_bytes: u64,
    /// The bytes at which the moment is lost.
    pub most_bytes: u64,
}

impl ScratchUse {
    /// Whether more than four fifths are taken.
    pub fn is_nearly_full(&self) -> bool {
        self.used_bytes > scratch::nearly_full(self.most_bytes)
    }
}

/// Looks at the scratch images of a moment, also while the moment is used elsewhere.
#[derive(Clone, Debug)]
pub struct ScratchWatch {
    folder: PathBuf,
    disks: usize,
}

impl ScratchWatch {
    /// The room that each disk's scratch image takes; `None` where it cannot be seen from here. It asks the file system and not the hypervisor.
    pub fn look(&self) -> Vec<Option<ScratchUse>> {
        let usage = |at| scratch::usage(&self.folder, at);
        let of = |at| usage(at).map(|(used_bytes, most_bytes)| ScratchUse { used_bytes, most_bytes });
        (0..self.disks).map(of).collect()
    }

    /// Whether one of them is nearly full.
    pub fn is_nearly_full(&self) -> bool {
        self.look().iter().flatten().any(ScratchUse::is_nearly_full)
    }
}

/// A moment that stands in a hypervisor, of this client or another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StandingMoment {
    /// The name that its owner gave it.
    pub id: Option<String>,
    /// Whether its owner is alive.
    pub is_owned: bool,
    /// The top nodes of its disks.
    pub nodes: Vec<String>,
}

/// Chosen disks of a machine as they were when a checkpoint was made. One stands in a hypervisor at a time.
///
/// When it is dropped without [`Moment::end`], one with a name stays, and one without is removed as far as that works.
#[derive(Debug)]
pub struct Moment {
    shared: Arc<Shared>,
    note: Note,
    /// Of the folder with the socket, and of that with the scratch images.
    owners: (Option<Owner>, Option<Owner>),
    disks: Vec<MomentDisk>,
    warnings: Vec<String>,
}

impl Machine {
    /// Carries out plans that make a checkpoint on disks, and keeps the disks as they are at that moment, for reading; one without a plan
    /// gets no checkpoint. `say` is called with what the user should know, before anything is changed.
    ///
    /// No write of the guest fails or waits without bound for it. Where an error comes back that is not marked as
    /// [nothing changed](Error::nothing_changed), the checkpoint can be there: look, and delete it.
    ///
    /// [`ErrorKind::Unsupported`]: this hypervisor cannot do it without a danger to the guest. [`ErrorKind::InUse`]: another moment
    /// stands, or a job works on the disks. [`ErrorKind::CannotStore`]: too little room for scratch images. Else the errors of a commit.
    pub fn begin_moment(
        &self,
        disks: &[(&Disk, Option<&Plan>)],
        options: &MomentOptions,
        say: &mut dyn FnMut(&str),
        observer: &mut dyn Observer,
    ) -> Result<Moment> {
        setup::begin(&self.shared, disks, options, say, observer).map_err(|error| self.name_it(error))
    }

    /// The moment that stands in the hypervisor.
    pub fn standing_moment(&self, observer: &mut dyn Observer) -> Result<Option<StandingMoment>> {
        let noted = standing::noted(&self.shared, &mut self.shared.connection(), observer);
        let noted = noted.map_err(|error| self.name_it(error))?;
        Ok(noted.map(|note| StandingMoment {
            is_owned: !matches!(owner::life_of(&note.folder.to_string_lossy()), Life::Dead(_)),
            id: note.id,
            nodes: note.disks.into_iter().map(|disk| disk.node).collect(),
        }))
    }

    /// Takes up the moment with this name, whose owner is gone; `None` where none stands.
    ///
    /// [`ErrorKind::InUse`]: its owner is alive, or cannot be looked at from here.
    pub fn take_up_moment(&self, id: &str, observer: &mut dyn Observer) -> Result<Option<Moment>> {
        self.take_up(id, observer).map_err(|error| self.name_it(error))
    }

    fn take_up(&self, id: &str, observer: &mut dyn Observer) -> Result<Option<Moment>> {
        let mut work = Work::begin(&self.shared, observer)?;
        let noted = standing::noted(&self.shared, &mut work.connection, observer)?;
        let Some(note) = noted.filter(|note| note.id.as_deref() == Some(id)) else { return Ok(None) };
        let lock = match owner::life_of(&note.folder.to_string_lossy()) {
            Life::Dead(Some(lock)) => lock,
            Life::Dead(None) => {
                standing::remove(&mut work, &note)?;
                standing::forget(&note);
                return Ok(None);
            }
            life => return Err(owner::in_use(&note.folder.to_string_lossy(), &life)),
        };
        let owner = Owner::adopt(note.folder.clone(), lock);
        let scratch = match owner::life_of(&note.scratch.to_string_lossy()) {
            Life::Dead(Some(lock)) => Some(Owner::adopt(note.scratch.clone(), lock)),
            _ => None,
        };
        if !standing::is_whole(&self.shared, &mut work.connection, &note)? {
            standing::remove(&mut work, &note)?;
            return Ok(None);
        }
        Ok(Some(Moment::new(&self.shared, note, (Some(owner), scratch), Vec::new())))
    }
}

impl Moment {
    fn new(shared: &Arc<Shared>, note: Note, owners: (Option<Owner>, Option<Owner>), warnings: Vec<String>) -> Self {
        let disk = |(at, disk): (usize, &note::NotedDisk)| MomentDisk {
            node: disk.node.clone(),
            size_bytes: disk.size_bytes,
            export: note.name(Thing::Access, at),
        };
        let disks = note.disks.iter().enumerate().map(disk).collect();
        Self { shared: Arc::clone(shared), note, owners, disks, warnings }
    }

    /// The disks, in the order in which they were given.
    pub fn disks(&self) -> &[MomentDisk] {
        &self.disks
    }

    /// What the caller should tell its user, now that it stands.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// When it began.
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.note.began_s)).unwrap_or(UNIX_EPOCH)
    }

    /// Whether the map of a disk ends with the checkpoint of the moment. Else it is to be read as far as now, once this moment stands: a
    /// block too much in it does no harm, and one that was written just before the moment is not missing.
    pub fn ends_at_checkpoint(&self) -> bool {
        self.note.form == Form::Job
    }

    /// Where the exports of the disks are.
    pub fn address(&self) -> Address {
        Address::Unix(self.note.server.clone())
    }

    /// Connects to the disk at this place, which reads as it was at the moment, with the context `base:allocation`.
    ///
    /// [`ErrorKind::InvalidArgument`]: no such place. Else the errors of [`Client::connect`].
    pub fn connect(&self, at: usize, observer: &mut dyn Observer) -> Result<Client> {
        let disk = self.disks.get(at).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, format!("a moment of {} disks has none at {at}", self.disks.len()))
        })?;
        let contexts: &[&[u8]] = &[b"base:allocation"];
        let options = ConnectOptions::new(disk.export.as_bytes()).contexts(contexts).disk_bytes(disk.size_bytes);
        Client::connect(&self.address(), &options.timeout(self.shared.options.timeout), observer)
    }

    /// Fails where the moment is lost: a block could not be copied before the guest overwrote it. Ask this behind the last read.
    pub fn check(&self, observer: &mut dyn Observer) -> Result<()> {
        for (at, disk) in self.disks.iter().enumerate() {
            let read = self.connect(at, observer).and_then(|mut client| {
                let len = client.min_block_bytes().max(512).min(client.size_bytes());
                let mut buffer = crate::memory::zeroed(usize::try_from(len).unwrap_or_default())?;
                client.read(&mut buffer, 0, observer)
            });
            match read {
                Err(error) if error.is_of_the_call() => return Err(error),
                Err(error) => {
                    let full = self
                        .scratch_watch()
                        .look()
                        .get(at)
                        .copied()
                        .flatten()
                        .is_some_and(|room| room.is_nearly_full());
                    let why = if full { ": the scratch is full" } else { "" };
                    let message = format!("the moment of the disk {:?} is lost{why}; the guest goes on", disk.node);
                    return Err(Error::new(ErrorKind::NoSpace, message)
                        .with_source(error)
                        .advise("begin again with more room for the scratch, or while the guest writes less"));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The watch of its scratch images.
    pub fn scratch_watch(&self) -> ScratchWatch {
        ScratchWatch { folder: self.note.scratch.clone(), disks: self.disks.len() }
    }

    /// The folder of the scratch images.
    pub fn scratch_folder(&self) -> &Path {
        &self.note.scratch
    }

    /// Removes everything of it from the hypervisor, and the scratch images. The checkpoint stays. Where that fails the next client goes on.
    pub fn end(mut self, observer: &mut dyn Observer) -> Result<()> {
        self.remove(observer).map_err(|error| error.in_file(&PathBuf::from(self.shared.monitor.title())))
    }

    /// Leaves it in the hypervisor, for [`Machine::take_up_moment`] where it has a name.
    pub fn leave(mut self) {
        self.give_up();
    }

    fn give_up(&mut self) {
        let (owner, scratch) = &mut self.owners;
        for mut owner in owner.take().into_iter().chain(scratch.take()) {
            owner.leave();
        }
    }

    fn remove(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let removed = Work::begin(&self.shared, observer).and_then(|mut work| {
            standing::remove(&mut work, &self.note)?;
            work.refresh(observer)
        });
        match removed {
            Ok(()) => self.owners = (None, None),
            // The hypervisor is gone, and all that it had.
            Err(_) if !self.stays_served() => {
                scratch::remove(&self.note.scratch, self.note.disks.len());
                self.owners = (None, None);
            }
            Err(_) => self.give_up(),
        }
        removed
    }

    /// Whether somebody listens where its exports are, and goes on to do so: the system closes the sockets of a process that was killed a
    /// moment after its end.
    fn stays_served(&self) -> bool {
        let is_served = || UnixStream::connect(&self.note.server).is_ok();
        (0..LOOKS).all(|look| {
            if look > 0 {
                sleep(BETWEEN_LOOKS);
            }
            is_served()
        })
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if self.owners.0.is_none() {
            return;
        }
        match self.note.id {
            Some(_) => self.give_up(),
            // The next client tries it again where this fails.
            None => drop(self.remove(&mut crate::progress::Unobserved)),
        }
    }
}
