#![forbid(unsafe_code)]
//! Owns the open disks of one verb: one image, or disks of a running hypervisor that change in one step. Must never know the verb.

use crate::exit::Failure;
use checkmap::Image;
use checkmap::qemu::{self, Machine};

/// A disk of a verb.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) image: Image,
    /// The disk of the hypervisor, where it is one.
    pub(crate) of_machine: Option<qemu::Disk>,
}

impl Disk {
    /// The block node, as JSON names the disk.
    pub(crate) fn node(&self) -> Option<&str> {
        self.of_machine.as_ref().map(qemu::Disk::node)
    }
}

/// The disks of a verb.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) disks: Vec<Disk>,
    pub(crate) machine: Option<Machine>,
    /// Whether the person named them one by one.
    pub(crate) is_named: bool,
    /// Whether the answer is that of one disk, and not a list.
    pub(crate) is_single: bool,
}

impl Disks {
    pub(crate) fn of_image(image: Image) -> Self {
        let disks = vec![Disk { image, of_machine: None }];
        Self { disks, machine: None, is_named: true, is_single: true }
    }

    /// The only disk; a usage error names the others.
    pub(crate) fn one(mut self) -> Result<Image, Failure> {
        match (self.disks.pop(), self.disks.len()) {
            (Some(disk), 0) => Ok(disk.image),
            (None, _) => Err(Failure::Usage("the machine has no disk".into())),
            (Some(last), _) => {
                let others = self.disks.iter().chain([&last]).map(|disk| disk.image.path().display().to_string());
                let others: Vec<String> = others.collect();
                Err(Failure::Usage(format!("say one of the disks with --node: {}", others.join(", "))))
            }
        }
    }

    /// Takes out the disks that can have no checkpoint, where the person did not name them.
    pub(crate) fn leave_out_unfit(&mut self) -> Vec<qemu::Disk> {
        if self.is_named {
            return Vec::new();
        }
        let is_unfit = |disk: &mut Disk| disk.of_machine.as_ref().is_some_and(|own| own.unfit().is_some());
        self.disks.extract_if(.., is_unfit).filter_map(|disk| disk.of_machine).collect()
    }
}
