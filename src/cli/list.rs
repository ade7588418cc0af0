#![forbid(unsafe_code)]
//! Owns `checkmap list`: the checkpoints of an image, oldest first.

use crate::args::ListArgs;
use crate::directory;
use crate::disks::Disk;
use crate::exit::{Outcome, Status};
use crate::info::{CheckpointNames, OfDisk, report_damage, warn_of_trouble, write_json};
use crate::output::print;
use crate::session::Session;
use crate::table::{Column, Rows};
use crate::words::{amount, one_line, state};
use checkmap::Image;
use checkmap::backup::checkpoint_name;
use checkmap::chain::{Chain, Checkpoint, KnownModel, Model};
use checkmap::image::{CheckpointBelow, Overview, Scope};
use serde::Serialize;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// One checkpoint, as the contract spells it.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    names: CheckpointNames,
    granularity: u64,
    recording: bool,
    inconsistent: bool,
    dirty_bytes: Option<u64>,
    /// What changed since the checkpoint until now; null where a diff would be refused.
    since_bytes: Option<u64>,
    /// When it was made, in UTC; told only where somebody noted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_seconds: Option<u64>,
    /// Told only where it is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    ordered: Option<bool>,
}

pub(crate) fn run(args: &ListArgs, session: &Session) -> Outcome {
    let target = args.target.only()?;
    if let Some(path) = target.image().filter(|path| path.is_dir()) {
        return directory::list(path, args.json, args.table.wide, session);
    }
    let disks = session.open_shared(target, args.sharing)?;
    let is_single = disks.is_single;
    let records = session.metadata(&args.metadata, disks.machine.as_ref(), false)?.map(|known| known.records());
    let mut all = Vec::new();
    for Disk { mut image, of_machine } in disks.disks {
        if args.metadata.libvirt_xml.is_some() {
            image.note_libvirt(records.iter().flatten().map(|record| record.name.clone()));
        }
        let overview = image.overview(args.model.wanted(), Scope::Increments, &mut session.watch())?;
        let mut chain = overview.chain.clone()?;
        chain.follow(records.as_deref().unwrap_or_default())?;
        chain.check_known().map_err(|error| error.in_file(image.path()))?;
        // What stands beside the intervals is for people only: scripts get one chain, and pick it.
        let beside = match overview.beside.is_some() && !args.json {
            true => {
                let beside = image.overview(Some(KnownModel::Cumulative), Scope::Increments, &mut session.watch())?;
                let mut other = beside.chain.clone()?;
                other.follow(records.as_deref().unwrap_or_default())?;
                Some((other, beside))
            }
            false => None,
        };
        all.push(Found { image, node: of_machine.map(|own| own.node().to_owned()), overview, chain, beside });
    }
    print(session, |out| {
        if args.json {
            return Ok(write_json_lists(&all, is_single, out)?);
        }
        for (at, found) in all.iter().enumerate() {
            if all.len() > 1 {
                let before = if at > 0 { "\n" } else { "" };
                writeln!(out, "{before}{}:", one_line(&found.image.path().to_string_lossy()))?;
            }
            match &found.beside {
                None => write_table(&found.chain, &found.overview, args.table.wide, out)?,
                Some((other, beside)) => {
                    writeln!(out, "{}:", owned(&found.chain))?;
                    write_table(&found.chain, &found.overview, args.table.wide, out)?;
                    writeln!(out, "\n{}:", owned(other))?;
                    write_table(other, beside, args.table.wide, out)?;
                }
            }
        }
        Ok(())
    })?;
    let mut status = Status::Done;
    for Found { image, overview, chain, beside, .. } in &all {
        warn_of_trouble(image, session);
        if !chain.is_ordered() || beside.as_ref().is_some_and(|(other, _)| !other.is_ordered()) {
            session.warn("which of these checkpoints is older cannot be told everywhere: such places follow the names");
        }
        status = status.worse(report_damage(image, overview, session));
        if let Some((_, beside)) = beside {
            status = status.worse(report_damage(image, beside, session));
        }
    }
    Ok(status)
}

/// A disk and its checkpoints.
struct Found {
    image: Image,
    node: Option<String>,
    overview: Overview,
    chain: Chain,
    /// The checkpoints of somebody else beside them.
    beside: Option<(Chain, Overview)>,
}

fn write_json_lists(all: &[Found], is_single: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let rows = |found: &Found| -> Vec<Row> {
        let own = found.chain.checkpoints().iter().map(|checkpoint| row(checkpoint, &found.overview));
        found.overview.below.iter().map(row_below).chain(own).collect()
    };
    if let ([only], true) = (all, is_single) {
        serde_json::to_writer_pretty(&mut *out, &rows(only))?;
        return writeln!(out);
    }
    #[derive(Serialize)]
    struct List {
        checkpoints: Vec<Row>,
    }
    let lists =
        all.iter().map(|found| OfDisk { node: found.node.as_deref(), answer: List { checkpoints: rows(found) } });
    write_json(lists.collect(), false, out)
}

/// A time as backups are named by it: `20261125T020000Z`. None where it is beyond all calendars.
fn moment(seconds: u64) -> Option<String> {
    // The year 9999 ends then.
    (seconds < 253_402_300_800).then(|| checkpoint_name(UNIX_EPOCH + Duration::from_secs(seconds)))
}

/// Whose checkpoints they are, and of which model.
pub(crate) fn owned(chain: &Chain) -> String {
    format!("{}, model {}", chain.model().owner(), chain.model())
}

fn row(checkpoint: &Checkpoint, overview: &Overview) -> Row {
    Row {
        names: CheckpointNames::of(checkpoint),
        granularity: checkpoint.granularity.bytes(),
        recording: checkpoint.recording,
        inconsistent: checkpoint.inconsistent,
        dirty_bytes: overview.summary(&checkpoint.bitmap).dirty_bytes,
        since_bytes: overview.since_bytes(&checkpoint.name),
        time: checkpoint.time_seconds.and_then(moment),
        time_seconds: checkpoint.time_seconds,
        ordered: (!checkpoint.ordered).then_some(false),
    }
}

fn row_below(below: &CheckpointBelow) -> Row {
    let checkpoint = &below.checkpoint;
    Row {
        names: CheckpointNames::below(below),
        granularity: checkpoint.granularity.bytes(),
        recording: checkpoint.recording,
        inconsistent: checkpoint.inconsistent,
        dirty_bytes: below.dirty_bytes,
        since_bytes: below.since_bytes,
        time: None,
        time_seconds: None,
        ordered: (!checkpoint.ordered).then_some(false),
    }
}

const MADE: Column = Column::Words("MADE");

const COLUMNS: [Column; 8] = [
    Column::Names("CHECKPOINT"),
    Column::Names("PARENT"),
    MADE,
    Column::SpareNames("BITMAP"),
    Column::Numbers("GRANULE"),
    Column::Words("STATE"),
    Column::Numbers("DIRTY"),
    Column::Numbers("UNTIL NOW"),
];

fn write_table(chain: &Chain, overview: &Overview, wide: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if chain.checkpoints().is_empty() && overview.below.is_empty() {
        return writeln!(out, "no checkpoints");
    }
    let shown = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), amount);
    // Most often nobody noted a time.
    let has_times = chain.checkpoints().iter().any(|checkpoint| checkpoint.time_seconds.is_some());
    let columns: Vec<Column> = COLUMNS.into_iter().filter(|column| has_times || *column != MADE).collect();
    let mut table = Rows::new(&columns);
    let mut add = |checkpoint: &Checkpoint, parent: String, state: &str, (dirty, since): (Option<u64>, Option<u64>)| {
        let made = checkpoint.time_seconds.and_then(moment).unwrap_or_else(|| "?".to_owned());
        let cells = [
            checkpoint.name.to_string(),
            parent,
            made,
            checkpoint.bitmap.to_string(),
            amount(checkpoint.granularity.bytes()),
            state.to_owned(),
            shown(dirty),
            shown(since),
        ];
        let shown = COLUMNS.iter().zip(cells).filter(|(column, _)| has_times || **column != MADE);
        table.add(shown.map(|(_, cell)| cell).collect::<Vec<_>>());
    };
    for below in &overview.below {
        let checkpoint = &below.checkpoint;
        let parent = checkpoint.parent.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let bytes = (below.dirty_bytes, below.since_bytes);
        add(checkpoint, parent, "below", bytes);
    }
    for checkpoint in chain.checkpoints() {
        let parent = match (&checkpoint.parent, chain.model(), checkpoint.ordered) {
            (Some(parent), ..) => parent.to_string(),
            (None, Model::Cumulative, false) => "(order unknown)".to_owned(),
            (None, _, false) => "(gap, order unknown)".to_owned(),
            (None, ..) if checkpoint.gap => "(gap)".to_owned(),
            (None, ..) => "-".to_owned(),
        };
        let bytes = (overview.summary(&checkpoint.bitmap).dirty_bytes, overview.since_bytes(&checkpoint.name));
        let state = state(checkpoint.recording, checkpoint.inconsistent, checkpoint.unusable);
        add(checkpoint, parent, state, bytes);
    }
    table.write(wide, out)
}
