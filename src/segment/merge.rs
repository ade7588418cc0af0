#![forbid(unsafe_code)]
//! Owns the union of many segments: batch by batch, in bounded memory, on as many threads as asked for, and written in
//! order. Must never know where the result goes.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::container::Decoder;
use super::diff::check_sizes;
use super::layout::{Entry, Header, Summary};
use super::plan::{self, Batch, Input, Mixed, PIECE, Planner, most_of_a_chunk};
use super::read::{CONTAINERS, Segment};
use super::write::{Pieces, Writer};
use crate::bitmap::chunks::{CHUNK_GRANULES, Chunk, Form, Pair, Union, View};
use crate::error::{Error, ErrorKind, Result};
use crate::fault::{self, Fault};
use crate::geometry::check_disk;
use crate::memory;
use crate::pool::Pool;
use crate::progress::{Observer, tell};
use std::io::Write;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

const PHASE: &str = "merging segments";

/// What the processor reads at once.
const CACHE_LINE: usize = 64;

/// A batch larger than this leaves the caches of the processor.
const MOST_BATCH_BYTES: u64 = 1 << 20;

/// How a merge is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeOptions {
    /// The most memory it takes beside the directories of the segments, its own result's among them: 64 MiB by default.
    pub memory_bytes: u64,
    /// How many threads unite containers; with 0, the default, and with 1 the caller's thread does it all, and none is
    /// started. With more, the caller's thread writes and tells the observer.
    pub threads: usize,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self { memory_bytes: 64 << 20, threads: 0 }
    }
}

/// Writes the union of `segments` to `out` as a new segment, at the finest of their granularities.
///
/// Every container is read and checked once. Nothing is written before it is known that the segments are of one disk and
/// that the memory suffices: else [`ErrorKind::SizeMismatch`] or [`ErrorKind::InvalidArgument`]. A container that breaks a
/// rule is [`ErrorKind::Damaged`]; what `out` refuses is [`ErrorKind::Io`] or [`ErrorKind::NoSpace`]; `observer` can stop it
/// at any time. The bytes written until then are no segment: a program that writes a file writes a temporary one.
pub fn merge(
    segments: &[&Segment<'_>],
    out: &mut dyn Write,
    options: &MergeOptions,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    unite(segments, out, options, observer, false)
}

/// Unites `segments` as [`merge`] does, and only counts: what the result would be, without making it.
pub fn count(segments: &[&Segment<'_>], options: &MergeOptions, observer: &mut dyn Observer) -> Result<Summary> {
    unite(segments, &mut std::io::sink(), options, observer, true)
}

fn unite(
    segments: &[&Segment<'_>],
    out: &mut dyn Write,
    options: &MergeOptions,
    observer: &mut dyn Observer,
    count_only: bool,
) -> Result<Summary> {
    let first =
        segments.first().ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "there is no segment to merge"))?;
    segments.iter().try_for_each(|segment| check_sizes(first, segment))?;
    let granularity = segments.iter().map(|segment| segment.granularity()).fold(first.granularity(), Ord::min);
    check_disk(first.size_bytes(), granularity)?;
    let header = Header { size_bytes: first.size_bytes(), granularity };
    let shift = |segment: &Segment<'_>| segment.granularity().bits() - granularity.bits();
    let inputs = memory::gather(segments.iter().map(|segment| Input { segment, shift: shift(segment) }))?;
    let room = Budget::new(&inputs, options)?;
    room.pool.map(memory::copy(segments)?, |segment| segment.touch_all())?.into_iter().collect::<Result<()>>()?;
    let failed = |error| Error::io("cannot write the segment", error);
    let mut writer = Writer::new(out, header.size_bytes, header.granularity).map_err(failed)?;
    let job = Job { inputs: &inputs, header, count_only };
    let planner = Planner::new(&inputs, header.granules(), room.batch_bytes)?;
    let mut take = |end: u64, pieces: &Pieces| {
        writer.write(pieces).map_err(failed)?;
        tell(observer, PHASE, end.min(header.chunks()), header.chunks())
    };
    if room.pool.threads() <= 1 {
        let (mut work, mut pieces) = (Work::new(&job)?, Pieces::default());
        for batch in planner {
            let batch = batch?;
            job.process(&batch, &mut work, &mut pieces)?;
            take(batch.end(), &pieces)?;
        }
    } else {
        job.process_on_threads(planner, &room, &mut take)?;
    }
    tell(observer, PHASE, header.chunks(), header.chunks())?;
    writer.finish().map_err(failed)
}

/// The most runs that what a coarse container has of one chunk can come to.
const MOST_RUNS: usize = 16_384;

/// What a thread keeps of each input, beside its bytes: where it stands, and what waits to be united.
const INPUT_BYTES: u64 = 160;

/// How the memory is shared out.
#[derive(Debug)]
struct Budget {
    pool: Pool,
    /// How many batches may be in the works or wait to be written.
    in_flight: usize,
    batch_bytes: u64,
}

impl Budget {
    fn new(inputs: &[Input<'_>], options: &MergeOptions) -> Result<Self> {
        // What a batch reads, what it makes, and what describes each chunk that it makes.
        let per_byte = 2 + (Pieces::PIECE_BYTES as u64).div_ceil(64);
        let fixed = Union::HEAP_BYTES
            + Decoder::HEAP_BYTES
            + coarse(inputs).next().map_or(0, |_| MOST_RUNS * size_of::<Pair>()) as u64
            + INPUT_BYTES * inputs.len() as u64
            + 4096;
        let least = most_of_a_chunk(inputs.len()) + 64;
        let batch_of = |batches: u64| (options.memory_bytes / batches).saturating_sub(fixed) / per_byte;
        let mut threads = options.threads.max(1);
        let batches = |threads: usize| if threads > 1 { 2 * threads as u64 } else { 1 };
        while threads > 1 && batch_of(batches(threads)) < least {
            threads -= 1;
        }
        let batch_bytes = batch_of(batches(threads)).min(MOST_BATCH_BYTES.max(least));
        if batch_bytes < least {
            let needed = fixed + least * per_byte;
            let message =
                format!("{} bytes are too little memory to merge {} segments", options.memory_bytes, inputs.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message).advise(format!("allow {needed} or more")));
        }
        let pool = Pool::new(threads);
        let in_flight = usize::try_from(batches(pool.threads())).unwrap_or(1);
        Ok(Self { pool, in_flight, batch_bytes })
    }
}

fn coarse<'a>(inputs: &'a [Input<'a>]) -> impl Iterator<Item = &'a Input<'a>> {
    inputs.iter().filter(|input| input.shift > 0)
}

/// The buffers of a thread. What came out of a batch leaves it; all else stays, and with it in the caches of its processor.
#[derive(Debug)]
struct Work<'a> {
    /// The containers of all inputs, one input after the other.
    bytes: Vec<u8>,
    cursors: Vec<Cursor<'a>>,
    decoder: Decoder,
    union: Union,
    runs: Vec<Pair>,
}

/// Where an input stands inside a batch.
#[derive(Debug)]
struct Cursor<'a> {
    input: &'a Input<'a>,
    /// The entry that is next.
    entry: Option<&'a Entry>,
    /// The next chunk of the result in which the entry has something, and up to where all chunks from there are full: none
    /// if this is the same one.
    next: u64,
    full_end: u64,
    /// Whether the entry's container was checked: one of a coarse input serves several chunks.
    is_checked: bool,
    later: Range<usize>,
    /// Where its containers begin in the file, and in the buffer.
    offset: u64,
    place: usize,
}

impl<'a> Cursor<'a> {
    fn step(&mut self) {
        self.entry = self.later.next().and_then(|index| self.input.entry(index));
        self.is_checked = false;
    }

    /// Goes to the first chunk from `position` on in which the input has something.
    fn seek(&mut self, position: u64, header: Header, bytes: &[u8], decoder: &mut Decoder) -> Result<()> {
        while let Some(entry) = self.entry {
            let keys = self.input.keys(entry);
            let from = keys.start.max(position);
            let found = if keys.end <= position {
                None
            } else if entry.is_full() {
                Some((from, keys.end.min(header.granules() >> 16).max(from)))
            } else if self.input.shift == 0 {
                Some((from, from))
            } else {
                let view = self.view(entry, bytes, decoder)?;
                next_of_coarse(view, entry.key, self.input.shift, from, header.granules())
            };
            if let Some((next, full_end)) = found {
                (self.next, self.full_end) = (next, full_end);
                return Ok(());
            }
            self.step();
        }
        Ok(())
    }

    /// The entry that has something in chunk `key`.
    fn at(&self, key: u64) -> Option<&'a Entry> {
        self.entry.filter(|_| self.next == key)
    }

    /// The bytes of the container of `entry`.
    fn container<'b>(&self, entry: &Entry, bytes: &'b [u8]) -> &'b [u8] {
        let from = self.place + usize::try_from(entry.offset.saturating_sub(self.offset)).unwrap_or_default();
        bytes.get(from..from + entry.len as usize).unwrap_or_default()
    }

    /// What the container of `entry` holds, checked when it is first looked at.
    fn view<'b>(&mut self, entry: &Entry, bytes: &'b [u8], decoder: &'b mut Decoder) -> Result<View<'b>> {
        let bytes = self.container(entry, bytes);
        if self.is_checked {
            return Ok(decoder.view(entry.form, bytes)?);
        }
        self.is_checked = true;
        self.input.segment.decode(decoder, entry, bytes)
    }
}

/// The first chunk of the result from `from` on in which the coarse container of chunk `key` has something, and up to where
/// all chunks from there are full. The result has `granules`.
fn next_of_coarse(view: View<'_>, key: u32, shift: u32, from: u64, granules: u64) -> Option<(u64, u64)> {
    let base = u64::from(key) << 16;
    let first = u16::try_from((from << 16 >> shift).saturating_sub(base)).ok()?;
    let (first, last) = view.first_run(first)?;
    let begin = (base + u64::from(first)) << shift;
    let end = ((base + u64::from(last) + 1) << shift).min(granules);
    let next = from.max(begin >> 16);
    Some((next, if begin <= next << 16 { next.max(end >> 16) } else { next }))
}

impl Work<'_> {
    fn new(job: &Job<'_>) -> memory::Result<Self> {
        let has_coarse = coarse(job.inputs).next().is_some();
        Ok(Self {
            bytes: Vec::new(),
            cursors: memory::room(job.inputs.len())?,
            decoder: Decoder::default(),
            union: Union::new()?,
            runs: memory::room(if has_coarse { MOST_RUNS } else { 0 })?,
        })
    }
}

/// What all batches share.
#[derive(Debug)]
struct Job<'a> {
    inputs: &'a [Input<'a>],
    header: Header,
    count_only: bool,
}

impl<'a> Job<'a> {
    fn process_on_threads(
        &self,
        planner: Planner<'_>,
        room: &Budget,
        take: &mut dyn FnMut(u64, &Pieces) -> Result<()>,
    ) -> Result<()> {
        let (give_back, free) = channel();
        (0..room.in_flight).for_each(|_| give_back.send(Pieces::default()).unwrap_or_default());
        let (finished, results) = channel();
        let source = Mutex::new(Source { free, batches: planner.zip(0..) });
        let threads = vec![finished; room.pool.threads()];
        room.pool.alongside(
            threads,
            |finished| self.work(&source, &finished),
            || {
                // Once this ends, nobody gives back any buffers, and the threads end.
                let give_back = give_back;
                let mut early: Vec<Done> = Vec::new();
                let mut next = 0;
                for done in results {
                    early.push(done);
                    while let Some(index) = early.iter().position(|done| done.number == next) {
                        let Done { end, pieces, .. } = early.swap_remove(index);
                        let pieces = pieces.unwrap_or_else(|fault| fault.resume())?;
                        take(end, &pieces)?;
                        // Where every thread is gone already, nobody needs it.
                        let _ = give_back.send(pieces);
                        next += 1;
                    }
                }
                Ok(())
            },
        )
    }

    /// Takes one batch after the other. A thread that takes a batch has a buffer for its result, so the first batch that is not
    /// written yet never waits for one.
    fn work(&self, source: &Mutex<Source<impl Iterator<Item = (Planned, u64)>>>, finished: &Sender<Done>) {
        let mut work = None;
        loop {
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(mut pieces) = source.free.recv() else { return };
            let Some((batch, number)) = source.batches.next() else { return };
            drop(source);
            let end = batch.as_ref().map_or(0, Batch::end);
            // A thread that waits for the batch must not wait for ever.
            let pieces = fault::catch(|| {
                let work = match &mut work {
                    Some(work) => work,
                    None => work.insert(Work::new(self)?),
                };
                self.process(&batch?, work, &mut pieces).map(|()| pieces)
            });
            if finished.send(Done { number, end, pieces }).is_err() {
                return;
            }
        }
    }

    /// Unites what the inputs have in one batch.
    fn process(&self, batch: &Batch, work: &mut Work<'a>, pieces: &mut Pieces) -> Result<()> {
        pieces.clear();
        match batch {
            Batch::Full(keys) => Ok(self.give_full(pieces, keys.clone())?),
            Batch::Mixed(batch) => {
                self.fetch(batch, work, pieces)?;
                let mut position = batch.keys.start;
                loop {
                    let Work { bytes, cursors, decoder, .. } = &mut *work;
                    let behind = cursors.iter_mut().filter(|cursor| cursor.next < position);
                    behind.into_iter().try_for_each(|cursor| cursor.seek(position, self.header, bytes, decoder))?;
                    let waiting = || work.cursors.iter().filter(|cursor| cursor.entry.is_some());
                    let first = waiting().map(|cursor| cursor.next).min();
                    let Some(key) = first.filter(|key| *key < batch.keys.end) else { return Ok(()) };
                    let full = waiting().filter(|cursor| cursor.next == key).map(|cursor| cursor.full_end).max();
                    let full_end = full.unwrap_or(key).min(batch.keys.end);
                    if full_end > key {
                        self.give_full(pieces, key..full_end)?;
                        position = full_end;
                    } else {
                        self.process_chunk(key, work, pieces)?;
                        position = key + 1;
                    }
                }
            }
        }
    }

    /// Reads all containers of a batch.
    fn fetch(&self, batch: &Mixed, work: &mut Work<'a>, pieces: &mut Pieces) -> Result<()> {
        let Work { bytes, cursors, decoder, .. } = work;
        let spans = &batch.spans;
        let held = || self.inputs.iter().zip(spans).map(|(input, span)| input.segment.span(span.clone()));
        let len = |held: &Range<u64>| usize::try_from(held.end - held.start).unwrap_or_default();
        let all: usize = held().map(|held| len(&held)).sum();
        if bytes.len() < all + CACHE_LINE {
            memory::resize(bytes, all + CACHE_LINE)?;
        }
        cursors.clear();
        let mut shrunk = 0;
        // The file's containers begin at multiples of a cache line, and so they do here.
        let mut place = bytes.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
        for ((input, span), held) in self.inputs.iter().zip(spans).zip(held()) {
            let end = place + len(&held);
            let room = bytes.get_mut(place..end).unwrap_or_default();
            if !room.is_empty() {
                input.segment.read(CONTAINERS, held.start, room)?;
            }
            shrunk += span.clone().filter_map(|index| input.entry(index)).map(plan::shrunk).sum::<usize>();
            let (later, offset) = (span.clone(), held.start);
            let mut cursor =
                Cursor { input, entry: None, next: 0, full_end: 0, is_checked: false, later, offset, place };
            cursor.step();
            memory::push(cursors, cursor)?;
            place = end;
        }
        cursors.iter_mut().try_for_each(|cursor| cursor.seek(batch.keys.start, self.header, bytes, decoder))?;
        // Each chunk of a coarse container is made anew.
        let has_coarse = coarse(self.inputs).next().is_some();
        let most = |size: u64| usize::try_from(size).unwrap_or_default();
        let (count, made) = match has_coarse {
            true => (most(batch.cost / PIECE), most(batch.cost)),
            false => (spans.iter().map(Range::len).sum(), all + shrunk),
        };
        Ok(pieces.reserve(count, if self.count_only { 0 } else { made })?)
    }

    fn process_chunk(&self, key: u64, work: &mut Work<'a>, pieces: &mut Pieces) -> Result<()> {
        let Work { bytes, cursors, decoder, union, runs } = work;
        let chunk_key = u32::try_from(key).unwrap_or(u32::MAX);
        let granules = self.header.granules_of(chunk_key);
        let (mut parts, mut value_count, mut run_count) = (0, 0, 0);
        let mut alone = None;
        for cursor in cursors.iter() {
            let Some(entry) = cursor.at(key) else { continue };
            let is_fine = cursor.input.shift == 0;
            parts += 1;
            value_count += if is_fine && entry.form == Form::Array { entry.ones as usize } else { 0 };
            run_count += if is_fine && entry.form == Form::Runs { entry.len as usize / size_of::<Pair>() } else { 0 };
            alone = (is_fine && parts == 1).then_some((cursor, entry));
        }
        if let Some((cursor, entry)) = alone {
            let bytes = cursor.container(entry, bytes);
            let view = cursor.input.segment.decode(decoder, entry, bytes)?;
            let chunk = Chunk { key: chunk_key, chunks: 1, view, ones: entry.ones, runs: view.run_count() };
            // Else its writer did not choose the smallest form.
            if union.is_smallest(&chunk) {
                return Ok(match self.count_only {
                    true => pieces.count(&chunk, None),
                    false => pieces.push_encoded(&chunk, bytes, entry.sum),
                }?);
            }
        }
        union.begin(value_count, run_count, self.count_only);
        for cursor in cursors.iter_mut() {
            let Some(entry) = cursor.at(key) else { continue };
            let view = cursor.view(entry, bytes, decoder)?;
            let shift = cursor.input.shift;
            let view = if shift == 0 { Some(view) } else { expand(view, shift, key, granules, runs) };
            view.map_or(Ok(()), |view| union.add(view))?;
        }
        if self.count_only {
            union.finish_counting(chunk_key)?.map_or(Ok(()), |(chunk, packed)| pieces.count(&chunk, packed))?;
        } else {
            union.finish(chunk_key)?.map_or(Ok(()), |chunk| pieces.push(&chunk))?;
        }
        Ok(())
    }

    fn give_full(&self, pieces: &mut Pieces, keys: Range<u64>) -> memory::Result<()> {
        let [key, end] = [keys.start, keys.end].map(|key| u32::try_from(key).unwrap_or(u32::MAX));
        let full = Chunk { key, chunks: end - key, view: View::Full, ones: CHUNK_GRANULES, runs: 1 };
        match self.count_only {
            true => pieces.count(&full, None),
            false => pieces.push(&full),
        }
    }
}

/// What a coarse container has of chunk `key` of the result, of which the disk has `granules`.
fn expand<'r>(view: View<'_>, shift: u32, key: u64, granules: u32, runs: &'r mut Vec<Pair>) -> Option<View<'r>> {
    runs.clear();
    let fine = shift.min(16);
    // The coarse granules that the chunk is made of, by their index in the coarse chunk: at least one.
    let first = (key << 16 >> shift) & 0xffff;
    let last = first + (0x1_0000 >> fine) - 1;
    let [first_bit, last_bit] = [first, last].map(|bit| u16::try_from(bit).unwrap_or(u16::MAX));
    let end = u64::from(granules);
    view.runs_within(first_bit, last_bit, |from, to| {
        let from = (u64::from(from) - first) << fine;
        let to = ((u64::from(to) - first + 1) << fine).min(end);
        if let (true, Ok(from), Ok(to)) = (from < to, u16::try_from(from), u16::try_from(to.saturating_sub(1))) {
            runs.push([from, to]);
        }
    });
    (!runs.is_empty()).then_some(View::Runs(runs))
}

/// A batch, or why there is none.
type Planned = memory::Result<Batch>;

/// Where threads take a batch, together with a buffer for its result.
struct Source<B> {
    free: Receiver<Pieces>,
    batches: B,
}

/// A batch that is done.
struct Done {
    number: u64,
    end: u64,
    pieces: std::result::Result<Result<Pieces>, Fault>,
}
