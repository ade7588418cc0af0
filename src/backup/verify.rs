#![forbid(unsafe_code)]
//! Owns the reading of everything in a backup directory, and the list of moments that damage costs. Must never change a file.

use super::directory::Directory;
use super::layer::Layer;
use super::writer::buffer;
use crate::error::{Error, Result};
use crate::progress::{Observer, tell};

/// A file that is damaged or missing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the disk.
    pub disk: Vec<u8>,
    /// The moment whose file it is.
    pub checkpoint: Vec<u8>,
    /// The damage.
    pub error: Error,
    /// The moments that cannot be restored for it, oldest first: all whose files lie on this one.
    pub lost: Vec<Vec<u8>>,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verified {
    /// How many moments were looked at.
    pub moments: u64,
    /// How many bytes of data were compared with their sums.
    pub data_bytes: u64,
    /// The faults.
    pub findings: Vec<Finding>,
}

pub(super) fn verify(directory: &Directory, observer: &mut dyn Observer) -> Result<Verified> {
    let mut verified = Verified::default();
    let backups = directory.manifest.disks.iter().flat_map(|disk| &disk.backups);
    let total = backups.map(|backup| backup.data_bytes).sum::<u64>();
    let mut done = 0;
    for disk in &directory.manifest.disks {
        for (place, backup) in disk.backups.iter().enumerate() {
            verified.moments += u64::from(!backup.is_given_up);
            let read = Layer::open(directory, disk, place)
                .and_then(|layer| read_all(&layer, &mut verified.data_bytes, done, total, observer));
            done += backup.data_bytes;
            match read {
                Err(error) if error.is_of_the_call() => return Err(error),
                Err(error) => {
                    let root = disk.root_of(place);
                    let above = disk.backups.iter().enumerate().skip(place);
                    let lost = above.take_while(|(at, _)| disk.root_of(*at) == root);
                    let lost = lost.filter(|(_, backup)| !backup.is_given_up);
                    let lost = lost.map(|(_, backup)| backup.checkpoint.clone()).collect();
                    let (disk, checkpoint) = (disk.name.clone(), backup.checkpoint.clone());
                    verified.findings.push(Finding { disk, checkpoint, error, lost });
                }
                Ok(()) => {}
            }
        }
    }
    Ok(verified)
}

fn read_all(layer: &Layer, read: &mut u64, done: u64, total: u64, observer: &mut dyn Observer) -> Result<()> {
    layer.check_held(observer)?;
    let mut own = 0;
    for summed in &layer.sums.data {
        tell(observer, "reading the backups", (done + own).min(total), total)?;
        let mut bytes = buffer(summed.extent.len_bytes)?;
        layer.read(*summed, &mut bytes)?;
        own += summed.extent.len_bytes;
        *read += summed.extent.len_bytes;
    }
    Ok(())
}
