//! The table of bad images: what a row says, and the one place that plays it.

use crate::bases::Base;
use crate::support::raw::Raw;
use crate::support::{folder, tools_are_here, try_run};
use checkmap::chain::Plan;
use checkmap::image::{Access, DiffRequest, Layers, OpenOptions, Severity};
use checkmap::progress::Unobserved;
use checkmap::{Error, ErrorKind, Image};
use std::path::Path;

/// The verbs tried on a bad image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Open,
    /// Every bitmap's content, as `info` shows it.
    Summarize,
    /// What changed since the oldest checkpoint.
    Diff,
    /// A new checkpoint.
    Create,
    /// The deletion of the second checkpoint.
    Delete,
}

use Operation::{Create, Delete, Diff, Summarize};

/// Everything that an image must be opened for.
pub(crate) const USES: &[Operation] = &[Diff, Create, Delete];
/// What does not ask whether clusters are counted.
pub(crate) const READS: &[Operation] = &[Summarize, Diff];
pub(crate) const WRITES: &[Operation] = &[Create, Delete];

/// What QEMU does when it opens the image to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qemu {
    Opens,
    Refuses,
}

type Damage = fn(&mut Raw);
type Place = fn(&Raw) -> usize;

/// Which operations are refused, and what the refusal must say.
#[derive(Clone, Copy)]
struct Refusal {
    operations: &'static [Operation],
    kind: ErrorKind,
    structure: &'static str,
    /// The offset it must name, in the image as it was before the damage.
    place: Option<Place>,
}

/// One bad image.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    rule: &'static str,
    base: Base,
    damage: Damage,
    refusals: [Option<Refusal>; 2],
    works: &'static [Operation],
    found: Option<(Severity, &'static str)>,
    qemu: Qemu,
}

impl Row {
    /// The chain, damaged: `rule` says which rule is broken.
    pub(crate) const fn new(rule: &'static str, damage: Damage) -> Self {
        Self { rule, base: Base::Chain, damage, refusals: [None, None], works: &[], found: None, qemu: Qemu::Refuses }
    }

    pub(crate) const fn of(self, base: Base) -> Self {
        Self { base, ..self }
    }

    /// Which operations are refused, and what the refusal says; `place` is the offset it names.
    pub(crate) const fn refuses(
        self,
        operations: &'static [Operation],
        kind: ErrorKind,
        structure: &'static str,
        place: Place,
    ) -> Self {
        self.with(Refusal { operations, kind, structure, place: Some(place) })
    }

    const fn with(self, refusal: Refusal) -> Self {
        let refusals = match self.refusals {
            [None, _] => [Some(refusal), None],
            [first, _] => [first, Some(refusal)],
        };
        Self { refusals, ..self }
    }

    /// As `refuses`, for a refusal that is about no single place; `text` stands in its message.
    pub(crate) const fn refuses_saying(
        self,
        operations: &'static [Operation],
        kind: ErrorKind,
        text: &'static str,
    ) -> Self {
        self.with(Refusal { operations, kind, structure: text, place: None })
    }

    /// As `refuses` for the opening, with a damaged header.
    pub(crate) const fn does_not_open(self, place: Place) -> Self {
        self.refuses(&[Operation::Open], ErrorKind::Damaged, "qcow2 header", place)
    }

    pub(crate) const fn works(self, works: &'static [Operation]) -> Self {
        Self { works, ..self }
    }

    /// What a check reports, among other things perhaps.
    pub(crate) const fn found(self, severity: Severity, structure: &'static str) -> Self {
        Self { found: Some((severity, structure)), ..self }
    }

    pub(crate) const fn qemu_opens(self) -> Self {
        Self { qemu: Qemu::Opens, ..self }
    }
}

/// Plays every row, and tells of all that fail.
pub(crate) fn play(rows: &[Row]) {
    if !tools_are_here() {
        return;
    }
    let failures: Vec<String> = rows
        .iter()
        .filter_map(|row| play_row(row).err().map(|failure| format!("{} ({:?}): {failure}", row.rule, row.base)))
        .collect();
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), rows.len(), failures.join("\n"));
}

/// An assertion that tells of the row.
macro_rules! ensure {
    ($holds:expr, $($said:tt)*) => {
        if !$holds {
            return Err(format!($($said)*));
        }
    };
}

fn play_row(row: &Row) -> Result<(), String> {
    let sound = row.base.raw();
    let mut damaged = sound.clone();
    (row.damage)(&mut damaged);
    ensure!(damaged != sound, "the damage changes nothing");
    let folder = folder();
    let path = folder.path().join("bad.qcow2");
    for refusal in row.refusals.iter().flatten() {
        for operation in refusal.operations {
            std::fs::write(&path, &damaged.bytes).expect("the image can be written");
            let Err(error) = perform(*operation, &path) else { return Err(format!("{operation:?} works")) };
            check_refusal(refusal, &error, &path, &sound)
                .map_err(|failure| format!("{operation:?}: {failure}\n    {error:?}"))?;
            ensure!(Raw::read(&path) == damaged, "{operation:?} changed the image");
        }
    }
    for operation in row.works {
        std::fs::write(&path, &damaged.bytes).expect("the image can be written");
        perform(*operation, &path).map_err(|error| format!("{operation:?}: {error:?}"))?;
    }
    std::fs::write(&path, &damaged.bytes).expect("the image can be written");
    check_report(row, &path)?;
    ensure!(Raw::read(&path) == damaged, "the check changed the image");
    let qemu = if qemu_reads(&path) { Qemu::Opens } else { Qemu::Refuses };
    ensure!(qemu == row.qemu, "QEMU {qemu:?}");
    Ok(())
}

fn check_refusal(expected: &Refusal, error: &Error, path: &Path, sound: &Raw) -> Result<(), String> {
    let text = error.to_string();
    ensure!(error.kind() == expected.kind, "the kind is not {:?}", expected.kind);
    ensure!(text.starts_with(&format!("{}: ", path.display())), "the file is not named");
    ensure!(error.way_out().is_some(), "there is no way out");
    ensure!(text.contains(expected.structure), "{:?} is not named", expected.structure);
    if let Some(place) = expected.place {
        let place = place(sound) as u64;
        ensure!(error.structure().is_some_and(|s| s.contains(expected.structure)), "it is not the structure");
        ensure!(error.offset() == Some(place), "the offset is not {place:#x}");
    }
    Ok(())
}

/// Whatever opens must be shown by the check, as bad as it is.
fn check_report(row: &Row, path: &Path) -> Result<(), String> {
    let image = match Image::open(path, &unlocked(Access::Read)) {
        Ok(image) => image,
        Err(error) => {
            let expected = row.refusals.iter().flatten().any(|refusal| refusal.operations == [Operation::Open]);
            ensure!(expected, "the image does not open: {error:?}");
            return Ok(());
        }
    };
    let report = image.check(&mut Unobserved).map_err(|error| format!("the check ends: {error:?}"))?;
    let Some((severity, structure)) = row.found else {
        ensure!(report.problems.is_empty(), "what does the check find? {report:?}");
        return Ok(());
    };
    let found = |problem: &&checkmap::image::Problem| {
        problem.severity == severity && problem.structure.contains(structure) && !problem.message.is_empty()
    };
    ensure!(report.problems.iter().any(|problem| found(&problem)), "no {severity:?} in {structure}: {report:?}");
    let counted = match severity {
        Severity::Error => report.errors > 0,
        Severity::Unusable => report.unusable > 0,
        Severity::Leak => report.leaked_bytes > 0,
        _ => report.errors == 0,
    };
    ensure!(counted, "the counts do not show it: {report:?}");
    Ok(())
}

/// Without locks: a process that another test thread forks would hold them a moment longer than we do.
pub(crate) fn unlocked(access: Access) -> OpenOptions {
    OpenOptions::new(access).no_lock(true)
}

/// Carries out one operation as the command line does.
pub(crate) fn perform(operation: Operation, path: &Path) -> checkmap::Result<()> {
    let access = if WRITES.contains(&operation) { Access::Write } else { Access::Read };
    let mut image = Image::open(path, &unlocked(access))?;
    match operation {
        Operation::Open => Ok(()),
        Summarize => image.bitmaps().iter().try_for_each(|state| image.summarize(&state.name).map(drop)),
        Diff => diff(&image).map(drop),
        Create => {
            let plan = image.plan_create(b"new", None, None)?;
            commit(&mut image, &plan)
        }
        Delete => {
            let bitmaps = image.bitmaps();
            let second = match bitmaps.as_slice() {
                [_] => &b"1"[..],
                [_, second] => second.name.as_bytes(),
                _ => b"2",
            };
            let plan = image.plan_delete(second, false, Layers::TopOnly, None)?;
            commit(&mut image, &plan)
        }
    }
}

fn commit(image: &mut Image, plan: &Plan) -> checkmap::Result<()> {
    image.commit(plan, &mut Unobserved).map(drop)
}

/// What changed since checkpoint `1`.
pub(crate) fn diff(image: &Image) -> checkmap::Result<checkmap::Bitmap> {
    let request = DiffRequest::since(b"1").layers(Layers::TopOnly);
    Ok(image.diff(&request, &mut Unobserved)?.bitmap)
}

/// Whether QEMU opens the image and reads from it.
pub(crate) fn qemu_reads(path: &Path) -> bool {
    let path = path.to_str().expect("a path in UTF-8");
    let node = format!("driver=qcow2,backing=,file.filename={path}");
    try_run("qemu-io", &["--image-opts", "-r", "-c", "read 0 512", &node]).status.success()
}
