//! Owns a virtual machine in memory: disks with bitmaps, changed by one transaction over all of them, as a running
//! hypervisor does it. Cannot try a change beforehand, and is busy or fails where a test wants it. Must never know checkpoints.

use checkmap::chain::{Action, BitmapState, Name};
use checkmap::error::{Error, ErrorKind, Result};
use checkmap::host::{
    Backing, CheckReport, Facts, Host, Membership, Problem, Severity, Share, Transaction, UnionRequest, unite,
};
use checkmap::image::{Access, OpenOptions};
use checkmap::progress::{Observer, Step};
use checkmap::{Bitmap, Granularity, Image};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A bitmap as the machine keeps it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) bits: Bitmap,
    pub(crate) recording: bool,
    pub(crate) inconsistent: bool,
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        let bits = self.bits.try_clone().expect("memory for a few bits");
        Self { bits, recording: self.recording, inconsistent: self.inconsistent }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) size_bytes: u64,
    pub(crate) granularity: Granularity,
    pub(crate) bitmaps: Vec<(Name, Kept)>,
    /// How often the list of bitmaps was changed.
    pub(crate) changes: u64,
}

impl Disk {
    fn get(&mut self, name: &Name) -> Result<&mut Kept> {
        let found = self.bitmaps.iter_mut().find(|(own, _)| own == name).map(|(_, kept)| kept);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no bitmap {name}")))
    }

    fn carry_out(&mut self, action: &Action) -> Result<()> {
        self.changes += 1;
        match action {
            Action::Add { name, granularity } => {
                let bits = Bitmap::new(self.size_bytes, *granularity)?;
                assert!(self.get(name).is_err(), "{name} was there");
                self.bitmaps.push((name.clone(), Kept { bits, recording: true, inconsistent: false }));
            }
            Action::Merge { sources, target } => {
                assert!(!sources.is_empty(), "a merge of nothing kills a QEMU");
                for source in sources {
                    let granularity = self.get(target)?.bits.granularity();
                    let bits = self.get(source)?.bits.to_granularity(granularity)?;
                    self.get(target)?.bits.union_with(&bits)?;
                }
            }
            Action::Remove { name } => {
                self.get(name)?;
                self.bitmaps.retain(|(own, _)| own != name);
            }
            Action::Rename { from, to } => {
                assert!(self.get(to).is_err(), "{to} was there");
                self.get(from)?;
                self.bitmaps.iter_mut().filter(|(own, _)| own == from).for_each(|(own, _)| *own = to.clone());
            }
            Action::SetRecording { name, recording } => self.get(name)?.recording = *recording,
            other => panic!("the machine does not know {other}"),
        }
        Ok(())
    }
}

/// A bitmap to be compared: its name, whether it records and is inconsistent, and its extents.
pub(crate) type Shown = (Name, bool, bool, Vec<(u64, u64)>);

/// What happens to the next step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Weather {
    #[default]
    Fine,
    /// A bitmap of this disk is in use by an export.
    Busy(String),
    /// The last action on this disk fails.
    Fails(String),
    /// The connection breaks, and the step was done or not.
    InDoubt { done: bool },
}

#[derive(Debug)]
pub(crate) struct Machine {
    disks: Mutex<BTreeMap<String, Disk>>,
    weather: Mutex<Weather>,
    /// How many unions it was asked for.
    pub(crate) unions: AtomicUsize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// A machine with disks of these names, sizes and granularities.
    pub(crate) fn new(disks: &[(&str, u64, u64)]) -> Arc<Self> {
        let disk = |&(name, size_bytes, granularity): &(&str, u64, u64)| {
            let granularity = Granularity::from_bytes(granularity).expect("a granularity");
            (name.to_owned(), Disk { size_bytes, granularity, bitmaps: Vec::new(), changes: 0 })
        };
        Arc::new(Self {
            disks: Mutex::new(disks.iter().map(disk).collect()),
            weather: Mutex::default(),
            unions: AtomicUsize::new(0),
        })
    }

    pub(crate) fn disks(&self) -> MutexGuard<'_, BTreeMap<String, Disk>> {
        locked(&self.disks)
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *locked(&self.weather) = weather;
    }

    /// The guest writes.
    pub(crate) fn write(&self, disk: &str, offset: u64, len_bytes: u64) {
        let mut disks = self.disks();
        for (_, kept) in &mut disks.get_mut(disk).expect("the disk").bitmaps {
            if kept.recording && !kept.inconsistent {
                kept.bits.set(offset, len_bytes).expect("a write on the disk");
            }
        }
    }

    /// A handle to one of its disks, of a client of its own.
    pub(crate) fn open(self: &Arc<Self>, disk: &str) -> Image {
        Image::on(Box::new(Node::new(self, disk)), Path::new(disk), &OpenOptions::new(Access::Write))
    }

    /// Everything that the machine holds, to be compared.
    pub(crate) fn content(&self) -> Vec<(String, Vec<Shown>)> {
        let extents = |bits: &Bitmap| bits.extents(0, u64::MAX).map(|one| (one.offset, one.len_bytes)).collect();
        let kept = |(name, kept): &(Name, Kept)| (name.clone(), kept.recording, kept.inconsistent, extents(&kept.bits));
        self.disks().iter().map(|(name, disk)| (name.clone(), disk.bitmaps.iter().map(kept).collect())).collect()
    }
}

impl Transaction for Machine {
    fn apply(&self, shares: &[Share<'_>], observer: &mut dyn Observer) -> Result<Vec<Vec<String>>> {
        if observer.step(Step::new("changing bitmaps", 0, 1)) == ControlFlow::Break(()) {
            return Err(Error::new(ErrorKind::Cancelled, "stopped as asked").nothing_changed());
        }
        let weather = std::mem::take(&mut *locked(&self.weather));
        let mut disks = self.disks();
        let mut after = disks.clone();
        for share in shares {
            let refused = |kind, what: &str| {
                Err(Error::new(kind, format!("a bitmap of {} {what}", share.disk)).nothing_changed())
            };
            for (at, action) in share.actions.iter().enumerate() {
                if weather == Weather::Busy(share.disk.into()) {
                    return refused(ErrorKind::InUse, "is currently in use by another operation");
                }
                if weather == Weather::Fails(share.disk.into()) && at + 1 == share.actions.len() {
                    return refused(ErrorKind::Io, "cannot be changed");
                }
                after.get_mut(share.disk).expect("the disk").carry_out(action)?;
            }
        }
        let in_doubt = Err(Error::new(ErrorKind::CommitInDoubt, "the connection broke"));
        match weather {
            Weather::InDoubt { done: false } => in_doubt,
            Weather::InDoubt { done: true } => {
                *disks = after;
                in_doubt
            }
            _ => {
                *disks = after;
                Ok(shares.iter().map(|share| vec![format!("{} keeps it in memory", share.disk)]).collect())
            }
        }
    }
}

/// A disk of a machine, as one client read it.
#[derive(Debug)]
pub(crate) struct Node {
    machine: Arc<Machine>,
    disk: String,
    size_bytes: u64,
    granularity: Granularity,
    bitmaps: Vec<BitmapState>,
    changes: u64,
    /// Answers for the disk of this name instead, as a hypervisor does that was given the wrong node.
    pub(crate) answers_for: Option<String>,
    /// The name of an image below, if the disk has one.
    pub(crate) below: Option<Vec<u8>>,
}

impl Node {
    pub(crate) fn new(machine: &Arc<Machine>, disk: &str) -> Self {
        let (size_bytes, granularity) = {
            let disk = &machine.disks()[disk];
            (disk.size_bytes, disk.granularity)
        };
        let (machine, disk) = (Arc::clone(machine), disk.to_owned());
        let mut node = Self {
            machine,
            disk,
            size_bytes,
            granularity,
            bitmaps: Vec::new(),
            changes: 0,
            answers_for: None,
            below: None,
        };
        node.read_again().expect("memory can be read");
        node
    }
}

impl Host for Node {
    fn facts(&self) -> Facts<'_> {
        let mut facts = Facts::new("machine", self.size_bytes);
        facts.backing = self.below.as_deref().map(|name| Backing::new(name, None));
        facts
    }

    fn bitmaps(&self) -> Box<dyn Iterator<Item = BitmapState> + '_> {
        Box::new(self.bitmaps.iter().cloned())
    }

    fn is_unchanged(&self) -> Result<bool> {
        Ok(self.machine.disks()[&self.disk].changes == self.changes)
    }

    fn default_granularity(&self) -> Result<Granularity> {
        Ok(self.granularity)
    }

    fn check_granularity(&self, granularity: Granularity) -> Result<()> {
        match granularity.bytes() {
            512.. => Ok(()),
            _ => Err(Error::new(ErrorKind::InvalidArgument, "a granularity below 512 bytes")),
        }
    }

    fn union(&self, request: &UnionRequest<'_>, observer: &mut dyn Observer) -> Result<Bitmap> {
        self.machine.unions.fetch_add(1, Ordering::Relaxed);
        let mut disks = self.machine.disks();
        let disk = disks.get_mut(self.answers_for.as_ref().unwrap_or(&self.disk)).expect("the disk");
        unite(request, observer, |name| disk.get(name)?.bits.try_clone())
    }

    fn apply(&mut self, actions: &[Action], observer: &mut dyn Observer) -> Result<Vec<String>> {
        let applied = self.machine.apply(&[Share::new(&self.disk, actions)], observer);
        if applied.as_ref().map_or_else(|error| error.kind() == ErrorKind::CommitInDoubt, |_| true) {
            self.read_again()?;
        }
        applied.map(|warnings| warnings.into_iter().flatten().collect())
    }

    fn membership(&self) -> Option<Membership> {
        Some(Membership::new(Arc::clone(&self.machine) as Arc<dyn Transaction>, self.disk.as_str()))
    }

    fn read_again(&mut self) -> Result<()> {
        let disks = self.machine.disks();
        let disk = &disks[&self.disk];
        let state = |(name, kept): &(Name, Kept)| {
            let mut state = BitmapState::new(name.clone(), kept.bits.granularity(), kept.recording);
            state.inconsistent = kept.inconsistent;
            state
        };
        (self.bitmaps, self.changes) = (disk.bitmaps.iter().map(state).collect(), disk.changes);
        Ok(())
    }

    fn check(&self, _: &mut dyn Observer) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        for bitmap in self.bitmaps.iter().filter(|bitmap| bitmap.inconsistent) {
            report.unusable += 1;
            report.problems.push(Problem::new(
                Severity::Unusable,
                format!("bitmap {}", bitmap.name),
                "is inconsistent",
            ));
        }
        Ok(report)
    }
}
