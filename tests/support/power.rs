//! A storage whose power can be cut: it records writes and flushes, and plays back what a disk may hold after a cut.
//!
//! Assumed of the disk: a write of one aligned 512-byte sector is atomic, and what came before a flush is there after
//! it. Anything else may happen: of the writes since the last flush, any set of sectors may have reached the disk. A
//! write that fails may have written a part. After a flush that failed, what it should have made durable may stay lost
//! although later flushes succeed, as on Linux, which reports a lost page once.

use super::random::Random;
use checkmap::io::Storage;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const SECTOR: usize = 512;
/// Up to this number of unflushed writes every subset is tried.
const ALL_SUBSETS_UP_TO: usize = 8;

#[derive(Clone, Debug)]
enum Event {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The part of a failed write that the disk may hold.
    TornWrite {
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        len_bytes: u64,
    },
    Flush,
    FailedFlush,
}

/// An image in memory that remembers in which order it was written.
#[derive(Debug)]
pub struct Recorder {
    before: Vec<u8>,
    state: Mutex<(Vec<u8>, Vec<Event>)>,
    /// The numbers of the writes and flushes that fail; the others succeed.
    failing: Vec<usize>,
    done: AtomicUsize,
}

impl Recorder {
    pub fn new(image: Vec<u8>) -> Self {
        Self::failing_at(image, &[])
    }

    /// The same, where the writes and flushes of these numbers fail.
    pub fn failing_at(image: Vec<u8>, operations: &[usize]) -> Self {
        let (failing, done) = (operations.to_vec(), AtomicUsize::new(0));
        Self { before: image.clone(), state: Mutex::new((image, Vec::new())), failing, done }
    }

    fn count(&self) -> io::Result<()> {
        let number = self.done.fetch_add(1, Ordering::Relaxed);
        if self.failing.contains(&number) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    /// The number of writes and flushes so far.
    pub fn operations(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// What the file holds when nothing is cut.
    pub fn image(&self) -> Vec<u8> {
        self.state.lock().expect("no test panics while it writes").0.clone()
    }

    /// Calls `outcome` with every state of the disk that a power cut may leave, or with `most` of them for each
    /// flush where there are more; returns how many that were. The string tells where the cut was.
    pub fn cut_everywhere(&self, most: usize, random: &mut Random, mut outcome: impl FnMut(&str, &[u8])) -> usize {
        let events = self.state.lock().expect("no test panics while it writes").1.clone();
        let has_failed = events.iter().any(|event| matches!(event, Event::TornWrite { .. } | Event::FailedFlush));
        // What failed has reached the disk, or not, or in part.
        let fates: &[u64] = if has_failed { &[1, 0, 2, 3] } else { &[1] };
        fates.iter().map(|one_in| self.cut(&after_failure(&events, *one_in, random), most, random, &mut outcome)).sum()
    }

    fn cut(&self, events: &[Event], most: usize, random: &mut Random, outcome: &mut impl FnMut(&str, &[u8])) -> usize {
        let mut durable = self.before.clone();
        let mut disk = Vec::new();
        let mut count = 0;
        for (interval, pending) in events.split(|event| matches!(event, Event::Flush)).enumerate() {
            let sectors = sectors_of(pending);
            for subset in subsets(pending.len(), &sectors, most, random) {
                disk.clone_from(&durable);
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
        let outcome = self.count();
        let mut state = self.state.lock().expect("no test panics while it writes");
        let event = match outcome {
            Ok(()) => Event::Write { offset, bytes: bytes.to_vec() },
            Err(_) => {
                let landed = (bytes.len() / 2).next_multiple_of(SECTOR).min(bytes.len());
                Event::TornWrite { offset, bytes: bytes[..landed].to_vec() }
            }
        };
        apply(&mut state.0, &event);
        state.1.push(event);
        outcome
    }

    fn flush(&self) -> io::Result<()> {
        let outcome = self.count();
        let event = if outcome.is_ok() { Event::Flush } else { Event::FailedFlush };
        self.state.lock().expect("no test panics while it writes").1.push(event);
        outcome
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

/// The same events without failures: of the writes that a failure may have lost, one in `one_in` is kept; none for 0.
fn after_failure(events: &[Event], one_in: u64, random: &mut Random) -> Vec<Event> {
    let mut survivors = Vec::new();
    let mut is_kept = || one_in > 0 && random.chance(one_in);
    let mut last_flush = 0;
    for event in events {
        match event {
            Event::TornWrite { offset, bytes } => {
                if is_kept() {
                    survivors.push(Event::Write { offset: *offset, bytes: bytes.clone() });
                }
            }
            Event::FailedFlush => {
                let pending = survivors.split_off(last_flush);
                survivors
                    .extend(pending.into_iter().filter(|event| !matches!(event, Event::Write { .. }) || is_kept()));
            }
            event => survivors.push(event.clone()),
        }
        if matches!(event, Event::Flush) {
            last_flush = survivors.len();
        }
    }
    survivors
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
            Event::Flush | Event::TornWrite { .. } | Event::FailedFlush => {}
        }
    }
    sectors
}

/// The sets of sectors to try, at most `most`. Where there are few writes or sectors, every set of them; else nothing, all,
/// each alone, each missing alone and each beginning of their sequence, or an even choice of these, and then any others.
fn subsets(writes: usize, sectors: &[Sector<'_>], most: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut found = HashSet::new();
    let mut add = |chosen: &dyn Fn(usize, &Sector<'_>) -> bool| {
        found.insert(sectors.iter().enumerate().filter(|(n, s)| chosen(*n, s)).map(|(n, _)| n).collect::<Vec<_>>());
    };
    if writes <= ALL_SUBSETS_UP_TO {
        for set in 0..1_u32 << writes {
            add(&|_, sector| set >> sector.write & 1 == 1);
        }
    } else {
        for keep in (0..writes).step_by(1 + 12 * writes / most) {
            add(&|_, sector| sector.write < keep);
            add(&|_, sector| sector.write == keep);
            add(&|_, sector| sector.write != keep);
        }
    }
    if sectors.len() <= ALL_SUBSETS_UP_TO {
        for set in 0..1_u32 << sectors.len() {
            add(&|number, _| set >> number & 1 == 1);
        }
    } else {
        add(&|_, _| true);
        for keep in (0..sectors.len()).step_by(1 + 12 * sectors.len() / most) {
            add(&|number, _| number < keep);
            add(&|number, _| number == keep);
            add(&|number, _| number != keep);
        }
        for _ in found.len()..most {
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
        Event::Write { offset, bytes } | Event::TornWrite { offset, bytes } => put(disk, *offset, bytes),
        Event::Truncate { len_bytes } => disk.truncate(usize::try_from(*len_bytes).expect("fits")),
        Event::Flush | Event::FailedFlush => {}
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
