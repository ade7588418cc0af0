#![forbid(unsafe_code)]
//! Owns the files of a moment's scratch images: the folder that they are in, and how much each may take. Must never know the data in
//! them.

use super::super::owner::{self, Life, Owner};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::Scratch;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statvfs, unlinkat};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

/// Where scratch images go unless the caller says so: not where files are in memory.
const DEFAULT_FOLDER: &str = "/var/tmp";

/// The part of the free room that is taken unless the caller says how much.
const PART_OF_FREE: u64 = 2;

/// The new folder, with a file for each disk. It goes when this is dropped, unless it was kept.
#[derive(Debug)]
pub(super) struct Folder {
    owner: Option<Owner>,
    folder: PathBuf,
    /// How many bytes each file may take.
    pub(super) limits: Vec<u64>,
    /// How many bytes all files take once every block was overwritten.
    pub(super) need_bytes: u64,
}

impl Folder {
    /// Makes the images for disks of these sizes in bytes, which together take at most `most_bytes`. `hypervisor` is the user who writes
    /// to them.
    pub(super) fn make(
        parent: Option<&Path>,
        most_bytes: Option<u64>,
        sizes: &[u64],
        hypervisor: Option<u32>,
    ) -> Result<Self> {
        let temporary = std::env::var_os("TMPDIR").map_or_else(|| DEFAULT_FOLDER.into(), PathBuf::from);
        let parent = std::path::absolute(parent.unwrap_or(&temporary))
            .map_err(|error| Error::io("cannot find the folder for the scratch images", error))?;
        let failed = |error: std::io::Error| Error::io("cannot make a scratch image", error).in_file(&parent);
        let images: Vec<Scratch> = sizes.iter().map(|size| Scratch::new(*size)).collect::<Result<_>>()?;
        let free = statvfs(&parent).map_err(|errno| failed(errno.into()))?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        let limits = share(most_bytes.unwrap_or(free / PART_OF_FREE), &images).ok_or_else(|| {
            let message =
                format!("{} bytes are too little for {} scratch images", most_bytes.unwrap_or(free), sizes.len());
            Error::new(ErrorKind::CannotStore, message)
                .in_file(&parent)
                .advise("allow more, or name a folder with more room")
        })?;
        let need_bytes = images.iter().fold(0, |sum: u64, image| sum.saturating_add(image.full_bytes));
        let all = limits.iter().sum::<u64>();
        if all > free {
            // A full file system could fail writes of the guest, where its images lie on it too.
            let message = format!("{all} bytes are allowed for scratch images, and {free} are free");
            return Err(Error::new(ErrorKind::CannotStore, message)
                .in_file(&parent)
                .advise("allow less, or name a folder with more room"));
        }
        sweep(&parent);
        let own = Owner::of_files(&parent, hypervisor)?;
        let folder = Self { folder: own.folder().to_owned(), owner: Some(own), limits, need_bytes };
        let owner = hypervisor.filter(|user| *user != rustix::process::geteuid().as_raw());
        for (at, (image, limit)) in images.iter().zip(&folder.limits).enumerate() {
            let path = file_in(&folder.folder, at);
            let file = File::options().create_new(true).write(true).mode(0o600).open(&path).map_err(failed)?;
            image.write(&file, *limit)?;
            owner.map_or(Ok(()), |user| chown(&path, Some(user), None)).map_err(failed)?;
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Leaves the files where they are, in a folder that is locked until the owner is dropped; how many bytes each may take.
    pub(super) fn keep(mut self) -> (Option<Owner>, Vec<u64>) {
        (self.owner.take(), std::mem::take(&mut self.limits))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.owner.is_some() {
            remove(&self.folder, self.limits.len());
        }
    }
}

/// Removes the folders in this one whose owners are dead, and whose images no hypervisor has open: it ended before they could be removed.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && owner::is_for_files(&entry.file_name().to_string_lossy()) {
            sweep_one(&entry.path());
        }
    }
}

fn sweep_one(folder: &Path) {
    let Ok(open) = owner::open_folder(folder) else { return };
    let _lock = match owner::life_of(&folder.to_string_lossy()) {
        Life::Dead(Some(lock)) => lock,
        // It was killed before it had a lock, or has none yet.
        Life::Dead(None) => return owner::remove_unready(folder),
        _ => return,
    };
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut count = 0;
    while let Ok(file) = openat(&open, name_of(count), flags, Mode::empty()) {
        if Scratch::is_in_use(&File::from(file)) {
            return;
        }
        count += 1;
    }
    remove(folder, count);
    owner::remove(folder);
}

/// How many bytes the image of each disk may take: a part of all by the size of the disk, and no more than it can come to. `None` where
/// that is too little.
fn share(most_bytes: u64, images: &[Scratch]) -> Option<Vec<u64>> {
    let all: u128 = images.iter().map(|image| u128::from(image.full_bytes)).sum();
    let of = |image: &Scratch| {
        let part = u128::from(most_bytes) * u128::from(image.full_bytes) / all.max(1);
        let part = u64::try_from(part).unwrap_or(u64::MAX).min(image.full_bytes);
        // QEMU counts in sectors.
        let part = part - part % 512;
        (part >= image.empty_bytes.saturating_add(Scratch::LEAST_ROOM_BYTES)).then_some(part)
    };
    images.iter().map(of).collect()
}

/// The file of the disk at this place.
pub(super) fn file_in(folder: &Path, at: usize) -> PathBuf {
    folder.join(name_of(at))
}

fn name_of(at: usize) -> String {
    format!("scratch-{at}")
}

/// The bytes of a file beyond which it is nearly full, where it may take `most_bytes`.
pub(super) fn nearly_full(most_bytes: u64) -> u64 {
    most_bytes / 5 * 4
}

/// How many bytes the file of a disk takes on its file system, and how many it may take.
pub(super) fn usage(folder: &Path, at: usize) -> Option<(u64, u64)> {
    let facts = fs::metadata(file_in(folder, at)).ok()?;
    Some((facts.blocks().saturating_mul(512), facts.len()))
}

/// Removes the files of a folder that [`Folder`] made, and nothing else; the folder where nothing is left in it. The path comes from the
/// hypervisor.
pub(super) fn remove(folder: &Path, files: usize) {
    let is_ours = folder.file_name().is_some_and(|name| owner::is_for_files(&name.to_string_lossy()));
    if !is_ours || !folder.is_absolute() {
        return;
    }
    let Ok(open) = owner::open_folder(folder) else { return };
    for at in 0..files {
        // Another client may be doing the same.
        let _ = unlinkat(&open, name_of(at), AtFlags::empty());
    }
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::share;
    use crate::formats::Scratch;

    fn images(sizes: &[u64]) -> Vec<Scratch> {
        sizes.iter().map(|size| Scratch::new(*size).expect("it can be made")).collect()
    }

    #[test]
    fn the_parts_stay_below_the_whole_and_are_sectors() {
        for sizes in [&[1_u64 << 30][..], &[1 << 30, 3 << 30], &[512, 16 << 40]] {
            for most in [64_u64 << 20, 10 << 30, u64::MAX] {
                let images = images(sizes);
                let Some(parts) = share(most, &images) else { continue };
                assert!(parts.iter().map(|part| u128::from(*part)).sum::<u128>() <= u128::from(most));
                for (part, image) in parts.iter().zip(&images) {
                    assert!(part % 512 == 0 && *part <= image.full_bytes && *part > image.empty_bytes);
                }
            }
        }
    }

    #[test]
    fn too_little_is_refused() {
        assert!(share(1 << 20, &images(&[1 << 30])).is_none());
        assert!(share(4 << 20, &images(&[1 << 30])).is_some());
    }
}
