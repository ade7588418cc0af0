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
use checkmap::chain::{Chain, Checkpoint, KnownModel, Model};
use checkmap::image::{CheckpointBelow, Overview, Scope};
use serde::Serialize;
use std::io::Write;

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
    let mut all = Vec::new();
    for Disk { image, of_machine } in disks.disks {
        let overview = image.overview(args.model.wanted(), Scope::Increments, &mut session.watch())?;
        let chain = overview.chain.clone()?;
        chain.check_known().map_err(|error| error.in_file(image.path()))?;
        // What stands beside the intervals is for people only: scripts get one chain, and pick it.
        let beside = match overview.beside.is_some() && !args.json {
            true => {
                let beside = image.overview(Some(KnownModel::Cumulative), Scope::Increments, &mut session.watch())?;
                Some((beside.chain.clone()?, beside))
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
        ordered: (!checkpoint.ordered).then_some(false),
    }
}

const COLUMNS: [Column; 7] = [
    Column::Names("CHECKPOINT"),
    Column::Names("PARENT"),
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
    let mut table = Rows::new(&COLUMNS);
    for below in &overview.below {
        let checkpoint = &below.checkpoint;
        table.add([
            checkpoint.name.to_string(),
            checkpoint.parent.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            checkpoint.bitmap.to_string(),
            amount(checkpoint.granularity.bytes()),
            "below".to_owned(),
            shown(below.dirty_bytes),
            shown(below.since_bytes),
        ]);
    }
    for checkpoint in chain.checkpoints() {
        let summary = overview.summary(&checkpoint.bitmap);
        let parent = match (&checkpoint.parent, chain.model(), checkpoint.ordered) {
            (Some(parent), ..) => parent.to_string(),
            (None, Model::Cumulative, false) => "(order unknown)".to_owned(),
            (None, _, false) => "(gap, order unknown)".to_owned(),
            (None, ..) if checkpoint.gap => "(gap)".to_owned(),
            (None, ..) => "-".to_owned(),
        };
        table.add([
            checkpoint.name.to_string(),
            parent,
            checkpoint.bitmap.to_string(),
            amount(checkpoint.granularity.bytes()),
            state(checkpoint.recording, checkpoint.inconsistent, checkpoint.unusable).to_owned(),
            shown(summary.dirty_bytes),
            shown(overview.since_bytes(&checkpoint.name)),
        ]);
    }
    table.write(wide, out)
}
