//! Makes Parallels images with dirty bitmaps, which no tool at hand writes: the layout of QEMU's documents
//! `docs/interop/parallels`. Must never know how checkmap reads them.

use md5::{Digest, Md5};

pub const SECTOR: usize = 512;
/// Where fields of the header stand.
pub const VERSION: usize = 16;
pub const TRACKS: usize = 28;
pub const TABLE_ENTRIES: usize = 32;
pub const SECTORS: usize = 36;
pub const MARK: usize = 44;
pub const DATA_OFF: usize = 48;
pub const EXT_OFF: usize = 56;
pub const TABLE: usize = 64;
/// Where fields stand in the extension with one bitmap.
pub const FEATURE: usize = 24;
pub const FEATURE_FLAGS: usize = 32;
pub const FEATURE_LEN: usize = 40;
pub const BITMAP_SECTORS: usize = 48;
pub const BITMAP_ID: usize = 56;
pub const BITMAP_GRANULARITY: usize = 72;
pub const BITMAP_ENTRIES: usize = 76;
pub const BITMAP_TABLE: usize = 80;

pub const CLOSED: u32 = 0x312e_3276;
pub const OPEN: u32 = 0x746f_6e59;

/// A bitmap of an image: its bits are put into clusters, of which those without any and those that are full get none.
#[derive(Clone, Debug)]
pub struct HdsBitmap {
    pub id: [u8; 16],
    pub granularity_sectors: u32,
    /// Bit n is granule n, in byte n / 8, counted from the least significant bit.
    pub bits: Vec<u8>,
}

impl HdsBitmap {
    /// The name that QEMU gives it.
    pub fn name(&self) -> String {
        let hex: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }
}

/// The image to be made.
#[derive(Clone, Debug)]
pub struct Hds {
    /// Whether the allocation table counts clusters, as newer images do, instead of sectors.
    pub counts_clusters: bool,
    pub cluster_sectors: u32,
    pub sectors: u64,
    /// How many clusters of the guest's data there are.
    pub guest_clusters: u32,
    /// How many entries the allocation table has; as many as the disk needs, unless it is said.
    pub table_entries: Option<u32>,
    pub bitmaps: Vec<HdsBitmap>,
}

impl Hds {
    /// A disk of `sectors` without bitmaps.
    pub fn new(cluster_sectors: u32, sectors: u64) -> Self {
        let (guest_clusters, table_entries, bitmaps) = (2, None, Vec::new());
        Self { counts_clusters: true, cluster_sectors, sectors, guest_clusters, table_entries, bitmaps }
    }

    /// The same with one more bitmap, the n-th by its id.
    pub fn with(mut self, granularity_sectors: u32, bits: Vec<u8>) -> Self {
        let mut id = *b"\xe4\xf2\xee\xd0\x37\xfe\x45\x39\xb5\x0b\x85\xd2\xe7\xfd\x23\x00";
        id[15] = u8::try_from(self.bitmaps.len()).expect("few bitmaps");
        self.bitmaps.push(HdsBitmap { id, granularity_sectors, bits });
        self
    }

    pub fn cluster_bytes(&self) -> usize {
        self.cluster_sectors as usize * SECTOR
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let cluster = self.cluster_bytes();
        let needed = u32::try_from(self.sectors.div_ceil(self.cluster_sectors.into())).expect("a small disk");
        let table_entries = self.table_entries.unwrap_or(needed);
        let mut file = vec![0; 64 + 4 * table_entries as usize];
        let magic: &[u8; 16] = if self.counts_clusters { b"WithouFreSpacExt" } else { b"WithoutFreeSpace" };
        file[..16].copy_from_slice(magic);
        put(&mut file, VERSION, &2_u32.to_le_bytes());
        put(&mut file, 20, &16_u32.to_le_bytes());
        put(&mut file, 24, &u32::try_from(self.sectors / 512 + 1).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut file, TRACKS, &self.cluster_sectors.to_le_bytes());
        put(&mut file, TABLE_ENTRIES, &table_entries.to_le_bytes());
        put(&mut file, SECTORS, &self.sectors.to_le_bytes());
        put(&mut file, MARK, &CLOSED.to_le_bytes());
        let start = file.len().next_multiple_of(if self.counts_clusters { cluster } else { SECTOR });
        file.resize(start, 0);
        put(&mut file, DATA_OFF, &u32::try_from(start / SECTOR).expect("a small file").to_le_bytes());
        for number in 0..self.guest_clusters.min(table_entries) {
            let at = file.len() / if self.counts_clusters { cluster } else { SECTOR };
            put(&mut file, TABLE + 4 * number as usize, &u32::try_from(at).expect("a small file").to_le_bytes());
            file.resize(file.len() + cluster, 0xda);
        }
        if !self.bitmaps.is_empty() {
            self.add_extension(&mut file);
        }
        file
    }

    /// Appends the extension's cluster, and behind it the clusters of bits.
    fn add_extension(&self, file: &mut Vec<u8>) {
        let (at, cluster) = (file.len(), self.cluster_bytes());
        put(file, EXT_OFF, &(at as u64 / SECTOR as u64).to_le_bytes());
        let mut extension = vec![0; 24];
        let mut data: Vec<u8> = Vec::new();
        for bitmap in &self.bitmaps {
            let granules = usize::try_from(self.sectors.div_ceil(bitmap.granularity_sectors.into())).expect("few");
            let mut bits = bitmap.bits.clone();
            bits.resize(granules.div_ceil(8), 0);
            let mut table = Vec::new();
            for (number, piece) in bits.chunks(cluster).enumerate() {
                let is_full = piece.iter().all(|byte| *byte == 0xff) && (number + 1) * cluster * 8 <= granules;
                if piece.iter().all(|byte| *byte == 0) {
                    table.push(0);
                } else if is_full {
                    table.push(1);
                } else {
                    table.push(((at + cluster + data.len()) / SECTOR) as u64);
                    data.extend(piece);
                    data.resize(data.len().next_multiple_of(cluster), 0);
                }
            }
            extension.extend(0x2038_5fae_252c_b34a_u64.to_le_bytes());
            extension.extend(0_u64.to_le_bytes());
            extension.extend(u32::try_from(32 + 8 * table.len()).expect("a short table").to_le_bytes());
            extension.extend([0; 4]);
            extension.extend(self.sectors.to_le_bytes());
            extension.extend(bitmap.id);
            extension.extend(bitmap.granularity_sectors.to_le_bytes());
            extension.extend(u32::try_from(table.len()).expect("a short table").to_le_bytes());
            extension.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
        }
        extension.extend([0; 24]);
        assert!(extension.len() <= cluster, "the bitmaps need {} bytes of a cluster", extension.len());
        extension.resize(cluster, 0);
        file.extend(extension);
        file.extend(data);
        seal(file);
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// The first byte of the extension.
pub fn extension(file: &[u8]) -> usize {
    let sector = u64::from_le_bytes(file[EXT_OFF..EXT_OFF + 8].try_into().expect("eight bytes"));
    usize::try_from(sector).expect("a small file") * SECTOR
}

/// Makes the checksum of the extension right, and puts its magic there.
pub fn seal(file: &mut [u8]) {
    let tracks = u32::from_le_bytes(file[TRACKS..TRACKS + 4].try_into().expect("four bytes")) as usize;
    let at = extension(file);
    put(file, at, &0xab23_4cef_23dc_ea87_u64.to_le_bytes());
    let sum = Md5::digest(&file[at + 24..at + tracks * SECTOR]);
    put(file, at + 8, &sum);
}
