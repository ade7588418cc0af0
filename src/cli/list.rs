#![forbid(unsafe_code)]
//! Owns `checkmap list`: the checkpoints of an image, oldest first.

use crate::args::ListArgs;
use crate::exit::Outcome;
use crate::info::{CheckpointNames, report_damage, warn_of_trouble};
use crate::output::print;
use crate::session::Session;
use crate::table::{Column, Rows};
use crate::words::{amount, state};
use checkmap::chain::{Chain, Checkpoint, Model};
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
    let image = session.open_shared(&args.image, args.sharing)?;
    let overview = image.overview(args.model.wanted(), Scope::Increments, &mut session.watch())?;
    let chain = overview.chain.clone()?;
    chain.check_known().map_err(|error| error.in_file(image.path()))?;
    print(session, |out| match args.json {
        true => {
            let own = chain.checkpoints().iter().map(|checkpoint| row(checkpoint, &overview));
            let rows: Vec<Row> = overview.below.iter().map(row_below).chain(own).collect();
            serde_json::to_writer_pretty(&mut *out, &rows).map_err(std::io::Error::from)?;
            Ok(writeln!(out)?)
        }
        false => Ok(write_table(&chain, &overview, args.table.wide, out)?),
    })?;
    warn_of_trouble(&image, session);
    if !chain.is_ordered() {
        session.warn("which of these checkpoints is older cannot be told everywhere: such places follow the names");
    }
    Ok(report_damage(&image, &overview, session))
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
