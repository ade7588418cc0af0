//! A storage whose power can be cut: it records writes and flushes, and plays back what a disk may hold after a cut.
//!
//! Assumed of the disk: a write of one aligned 512-byte sector is atomic, and what came before a flush is there after
//! it. Anything else may happen: of the writes since the last flush, any set of sectors may have reached the disk.

use super::random::Random;
use checkmap::storage::Storage;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const SECTOR: usize = 512;
/// Up to so many unflushed writes every subset is tried.
const ALL_SUBSETS_UP_TO: usize = 8;

#[derive(Clone, Debug)]
enum Event {
    Write { offset: u64, bytes: Vec<u8> },
    Truncate { len_bytes: u64 },
    Flush,
}

/// An image in memory that remembers in which order it was written.
#[derive(Debug)]
pub struct Recorder {
    before: Vec<u8>,
    state: Mutex<(Vec<u8>, Vec<Event>)>,
    /// How many writes and flushes succeed until one fails; the disk is well again after it.
    until_failure: AtomicUsize,
}

impl Recorder {
    pub fn new(image: Vec<u8>) -> Self {
        Self::failing_after(image, usize::MAX)
    }

    /// The same, where one write or flush fails after so many that succeed.
    pub fn failing_after(image: Vec<u8>, operations: usize) -> Self {
        let until_failure = AtomicUsize::new(operations);
        Self { before: image.clone(), state: Mutex::new((image, Vec::new())), until_failure }
    }

    fn fail_once(&self) -> io::Result<()> {
        match self.until_failure.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }

    /// The number of writes and flushes so far.
    pub fn operations(&self) -> usize {
        self.state.lock().expect("no test panics while it writes").1.len()
    }

    /// What the file holds when nothing is cut.
    pub fn image(&self) -> Vec<u8> {
        self.state.lock().expect("no test panics while it writes").0.clone()
    }

    /// Calls `outcome` with every state of the disk that a power cut may leave, or with `most` of them for each
    /// flush where there are more; returns how many that were. The string tells where the cut was.
    pub fn cut_everywhere(&self, most: usize, random: &mut Random, mut outcome: impl FnMut(&str, &[u8])) -> usize {
        let events = self.state.lock().expect("no test panics while it writes").1.clone();
        let mut durable = self.before.clone();
        let mut count = 0;
        for (interval, pending) in events.split(|event| matches!(event, Event::Flush)).enumerate() {
            let sectors = sectors_of(pending);
            for subset in subsets(pending.len(), &sectors, most, random) {
                let mut disk = durable.clone();
                for number in &subset {
                    apply_sector(&mut disk, &sectors[*number]);
                }
                let place = format!("after {interval} flushes, {} of {} sectors", subset.len(), sectors.len());
                outcome(&place, &disk);
                count += 1;
            }
            for event in pending {
                apply(&mut durable, event);
            }
        }
        count
    }
}

impl Storage for Recorder {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state.lock().expect("no test panics while it writes");
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(state.0.len());
        let count = buffer.len().min(state.0.len() - start);
        buffer[..count].copy_from_slice(&state.0[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.fail_once()?;
        let mut state = self.state.lock().expect("no test panics while it writes");
        let event = Event::Write { offset, bytes: bytes.to_vec() };
        apply(&mut state.0, &event);
        state.1.push(event);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.fail_once()?;
        self.state.lock().expect("no test panics while it writes").1.push(Event::Flush);
        Ok(())
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock().expect("no test panics while it writes");
        let event = Event::Truncate { len_bytes };
        apply(&mut state.0, &event);
        state.1.push(event);
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.state.lock().expect("no test panics while it writes").0.len() as u64)
    }

    fn can_grow(&self) -> bool {
        true
    }
}

/// One atomic piece of an event, with the number of the write it belongs to.
struct Sector<'a> {
    write: usize,
    offset: u64,
    content: Option<&'a [u8]>,
}

fn sectors_of(pending: &[Event]) -> Vec<Sector<'_>> {
    let mut sectors = Vec::new();
    for (write, event) in pending.iter().enumerate() {
        match event {
            Event::Write { offset, bytes } => {
                // A write that does not begin at a sector's start would still be torn at the sectors' bounds.
                let head = (SECTOR - usize::try_from(offset % SECTOR as u64).expect("below 512")) % SECTOR;
                let (head, rest) = bytes.split_at(head.min(bytes.len()));
                let mut at = *offset;
                for content in std::iter::once(head).chain(rest.chunks(SECTOR)).filter(|piece| !piece.is_empty()) {
                    sectors.push(Sector { write, offset: at, content: Some(content) });
                    at += content.len() as u64;
                }
            }
            Event::Truncate { len_bytes } => sectors.push(Sector { write, offset: *len_bytes, content: None }),
            Event::Flush => {}
        }
    }
    sectors
}

/// The sets of sectors to try: every subset of whole writes where there are few, then torn ones.
fn subsets(writes: usize, sectors: &[Sector<'_>], most: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut found = HashSet::new();
    let mut of_writes = |chosen: &dyn Fn(usize) -> bool| {
        found.insert(sectors.iter().enumerate().filter(|(_, s)| chosen(s.write)).map(|(n, _)| n).collect::<Vec<_>>());
    };
    if writes <= ALL_SUBSETS_UP_TO {
        for set in 0..1_u32 << writes {
            of_writes(&|write| set >> write & 1 == 1);
        }
    } else {
        for keep in 0..writes {
            of_writes(&|write| write < keep);
            of_writes(&|write| write == keep);
            of_writes(&|write| write != keep);
        }
    }
    if sectors.len() <= ALL_SUBSETS_UP_TO {
        for set in 0..1_u32 << sectors.len() {
            found.insert((0..sectors.len()).filter(|sector| set >> sector & 1 == 1).collect());
        }
    } else {
        for _ in 0..most {
            // Sparse, even and dense sets alike.
            let one_in = 1 + random.below(6);
            let invert = random.chance(2);
            found.insert((0..sectors.len()).filter(|_| random.chance(one_in) != invert).collect());
        }
    }
    let mut found: Vec<Vec<usize>> = found.into_iter().collect();
    found.sort();
    if found.len() > most {
        random.shuffle(&mut found);
        found.truncate(most);
    }
    found
}

fn apply(disk: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { offset, bytes } => put(disk, *offset, bytes),
        Event::Truncate { len_bytes } => disk.truncate(usize::try_from(*len_bytes).expect("fits")),
        Event::Flush => {}
    }
}

fn apply_sector(disk: &mut Vec<u8>, sector: &Sector<'_>) {
    match sector.content {
        Some(bytes) => put(disk, sector.offset, bytes),
        None => disk.truncate(usize::try_from(sector.offset).expect("fits")),
    }
}

fn put(disk: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("an offset of a test image fits");
    if disk.len() < start + bytes.len() {
        disk.resize(start + bytes.len(), 0);
    }
    disk[start..start + bytes.len()].copy_from_slice(bytes);
}

/// Counts how often each kind of outcome was seen.
pub type Tally = BTreeMap<&'static str, usize>;
