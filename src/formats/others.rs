#![forbid(unsafe_code)]
//! Owns the signatures by which QEMU tells formats other than ours. Must never know an image.

use crate::error::Result;
use crate::io::Storage;
use crate::io::bytes::read_some;
use std::path::Path;

/// Where the signature of a VDI image stands, and the signature.
const VDI_AT: usize = 0x40;
const VDI: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];

/// The beginnings of the formats that QEMU tells by their content. One of text begins with comments, empty lines or its version.
const OTHERS: &[&[u8]] = &[
    b"QFI\xfb",
    b"QED\0",
    b"WithoutFreeSpace",
    b"WithouFreSpacExt",
    b"KDMV",
    b"COWD",
    b"#",
    b" ",
    b"\n",
    b"\r\n",
    b"version=",
    b"vhdxfile",
    b"conectix",
    b"LUKS\xba\xbe",
    b"Bochs Virtual HD Image",
];

/// The format that QEMU tells by the name of the file.
const BY_NAME: &str = "dmg";

/// Whether a file whose format nobody recorded may be taken by QEMU for an image of some other format than raw.
pub(crate) fn is_of_another_format(storage: &dyn Storage, path: &Path) -> Result<bool> {
    if path.extension().is_some_and(|extension| extension == BY_NAME) {
        return Ok(true);
    }
    let mut start = vec![0; VDI_AT + VDI.len()];
    let have = read_some(storage, &"first bytes", 0, &mut start)?;
    start.truncate(have);
    let is_vdi = start.get(VDI_AT..).is_some_and(|found| found == VDI);
    Ok(is_vdi || OTHERS.iter().any(|other| start.starts_with(other)))
}
