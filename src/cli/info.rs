#![forbid(unsafe_code)]
//! Owns `checkmap info`: what an image holds, which interval each bitmap covers, and what to do where something is
//! wrong. Must never fail over what it can show.

use crate::args::InfoArgs;
use crate::exit::{Outcome, Status, status_of};
use crate::list::owned;
use crate::output::print;
use crate::session::Session;
use crate::table::{Column, Rows};
use crate::words::{amount, count, hex, one_line, spelled, state, text};
use checkmap::chain::{BitmapState, Chain, Checkpoint, Interval, Model, Name, Until};
use checkmap::image::{CheckpointBelow, Overview, Scope};
use checkmap::{Control, Error, ErrorKind, Image, WayOut};
use serde::Serialize;
use std::io::Write;

/// The answer, as the contract spells it; keys may be added.
#[derive(Serialize)]
struct Info {
    image: String,
    format: &'static str,
    version: Option<u32>,
    virtual_size: u64,
    cluster_size: u64,
    backing_file: Option<String>,
    data_file: Option<String>,
    held_by_writer: bool,
    needs_repair: bool,
    trouble: Option<String>,
    model: &'static str,
    bitmaps: Vec<Bitmap>,
    checkpoints: Vec<CheckpointNames>,
    /// Every chain of the image, that of `model` and `checkpoints` first.
    chains: Vec<ChainFacts>,
}

#[derive(Serialize)]
struct ChainFacts {
    owner: &'static str,
    model: &'static str,
    checkpoints: Vec<CheckpointNames>,
}

#[derive(Serialize)]
struct Bitmap {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    granularity: u64,
    recording: bool,
    inconsistent: bool,
    unusable: bool,
    role: &'static str,
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_hex: Option<String>,
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until_hex: Option<String>,
    dirty_bytes: Option<u64>,
    dirty_extents: Option<u64>,
    stored_bytes: Option<u64>,
}

/// A checkpoint by the names that belong to it.
#[derive(Serialize)]
pub(crate) struct CheckpointNames {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_hex: Option<String>,
    /// Told only where it is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<bool>,
    bitmap: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmap_hex: Option<String>,
    /// The layer below that has it; told only where the image itself does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<String>,
}

impl CheckpointNames {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            name: text(&checkpoint.name),
            name_hex: hex(&checkpoint.name),
            parent: checkpoint.parent.as_ref().map(text),
            parent_hex: checkpoint.parent.as_ref().and_then(hex),
            gap: checkpoint.gap.then_some(true),
            bitmap: text(&checkpoint.bitmap),
            bitmap_hex: hex(&checkpoint.bitmap),
            layer: None,
        }
    }

    pub(crate) fn below(below: &CheckpointBelow) -> Self {
        Self { layer: Some(below.layer.clone()), ..Self::of(&below.checkpoint) }
    }
}

const COLUMNS: [Column; 9] = [
    Column::Words("OWNER"),
    Column::Names("BITMAP"),
    Column::SpareNames("SINCE"),
    Column::Names("UNTIL"),
    Column::Numbers("GRANULE"),
    Column::Words("STATE"),
    Column::Numbers("DIRTY"),
    Column::SpareNumbers("EXTENTS"),
    Column::SpareNumbers("STORED"),
];

/// All that is known, before it is put into words.
struct Findings {
    image: Image,
    /// The block node of a running hypervisor.
    node: Option<String>,
    states: Vec<BitmapState>,
    overview: Overview,
}

pub(crate) fn run(args: &InfoArgs, session: &Session) -> Outcome {
    let disks = session.open_shared(args.target.only()?, args.sharing)?;
    let is_single = disks.is_single;
    let mut all = Vec::new();
    for disk in disks.disks {
        let overview = disk.image.overview(None, Scope::Bitmaps, &mut session.watch())?;
        all.push(Findings {
            states: disk.image.bitmaps(),
            overview,
            node: disk.node().map(str::to_owned),
            image: disk.image,
        });
    }
    print(session, |out| {
        if args.json {
            let infos = all.iter().map(|found| OfDisk { node: found.node.as_deref(), answer: found.info() }).collect();
            return Ok(write_json(infos, is_single, out)?);
        }
        for (at, found) in all.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            found.write_table(args.table.wide, out)?;
        }
        Ok(())
    })?;
    let mut status = Status::Done;
    for found in &all {
        found.warn(session);
        status = status.worse(report_damage(&found.image, &found.overview, session));
    }
    Ok(status)
}

/// The answer of one disk among several.
#[derive(Serialize)]
pub(crate) struct OfDisk<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<&'a str>,
    #[serde(flatten)]
    pub(crate) answer: T,
}

/// Writes the answer of a single disk as it is, and those of several as a list of disks.
pub(crate) fn write_json<T: Serialize>(answers: Vec<T>, is_single: bool, out: &mut dyn Write) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Several<T> {
        disks: Vec<T>,
    }
    match (answers.as_slice(), is_single) {
        ([only], true) => serde_json::to_writer_pretty(&mut *out, only)?,
        _ => serde_json::to_writer_pretty(&mut *out, &Several { disks: answers })?,
    }
    writeln!(out)
}

/// Reports damage, after everything that can be shown was shown.
pub(crate) fn report_damage(image: &Image, overview: &Overview, session: &Session) -> Status {
    let directory = image.trouble().filter(|trouble| status_of(trouble.kind()) == Status::Fault);
    let mut status = Status::Done;
    for error in directory.into_iter().chain(overview.damage()) {
        session.error(&spelled(error));
        status = Status::Fault;
    }
    status
}

/// Warns of what makes the bitmaps of the image useless, or keeps them from being changed.
pub(crate) fn warn_of_trouble(image: &Image, session: &Session) {
    if let Some(trouble) = image.trouble().filter(|trouble| status_of(trouble.kind()) != Status::Fault) {
        session.warn(&spelled(trouble));
    }
    if let Some(unclean) = image.unclean() {
        session.warn(&spelled(&unclean));
    }
    if image.is_held_by_writer() {
        session.warn("a running process has the image open for writing; ask it for the contents of its bitmaps");
    } else if image.trouble().is_none() && image.bitmaps().iter().any(|bitmap| bitmap.inconsistent) {
        let is_beside = |chain: &Chain| chain.checkpoints().iter().any(|checkpoint| checkpoint.inconsistent);
        let beside = Chain::beside(&image.bitmaps()).ok().flatten().is_some_and(|chain| is_beside(&chain));
        session.warn(&format!(
            "bitmaps marked inconsistent were not stored when their writer ended: take a full backup, then run \
             `checkmap delete --all-inconsistent`{}",
            if beside { ", with `--model cumulative` for those of the other chain" } else { "" }
        ));
    }
}

/// The version of the format, where the place of the bitmaps tells one.
fn known_version(image: &Image) -> Option<u32> {
    Some(image.format_version()).filter(|version| *version > 0)
}

/// What a gap in the chain means, and how to close it.
fn gap_before(first: &Checkpoint) -> Error {
    let message = format!("a bitmap is missing before checkpoint {}, and no diff can cross this gap", first.name);
    let way_out = match first.ordered {
        true => Control::DropBefore(first.name.as_bytes().to_vec()),
        false => Control::DropBitmap,
    };
    Error::new(ErrorKind::BrokenChain, message)
        .advise(WayOut::from("what lies before it can be dropped with ").control(way_out))
}

impl ChainFacts {
    fn of(model: Model, checkpoints: &[Checkpoint]) -> Self {
        Self {
            owner: model.owner().as_str(),
            model: model.as_str(),
            checkpoints: checkpoints.iter().map(CheckpointNames::of).collect(),
        }
    }
}

impl Findings {
    fn model(&self) -> Model {
        self.overview.chain.as_ref().map_or_else(|_| Chain::model_of(&self.states), Chain::model)
    }

    fn interval_of(&self, bitmap: &Name) -> Option<Interval> {
        self.owner_of(bitmap)?.interval_of(bitmap)
    }

    /// The chain to which a bitmap belongs.
    fn owner_of(&self, bitmap: &Name) -> Option<&Chain> {
        self.overview.chains().find(|chain| chain.interval_of(bitmap).is_some())
    }

    /// Every chain; also one that cannot be read.
    fn chains(&self) -> Vec<ChainFacts> {
        let broken = self.overview.chain.is_err().then(|| ChainFacts::of(self.model(), &[]));
        let read = self.overview.chains().map(|chain| ChainFacts::of(chain.model(), chain.checkpoints()));
        broken.into_iter().chain(read).collect()
    }

    /// What a bitmap is to the checkpoints.
    fn role_of(&self, bitmap: &Name) -> &'static str {
        match &self.overview.chain {
            _ if self.owner_of(bitmap).is_some() => "checkpoint",
            Ok(chain) if chain.helpers().binary_search(bitmap).is_ok() => "helper",
            Ok(chain) if chain.foreign().binary_search(bitmap).is_ok() => "foreign",
            _ => "unknown",
        }
    }

    fn info(&self) -> Info {
        let image = &self.image;
        let lossy = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let checkpoints = self.overview.chain.as_ref().map(Chain::checkpoints).unwrap_or_default();
        Info {
            image: image.path().to_string_lossy().into_owned(),
            format: image.format(),
            version: known_version(image),
            virtual_size: image.virtual_size(),
            cluster_size: image.cluster_bytes(),
            backing_file: image.backing_file().map(lossy),
            data_file: image.data_file().map(lossy),
            held_by_writer: image.is_held_by_writer(),
            needs_repair: image.has_unclean_mark(),
            trouble: image.trouble().or(self.overview.chain.as_ref().err()).map(ToString::to_string),
            model: self.model().as_str(),
            bitmaps: self.states.iter().map(|state| self.bitmap(state)).collect(),
            checkpoints: self
                .overview
                .below
                .iter()
                .map(CheckpointNames::below)
                .chain(checkpoints.iter().map(CheckpointNames::of))
                .collect(),
            chains: self.chains(),
        }
    }

    fn bitmap(&self, state: &BitmapState) -> Bitmap {
        let summary = self.overview.summary(&state.name);
        let interval = self.interval_of(&state.name);
        let since = interval.as_ref().map(|interval| &interval.since);
        let until = interval.as_ref().and_then(|interval| interval.until.checkpoint());
        Bitmap {
            name: text(&state.name),
            name_hex: hex(&state.name),
            granularity: state.granularity.bytes(),
            recording: state.recording,
            inconsistent: state.inconsistent,
            unusable: state.unusable,
            role: self.role_of(&state.name),
            since: since.map(text),
            since_hex: since.and_then(hex),
            until: until.map(text),
            until_hex: until.and_then(hex),
            dirty_bytes: summary.dirty_bytes,
            dirty_extents: summary.dirty_extents,
            stored_bytes: summary.stored_bytes,
        }
    }

    fn write_table(&self, wide: bool, out: &mut dyn Write) -> std::io::Result<()> {
        let image = &self.image;
        let mut fact = |what: &str, value: String| writeln!(out, "{:<14}{}", format!("{what}:"), one_line(&value));
        fact("image", image.path().display().to_string())?;
        let clusters = amount(image.cluster_bytes());
        let version = known_version(image).map(|version| format!(" version {version}")).unwrap_or_default();
        fact("format", format!("{}{version}, clusters of {clusters}", image.format()))?;
        fact("virtual size", format!("{} ({} bytes)", amount(image.virtual_size()), image.virtual_size()))?;
        for (what, file) in [("backing file", image.backing_file()), ("data file", image.data_file())] {
            if let Some(file) = file {
                fact(what, String::from_utf8_lossy(file).into_owned())?;
            }
        }
        let checkpoints = self.overview.chain.as_ref().map(|chain| chain.checkpoints().len()).unwrap_or_default();
        fact("model", self.model().to_string())?;
        fact("checkpoints", checkpoints.to_string())?;
        let beside = self.overview.beside.as_ref();
        if let Some(chain) = beside {
            fact(
                "beside them",
                format!("{}, {}", owned(chain), count(chain.checkpoints().len() as u64, "checkpoint")),
            )?;
        }
        if self.states.is_empty() {
            return Ok(());
        }
        // Whose a bitmap is needs a word only where there are several owners.
        let skipped = usize::from(beside.is_none());
        let mut table = Rows::new(COLUMNS.get(skipped..).unwrap_or_default());
        for bitmap in &self.states {
            let summary = self.overview.summary(&bitmap.name);
            let (since, until) = match self.interval_of(&bitmap.name) {
                Some(Interval { since, until }) => {
                    let until = match until {
                        Until::Checkpoint(next) => next.to_string(),
                        Until::Gap => "(gap)".to_owned(),
                        Until::Now => "now".to_owned(),
                    };
                    (since.to_string(), until)
                }
                None => (format!("({})", self.role_of(&bitmap.name)), "-".to_owned()),
            };
            let owner = self.owner_of(&bitmap.name).map_or("-", |chain| chain.model().owner().as_str());
            let cells = [
                owner.to_owned(),
                bitmap.name.to_string(),
                since,
                until,
                amount(bitmap.granularity.bytes()),
                state(bitmap.recording, bitmap.inconsistent, bitmap.unusable).to_owned(),
                summary.dirty_bytes.map_or_else(|| "?".to_owned(), amount),
                summary.dirty_extents.map_or_else(|| "?".to_owned(), |extents| extents.to_string()),
                summary.stored_bytes.map_or_else(|| "?".to_owned(), amount),
            ];
            table.add(cells.into_iter().skip(skipped).collect::<Vec<_>>());
        }
        writeln!(out)?;
        table.write(wide, out)
    }

    /// Prints the fault and the way out.
    fn warn(&self, session: &Session) {
        warn_of_trouble(&self.image, session);
        match &self.overview.chain {
            Err(why) => session.warn(&spelled(why)),
            Ok(chain) => {
                if let Err(why) = chain.check_known() {
                    session.warn(&spelled(&why));
                }
                // What follows the last gap is what backups go on with.
                if let Some(first) = chain.checkpoints().iter().rfind(|checkpoint| checkpoint.gap) {
                    session.warn(&spelled(&gap_before(first)));
                }
            }
        }
    }
}
