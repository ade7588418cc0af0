#![forbid(unsafe_code)]
//! Running hypervisors: the disks of a QEMU that is reached over QMP, with the same checkpoints as its images have offline.
//!
//! ```no_run
//! use checkmap::image::{Access, DiffRequest, Group, Image, OpenOptions};
//! use checkmap::progress::Unobserved;
//! use checkmap::qemu::{Machine, Monitor, Options};
//! use std::path::Path;
//!
//! let machine = Machine::connect(Monitor::Socket("/run/vm/qmp.sock".into()), &Options::default(), &mut Unobserved)?;
//! let mut disks = Vec::new();
//! for disk in machine.disks()?.iter().filter(|disk| disk.unfit().is_none()) {
//!     disks.push(Image::on(machine.host(disk)?, Path::new(disk.title()), &OpenOptions::new(Access::Write)));
//! }
//! // One moment for all disks.
//! let mut group = Group::new(&mut disks)?;
//! let plans = group.plan(|disk| disk.plan_create(b"tuesday", None, None))?;
//! group.commit(&plans, &mut Unobserved)?;
//! for disk in &disks {
//!     let diff = disk.diff(&DiffRequest::since(b"monday").until(b"tuesday"), &mut Unobserved)?;
//!     println!("{}: {} bytes", disk.path().display(), diff.bitmap.dirty_bytes());
//! }
//! # Ok::<(), checkmap::Error>(())
//! ```
//!
//! # Manners
//!
//! A change is one QMP transaction over all disks, which QEMU carries out whole or not at all. A diff reads the bitmaps over NBD as
//! they are, so no disk of the machine waits. One client of checkmap works in a hypervisor at a time; a second one waits for it. All that
//! a client that was killed left in the hypervisor is removed by the next one.
//!
//! A checkpoint that is made here exists in the hypervisor's memory until the disk is closed. After `kill -9` or a power cut the chain
//! has ended, and the next backup must be full.

// Owns the way to a running QEMU. Knows hosts, bitmaps, the chain's actions and NBD; must never know images, nor how a command is
// spelled.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod answer;
mod commands;
mod disk;
mod exports;
mod fill;
mod machine;
mod moment;
mod monitor;
mod nodes;
mod owner;
mod read;
mod reopen;
mod snapshot;
mod state;
mod virsh;
mod work;

use crate::chain::Plan;
use crate::error::{Error, Result};
use crate::host::{Host, Share};
use crate::libvirt::{Change, DomainCheckpoint, Metadata};
use crate::progress::Observer;
use disk::DiskHost;
use machine::Shared;
pub use moment::{Moment, MomentDisk, MomentOptions, ScratchUse, ScratchWatch, StandingMoment};
pub use monitor::Monitor;
pub use read::ALLOCATION_DEPTH;
pub use snapshot::Snapshot;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a hypervisor is worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    timeout: Duration,
    nbd_socket: Option<PathBuf>,
    max_stall: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), nbd_socket: None, max_stall: None }
    }
}

impl Options {
    /// How long a monitor may stay silent at the beginning and while it is asked about a change that was sent or tidied up, virsh with each
    /// answer but that of a change, an NBD server with each answer, and another client of checkmap at work: 30 seconds without it. It does not run while a transaction of ours is
    /// carried out, nor while an observer is asked whether to go on.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The Unix socket of the NBD server that runs in the hypervisor already, on which bitmaps are exported; without it, one is started for
    /// as long as it is needed.
    #[must_use]
    pub fn nbd_socket(self, socket: Option<PathBuf>) -> Self {
        Self { nbd_socket: socket, ..self }
    }

    /// Refuses a step that is expected to stop the disks of the machine for longer than this.
    #[must_use]
    pub fn max_stall(self, most: Option<Duration>) -> Self {
        Self { max_stall: most, ..self }
    }
}

/// A disk of a running hypervisor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Disk {
    title: String,
    target: Option<String>,
    node: String,
    file: String,
    driver: String,
    size_bytes: u64,
    unfit: Option<Error>,
}

impl Disk {
    /// The name of its device, or of its node where there is no device.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Its name in libvirt's domain, such as `vda`; `None` where the hypervisor is not reached through libvirt, or libvirt's list does not
    /// tell which of its disks it is.
    pub fn libvirt_target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// The name of the block node at its top, without the filters of jobs.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The file of that node, as the hypervisor names it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The driver of that node, such as `raw`.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Why no checkpoint can be made on it, where that is so: its format keeps no bitmaps, or it is read-only.
    pub fn unfit(&self) -> Option<&Error> {
        self.unfit.as_ref()
    }
}

/// Reads bytes as a JSON list of three answers, to the questions for block nodes, their graph and the devices, and looks for the disks in
/// them: for fuzzing, as the answers come from another process.
#[doc(hidden)]
pub fn read_answers(bytes: &[u8]) {
    let Ok([nodes, graph, devices]) = serde_json::from_slice::<[serde_json::Value; 3]>(bytes) else { return };
    let Ok(nodes) = nodes::Nodes::read(&nodes::Answers { nodes, graph, devices }) else {
        return;
    };
    let Ok(disks) = nodes.disks() else { return };
    for disk in &disks {
        // It is an error where two are called so.
        let _ = nodes.find(&disk.title);
        let layers = disk.layers.iter().filter(|layer| nodes.get(layer).is_none()).count();
        debug_assert_eq!(layers, 0, "a layer that is not described");
        let _ = state::DiskState::of(&nodes, &disk.layers);
    }
}

/// A running hypervisor. Clones share one connection; calls from several threads wait for one another.
#[derive(Clone, Debug)]
pub struct Machine {
    shared: Arc<Shared>,
}

impl Machine {
    /// Connects, reads the disks, and removes what a client that was killed left behind.
    ///
    /// Fails with [`ErrorKind::InUse`](crate::ErrorKind::InUse) where the monitor says nothing in time, as another client has it;
    /// with an error of the system where nobody listens; with [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) where the answers are
    /// not those of QEMU.
    pub fn connect(monitor: Monitor, options: &Options, observer: &mut dyn Observer) -> Result<Self> {
        let title = PathBuf::from(monitor.title());
        let shared = Shared::connect(monitor, options.clone(), observer).map_err(|error| error.in_file(&title))?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Asks anew which disks the machine has. [`disks`](Self::disks), [`find`](Self::find) and [`layers_below`](Self::layers_below) answer by
    /// the last look, which a snapshot or a hot-plug makes old; each call that changes something looks by itself.
    pub fn refresh(&self, observer: &mut dyn Observer) -> Result<()> {
        self.shared.refresh(observer).map_err(|error| self.name_it(error))
    }

    /// The disks of the guest's devices, in the order of the hypervisor; where it has no devices, all images that nothing stands on.
    pub fn disks(&self) -> Result<Vec<Disk>> {
        self.shared.disks().map_err(|error| self.name_it(error))
    }

    /// The disk that is meant by the name of a node, of a device or its id, by libvirt's target such as `vda`, or by an image file.
    ///
    /// Fails with [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), and with [`ErrorKind::Exists`](crate::ErrorKind::Exists) where two
    /// are called so.
    pub fn find(&self, name: &str) -> Result<Disk> {
        self.shared.find(name).map_err(|error| self.name_it(error))
    }

    /// The layers below a disk, the nearest first, each as a disk of its own.
    pub fn layers_below(&self, disk: &Disk) -> Result<Vec<Disk>> {
        self.shared.layers_below(&disk.node).map_err(|error| self.name_it(error))
    }

    /// How many bytes of a disk take room in any of its layers.
    pub fn allocated_bytes(&self, disk: &Disk, observer: &mut dyn Observer) -> Result<u64> {
        read::allocated_bytes(&self.shared, &disk.node, observer).map_err(|error| self.name_it(error))
    }

    /// The host of the disk's bitmaps, for [`Image::on`](crate::Image::on). Hosts of one machine change in one step.
    pub fn host(&self, disk: &Disk) -> Result<Box<dyn Host>> {
        let host = DiskHost::open(&self.shared, &disk.node).map_err(|error| self.name_it(error))?;
        Ok(Box::new(host))
    }

    /// The QMP commands, one JSON document each, that the plans for these disks come to: nothing is sent. `transaction` carries out all
    /// of them or none; layers below are made writable before it, and read-only behind it.
    pub fn commands(&self, plans: &[(&Disk, &Plan)]) -> Result<Vec<String>> {
        let mut shares = Vec::new();
        for (disk, plan) in plans {
            shares.push(Share::new(&disk.node, plan.actions()));
            shares.extend(plan.below().iter().map(|below| Share::new(&below.disk, &below.actions)));
        }
        self.shared.lines_from_last(&shares).map_err(|error| self.name_it(error))
    }

    /// What libvirt keeps of the checkpoints of this domain; `None` where the hypervisor is not reached through libvirt. With `whole` also
    /// the domain as it was at each of them.
    ///
    /// Fails as [`Metadata::of`] does, with [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) where an answer is none of libvirt's, and with
    /// [`ErrorKind::Changed`](crate::ErrorKind::Changed) where a checkpoint went meanwhile.
    pub fn libvirt_metadata(&self, whole: bool, observer: &mut dyn Observer) -> Result<Option<Metadata>> {
        let documents = self.shared.documents(whole, observer).map_err(|error| self.name_it(error))?;
        let Some(documents) = documents else { return Ok(None) };
        let read = documents.into_iter().map(DomainCheckpoint::read).collect::<Result<_>>();
        read.and_then(Metadata::of).map(Some).map_err(|error| self.name_it(error))
    }

    /// The targets of all disks that libvirt's domain has, such as `vda`; `None` where the hypervisor is not reached through libvirt.
    pub fn libvirt_targets(&self) -> Option<Vec<String>> {
        matches!(self.shared.monitor, Monitor::Libvirt { .. }).then(|| self.shared.targets())
    }

    /// Carries out changes of what libvirt notes of its checkpoints, one after the other; it compares each that it is told of with the
    /// bitmaps. Where one is refused, those before it stay, and `done` counts them.
    pub fn change_libvirt(&self, changes: &[Change], done: &mut usize, observer: &mut dyn Observer) -> Result<()> {
        self.shared.change_notes(changes, done, observer).map_err(|error| self.name_it(error))
    }

    /// What the caller should tell its user of this way to the hypervisor.
    pub fn warnings(&self) -> Vec<String> {
        match &self.shared.monitor {
            Monitor::Socket(_) => Vec::new(),
            Monitor::Libvirt { domain, .. } => vec![format!(
                "libvirt marks the domain {domain} as tainted (custom-monitor), since it is asked through \
                 qemu-monitor-command"
            )],
        }
    }

    fn name_it(&self, error: Error) -> Error {
        error.in_file(&PathBuf::from(self.shared.monitor.title()))
    }
}
