//! The bytes of a qcow2 image as its specification lays them out, so that a test can damage exactly one field.
//! Written apart from the library: what the two have in common would hide the same mistake.

use std::ops::Range;
use std::path::Path;

pub const MAGIC: usize = 0;
pub const VERSION: usize = 4;
pub const BACKING_OFFSET: usize = 8;
pub const BACKING_LEN: usize = 16;
pub const CLUSTER_BITS: usize = 20;
pub const DISK_SIZE: usize = 24;
pub const L1_ENTRIES: usize = 36;
pub const L1_OFFSET: usize = 40;
pub const REFCOUNT_TABLE: usize = 48;
pub const REFCOUNT_CLUSTERS: usize = 56;
pub const SNAPSHOTS: usize = 60;
pub const SNAPSHOTS_OFFSET: usize = 64;
pub const INCOMPATIBLE: usize = 72;
pub const AUTOCLEAR: usize = 88;
pub const REFCOUNT_ORDER: usize = 96;
pub const HEADER_LEN: usize = 100;

/// Within the data of the bitmaps extension.
pub const EXTENSION_COUNT: usize = 0;
pub const EXTENSION_RESERVED: usize = 4;
pub const EXTENSION_SIZE: usize = 8;
pub const EXTENSION_OFFSET: usize = 16;

/// Within an entry of the bitmap directory.
pub const ENTRY_TABLE: usize = 0;
pub const ENTRY_TABLE_SIZE: usize = 8;
pub const ENTRY_FLAGS: usize = 12;
pub const ENTRY_TYPE: usize = 16;
pub const ENTRY_GRANULARITY: usize = 17;
pub const ENTRY_NAME_LEN: usize = 18;
pub const ENTRY_EXTRA_LEN: usize = 20;

const BITMAPS_EXTENSION: u32 = 0x2385_2875;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// An image as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    pub bytes: Vec<u8>,
}

impl Raw {
    pub fn read(path: &Path) -> Self {
        Self { bytes: std::fs::read(path).expect("the image can be read") }
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.bytes[at..at + 2].try_into().expect("two bytes"))
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    /// The offset that the field at `at` holds, without the flags beside it.
    pub fn offset(&self, at: usize) -> usize {
        usize::try_from(self.u64(at) & OFFSET_MASK).expect("an offset inside the file")
    }

    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn put_u16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_be_bytes());
    }

    pub fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_be_bytes());
    }

    pub fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_be_bytes());
    }

    pub fn cluster(&self) -> usize {
        1 << self.u32(CLUSTER_BITS)
    }

    /// An offset past the end of the file, at the start of a cluster.
    pub fn past_the_end(&self) -> usize {
        self.bytes.len().next_multiple_of(self.cluster()) + 64 * self.cluster()
    }

    /// Where the header's extensions end: at their end marker.
    pub fn extensions_end(&self) -> usize {
        self.extensions().last().map_or(self.header_len(), |(at, len)| at + 8 + len.next_multiple_of(8))
    }

    fn header_len(&self) -> usize {
        usize::try_from(self.u32(HEADER_LEN)).expect("a length")
    }

    /// Each extension's place and the length of its data.
    fn extensions(&self) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut at = self.header_len();
        let name = usize::try_from(self.u64(BACKING_OFFSET)).expect("an offset in the header cluster");
        let end = if name == 0 { self.cluster() } else { name };
        while at + 8 <= end && self.u32(at) != 0 {
            let len = usize::try_from(self.u32(at + 4)).expect("a length");
            found.push((at, len));
            at += 8 + len.next_multiple_of(8);
        }
        found
    }

    /// Where the type of the bitmaps extension stands.
    pub fn bitmaps_extension(&self) -> usize {
        self.extension_of(BITMAPS_EXTENSION)
    }

    /// Where the type of the extension of this type stands.
    pub fn extension_of(&self, kind: u32) -> usize {
        let found = self.extensions().into_iter().find(|(at, _)| self.u32(*at) == kind);
        found.unwrap_or_else(|| panic!("there is no extension {kind:#x}")).0
    }

    /// Where a field of the bitmaps extension's data stands.
    pub fn extension(&self, field: usize) -> usize {
        self.bitmaps_extension() + 8 + field
    }

    pub fn directory(&self) -> usize {
        self.offset(self.extension(EXTENSION_OFFSET))
    }

    /// Where entry `number` of the directory begins.
    pub fn entry(&self, number: usize) -> usize {
        (0..number).fold(self.directory(), |at, _| at + self.entry_len(at))
    }

    fn entry_len(&self, at: usize) -> usize {
        let extra = usize::try_from(self.u32(at + ENTRY_EXTRA_LEN)).expect("a length");
        (24 + extra + usize::from(self.u16(at + ENTRY_NAME_LEN))).next_multiple_of(8)
    }

    /// Where the name of entry `number` stands, if the entry has no extra data.
    pub fn name(&self, number: usize) -> usize {
        self.entry(number) + 24
    }

    /// Where the table of bitmap `number` stands.
    pub fn table(&self, number: usize) -> usize {
        self.offset(self.entry(number) + ENTRY_TABLE)
    }

    /// Where the first cluster of data of bitmap `number` stands.
    pub fn data(&self, number: usize) -> usize {
        self.offset(self.table(number))
    }

    pub fn l1(&self) -> usize {
        self.offset(L1_OFFSET)
    }

    /// Where the first L2 table stands.
    pub fn l2(&self) -> usize {
        self.offset(self.l1())
    }

    pub fn refcount_table(&self) -> usize {
        self.offset(REFCOUNT_TABLE)
    }

    /// Where the first refcount block stands.
    pub fn refcount_block(&self) -> usize {
        self.offset(self.refcount_table())
    }

    /// Where the 16-bit refcount of the cluster at `offset` stands.
    pub fn refcount_of(&self, offset: usize) -> usize {
        assert_eq!(self.u32(REFCOUNT_ORDER), 4, "the refcounts have 16 bits");
        self.refcount_block() + offset / self.cluster() * 2
    }

    /// Takes the bytes at the end of the directory's last entry for another length of the whole.
    pub fn resize_directory(&mut self, by: i64) {
        let at = self.extension(EXTENSION_SIZE);
        let len = self.u64(at).checked_add_signed(by).expect("a length");
        self.put_u64(at, len);
    }
}

/// Changes that need room.
impl Raw {
    /// The bytes of the bitmap directory.
    pub fn directory_bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.u64(self.extension(EXTENSION_SIZE))).expect("a length");
        self.bytes[self.directory()..self.directory() + len].to_vec()
    }

    /// Puts `directory` into clusters at the end of the file; nothing counts them.
    pub fn replace_directory(&mut self, directory: &[u8]) {
        let at = self.bytes.len().next_multiple_of(self.cluster());
        let (size, offset) = (self.extension(EXTENSION_SIZE), self.extension(EXTENSION_OFFSET));
        self.put_u64(size, directory.len() as u64);
        self.put_u64(offset, at as u64);
        self.bytes.resize(at, 0);
        self.bytes.extend(directory);
    }

    /// Replaces entry `number` by one with this extra data and name, in a directory of its own.
    pub fn replace_entry(&mut self, number: usize, extra: &[u8], name: &[u8]) {
        let start = self.entry(number) - self.directory();
        let end = start + self.entry_len(self.entry(number));
        let mut directory = self.directory_bytes();
        let mut entry = directory[start..start + 24].to_vec();
        entry[ENTRY_NAME_LEN..ENTRY_NAME_LEN + 2]
            .copy_from_slice(&u16::try_from(name.len()).expect("short").to_be_bytes());
        entry[ENTRY_EXTRA_LEN..].copy_from_slice(&u32::try_from(extra.len()).expect("short").to_be_bytes());
        entry.extend(extra);
        entry.extend(name);
        entry.resize(entry.len().next_multiple_of(8), 0);
        directory.splice(start..end, entry);
        self.replace_directory(&directory);
    }
}

/// What the refcounts say.
impl Raw {
    /// Whether the refcount of cluster `number` is 0.
    pub fn is_free(&self, number: usize) -> bool {
        self.refcount(number).is_none_or(|refcount| self.bytes[refcount].iter().all(|byte| *byte == 0))
    }

    /// Where the refcount of cluster `number` stands, if anything counts it.
    fn refcount(&self, number: usize) -> Option<Range<usize>> {
        let bits = 1_usize << self.u32(REFCOUNT_ORDER);
        assert!(bits >= 8, "refcounts narrower than a byte");
        let per_block = self.cluster() * 8 / bits;
        let block = self.offset(self.refcount_table() + number / per_block * 8);
        let at = block + number % per_block * bits / 8;
        (block != 0).then_some(at..at + bits / 8)
    }

    /// Counts every cluster of the file as used, so that any change needs a longer file.
    pub fn leave_no_room(&mut self) {
        for number in 0..self.bytes.len().div_ceil(self.cluster()) {
            if self.is_free(number) {
                let refcount = self.refcount(number).expect("a block counts every cluster of the file");
                self.bytes[refcount.end - 1] = 1;
            }
        }
    }
}

/// Changes of the header cluster as a whole.
impl Raw {
    /// Lays the header's extensions out anew, in this order; zeros follow, which are an end marker.
    pub fn set_extensions(&mut self, extensions: &[(u32, Vec<u8>)]) {
        let (start, cluster) = (self.header_len(), self.cluster());
        self.bytes[start..cluster].fill(0);
        let mut at = start;
        for (kind, data) in extensions {
            self.put_u32(at, *kind);
            self.put_u32(at + 4, u32::try_from(data.len()).expect("short"));
            self.put(at + 8, data);
            at += 8 + data.len().next_multiple_of(8);
            assert!(at <= cluster, "the extensions leave the header cluster");
        }
    }

    /// The header's extensions: type and data.
    pub fn extension_list(&self) -> Vec<(u32, Vec<u8>)> {
        let of = |(at, len): (usize, usize)| (self.u32(at), self.bytes[at + 8..at + 8 + len].to_vec());
        self.extensions().into_iter().map(of).collect()
    }

    pub fn set_backing_name(&mut self, at: usize, name: &[u8]) {
        self.put_u64(BACKING_OFFSET, at as u64);
        self.put_u32(BACKING_LEN, u32::try_from(name.len()).expect("short"));
        self.put(at, name);
    }

    /// Sets the length of the fixed fields; what stands behind them is lost.
    pub fn set_header_len(&mut self, len: usize) {
        let cluster = self.cluster();
        self.bytes[104..cluster].fill(0);
        self.put_u32(HEADER_LEN, u32::try_from(len).expect("short"));
    }
}

/// Structures in other places.
impl Raw {
    /// Moves the structure of `len` bytes whose offset stands at `pointer` to the end of the file, counted as it was; where
    /// it is now. The clusters that it leaves are free.
    pub fn move_to_end(&mut self, pointer: usize, len: usize) -> usize {
        let (cluster, old) = (self.cluster(), self.offset(pointer));
        let new = self.bytes.len().next_multiple_of(cluster);
        self.bytes.resize(new, 0);
        for number in 0..len.div_ceil(cluster) {
            let (from, to) = (self.refcount_of(old + number * cluster), self.refcount_of(new + number * cluster));
            let count = self.u16(from);
            self.put_u16(to, count);
            self.put_u16(from, 0);
        }
        let end = old + len.next_multiple_of(cluster);
        let moved = self.bytes[old..end].to_vec();
        self.bytes.extend(moved);
        self.bytes[old..end].fill(0);
        let flags = self.u64(pointer) & !OFFSET_MASK;
        self.put_u64(pointer, flags | new as u64);
        new
    }

    /// The length of the file without the zeros at its end.
    pub fn len_without_zeros(&self) -> usize {
        self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    }
}
