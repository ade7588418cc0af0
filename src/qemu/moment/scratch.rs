#![forbid(unsafe_code)]
//! Owns the files of a moment's scratch images: the folder that they are in, and how much each may take. Must never know the data in
//! them.

use super::super::nodes::PREFIX;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::Scratch;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statvfs, unlinkat};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How many random letters and digits the name of the folder ends with.
const RANDOM_BYTES: usize = 12;

/// Where scratch images go unless the caller says so: not where files are in memory.
const DEFAULT_FOLDER: &str = "/var/tmp";

/// The part of the free room that is taken unless the caller says how much.
const PART_OF_FREE: u64 = 2;

/// The new folder, with a file for each disk. It goes when this is dropped, unless it was kept.
#[derive(Debug)]
pub(super) struct Folder {
    folder: TempDir,
    /// How many bytes each file may take.
    pub(super) limits: Vec<u64>,
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
        let own = Permissions::from_mode(0o700);
        let mut builder = tempfile::Builder::new();
        let folder =
            builder.prefix(PREFIX).rand_bytes(RANDOM_BYTES).permissions(own).tempdir_in(&parent).map_err(failed)?;
        let owner = hypervisor.filter(|user| *user != rustix::process::geteuid().as_raw());
        for (at, (image, limit)) in images.iter().zip(&limits).enumerate() {
            let path = file_in(folder.path(), at);
            let file = File::options().create_new(true).write(true).mode(0o600).open(&path).map_err(failed)?;
            image.write(&file, *limit)?;
            owner.map_or(Ok(()), |user| chown(&path, Some(user), None)).map_err(failed)?;
        }
        owner
            .map_or(Ok(()), |user| chown(folder.path(), Some(user), None))
            .map_err(|error| failed(error).advise("work as the hypervisor's user, or as root"))?;
        Ok(Self { folder, limits })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves it where it is.
    pub(super) fn keep(self) -> Vec<u64> {
        let _ = self.folder.keep();
        self.limits
    }
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

/// How many bytes the file of a disk takes on its file system, and how many it may take.
pub(super) fn usage(folder: &Path, at: usize) -> Option<(u64, u64)> {
    let facts = fs::metadata(file_in(folder, at)).ok()?;
    Some((facts.blocks().saturating_mul(512), facts.len()))
}

/// Removes a folder that [`Folder`] made, with its files and nothing else. The path comes from the hypervisor.
pub(super) fn remove(folder: &Path, files: usize) {
    let own = folder.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)).unwrap_or_default();
    let is_ours = own.len() == RANDOM_BYTES && own.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_ours || !folder.is_absolute() {
        return;
    }
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let Ok(open) = openat(rustix::fs::CWD, folder, flags, Mode::empty()) else { return };
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
