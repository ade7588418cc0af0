//! Owns the structs that C programs see, and the version of the library. Structs without a size are frozen: they never change.
//! Must never know how one is filled.

use std::ffi::c_char;

/// The version of the library this header belongs to: its first number.
pub const CHECKMAP_VERSION_MAJOR: u32 = 0;
/// The version of the library this header belongs to: its second number.
pub const CHECKMAP_VERSION_MINOR: u32 = 1;
/// The version of the library this header belongs to: its third number.
pub const CHECKMAP_VERSION_PATCH: u32 = 0;
/// The number of this header's ABI, which grows with every addition. A program needs a library whose
/// `checkmap_abi_version()` is not smaller than that of the header it was compiled with.
pub const CHECKMAP_ABI_VERSION: u32 = 1;

/// As a length: up to the end of the disk.
pub const CHECKMAP_TO_END: u64 = u64::MAX;

/// The extent is dirty.
pub const CHECKMAP_EXTENT_DIRTY: u32 = 1;
/// The extent is dirty in the first of two, and clean in the second.
pub const CHECKMAP_EXTENT_ONLY_IN_FIRST: u32 = 2;
/// The extent is dirty in the second of two, and clean in the first.
pub const CHECKMAP_EXTENT_ONLY_IN_SECOND: u32 = 4;

/// A range of bytes of the virtual disk. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_extent {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes; never 0.
    pub length: u64,
    /// `CHECKMAP_EXTENT_...`
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// The bitmap that begins at this checkpoint records the writes of now.
pub const CHECKMAP_CHECKPOINT_RECORDING: u32 = 1;
/// What this checkpoint knows cannot be trusted: its writer did not store it.
pub const CHECKMAP_CHECKPOINT_INCONSISTENT: u32 = 2;
/// The bitmap has a type or extra data that this library does not know.
pub const CHECKMAP_CHECKPOINT_UNUSABLE: u32 = 4;
/// Nobody can tell where among the others this checkpoint stands: a cumulative one, or one between several gaps.
pub const CHECKMAP_CHECKPOINT_UNORDERED: u32 = 8;
/// The bitmap before this checkpoint is missing: no diff can cross this gap. The parent is NULL then.
pub const CHECKMAP_CHECKPOINT_GAP: u32 = 16;

/// A point in time. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_checkpoint {
    /// The name: `name_len` bytes, not necessarily UTF-8, without a NUL behind them.
    pub name: *const c_char,
    /// The bytes of the name.
    pub name_len: usize,
    /// The checkpoint before this one; NULL where there is none, or where nothing stores it.
    pub parent: *const c_char,
    /// The bytes of the parent's name.
    pub parent_len: usize,
    /// The bytes that one bit stands for.
    pub granularity: u64,
    /// How many bytes are dirty in the bitmap that begins here; -1 is unknown.
    pub dirty_bytes: i64,
    /// `CHECKMAP_CHECKPOINT_...`
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// 0.
    pub reserved2: [u64; 4],
}

/// A bitmap as it is stored in an image, whatever it belongs to. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_stored {
    /// The name: `name_len` bytes, not necessarily UTF-8, without a NUL behind them.
    pub name: *const c_char,
    /// The bytes of the name.
    pub name_len: usize,
    /// The bytes that one bit stands for.
    pub granularity: u64,
    /// `CHECKMAP_CHECKPOINT_...`
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// 0.
    pub reserved2: [u64; 4],
}

/// What a stored bitmap amounts to; -1 is unknown. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_summary {
    /// The sum of its dirty extents, in bytes.
    pub dirty_bytes: i64,
    /// The number of its dirty extents.
    pub dirty_extents: i64,
    /// The bytes that it takes in the image.
    pub stored_bytes: i64,
    /// 0.
    pub reserved: i64,
}

/// A SHA-256. Frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct checkmap_sha256 {
    /// Its bytes, in the order of its digits.
    pub bytes: [u8; 32],
}

/// A rule is broken; data may be lost when the file is written to.
pub const CHECKMAP_SEVERITY_ERROR: u32 = 1;
/// A bitmap cannot be used for a backup.
pub const CHECKMAP_SEVERITY_UNUSABLE: u32 = 2;
/// Room is counted as used that nothing uses.
pub const CHECKMAP_SEVERITY_LEAK: u32 = 3;
/// Odd, and harmless.
pub const CHECKMAP_SEVERITY_WARNING: u32 = 4;

/// One finding of a check. Frozen. The texts live as long as the report.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_problem {
    /// The structure that is wrong, in UTF-8.
    pub structure: *const c_char,
    /// The fault, in UTF-8.
    pub message: *const c_char,
    /// Where it is in the file, in bytes; -1 where that cannot be said.
    pub offset: i64,
    /// `CHECKMAP_SEVERITY_...`
    pub severity: u32,
    /// 0.
    pub reserved: u32,
}

/// The version of the library, such as "0.1.0".
///
/// Returns: a text that ends with NUL.
///
/// Ownership: the text lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The number of the library's ABI.
///
/// Returns: a number that is not smaller than `CHECKMAP_ABI_VERSION` of the header that the program was compiled with,
/// else the library is too old for the program.
#[unsafe(no_mangle)]
pub extern "C" fn checkmap_abi_version() -> u32 {
    CHECKMAP_ABI_VERSION
}

const _: () = assert!(size_of::<checkmap_extent>() == 24, "the struct is frozen");
#[cfg(target_pointer_width = "64")]
const _: () = assert!(
    size_of::<checkmap_checkpoint>() == 88
        && size_of::<checkmap_stored>() == 64
        && size_of::<checkmap_summary>() == 32
        && size_of::<checkmap_sha256>() == 32
        && size_of::<checkmap_problem>() == 32,
    "these structs are frozen"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_header_is_that_of_the_package() {
        let version = format!("{CHECKMAP_VERSION_MAJOR}.{CHECKMAP_VERSION_MINOR}.{CHECKMAP_VERSION_PATCH}");
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
}
