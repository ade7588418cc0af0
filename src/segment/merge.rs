#![forbid(unsafe_code)]
//! Owns the union of many segments: batch by batch, in bounded memory, on as many threads as asked for, and written in
//! order. Must never know where the result goes.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::container::Decoder;
use super::diff::check_sizes;
use super::layout::{Entry, Header, Summary};
use super::plan::{Batch, Input, Planner, most_of_a_chunk};
use super::read::Segment;
use super::write::{Pieces, Writer};
use crate::bitmap::chunks::{CHUNK_GRANULES, Chunk, Form, Pair, Plain, Union, View};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::check_disk;
use crate::pool::Pool;
use crate::progress::{Observer, tell};
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

const PHASE: &str = "merging segments";

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
/// at any time. What was written until then is no segment: who writes a file writes a temporary one.
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
    let inputs: Vec<Input<'_>> = segments.iter().map(|segment| Input { segment, shift: shift(segment) }).collect();
    let room = Room::new(&inputs, options)?;
    segments.iter().try_for_each(|segment| segment.touch_all())?;
    let failed = |error| Error::io("cannot write the segment", error);
    let mut writer = Writer::new(out, header.size_bytes, header.granularity).map_err(failed)?;
    let job = Job { inputs: &inputs, header, count_only };
    let planner = Planner::new(&inputs, header.granules(), room.batch_bytes);
    let mut take = |end: u64, work: &Work| {
        writer.write(&work.pieces).map_err(failed)?;
        tell(observer, PHASE, end.min(header.chunks()), header.chunks())
    };
    if room.pool.threads() <= 1 {
        let mut work = Work::new(&job);
        for batch in planner {
            job.process(&batch, &mut work)?;
            take(batch.end(), &work)?;
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
struct Room {
    pool: Pool,
    /// How many batches may be in the works or wait to be written.
    in_flight: usize,
    batch_bytes: u64,
}

impl Room {
    fn new(inputs: &[Input<'_>], options: &MergeOptions) -> Result<Self> {
        // What a batch reads, what it makes, and what describes each chunk that it makes.
        let per_byte = 2 + (Pieces::PIECE_BYTES as u64).div_ceil(64);
        let fixed = Union::HEAP_BYTES
            + (1 + coarse(inputs).count() as u64) * Decoder::HEAP_BYTES
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

/// The buffers of one batch, and what came out of it.
#[derive(Debug)]
struct Work {
    /// The containers of all inputs, one input after the other.
    bytes: Vec<u8>,
    cursors: Vec<Cursor>,
    decoder: Decoder,
    /// One for each coarse input: its container serves several chunks.
    coarse: Vec<Coarse>,
    union: Union,
    runs: Vec<Pair>,
    pieces: Pieces,
}

#[derive(Debug)]
struct Coarse {
    decoder: Decoder,
    holds: Option<usize>,
}

/// Where an input stands inside a batch.
#[derive(Clone, Debug)]
struct Cursor {
    entries: Range<usize>,
    /// Where its containers begin in the file, and in the buffer.
    offset: u64,
    place: usize,
    /// The number of its own decoder.
    coarse: Option<usize>,
}

impl Work {
    fn new(job: &Job<'_>) -> Self {
        let coarse: Vec<Coarse> = coarse(job.inputs).map(|_| Coarse { decoder: Decoder::new(), holds: None }).collect();
        Self {
            bytes: Vec::new(),
            cursors: Vec::with_capacity(job.inputs.len()),
            decoder: Decoder::new(),
            union: Union::new(),
            runs: Vec::with_capacity(if coarse.is_empty() { 0 } else { MOST_RUNS }),
            coarse,
            pieces: Pieces::default(),
        }
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
        room: &Room,
        take: &mut dyn FnMut(u64, &Work) -> Result<()>,
    ) -> Result<()> {
        let (give_back, free) = channel::<Work>();
        (0..room.in_flight).for_each(|_| give_back.send(Work::new(self)).unwrap_or_default());
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
                        let Done { end, work, .. } = early.swap_remove(index);
                        let work = work.unwrap_or_else(|panic| resume_unwind(panic))?;
                        take(end, &work)?;
                        // Where every thread is gone already, nobody needs it.
                        let _ = give_back.send(work);
                        next += 1;
                    }
                }
                Ok(())
            },
        )
    }

    /// Takes one batch after the other. Whoever takes a batch has a buffer for it, so the first batch that is not written
    /// yet never waits for one.
    fn work(&self, source: &Mutex<Source<impl Iterator<Item = (Batch, u64)>>>, finished: &Sender<Done>) {
        loop {
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(mut work) = source.free.recv() else { return };
            let Some((batch, number)) = source.batches.next() else { return };
            drop(source);
            let end = batch.end();
            // Whoever waits for the batch must not wait for ever.
            let work = catch_unwind(AssertUnwindSafe(|| self.process(&batch, &mut work).map(|()| work)));
            if finished.send(Done { number, end, work }).is_err() {
                return;
            }
        }
    }

    /// Unites what the inputs have in one batch.
    fn process(&self, batch: &Batch, work: &mut Work) -> Result<()> {
        work.pieces.clear();
        match batch {
            Batch::Full(keys) => {
                let [key, end] = [keys.start, keys.end].map(|key| u32::try_from(key).unwrap_or(u32::MAX));
                let full = Chunk { key, chunks: end - key, view: View::Full, ones: CHUNK_GRANULES, runs: 1 };
                self.give(&mut work.pieces, &full);
                Ok(())
            }
            Batch::Mixed(keys, spans) => {
                self.fetch(spans, work)?;
                let mut position = keys.start;
                while let Some(key) = self.first(work, position).filter(|key| *key < keys.end) {
                    self.process_chunk(key, work)?;
                    position = key + 1;
                    for (input, cursor) in self.inputs.iter().zip(&mut work.cursors) {
                        let entry = input.entry(cursor.entries.start).filter(|_| !cursor.entries.is_empty());
                        cursor.entries.start +=
                            usize::from(entry.is_some_and(|entry| input.keys(entry).end <= position));
                    }
                }
                Ok(())
            }
        }
    }

    /// Reads all containers of a batch.
    fn fetch(&self, spans: &[Range<usize>], work: &mut Work) -> Result<()> {
        let Work { bytes, cursors, coarse, pieces, .. } = work;
        cursors.clear();
        coarse.iter_mut().for_each(|coarse| coarse.holds = None);
        let (mut place, mut entries) = (0, 0);
        let mut coarse = 0..;
        for (input, span) in self.inputs.iter().zip(spans) {
            let held = input.segment.span(span.clone());
            let coarse = if input.shift > 0 { coarse.next() } else { None };
            cursors.push(Cursor { entries: span.clone(), offset: held.start, place, coarse });
            let end = place + usize::try_from(held.end - held.start).unwrap_or_default();
            if bytes.len() < end {
                bytes.reserve_exact(end - bytes.len());
                bytes.resize(end, 0);
            }
            let room = bytes.get_mut(place..end).unwrap_or_default();
            if !room.is_empty() {
                input.segment.read("segment containers", held.start, room)?;
            }
            place = end;
            entries += span.len();
        }
        let made = if self.count_only { 0 } else { place };
        pieces.reserve(entries, made);
        Ok(())
    }

    /// The first chunk at or after `position` in which one of the inputs has something.
    fn first(&self, work: &Work, position: u64) -> Option<u64> {
        let starts = self.inputs.iter().zip(&work.cursors).filter(|(_, cursor)| !cursor.entries.is_empty());
        starts
            .filter_map(|(input, cursor)| Some(input.keys(input.entry(cursor.entries.start)?).start.max(position)))
            .min()
    }

    /// The entry of an input that covers chunk `key`.
    fn covering(input: &Input<'a>, cursor: &Cursor, key: u64) -> Option<&'a Entry> {
        let entry = input.entry(cursor.entries.start).filter(|_| !cursor.entries.is_empty())?;
        Some(entry).filter(|entry| input.keys(entry).contains(&key))
    }

    fn process_chunk(&self, key: u64, work: &mut Work) -> Result<()> {
        let Work { bytes, cursors, decoder, coarse, union, runs, pieces } = work;
        let chunk_key = u32::try_from(key).unwrap_or(u32::MAX);
        let granules = self.header.granules_of(chunk_key);
        let (mut parts, mut values, mut is_full) = (0, Some(0), false);
        let mut alone = None;
        for (input, cursor) in self.inputs.iter().zip(cursors.iter()) {
            let Some(entry) = Self::covering(input, cursor, key) else { continue };
            parts += 1;
            is_full |= entry.is_full() && granules == CHUNK_GRANULES;
            let is_array = entry.form == Form::Array && input.shift == 0;
            values = values.filter(|_| is_array).map(|values: u32| values.saturating_add(entry.ones));
            alone = (input.shift == 0 && parts == 1).then_some((input, cursor, entry));
        }
        if is_full {
            let full = Chunk { key: chunk_key, chunks: 1, view: View::Full, ones: CHUNK_GRANULES, runs: 1 };
            self.give(pieces, &full);
            return Ok(());
        }
        let container = |cursor: &Cursor, entry: &Entry| {
            let from = cursor.place + usize::try_from(entry.offset.saturating_sub(cursor.offset)).unwrap_or_default();
            bytes.get(from..from + entry.len as usize).unwrap_or_default()
        };
        if let Some((input, cursor, entry)) = alone {
            let bytes = container(cursor, entry);
            let view = input.segment.decode(decoder, entry, bytes)?;
            let chunk = Chunk { key: chunk_key, chunks: 1, view, ones: entry.ones, runs: view.run_count() };
            if Form::from(Plain::smallest(chunk.ones, chunk.runs)) == entry.form {
                match self.count_only {
                    true => pieces.count(&chunk),
                    false => pieces.push_encoded(&chunk, bytes, entry.sum),
                }
                return Ok(());
            }
            // Whoever wrote it did not choose the smallest form.
            values = None;
        }
        union.begin(values);
        for (input, cursor) in self.inputs.iter().zip(cursors.iter()) {
            let Some(entry) = Self::covering(input, cursor, key) else { continue };
            let own = cursor.coarse.and_then(|number| coarse.get_mut(number));
            let Some(own) = own else {
                union.add(input.segment.decode(decoder, entry, container(cursor, entry))?);
                continue;
            };
            if own.holds != Some(cursor.entries.start) {
                input.segment.decode(&mut own.decoder, entry, container(cursor, entry))?;
                own.holds = Some(cursor.entries.start);
            }
            if let Some(view) = expand(own.decoder.view(), input.shift, key, granules, runs) {
                union.add(view);
            }
        }
        let made = if self.count_only { union.finish_counting(chunk_key) } else { union.finish(chunk_key) };
        if let Some(chunk) = made {
            self.give(pieces, &chunk);
        }
        Ok(())
    }

    fn give(&self, pieces: &mut Pieces, chunk: &Chunk<'_>) {
        match self.count_only {
            true => pieces.count(chunk),
            false => pieces.push(chunk),
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

/// Where threads take a batch, together with a buffer for it.
struct Source<B> {
    free: Receiver<Work>,
    batches: B,
}

/// A batch that is done.
struct Done {
    number: u64,
    end: u64,
    work: thread::Result<Result<Work>>,
}
