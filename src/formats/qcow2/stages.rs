#![forbid(unsafe_code)]
//! Owns how the header cluster changes when the bitmap directory comes, moves or goes: as stages that differ in one
//! 512-byte sector each, every one of them a header that QEMU opens. Must never write them: that is `commit`.
//!
//! Room is gained and left without moving records that cannot move at once. A record that is no longer wanted in front of others
//! becomes *padding*, an extension of a type that everybody ignores and QEMU keeps; the feature name table, which only
//! words error messages, gives up its last entries.

use super::header::{
    AUTOCLEAR_AT, AUTOCLEAR_BITMAPS, AUTOCLEAR_MARK, DirectoryRef, EXTENSION_BACKING_FORMAT, EXTENSION_BITMAPS,
    EXTENSION_CRYPTO, EXTENSION_DATA_FILE, EXTENSION_FEATURE_NAMES, EXTENSION_MARK, Extension, Header,
};
use super::mark;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::host::{Mark, Progress};
use crate::io::Memory;
use crate::io::bytes::put;
use crate::memory;

const SECTOR: usize = 512;
/// "cmpd": no reader knows this type, so every reader ignores the record and keeps it.
const EXTENSION_PADDING: u32 = 0x636d_7064;
const DIRECTORY_REF_LEN: usize = 24;
/// Type, length and the 24 bytes of the bitmaps extension.
const BITMAPS_RECORD_LEN: usize = 8 + DIRECTORY_REF_LEN;
/// The most extensions that the refusal names where there is no room for one more.
const MOST_NAMED: usize = 16;
const END_MARKER: [u8; 8] = [0; 8];
/// The bytes of one entry in the table of feature names.
const FEATURE_LEN: usize = 48;
const BACKING_OFFSET_AT: usize = 8;

/// The header that QEMU 10.0 writes.
const QEMU_FIELDS_LEN: usize = 112;
/// It names eight features, in clusters larger than this.
const QEMU_NO_FEATURE_NAMES_UP_TO: usize = 4096;
const QEMU_FEATURE_NAMES_LEN: usize = 8 + 8 * FEATURE_LEN;

impl Header {
    /// The header cluster with the bitmaps extension replaced, added or removed, as the stages in which it must be
    /// written: each differs from the one before it in one sector, and is a header that QEMU opens.
    pub(crate) fn with_directory(&self, directory: Option<DirectoryRef>) -> Result<Vec<Vec<u8>>> {
        let mut stages = Stages::of(self)?;
        match (self.extension(EXTENSION_BITMAPS), directory) {
            (Some(found), Some(directory)) => self.replace(&mut stages, found, directory)?,
            (Some(found), None) => self.remove(&mut stages, found)?,
            (None, Some(directory)) => self.add(&mut stages, directory)?,
            (None, None) => {}
        }
        if directory.is_none() {
            stages.clear_places()?;
        }
        Ok(stages.stages)
    }

    /// The header cluster with this mark, in stages as those of [`Header::with_directory`]: the record, then the bit that others clear.
    pub(super) fn with_mark(&self, mark: &Mark) -> Result<Vec<Vec<u8>>> {
        let (data, len) = mark::encode(mark)?;
        let mut stages = Stages::of(self)?;
        let mut record = Vec::new();
        if !self.extensions.iter().any(|it| it.kind == EXTENSION_BITMAPS || is_place_of_directory(it)) {
            // The record of the first bitmap takes this place, so that the mark is the last and can go without a trace.
            memory::extend(&mut record, record_start(EXTENSION_PADDING, DIRECTORY_REF_LEN))?;
            memory::extend(&mut record, [0; DIRECTORY_REF_LEN])?;
        }
        memory::extend(&mut record, record_start(EXTENSION_MARK, len))?;
        memory::extend(&mut record, data)?;
        let limit = self.area_limit();
        if has_room(self.extensions_end, record.len(), limit) && !crosses_sectors(self.extensions_end, 8) {
            self.append(&mut stages, &record, limit)?;
        } else if !self.move_name_and_append(&mut stages, &record)? {
            return Err(self.no_room_for_mark(record.len()));
        }
        stages.write(AUTOCLEAR_AT, &(self.autoclear_kept() | AUTOCLEAR_MARK).to_be_bytes())?;
        match stages.fits_in_qemu()? {
            true => Ok(stages.stages),
            false => Err(self.no_room_for_mark(record.len())),
        }
    }

    /// The header cluster without the mark.
    pub(super) fn without_mark(&self) -> Result<Vec<Vec<u8>>> {
        let mut stages = Stages::of(self)?;
        stages.write(AUTOCLEAR_AT, &(self.autoclear_kept() & !AUTOCLEAR_MARK).to_be_bytes())?;
        if let Some(found) = self.extension(EXTENSION_MARK) {
            self.take_out(&mut stages, found)?;
        }
        Ok(stages.stages)
    }

    /// The header cluster with a mark that tells so of the switch.
    pub(super) fn with_progress(&self, progress: Progress) -> Result<Vec<Vec<u8>>> {
        let mut stages = Stages::of(self)?;
        if let Some(found) = self.extension(EXTENSION_MARK) {
            stages.write(found.at + 8 + mark::PROGRESS_AT, &mark::encode_progress(progress))?;
        }
        Ok(stages.stages)
    }

    fn no_room_for_mark(&self, len: usize) -> Error {
        let message = format!(
            "the header cluster of {} bytes has no room for the {len} bytes by which a step over several images is found again",
            self.cluster_bytes_usize()
        );
        let way_out = WayOut::from("say a shorter path with ").control(Control::Journal);
        Error::new(ErrorKind::CannotStore, message)
            .at("qcow2 header cluster", self.extensions_end as u64)
            .advise(way_out.words(", or convert the image with `qemu-img convert -O qcow2 -o cluster_size=64k`"))
    }

    /// Whether the directory's place crosses two sectors of the header, so that a power cut while it changes may lose
    /// the bitmaps.
    pub(crate) fn directory_crosses_sectors(&self) -> bool {
        self.extension(EXTENSION_BITMAPS).is_some_and(|found| crosses_sectors(found.at + 8, DIRECTORY_REF_LEN))
    }

    fn replace(&self, stages: &mut Stages, found: &Extension, directory: DirectoryRef) -> Result<()> {
        // Without the autoclear bit no reader uses the directory's place until both its halves are there.
        if self.directory_crosses_sectors() {
            self.set_autoclear(stages, false)?;
        }
        stages.write(found.at + 8, &encode(directory))?;
        self.set_autoclear(stages, true)
    }

    fn remove(&self, stages: &mut Stages, found: &Extension) -> Result<()> {
        self.set_autoclear(stages, false)?;
        self.take_out(stages, found)
    }

    /// Takes a record out.
    fn take_out(&self, stages: &mut Stages, found: &Extension) -> Result<()> {
        let area_end = self.area_end();
        let end = found.end().min(area_end);
        let follows = self.extensions.iter().any(|extension| extension.at > found.at);
        if !follows {
            stages.write(found.at, &END_MARKER)?;
            return stages.write(found.at + 8, &memory::zeroed::<u8>(end.saturating_sub(found.at + 8))?);
        }
        if found.at / SECTOR == (area_end - 1) / SECTOR {
            // All records that follow move down at once, the end marker with them.
            let mut moved = memory::copy(self.raw.get(end..area_end).unwrap_or_default())?;
            memory::resize(&mut moved, area_end - found.at)?;
            return stages.write(found.at, &moved);
        }
        // Records that cannot move at once stay, and the removed one becomes padding.
        stages.write(found.at, &EXTENSION_PADDING.to_be_bytes())?;
        stages.write(found.at + 8, &memory::zeroed::<u8>(end.saturating_sub(found.at + 8))?)
    }

    /// The end of the extension area, its end marker included where there is room for one.
    fn area_end(&self) -> usize {
        // The name may begin in the padding of the last extension.
        (self.extensions_end + END_MARKER.len()).min(self.area_limit())
    }

    /// Where the extensions must end: at the backing file's name, or with the cluster.
    fn area_limit(&self) -> usize {
        self.backing_name.map_or(self.cluster_bytes_usize(), |(at, _)| at)
    }

    fn add(&self, stages: &mut Stages, directory: DirectoryRef) -> Result<()> {
        let padding = self.extensions.iter().find(|it| is_place_of_directory(it));
        let (data, limit) = (encode(directory), self.area_limit());
        let record = [&record_start(EXTENSION_BITMAPS, DIRECTORY_REF_LEN)[..], &data].concat();
        if let Some(padding) = padding {
            stages.write(padding.at + 8, &data)?;
            stages.write(padding.at, &EXTENSION_BITMAPS.to_be_bytes())?;
        } else if has_room(self.extensions_end, record.len(), limit) && !crosses_sectors(self.extensions_end, 8) {
            self.append(stages, &record, limit)?;
        } else if !self.move_name_and_append(stages, &record)? && !self.take_from_feature_names(stages, &data)? {
            return Err(self.no_room());
        }
        self.set_autoclear(stages, true)?;
        // QEMU writes the whole header anew whenever it opens an image with bitmaps for writing. Where it found no room, it
        // would not open the image.
        match stages.fits_in_qemu()? {
            true => Ok(()),
            false => Err(self.no_room()),
        }
    }

    /// Puts the record where the end marker stands, before `limit`. Bytes that no reader looks at yet come first, the type last: it
    /// and the length stand in one sector.
    fn append(&self, stages: &mut Stages, record: &[u8], limit: usize) -> Result<()> {
        let at = self.extensions_end;
        let (start, data) = record.split_at_checked(8).unwrap_or((record, &[]));
        stages.write(at + 8, data)?;
        // Where the extensions end with the cluster or with the name, no marker says so.
        let after = at + record.len();
        if after < limit {
            stages.write(after, &END_MARKER)?;
        }
        stages.write(at, start)
    }

    /// Moves the backing file's name out of the way, where there is room behind it; false where there is none.
    fn move_name_and_append(&self, stages: &mut Stages, record: &[u8]) -> Result<bool> {
        let Some((name_at, name_len)) = self.backing_name else { return Ok(false) };
        let name = self.raw.get(name_at..name_at + name_len).unwrap_or_default();
        let at = self.extensions_end;
        let end = at + record.len() + END_MARKER.len();
        if end + name_len <= SECTOR {
            // Within the first sector everything changes at once, and no second copy is needed.
            let mut next = memory::copy(&stages.now)?;
            let moved = [record, &END_MARKER, name].concat();
            let fits = put(&mut next, at, &moved) && put(&mut next, BACKING_OFFSET_AT, &(end as u64).to_be_bytes());
            debug_assert!(fits, "a cluster is no smaller than a sector");
            stages.advance(&next)?;
            return Ok(true);
        }
        // The copy overlaps neither the name as it stands nor the room of the new extension.
        let copy_at = end.max(name_at + name_len).next_multiple_of(8);
        let has_end_marker = at + 8 <= name_at;
        // An end marker that the name left no room for appears in the sector that points to the copy, or not at all.
        let unsafe_marker = if has_end_marker { crosses_sectors(at, 8) } else { at + 8 > SECTOR };
        if copy_at + name_len > self.cluster_bytes_usize() || unsafe_marker {
            return Ok(false);
        }
        stages.write(copy_at, name)?;
        let mut next = memory::copy(&stages.now)?;
        let mut fits = put(&mut next, BACKING_OFFSET_AT, &(copy_at as u64).to_be_bytes());
        if !has_end_marker {
            fits &= put(&mut next, at, &END_MARKER);
        }
        debug_assert!(fits, "both stand in the first sector");
        stages.advance(&next)?;
        self.append(stages, record, copy_at)?;
        Ok(true)
    }

    /// Puts the record where the last entries of the feature name table stand; false where there is no such table.
    fn take_from_feature_names(&self, stages: &mut Stages, data: &[u8]) -> Result<bool> {
        let usable =
            |it: &&Extension| it.kind == EXTENSION_FEATURE_NAMES && it.len >= FEATURE_LEN && !crosses_sectors(it.at, 8);
        let Some(table) = self.extensions.iter().rfind(usable) else { return Ok(false) };
        let place = |entries: usize| table.at + 8 + entries * FEATURE_LEN;
        let entries = table.len / FEATURE_LEN;
        // Keeps every entry that fits, unless the directory's place would cross two sectors.
        let mut kept = (0..entries).rev();
        let whole = kept.find(|kept| !crosses_sectors(place(*kept) + 8, DIRECTORY_REF_LEN));
        let kept = whole.unwrap_or(entries - 1);
        let (at, end) = (place(kept), table.end().min(self.area_limit()));
        let rest = end - at - BITMAPS_RECORD_LEN;
        let filler = match table.end() == self.extensions_end {
            true => END_MARKER,
            false => record_start(EXTENSION_PADDING, rest - 8),
        };
        let record = [&record_start(EXTENSION_BITMAPS, DIRECTORY_REF_LEN), data, &filler].concat();
        // It is content of the table until the table's length says otherwise.
        stages.write(at, &record)?;
        stages.write(at + record.len(), &memory::zeroed::<u8>(rest - 8)?)?;
        stages.write(table.at, &record_start(EXTENSION_FEATURE_NAMES, kept * FEATURE_LEN))?;
        Ok(true)
    }

    fn set_autoclear(&self, stages: &mut Stages, bitmaps: bool) -> Result<()> {
        let kept = self.autoclear_kept() & !AUTOCLEAR_BITMAPS;
        stages.write(AUTOCLEAR_AT, &(kept | if bitmaps { AUTOCLEAR_BITMAPS } else { 0 }).to_be_bytes())
    }

    /// The bytes of the header cluster as QEMU writes it, with a bitmaps extension.
    fn qemu_needs(&self) -> usize {
        let text = |kind| self.extension_text(kind).map_or(0, |text| 8 + text.len().next_multiple_of(8));
        let lens = self.extensions.iter().map(|extension| match extension.kind {
            EXTENSION_BITMAPS | EXTENSION_FEATURE_NAMES | EXTENSION_BACKING_FORMAT | EXTENSION_DATA_FILE => 0,
            _ => extension.end() - extension.at,
        });
        let many = self.cluster_bytes_usize() > QEMU_NO_FEATURE_NAMES_UP_TO;
        self.fields_len.max(QEMU_FIELDS_LEN)
            + lens.sum::<usize>()
            + text(EXTENSION_BACKING_FORMAT)
            + if self.has_data_file() { text(EXTENSION_DATA_FILE) } else { 0 }
            + if many { QEMU_FEATURE_NAMES_LEN } else { 0 }
            + BITMAPS_RECORD_LEN
            + END_MARKER.len()
            + self.backing().map_or(0, |(name, _)| name.len())
    }

    /// The refusal, with a list of the parts that fill the header cluster.
    fn no_room(&self) -> Error {
        // The largest are enough: a cluster has room for thousands.
        let mut extensions: [Option<&Extension>; MOST_NAMED] = [None; MOST_NAMED];
        for extension in &self.extensions {
            let len = |extension: &Extension| extension.end() - extension.at;
            if let Some(least) = extensions.iter_mut().min_by_key(|it| it.map_or(0, len))
                && least.is_none_or(|least| len(least) < len(extension))
            {
                *least = Some(extension);
            }
        }
        let mut holds = vec![(self.fields_len, "fields".to_owned())];
        for extension in extensions.into_iter().flatten() {
            let name = match extension.kind {
                EXTENSION_BACKING_FORMAT => "the backing file's format".to_owned(),
                EXTENSION_DATA_FILE => "the data file's name".to_owned(),
                EXTENSION_CRYPTO => "the encryption extension".to_owned(),
                EXTENSION_FEATURE_NAMES => "the feature name table".to_owned(),
                EXTENSION_PADDING => "padding".to_owned(),
                kind => format!("the unknown extension {kind:#x}"),
            };
            holds.push((extension.end() - extension.at, name));
        }
        let name_len = self.backing_name.map_or(0, |(_, len)| len);
        holds.push((name_len, "the backing file's name".to_owned()));
        holds.retain(|(len, _)| *len > 0);
        holds.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        let holds: Vec<String> = holds.into_iter().map(|(len, what)| format!("{what} ({len} bytes)")).collect();
        let (holds, cluster_len) = (holds.join(", "), self.cluster_bytes_usize());
        let no_room =
            format!("the header cluster of {cluster_len} bytes has no room for the bitmaps extension beside {holds}");
        let larger = "convert the image with `qemu-img convert -O qcow2 -o cluster_size=64k`; nothing was changed";
        let (message, way_out) = if self.qemu_needs() <= cluster_len {
            let no_way = format!(
                "the bitmaps extension cannot come into the header cluster of {cluster_len} bytes by steps between which a \
                 power cut does no harm: it holds {holds}"
            );
            (no_way, "make the first checkpoint with `qemu-img bitmap --add`, under its name, or ")
        } else if name_len > 0 && self.qemu_needs() - name_len < cluster_len {
            (no_room, "give the image a shorter backing name with `qemu-img rebase -u`, or ")
        } else {
            (no_room, "")
        };
        Error::new(ErrorKind::CannotStore, message)
            .at("qcow2 header cluster", self.extensions_end as u64)
            .advise(format!("{way_out}{larger}"))
    }
}

/// The header cluster on its way to the planned one.
struct Stages {
    now: Vec<u8>,
    /// The sector in which the last stage differs from the one before it.
    last_sector: Option<usize>,
    stages: Vec<Vec<u8>>,
}

impl Stages {
    fn of(header: &Header) -> Result<Self> {
        Ok(Self { now: memory::copy(&header.raw)?, last_sector: None, stages: Vec::new() })
    }

    /// Lets each unused place of a directory hold zeros: a cut may have left it with what it held, and the header without a
    /// directory must be the same by whatever way it came.
    fn clear_places(&mut self) -> Result<()> {
        let header = Header::read(&Memory(&self.now))?;
        let mut places = header.extensions.iter().filter(|it| is_place_of_directory(it));
        places.try_for_each(|place| self.write(place.at + 8, &[0; DIRECTORY_REF_LEN]))
    }

    /// Whether QEMU, which writes the whole header anew, finds room for it.
    fn fits_in_qemu(&self) -> Result<bool> {
        let header = Header::read(&Memory(&self.now))?;
        Ok(header.qemu_needs() <= header.cluster_bytes_usize())
    }

    /// Changes the bytes at `at`; in which order their sectors change must not matter.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let mut next = memory::copy(&self.now)?;
        if !put(&mut next, at, bytes) {
            let message = format!("{} bytes do not fit the header cluster", bytes.len());
            return Err(Error::new(ErrorKind::CannotStore, message).at("qcow2 header cluster", at as u64));
        }
        self.advance(&next)
    }

    /// Adds a stage for each sector in which `next` differs. Changes of one sector that follow each other are one.
    fn advance(&mut self, next: &[u8]) -> Result<()> {
        for (sector, new) in next.chunks(SECTOR).enumerate() {
            let Some(place) = self.now.chunks_mut(SECTOR).nth(sector).filter(|old| *old != new) else { continue };
            place.copy_from_slice(new);
            if self.last_sector == Some(sector) {
                self.stages.pop();
            }
            self.last_sector = Some(sector);
            memory::push(&mut self.stages, memory::copy(&self.now)?)?;
        }
        Ok(())
    }
}

/// A record that nobody reads, of the length that the place of the directory takes.
fn is_place_of_directory(extension: &Extension) -> bool {
    extension.kind == EXTENSION_PADDING && extension.len == DIRECTORY_REF_LEN
}

/// Whether a record of `len` bytes fits between `at` and `limit`. Where it leaves room at all, that must be enough for an end marker.
fn has_room(at: usize, len: usize, limit: usize) -> bool {
    let end = at + len;
    end == limit || end + END_MARKER.len() <= limit
}

fn crosses_sectors(at: usize, len: usize) -> bool {
    at / SECTOR != (at + len - 1) / SECTOR
}

/// The type and the length that begin a record.
fn record_start(kind: u32, len: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let fits = put(&mut bytes, 0, &kind.to_be_bytes()) && put(&mut bytes, 4, &len.to_be_bytes());
    debug_assert!(fits, "two fields of four bytes");
    bytes
}

fn encode(directory: DirectoryRef) -> [u8; DIRECTORY_REF_LEN] {
    let mut bytes = [0; DIRECTORY_REF_LEN];
    let fits = put(&mut bytes, 0, &directory.bitmaps.to_be_bytes())
        && put(&mut bytes, 8, &directory.len_bytes.to_be_bytes())
        && put(&mut bytes, 16, &directory.offset.to_be_bytes());
    debug_assert!(fits, "the three fields end at byte 24");
    bytes
}
