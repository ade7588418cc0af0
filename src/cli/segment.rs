#![forbid(unsafe_code)]
//! Owns `checkmap segment` and its arguments: merge, diff, info and check of bitmaps in files of our own. Must never know an image.

use crate::check::{ProblemRow, Report, show};
use crate::exit::{Failure, Outcome, Status};
use crate::output::{Destination, print};
use crate::session::Session;
use crate::words::{amount, count, one_line};
use crate::{help, size};
use checkmap::image::Severity;
use checkmap::segment::{self, Difference, MergeOptions, Side, Summary};
use checkmap::{ErrorKind, Segment};
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

#[derive(Debug, Args)]
pub(crate) struct SegmentArgs {
    #[command(subcommand)]
    pub(crate) verb: SegmentVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SegmentVerb {
    /// Unite segments into a new one, with bounded memory
    #[command(long_about = help::SEGMENT_MERGE)]
    Merge(SegmentMergeArgs),
    /// Show where two segments differ, and which of them is dirty there
    #[command(long_about = help::SEGMENT_DIFF)]
    Diff(SegmentDiffArgs),
    /// Show what a segment holds
    Info(SegmentFileArgs),
    /// Verify every byte of a segment
    Check(SegmentFileArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SegmentMergeArgs {
    /// The segments to unite
    #[arg(value_name = "SEGMENT", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) segments: Vec<PathBuf>,
    /// The new segment, which appears or is replaced in one step when all is on the disk; - for stdout
    #[arg(short, long, value_name = "FILE", required_unless_present = "count", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Write nothing: print what the result would be
    #[arg(long, conflicts_with = "output")]
    pub(crate) count: bool,
    /// The most memory to take, beside 40 bytes for each 65536 granules of a segment that has any dirty
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "64M")]
    pub(crate) memory: u64,
    /// How many threads unite; 0 and 1 are the same. Default: one for each processor
    #[arg(long, value_name = "NUMBER")]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct SegmentDiffArgs {
    /// One segment
    #[arg(value_name = "A", value_hint = ValueHint::FilePath)]
    pub(crate) a: PathBuf,
    /// Another segment, of a disk of the same size
    #[arg(value_name = "B", value_hint = ValueHint::FilePath)]
    pub(crate) b: PathBuf,
    /// The format of the answer [default: table]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<ListFormat>,
    /// The same as --format json
    #[arg(long)]
    pub(crate) json: bool,
    /// Write to FILE, which appears or is replaced in one step when all is on the disk
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Look at the disk from this byte on
    #[arg(long, value_name = "BYTES", value_parser = size::parse, default_value = "0", hide_default_value = true)]
    pub(crate) start: u64,
    /// Look at this many bytes of the disk; to its end without it
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) length: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct SegmentFileArgs {
    /// The segment
    #[arg(value_name = "SEGMENT", value_hint = ValueHint::FilePath)]
    pub(crate) segment: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// The format of a list of extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// One JSON document
    Json,
    /// For people
    Table,
    /// One extent a line
    Csv,
}

pub(crate) fn run(verb: &SegmentVerb, session: &Session) -> Outcome {
    match verb {
        SegmentVerb::Merge(args) => merge(args, session),
        SegmentVerb::Diff(args) => diff(args, session),
        SegmentVerb::Info(args) => info(args, session),
        SegmentVerb::Check(args) => check(args, session),
    }
}

fn merge(args: &SegmentMergeArgs, session: &Session) -> Outcome {
    let destination = match args.count {
        true => None,
        false => Some(Destination::new(args.output.as_deref(), None, true)?),
    };
    let opened: Vec<Segment<'_>> =
        args.segments.iter().map(|path| Segment::open_file(path)).collect::<Result<_, _>>()?;
    let segments: Vec<&Segment<'_>> = opened.iter().collect();
    let mut options = MergeOptions::default();
    options.memory_bytes = args.memory;
    options.threads = args.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    let Some(destination) = destination else {
        let summary = segment::count(&segments, &options, &mut session.watch())?;
        print(session, |out| Ok(writeln!(out, "{}", in_words(&summary))?))?;
        return Ok(Status::Done);
    };
    destination.write(session, |out| {
        // It is the writer that a signal stops first, where the observer was not asked in between.
        let merged = segment::merge(&segments, out, &options, &mut session.watch());
        let summary = merged.map_err(|error| match session.interrupt().came() {
            true => Failure::Interrupted,
            false => Failure::Library(error),
        })?;
        session.say(&format!("merged {}: {}", count(segments.len() as u64, "segment"), in_words(&summary)));
        Ok(())
    })?;
    Ok(Status::Done)
}

fn in_words(summary: &Summary) -> String {
    format!(
        "{} dirty in {}, granularity {}, {} of {}",
        count(summary.dirty_granules, "granule"),
        count(summary.extents, "extent"),
        amount(summary.granularity.bytes()),
        amount(summary.file_bytes),
        count(summary.chunks, "chunk"),
    )
}

fn info(args: &SegmentFileArgs, session: &Session) -> Outcome {
    let segment = Segment::open_file(&args.segment)?;
    let (summary, forms, dirty_bytes) = (segment.summary(), segment.forms()?, segment.dirty_bytes()?);
    print(session, |out| {
        if args.json {
            let document = json!({
                "segment": args.segment.to_string_lossy(),
                "virtual_size": summary.size_bytes,
                "granularity": summary.granularity.bytes(),
                "dirty_bytes": dirty_bytes,
                "dirty_granules": summary.dirty_granules,
                "dirty_extents": summary.extents,
                "stored_bytes": summary.file_bytes,
                "directory_entries": summary.entries,
                "chunks": {
                    "array": forms.array, "words": forms.words, "runs": forms.runs, "sparse": forms.sparse,
                    "full": forms.full,
                },
            });
            serde_json::to_writer_pretty(&mut *out, &document).map_err(std::io::Error::from)?;
            return Ok(writeln!(out)?);
        }
        let granularity = summary.granularity.bytes();
        writeln!(out, "{}: a segment of {}", shown(&args.segment), amount(summary.file_bytes))?;
        writeln!(out, "disk         {} ({} bytes)", amount(summary.size_bytes), summary.size_bytes)?;
        writeln!(out, "granularity  {}", amount(granularity))?;
        writeln!(out, "dirty        {} in {}", amount(dirty_bytes), count(summary.extents, "extent"))?;
        writeln!(
            out,
            "chunks       {}: {} as arrays, {} as words, {} as runs, {} sparse, {} full",
            summary.chunks, forms.array, forms.words, forms.runs, forms.sparse, forms.full
        )?;
        Ok(())
    })?;
    Ok(Status::Done)
}

fn check(args: &SegmentFileArgs, session: &Session) -> Outcome {
    let checked = Segment::open_file(&args.segment).and_then(|segment| segment.check(&mut session.watch()));
    let severity = Severity::Error.as_str();
    let problems = match checked {
        // What cannot be opened has one problem at least.
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) => vec![ProblemRow {
            severity,
            structure: error.structure().unwrap_or("segment").to_owned(),
            offset: error.offset(),
            message: error.message().to_owned(),
        }],
        checked => {
            let problem = |problem: segment::Fault| ProblemRow {
                severity,
                structure: problem.structure,
                offset: Some(problem.offset),
                message: problem.message,
            };
            checked?.into_iter().map(problem).collect()
        }
    };
    let image = args.segment.to_string_lossy().into_owned();
    let errors = problems.len() as u64;
    show(&Report { image, format: "segment", errors, unusable: 0, leaked_bytes: 0, problems }, args.json, session)
}

fn diff(args: &SegmentDiffArgs, session: &Session) -> Outcome {
    let format = match (args.json, args.format) {
        (true, None | Some(ListFormat::Json)) => ListFormat::Json,
        (true, Some(_)) => return Err(Failure::Usage("--json and another --format contradict each other".into())),
        (false, format) => format.unwrap_or(ListFormat::Table),
    };
    let destination = Destination::new(args.output.as_deref(), None, false)?;
    let (a, b) = (Segment::open_file(&args.a)?, Segment::open_file(&args.b)?);
    if args.start > a.size_bytes() {
        let message = format!("--start {} is past the end of the disk at {}", args.start, a.size_bytes());
        return Err(Failure::Usage(message));
    }
    destination.refuse_segment(&a)?;
    destination.refuse_segment(&b)?;
    let differences = segment::diff(&a, &b, args.start, args.length.unwrap_or(u64::MAX))?;
    destination.write(session, |out| {
        match format {
            ListFormat::Json => write!(out, "{{\"virtual_size\": {},\n \"extents\": [", a.size_bytes())?,
            ListFormat::Table => writeln!(out, "{:>20}  {:>20}  dirty in", "start", "length")?,
            ListFormat::Csv => writeln!(out, "start,length,dirty_in")?,
        }
        let (mut in_a, mut in_b, mut separator) = (0, 0, "");
        for difference in differences {
            let Difference { extent, dirty_in } = difference?;
            *if dirty_in == Side::A { &mut in_a } else { &mut in_b } += extent.len_bytes;
            let (start, length, side) = (extent.offset, extent.len_bytes, word(dirty_in));
            match format {
                ListFormat::Json => {
                    write!(
                        out,
                        "{separator}\n  {{\"start\": {start}, \"length\": {length}, \"dirty_in\": \"{side}\"}}"
                    )?;
                    separator = ",";
                }
                ListFormat::Table => writeln!(out, "{start:>20}  {length:>20}  {side}")?,
                ListFormat::Csv => writeln!(out, "{start},{length},{side}")?,
            }
        }
        match format {
            ListFormat::Json => writeln!(out, "],\n \"only_in_a\": {in_a}, \"only_in_b\": {in_b}}}")?,
            ListFormat::Table => {
                writeln!(out, "{} dirty in a only: {}", amount(in_a), shown(&args.a))?;
                writeln!(out, "{} dirty in b only: {}", amount(in_b), shown(&args.b))?;
            }
            ListFormat::Csv => {}
        }
        Ok(())
    })?;
    Ok(Status::Done)
}

fn word(side: Side) -> &'static str {
    match side {
        Side::A => "a",
        Side::B => "b",
    }
}

fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}
