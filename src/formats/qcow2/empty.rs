#![forbid(unsafe_code)]
//! Owns the first clusters of an image without content, as a place for data that nobody keeps. Must never be used for a disk that
//! somebody wants back: nothing is synced.

use super::header::MAGIC;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;

/// Clusters of 64 KiB, the default of QEMU.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;

/// How much of the disk one entry of the L1 table stands for: an L2 table has 8192 entries, of a cluster each.
const L1_ENTRY_BYTES: u64 = (CLUSTER / 8) << CLUSTER_BITS;

/// The longest L1 table that QEMU reads, in entries.
const MOST_L1_ENTRIES: u64 = (32 << 20) / 8;

/// The header, the table of refcounts and its first block, which counts 2 GiB of the file.
const CLUSTERS_BEFORE_L1: u64 = 3;

/// Refcounts have 16 bits.
const REFCOUNT_ORDER: u32 = 4;
const VERSION: u32 = 3;
const HEADER_BYTES: u32 = 104;

/// The beginning of an empty image of a disk of `size_bytes`; with zeros up to the length that comes along it is whole.
pub(crate) fn empty_image(size_bytes: u64) -> Result<(Vec<u8>, u64)> {
    let entries = size_bytes.div_ceil(L1_ENTRY_BYTES).max(1);
    let l1_size = u32::try_from(entries).ok().filter(|_| entries <= MOST_L1_ENTRIES).ok_or_else(|| {
        Error::new(ErrorKind::CannotStore, format!("a disk of {size_bytes} bytes is too large for an image"))
    })?;
    let clusters = CLUSTERS_BEFORE_L1 + (entries * 8).div_ceil(CLUSTER);
    let mut header = memory::room(HEADER_BYTES as usize)?;
    let mut put = |bytes: &[u8]| header.extend_from_slice(bytes);
    put(&MAGIC.to_be_bytes());
    put(&VERSION.to_be_bytes());
    // No name of a backing file.
    put(&[0; 12]);
    put(&CLUSTER_BITS.to_be_bytes());
    put(&size_bytes.to_be_bytes());
    // No encryption.
    put(&[0; 4]);
    put(&l1_size.to_be_bytes());
    put(&(CLUSTERS_BEFORE_L1 * CLUSTER).to_be_bytes());
    put(&CLUSTER.to_be_bytes());
    put(&1_u32.to_be_bytes());
    // No snapshots, no features.
    put(&[0; 4 + 8 + 24]);
    put(&REFCOUNT_ORDER.to_be_bytes());
    put(&HEADER_BYTES.to_be_bytes());
    let cluster = usize::try_from(CLUSTER).unwrap_or(usize::MAX);
    let mut image = memory::zeroed(cluster * 2)?;
    copy(&mut image, 0, &header);
    copy(&mut image, cluster, &(2 * CLUSTER).to_be_bytes());
    for _ in 0..clusters {
        memory::extend(&mut image, 1_u16.to_be_bytes())?;
    }
    Ok((image, clusters * CLUSTER))
}

fn copy(image: &mut [u8], at: usize, bytes: &[u8]) {
    image.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}
