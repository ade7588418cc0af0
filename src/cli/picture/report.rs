#![forbid(unsafe_code)]
//! Owns `checkmap report`: one page about disks, or about a backup directory. Must never know how a page is written.

use super::args::ReportArgs;
use super::history::{Bar, Chart, History};
use super::html::{Page, Table};
use super::map::shape;
use super::{Changed, Picture, open, sums};
use crate::exit::{Failure, Outcome, Status, status_of};
use crate::output::Destination;
use crate::session::Session;
use crate::words::{amount, count, spelled};
use checkmap::ErrorKind;
use checkmap::backup::{Backup, BackupDirectory, DiskRecord, checkpoint_name};
use checkmap::chain::Name;
use checkmap::image::DiffRequest;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) fn run(args: &ReportArgs, session: &Session) -> Outcome {
    let first = args.target.split([])?.0.image();
    let destination = Destination::new(args.output.as_deref(), first, false)?;
    let mut status = Status::Done;
    let mut page = Page::new(&checkpoint_name(SystemTime::now()));
    match first.filter(|path| path.is_dir() && args.others.is_empty()) {
        Some(_) if args.since.is_some() => {
            return Err(Failure::Usage("--since is for disks, not for a backup directory".into()));
        }
        Some(path) => status = of_directory(path, &mut page, session)?,
        None => {
            let disks = open(&args.target, &args.others, session)?;
            for disk in &disks {
                destination.refuse_parts_of(&disk.image)?;
                let history = History::read(disk, args.layers.wanted(), args.model.wanted(), session)?;
                let since = match &args.since {
                    Some(since) => Some(Name::new(since.as_bytes())),
                    None => history.next().map(|(since, _)| since.clone()),
                };
                let mut picture: Option<Picture> = None;
                if let Some(since) = since {
                    let request = DiffRequest::since(since.as_bytes()).layers(args.layers.wanted());
                    let diff = disk.image.diff(&request.model(args.model.wanted()), &mut session.watch())?;
                    let title = history.title.clone();
                    let changed = Changed { title, node: None, since, until: None, bitmap: diff.bitmap };
                    picture = Some(changed.picture(shape()?)?);
                }
                of_disk(&history, picture.as_ref(), &mut page);
            }
        }
    }
    destination.write(session, |out| Ok(out.write_all(page.end().as_bytes())?))?;
    Ok(status)
}

fn of_disk(history: &History, picture: Option<&Picture>, page: &mut Page) {
    let chart = history.chart();
    page.begin(&chart.title, &chart.headline);
    match picture {
        Some(picture) => page.map(picture),
        None => page.paragraph("There is no map: nobody can tell what changed since the newest checkpoint."),
    }
    page.chart(&chart);
    chart.reasons().for_each(|reason| page.paragraph(&reason));
    let rows = history.spans.iter().map(|span| {
        let changes = span.changed.as_ref().ok();
        [
            span.since.to_string(),
            span.until.as_ref().map_or_else(|| "now".to_owned(), ToString::to_string),
            changes.map_or_else(|| "?".to_owned(), |changes| amount(changes.bytes)),
            changes.map_or_else(|| "?".to_owned(), |changes| changes.extents.to_string()),
        ]
    });
    page.table(&Table { names: 2, heads: ["Since", "Until", "Changed", "Extents"], rows: rows.collect() });
}

fn of_directory(path: &Path, page: &mut Page, session: &Session) -> Outcome {
    let directory = BackupDirectory::open(path)?;
    let mut status = Status::Done;
    for disk in directory.disks() {
        let moments: Vec<&Backup> = disk.moments().collect();
        let data = moments.iter().fold(0u64, |sum, backup| sum.saturating_add(backup.data_bytes));
        let headline = format!(
            "{} of the image {}, {} of data",
            count(moments.len() as u64, "moment"),
            Name::new(disk.image.as_slice()),
            amount(data)
        );
        let title = Name::new(disk.name.as_slice()).to_string();
        page.begin(&title, &headline);
        if let Some(newest) = moments.last() {
            let checkpoint = Name::new(newest.checkpoint.as_slice());
            match directory.held(disk, newest) {
                Ok(held) => {
                    let what = format!("held by the newest backup, {checkpoint} ({}): {}", kind(newest), sums(&held));
                    page.map(&Picture::new(&title, &what, &held, shape()?)?);
                }
                // The page is of use all the same, with the reason in the place of the map.
                Err(error) if status_of(error.kind()) == Status::Fault && error.kind() != ErrorKind::OutOfMemory => {
                    page.paragraph(&format!("There is no map of the newest backup, {checkpoint}: {}", spelled(&error)));
                    session.error(&spelled(&error));
                    status = Status::Fault;
                }
                Err(error) => return Err(error.into()),
            }
        }
        page.chart(&chart_of(disk, &moments));
        let rows = moments.iter().map(|backup| {
            [
                Name::new(backup.checkpoint.as_slice()).to_string(),
                checkpoint_name(UNIX_EPOCH + Duration::from_secs(backup.time)),
                kind(backup).to_owned(),
                amount(backup.size_bytes),
                amount(backup.data_bytes),
                amount(backup.file_bytes),
            ]
        });
        let heads = ["Checkpoint", "Time", "Kind", "Disk", "Data", "File"];
        page.table(&Table { names: 3, heads, rows: rows.collect() });
    }
    if directory.disks().is_empty() {
        page.paragraph("There is no backup.");
    }
    Ok(status)
}

fn kind(backup: &Backup) -> &'static str {
    if backup.is_full { "full" } else { "changes" }
}

/// The data of each moment as bars.
fn chart_of(disk: &DiskRecord, moments: &[&Backup]) -> Chart {
    let bars = moments.iter().map(|backup| Bar {
        label: format!("{}, {}", Name::new(backup.checkpoint.as_slice()), kind(backup)),
        bytes: Some(backup.data_bytes),
        is_upper_bound: false,
        why: None,
    });
    Chart {
        title: Name::new(disk.name.as_slice()).to_string(),
        headline: String::new(),
        bars_title: "The data of each backup:".to_owned(),
        bars: bars.collect(),
        rows_title: String::new(),
        rows: Vec::new(),
    }
}
