#![forbid(unsafe_code)]
//! Owns what every verb shares: how images are opened, and how the person is talked to on stderr. Must never know what
//! a verb does.

use crate::args::{Common, MetadataArg, Sharing};
use crate::disks::{Disk, Disks};
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::progress::{Watch, When};
use crate::target::{Target, TargetArgs};
use crate::words::one_line;
use checkmap::Image;
use checkmap::image::{Access, OpenOptions};
use checkmap::libvirt::Metadata;
use checkmap::qemu::{self, Machine};
use std::io::Write;
use std::path::Path;
use std::thread::available_parallelism;

/// An image is read and written by no more threads than these, however many processors there are.
const MOST_THREADS: usize = 8;

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Session {
    quiet: bool,
    no_lock: bool,
    progress: When,
    interrupt: Interrupt,
}

impl Session {
    pub(crate) fn new(common: &Common) -> Self {
        let progress = if common.quiet { When::Never } else { common.progress };
        Self { quiet: common.quiet, no_lock: common.no_lock, progress, interrupt: Interrupt::install() }
    }

    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Whether only errors are told.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether images are to be opened without locks.
    pub(crate) fn is_without_locks(&self) -> bool {
        self.no_lock
    }

    /// Opens the image for `access`, and passes on the warnings of the opening.
    pub(crate) fn open(&self, image: &Path, access: Access) -> Result<Image, Failure> {
        // Names take no locks anyway, but they look for those of a running writer.
        let no_lock = self.no_lock && access != Access::Names;
        let image = Image::open(image, &OpenOptions::new(access).no_lock(no_lock).threads(threads()))?;
        for warning in image.warnings() {
            self.warn(warning);
        }
        if let Some(unfinished) = image.unfinished().filter(|_| access != Access::Write) {
            self.warn(&format!(
                "{}: a change of this image and others in one step was interrupted ({}): what is read here is true, and the others \
                 may differ until `checkmap recover`, or the next change of one of them, ends the step",
                image.path().display(),
                unfinished.journal.display()
            ));
        }
        Ok(image)
    }

    /// Opens the disks to be shown: an image for names only where the person wants to share it with a running QEMU.
    pub(crate) fn open_shared(&self, target: Target<'_>, sharing: Sharing) -> Result<Disks, Failure> {
        self.open_disks(target, if sharing.force_share { Access::Names } else { Access::Read })
    }

    /// Opens the image, or the disks of the hypervisor that are meant: all of them where none is named.
    pub(crate) fn open_disks(&self, target: Target<'_>, access: Access) -> Result<Disks, Failure> {
        let arguments = match target {
            Target::Image(path) => return Ok(Disks::of_image(self.open(path, access)?)),
            Target::Machine(arguments) => arguments,
        };
        let (machine, wanted) = self.machine(arguments)?;
        let is_named = !arguments.nodes().is_empty();
        let mut disks = Disks { disks: Vec::new(), machine: None, is_named, is_single: wanted.len() == 1 && is_named };
        let options = OpenOptions::new(access).threads(threads());
        for disk in wanted {
            let image = Image::on(machine.host(&disk)?, Path::new(disk.title()), &options);
            disks.disks.push(Disk { image, of_machine: Some(disk) });
        }
        disks.machine = Some(machine);
        Ok(disks)
    }

    /// Connects to a hypervisor; with its disks that are meant, all of them where none is named.
    pub(crate) fn machine(&self, arguments: &TargetArgs) -> Result<(Machine, Vec<qemu::Disk>), Failure> {
        let machine = Machine::connect(arguments.monitor(), &arguments.options(), &mut self.watch())?;
        for warning in machine.warnings() {
            self.warn(&warning);
        }
        let mut wanted: Vec<qemu::Disk> = Vec::new();
        for node in arguments.nodes() {
            let disk = machine.find(node)?;
            if wanted.iter().any(|other| other.node() == disk.node()) {
                return Err(Failure::Usage(format!("--node {node} names a disk that is named already")));
            }
            wanted.push(disk);
        }
        if wanted.is_empty() {
            wanted = machine.disks()?;
        }
        Ok((machine, wanted))
    }

    /// What libvirt keeps of its checkpoints: from the folder that is named, or asked of the daemon where the machine is one of its
    /// domains. `None` where neither is so. With `whole` also the domains as they were.
    pub(crate) fn metadata(
        &self,
        args: &MetadataArg,
        machine: Option<&Machine>,
        whole: bool,
    ) -> Result<Option<Metadata>, Failure> {
        Ok(match (&args.libvirt_xml, machine) {
            (Some(folder), _) => Some(Metadata::read(folder)?),
            (None, Some(machine)) => machine.libvirt_metadata(whole, &mut self.watch())?,
            (None, None) => None,
        })
    }

    /// Opens the one disk that is meant.
    pub(crate) fn open_one(&self, target: Target<'_>, access: Access) -> Result<Image, Failure> {
        self.open_disks(target, access)?.one()
    }

    /// The observer of one piece of work: shows how far it is, and stops it when a signal came.
    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch::new(&self.interrupt, self.progress)
    }

    /// Tells the user of a finished change.
    pub(crate) fn say(&self, message: &str) {
        if !self.quiet {
            tell(message);
        }
    }

    /// Tells what the person should know.
    pub(crate) fn warn(&self, message: &str) {
        if !self.quiet {
            tell(&format!("warning: {message}"));
        }
    }

    /// Tells why it ends badly; `--quiet` does not silence it.
    pub(crate) fn error(&self, message: &str) {
        tell(message);
    }
}

pub(crate) fn threads() -> usize {
    available_parallelism().map_or(1, |threads| threads.get().min(MOST_THREADS))
}

fn tell(message: &str) {
    // Where stderr is closed, nobody is left to be told.
    let _ = writeln!(std::io::stderr().lock(), "checkmap: {}", one_line(message));
}
