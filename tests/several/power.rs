//! The step, cut by the power at every flush of every image: of the writes since the last flush, any part may be there. The journal itself is
//! durable after each of its changes, which `system_calls` looks at.

use super::support::random::Random;
use super::{Machine, support};
use checkmap::chain::Name;
use checkmap::image::{Access, Group, Image, OpenOptions, Outcome, Purpose};
use checkmap::io::Storage;
use checkmap::progress::Unobserved;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;
/// How many outcomes of each cut are looked at.
const OUTCOMES: usize = 8;

/// A sector that was written and not flushed.
#[derive(Clone, Debug)]
struct Pending {
    image: usize,
    offset: usize,
    bytes: Vec<u8>,
}

/// Everything there is at one moment.
#[derive(Clone, Debug)]
struct Moment {
    durable: Vec<Vec<u8>>,
    pending: Vec<Pending>,
    journal: Option<Vec<u8>>,
}

/// The disks of a machine in memory, and every moment at which one of them is flushed.
#[derive(Debug)]
struct Log {
    now: Vec<Vec<u8>>,
    durable: Vec<Vec<u8>>,
    pending: Vec<Pending>,
    moments: Vec<Moment>,
    journal: PathBuf,
}

impl Log {
    fn note(&mut self) {
        let journal = std::fs::read(&self.journal).ok();
        let (durable, pending) = (self.durable.clone(), self.pending.clone());
        self.moments.push(Moment { durable, pending, journal });
    }
}

#[derive(Clone, Debug)]
struct Double {
    log: Arc<Mutex<Log>>,
    image: usize,
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    image.resize(image.len().max(offset + bytes.len()), 0);
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Storage for Double {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let log = self.log.lock().expect("nobody panics inside");
        let image = &log.now[self.image];
        let start = usize::try_from(offset).expect("a small image").min(image.len());
        let count = buffer.len().min(image.len() - start);
        buffer[..count].copy_from_slice(&image[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut log = self.log.lock().expect("nobody panics inside");
        let offset = usize::try_from(offset).expect("a small image");
        put(&mut log.now[self.image], offset, bytes);
        for (number, piece) in bytes.chunks(SECTOR).enumerate() {
            let pending = Pending { image: self.image, offset: offset + number * SECTOR, bytes: piece.to_vec() };
            log.pending.push(pending);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut log = self.log.lock().expect("nobody panics inside");
        log.note();
        let (flushed, pending) = std::mem::take(&mut log.pending).into_iter().partition(|one| one.image == self.image);
        log.pending = pending;
        let flushed: Vec<Pending> = flushed;
        for one in flushed {
            put(&mut log.durable[self.image], one.offset, &one.bytes);
        }
        Ok(())
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        let mut log = self.log.lock().expect("nobody panics inside");
        log.now[self.image].truncate(usize::try_from(len_bytes).expect("a small image"));
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.log.lock().expect("nobody panics inside").now[self.image].len() as u64)
    }

    fn can_grow(&self) -> bool {
        true
    }
}

/// What a disk may hold after a cut at this moment.
fn outcomes(moment: &Moment, random: &mut Random) -> Vec<Vec<Vec<u8>>> {
    let count = moment.pending.len();
    let mut sets: Vec<Vec<bool>> = vec![vec![false; count], vec![true; count]];
    while sets.len() < OUTCOMES && count > 1 {
        let one_in = 1 + random.below(4);
        sets.push((0..count).map(|_| random.chance(one_in)).collect());
    }
    let landed = |set: &Vec<bool>| {
        let mut disks = moment.durable.clone();
        for (one, _) in moment.pending.iter().zip(set).filter(|(_, landed)| **landed) {
            put(&mut disks[one.image], one.offset, &one.bytes);
        }
        disks
    };
    sets.iter().map(landed).collect()
}

#[test]
fn a_power_cut_leaves_the_checkpoint_on_all_images_or_on_none() {
    if !support::tools_are_here() {
        return;
    }
    let mut machine = Machine::new(3);
    let journal = machine.journal();
    let images: Vec<Vec<u8>> = machine.disks.iter().map(|disk| disk.before.clone()).collect();
    let (now, durable) = (images.clone(), images);
    let log = Log { now, durable, pending: Vec::new(), moments: Vec::new(), journal: journal.clone() };
    let log = Arc::new(Mutex::new(log));
    let options = OpenOptions::new(Access::Write).no_lock(true);
    let mut open: Vec<Image> = (0..3)
        .map(|image| {
            let storage = Arc::new(Double { log: Arc::clone(&log), image });
            Image::open_storage(storage, &machine.disks[image].path, &options).expect("the image opens")
        })
        .collect();
    let purpose = Purpose::Create(Name::new(b"tue"), None);
    let mut group = Group::journaled(&mut open, None, purpose).expect("a group");
    let plans = group.plan(|image| image.plan_create(b"tue", None, None)).expect("plans");
    let warnings = group.commit(&plans, &mut Unobserved).expect("the step is done");
    assert!(warnings.iter().all(Vec::is_empty), "{warnings:?}");
    assert!(!journal.exists());
    drop(open);
    log.lock().expect("nobody panics inside").note();

    let moments = log.lock().expect("nobody panics inside").moments.clone();
    let mut random = Random::seeded(7);
    let (mut none, mut all, mut found) = (0, 0, 0);
    for (number, moment) in moments.iter().enumerate() {
        for (outcome, disks) in outcomes(moment, &mut random).into_iter().enumerate() {
            let when = format!("cut at flush {number}, outcome {outcome}");
            machine.renew();
            for (disk, bytes) in machine.disks.iter().zip(&disks) {
                std::fs::write(&disk.path, bytes).expect("an image can be written");
            }
            if let Some(bytes) = &moment.journal {
                std::fs::write(&journal, bytes).expect("the journal can be written");
            }
            let marked: Vec<usize> = (0..3).filter(|at| machine.disks[*at].open().unfinished().is_some()).collect();
            assert!(marked.is_empty() || moment.journal.is_some(), "{when}: a mark names no journal");
            if let Some(first) = marked.get(outcome % marked.len().max(1)) {
                found += 1;
                let path = &machine.disks[*first].path;
                let mut image = Image::open(path, &OpenOptions::new(Access::Write)).expect("the image opens");
                let ended = image.recover(&mut Unobserved).expect(&when).expect("there is a step");
                assert!(ended.outcome != Outcome::LeftApart && ended.images.len() == 3, "{when}: {ended:?}");
            } else if moment.journal.is_some() {
                std::fs::remove_file(&journal).expect("it is there");
            }
            let have = machine.disks.iter().filter(|disk| disk.checkpoints() == ["mon", "tue"]).count();
            assert!(have == 0 || have == 3, "{when}: {have} have it");
            none += usize::from(have == 0);
            all += usize::from(have == 3);
            machine.assert_whole(&when);
        }
    }
    eprintln!("{} flushes: {found} cuts inside of the step, {none} undone, {all} finished", moments.len());
    assert!(found > 10 && none > 10 && all > 5, "{found} {none} {all}");
}
