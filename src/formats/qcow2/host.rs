#![forbid(unsafe_code)]
//! Owns a qcow2 image as a host of bitmaps: each question of the seam, answered by the files beside this one. Must never
//! know who asks.

use super::header::INCOMPATIBLE_CORRUPT;
use super::occupied;
use super::{Entry, Qcow2, allocated, check, directory, joint, table};
use crate::bitmap::Bitmap;
use crate::chain::{Action, BitmapState, Name};
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, clip_end};
use crate::host::{
    Backing, CheckReport, Facts, Fill, Ground, Host, Mark, Remarks, Summary, Switch, UnionRequest, unite,
};
use crate::io::Storage;
use crate::progress::{Observer, Unobserved};
use std::sync::Arc;

fn state(entry: &Entry) -> BitmapState {
    let mut state = BitmapState::new(entry.name.clone(), entry.granularity, entry.is_recording());
    state.inconsistent = entry.is_inconsistent();
    state.unusable = entry.is_unusable();
    state
}

impl Host for Qcow2 {
    fn facts(&self) -> Facts<'_> {
        let header = &self.header;
        let mut facts = Facts::new("qcow2", header.size_bytes);
        facts.format_version = header.version;
        facts.allocation_bytes = header.cluster_bytes();
        facts.backing = header.backing().map(|(name, format)| Backing::new(name, format));
        facts.data_file = header.data_file();
        facts.is_unclean = self.has_unclean_mark();
        facts
    }

    fn bitmaps(&self) -> Box<dyn Iterator<Item = BitmapState> + '_> {
        Box::new(self.entries.iter().map(state))
    }

    fn bitmap(&self, name: &Name) -> Result<Option<BitmapState>> {
        Ok(self.place_of(name)?.and_then(|place| self.entries.get(place)).map(state))
    }

    fn has_directory(&self) -> bool {
        self.header.has_bitmaps_extension()
    }

    fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    fn unclean(&self) -> Option<Error> {
        if !self.has_unclean_mark() {
            return None;
        }
        let mark = if self.header.incompatible & INCOMPATIBLE_CORRUPT != 0 { "corrupt" } else { "dirty" };
        let message = format!("the image is marked {mark}, so its free space cannot be trusted");
        let doubtful = self.trouble.is_some()
            || self.occupied_to_read(&mut Unobserved).is_ok_and(|occupied| occupied.deceives(&self.entries));
        Some(Error::new(ErrorKind::Unclean, message).at("qcow2 header", 72).advise(occupied::repair(doubtful)))
    }

    /// Whether header and directory are still in the file as they were read.
    fn is_unchanged(&self) -> Result<bool> {
        match Self::open(Arc::clone(&self.storage)) {
            Ok(now) => Ok(now.header.raw == self.header.raw && now.entries == self.entries),
            Err(error) if error.kind() == ErrorKind::Io || error.is_of_the_call() => Err(error),
            // It could be read when it was opened.
            Err(_) => Ok(false),
        }
    }

    /// QEMU's default: the cluster size, from 4 KiB to 64 KiB; doubled until the bitmap fits qcow2.
    fn default_granularity(&self) -> Result<Granularity> {
        self.fitting_granularity(Granularity::from_bits(self.header.cluster_bits.clamp(12, 16))?)
    }

    fn check_granularity(&self, granularity: Granularity) -> Result<()> {
        directory::check_new(self.header.size_bytes, granularity)
    }

    fn survey(&self, observer: &mut dyn Observer) -> Result<()> {
        self.occupied_to_read(observer).map(drop)
    }

    fn doubt(&self, name: &Name, observer: &mut dyn Observer) -> Result<Option<Error>> {
        self.fault_of(name, observer).map(Option::<&Error>::cloned)
    }

    fn union(&self, request: &UnionRequest<'_>, observer: &mut dyn Observer) -> Result<Bitmap> {
        let window = request.offset..clip_end(request.offset, request.len_bytes, self.header.size_bytes);
        unite(request, observer, |name| {
            let occupied = self.occupied_to_read(&mut Unobserved)?;
            occupied.check_directory()?;
            table::load(self.file(), self.entry(name)?, occupied, window.clone(), self.threads)
        })
    }

    fn allocated(&self, offset: u64, len_bytes: u64, observer: &mut dyn Observer) -> Result<Option<Bitmap>> {
        let window = offset..clip_end(offset, len_bytes, self.header.size_bytes);
        allocated::allocated(self.file(), window, observer).map(Some)
    }

    fn summary(&self, name: &Name) -> Result<Summary> {
        Ok(Summary { stored_bytes: Some(self.stored_bytes(name)?), ..Summary::default() })
    }

    fn remarks(&self, actions: &[Action]) -> Remarks {
        let count = |wanted: fn(&Action) -> bool| actions.iter().filter(|action| wanted(action)).count();
        let added = count(|action| matches!(action, Action::Add { .. } | Action::AddAllocated { .. }));
        let removed = count(|action| matches!(action, Action::Remove { .. }));
        let mut remarks = Remarks::default();
        if self.header.directory_crosses_sectors() && !actions.is_empty() && self.entries.len() + added > removed {
            remarks.risks.push(
                "the place of the bitmap directory crosses two sectors of this image's header: a power cut in the \
                 moment of the commit would lose the bitmaps, and the next backup would have to be full"
                    .into(),
            );
        }
        if added > 0 && self.header.snapshots > 0 {
            remarks.warnings.push(
                "the image has internal snapshots: as long as it has any bitmap, QEMU refuses to go back to one of them \
                 (`qemu-img snapshot -a`, loadvm)"
                    .into(),
            );
        }
        remarks
    }

    fn rehearse(&self, actions: &[Action], observer: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        self.rehearse_filled(actions, &[], observer)
    }

    fn apply(&mut self, actions: &[Action], observer: &mut dyn Observer) -> Result<Vec<String>> {
        self.apply_filled(actions, &[], observer)
    }

    fn rehearse_filled(
        &self,
        actions: &[Action],
        fills: &[Fill],
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<String>>> {
        let occupied = self.occupied_to_write(observer)?;
        self.change(actions, fills, &occupied)?.rehearse(observer).map(Some)
    }

    fn apply_filled(&mut self, actions: &[Action], fills: &[Fill], observer: &mut dyn Observer) -> Result<Vec<String>> {
        let occupied = self.occupied_to_write(observer).map_err(Error::nothing_changed)?;
        let mut header = self.header.try_clone().map_err(Error::nothing_changed)?;
        let change = self.change(actions, fills, &occupied).map_err(Error::nothing_changed)?;
        let written = change.write(&mut header, observer);
        self.conclude(&header, written)
    }

    /// Clusters that nothing else references are freed; clusters that cannot be known are leaked, and a warning says so.
    fn drop_all(&mut self, observer: &mut dyn Observer) -> Result<Vec<String>> {
        let mut header = self.header.try_clone().map_err(Error::nothing_changed)?;
        let written = self.removal()?.write(&mut header, observer);
        self.conclude(&header, written)
    }

    fn rehearse_drop_all(&self, observer: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        self.removal()?.rehearse(observer).map(Some)
    }

    fn read_again(&mut self) -> Result<()> {
        self.renew()
    }

    fn mark(&self) -> Option<Mark> {
        self.header.mark()
    }

    fn unfinished(&self) -> Option<Error> {
        Qcow2::unfinished(self)
    }

    fn mend(&mut self, allowed: bool) {
        self.mends = allowed;
    }

    fn check_mark(&self, mark: &Mark) -> Result<()> {
        self.check_writable()?;
        joint::check_place(&self.header)?;
        self.check_room_for(mark)
    }

    fn ground(&self, observer: &mut dyn Observer) -> Result<Box<dyn Ground + '_>> {
        self.stand(observer)
    }

    fn state_sum(&self) -> Option<u32> {
        Some(crc32c(&self.header.raw))
    }

    fn can_switch(&self, switch: &Switch, forward: bool) -> bool {
        self.way(switch, forward).is_ok()
    }

    fn switch_again(&mut self, switch: &Switch, forward: bool) -> Result<Vec<String>> {
        Qcow2::switch_again(self, switch, forward)
    }

    fn take_mark_out(&mut self) -> Result<()> {
        Qcow2::take_mark_out(self)
    }

    fn check(&self, observer: &mut dyn Observer) -> Result<CheckReport> {
        check::check(self, observer)
    }

    fn set_threads(&mut self, threads: usize) {
        self.threads = threads;
    }

    fn set_storage(&mut self, storage: Arc<dyn Storage>) -> Result<()> {
        self.storage = storage;
        Ok(())
    }
}
