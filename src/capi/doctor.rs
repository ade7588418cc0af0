//! Owns the doctor as C programs see it: where bitmaps, chains and libvirt's notes disagree, and the mend. Must never know a kind of
//! disagreement, nor why a step helps.

use super::backups::path_or_none;
use super::boundary::{Handle, Out, OutBuffer, count, exclusive, free, give, guard, handle_out, object, shared};
use super::checkpoint::conclude;
use super::image::checkmap_image;
use super::machine::{checkmap_machine, text_of};
use super::many::several_names;
use super::options::{CHECKMAP_OPT_DRY_RUN, Options, checkmap_opts, invalid};
use super::outcome::{checkmap_text, lent, lent_text};
use crate::chain::Plan;
use crate::doctor::{self, Finding, Seen, Visit};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Access, Image, OpenOptions};
use crate::memory;
use std::ffi::c_char;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Find out where bitmaps, chains and libvirt's notes disagree, and change nothing.
pub const CHECKMAP_DOCTOR_LOOK: u32 = 0;
/// Mend the findings: bitmaps first, then libvirt's notes.
pub const CHECKMAP_DOCTOR_REPAIR: u32 = 1;
/// Turn cumulative checkpoints into a chain of intervals: each bitmap is frozen whole, and libvirt forgets the checkpoints.
pub const CHECKMAP_DOCTOR_TO_INTERVAL: u32 = 2;

/// The finding is still there after the repair.
pub const CHECKMAP_FINDING_LEFT: u32 = 1;

/// A disagreement. Frozen. The texts have no NUL behind them, and are UTF-8 but for the name.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct checkmap_finding {
    /// Its kind in lower-case words with hyphens, such as `bitmap-without-metadata`.
    pub kind: *const c_char,
    /// The bytes of that text.
    pub kind_len: usize,
    /// The disk; NULL where it is of no single one.
    pub disk: *const c_char,
    /// The bytes of that text.
    pub disk_len: usize,
    /// The bitmap or checkpoint; NULL where it is of no single one.
    pub name: *const c_char,
    /// The bytes of that text.
    pub name_len: usize,
    /// The fault, in a sentence.
    pub message: *const c_char,
    /// The bytes of that text.
    pub message_len: usize,
    /// The price of leaving it so.
    pub cost: *const c_char,
    /// The bytes of that text.
    pub cost_len: usize,
    /// The mend that is among the steps; NULL where a person has to decide.
    pub mend: *const c_char,
    /// The bytes of that text.
    pub mend_len: usize,
    /// `CHECKMAP_FINDING_...`
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// 0.
    pub reserved2: [u64; 4],
}

/// The steps of the mend in their order, done or not.
pub const CHECKMAP_DIAGNOSIS_STEPS: u32 = 1;
/// Sentences for the user beside the findings, such as how much too large a past diff becomes.
pub const CHECKMAP_DIAGNOSIS_REMARKS: u32 = 2;
/// The warnings of the change.
pub const CHECKMAP_DIAGNOSIS_WARNINGS: u32 = 3;

/// What a doctor found and did. It outlives the image and the machine.
#[derive(Debug)]
pub struct checkmap_diagnosis {
    #[allow(dead_code, reason = "reached through pointers to the whole")]
    handle: Handle<Told>,
}

object!(checkmap_diagnosis = Told, b"cmDoctor", "diagnosis");

/// The object behind a handle.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Each with its flags.
    findings: Vec<(Finding, u32)>,
    steps: Vec<String>,
    remarks: Vec<String>,
    warnings: Vec<String>,
}

impl Told {
    /// Looks, and does what the caller wants. Returns it with the number of findings that are left.
    fn of(visit: &mut Visit<'_>, aim: u32, options: &mut Options) -> Result<(Self, usize)> {
        let is_dry = options.has(CHECKMAP_OPT_DRY_RUN);
        let mut told = Self::default();
        if aim == CHECKMAP_DOCTOR_TO_INTERVAL {
            let found = visit.plan_conversion(options).map_err(Error::nothing_changed)?;
            told.steps = visit.steps(found.plans.iter().map(Plan::actions), &found.changes)?;
            memory::extend(&mut told.remarks, found.excess.iter().map(|(disk, excess)| format!("{disk}: {excess}")))?;
            told.warnings = match is_dry {
                true => visit.rehearse(&found.plans, options)?,
                false => visit.carry_out(&found.plans, &found.changes, options)?,
            };
            return Ok((told, 0));
        }
        let mut found = visit.diagnose(options).map_err(Error::nothing_changed)?;
        told.steps = visit.steps(found.actions.iter().map(Vec::as_slice), &found.changes)?;
        let mut left = found.findings.len();
        let mut findings_left = Vec::new();
        if aim == CHECKMAP_DOCTOR_REPAIR {
            let plans = visit.plan_repair(&found).map_err(Error::nothing_changed)?;
            if is_dry {
                told.warnings = visit.rehearse(&plans, options)?;
            } else {
                told.warnings = visit.carry_out(&plans, &found.changes, options)?;
                findings_left = visit.diagnose_again(options)?.findings;
                left = findings_left.len();
            }
        }
        told.remarks = std::mem::take(&mut found.notes);
        memory::extend(&mut told.findings, found.findings.into_iter().map(|found| (found, 0)))?;
        memory::extend(&mut told.findings, findings_left.into_iter().map(|found| (found, CHECKMAP_FINDING_LEFT)))?;
        Ok((told, left))
    }
}

fn row(found: &Finding, flags: u32) -> checkmap_finding {
    let (kind, kind_len) = lent(Some(found.kind.as_str().as_bytes()));
    let (disk, disk_len) = lent(Some(found.disk.as_bytes()));
    let (name, name_len) = lent(found.name.as_ref().map(|name| name.as_bytes()));
    let (message, message_len) = lent(Some(found.message.as_bytes()));
    let (cost, cost_len) = lent(Some(found.cost.as_bytes()));
    let (mend, mend_len) = lent(found.mend.as_deref().map(str::as_bytes));
    checkmap_finding {
        kind,
        kind_len,
        disk,
        disk_len,
        name,
        name_len,
        message,
        message_len,
        cost,
        cost_len,
        mend,
        mend_len,
        flags,
        reserved: 0,
        reserved2: [0; 4],
    }
}

fn check_aim(aim: u32) -> Result<()> {
    match aim {
        CHECKMAP_DOCTOR_LOOK..=CHECKMAP_DOCTOR_TO_INTERVAL => Ok(()),
        unknown => Err(invalid(format!("there is no aim {unknown} of a doctor"))),
    }
}

fn options_of(options: &Options) -> doctor::Options {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    doctor::Options::new(now).model(options.model)
}

fn hand_out(told: Told, left: usize, out: Out<'_, *mut checkmap_diagnosis>) -> i64 {
    out.put(give(told));
    count(left)
}

/// Finds where the bitmaps of an image, their chain and libvirt's notes disagree, and mends it or converts the checkpoints where `aim`
/// says so.
///
/// `folder` has libvirt's documents, as for `checkmap_notes_read()`; NULL where libvirt has nothing to do with the image. `target` is the
/// name of the disk in the domain, such as `vda`; NULL where the documents tell it by the file of the image. A repair changes the bitmaps
/// in one step, then the documents, one after the other; libvirt's daemon reads its own folder only when it starts. From the change of the bitmaps
/// on `progress` cannot stop it. With `DRY_RUN` the
/// steps are listed, and nothing is changed. A change ends the pointers that were handed out
/// of the image. The image follows the notes from then on as after `checkmap_image_follow()`, but for their order.
///
/// Options: `progress`, `model`, `DRY_RUN`.
///
/// Returns: how many findings there are, after a repair how many are left; 0 is well; or a negative errno.
///
/// Errors:
/// - `-ENOENT`: no such folder, with kind `CHECKMAP_ERROR_IO`; the documents do not tell which disk it is, with kind
///   `CHECKMAP_ERROR_NOT_FOUND`.
/// - `-EEXIST`: a file has the name of a new document already.
/// - `-EINVAL`: an unknown aim, an empty text, or one that is no UTF-8.
/// - `-EPROTO`: documents that contradict one another, checkpoints without a known order, or both models at once.
/// - `-EBADMSG`: the image or a document is damaged.
/// - `-EIO`: with kind `CHECKMAP_ERROR_IO` also where a document fails behind the bitmaps or behind others: the message says how many are
///   changed, and the same again goes on from there.
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_create()` without `-EEXIST`, `-EINVAL`, `-EPROTO`, `-EBADMSG`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_doctor(
    image: *mut checkmap_image,
    target: *const c_char,
    target_len: usize,
    folder: *const c_char,
    folder_len: usize,
    aim: u32,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_diagnosis,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        check_aim(aim)?;
        let target = match target.is_null() {
            true => None,
            // SAFETY: the caller's promise for `target`.
            false => Some(unsafe { text_of(target, target_len, "the name of the disk") }?),
        };
        // SAFETY: the caller's promise for `folder`.
        let folder = unsafe { path_or_none(folder, folder_len) }?;
        // SAFETY: the caller's promise for `image`.
        let mut open = unsafe { exclusive(image) }?;
        open.lent().begin_change();
        open.image.survey(&mut options).map_err(Error::nothing_changed)?;
        let before = open.image.states().map_err(Error::nothing_changed)?;
        let told = {
            let disks = vec![Seen::image(&mut open.image, target)];
            let visit = Visit::begin(disks, None, folder.as_deref(), options_of(&options), &mut options);
            let visit = visit.map_err(|error| match error.kind() {
                ErrorKind::NotFound => error.advise("give the disk's name in the domain, such as vda"),
                _ => error,
            });
            visit.map_err(Error::nothing_changed).and_then(|mut visit| Told::of(&mut visit, aim, &mut options))
        };
        // libvirt's checkpoints are known now.
        open.lent().outdate();
        match told {
            Ok((told, left)) if aim == CHECKMAP_DOCTOR_LOOK || options.has(CHECKMAP_OPT_DRY_RUN) => {
                Ok(hand_out(told, left, out))
            }
            Ok((told, left)) => {
                conclude(&open, &before, &[], Ok(memory::gather(told.warnings.iter().cloned())?))?;
                Ok(hand_out(told, left, out))
            }
            Err(error) => conclude(&open, &before, &[], Err(error)).map(i64::from),
        }
    })
}

/// Finds where the bitmaps of a running machine's disks, their chains and libvirt's notes disagree, and mends it or converts the
/// checkpoints where `aim` says so.
///
/// `nodes` and `lens` have `count` elements each and name disks as for `checkmap_machine_image()`; with a count of 0 all disks take part
/// that can keep bitmaps. Of a domain of libvirt's the notes are asked from libvirt, which is told of their changes; a machine that was
/// not reached through libvirt has none. A repair changes the bitmaps of all disks in one step, then the notes, one after the other.
/// Images of these disks that are open are not good for changes any more: open them anew.
///
/// Options: `progress`, `model`, `DRY_RUN`.
///
/// Returns: how many findings there are, after a repair how many are left; 0 is well; or a negative errno.
///
/// Errors:
/// - `-ENOENT`: no disk is called so; libvirt does not tell which of its disks one is. Both with kind `CHECKMAP_ERROR_NOT_FOUND`.
/// - `-EEXIST`: two disks are called so.
/// - `-EINVAL`: an unknown aim, the same disk twice, no disk at all, a name that is empty or no UTF-8.
/// - `-EPROTO`: notes that contradict one another, checkpoints without a known order, or both models at once.
/// - `-EBADMSG`: an answer is none of QEMU's or libvirt's.
/// - `-EREMOTEIO`: with kind `CHECKMAP_ERROR_HYPERVISOR` also where libvirt refuses a note behind the bitmaps or behind others: the message says
///   how many are changed, and the same again goes on from there.
/// - `-ECANCELED`: the call was stopped, and nothing has changed.
/// - as `checkmap_checkpoint_create()` without `-EEXIST`, `-EINVAL`, `-EPROTO`, `-EBADMSG`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_doctor_running(
    machine: *const checkmap_machine,
    nodes: *const *const c_char,
    lens: *const usize,
    count: usize,
    aim: u32,
    opts: *const checkmap_opts,
    out: *mut *mut checkmap_diagnosis,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `out`.
        let out = unsafe { handle_out(out) }?;
        // SAFETY: the caller's promise for `opts`.
        let mut options = unsafe { Options::read(opts) }?;
        check_aim(aim)?;
        // SAFETY: the caller's promise for `nodes` and `lens`, of `count` elements each.
        let nodes = unsafe { several_names(nodes, lens, count) }?;
        // SAFETY: the caller's promise for `machine`.
        let open = unsafe { shared(machine) }?;
        let machine = open.machine();
        machine.refresh(&mut options)?;
        let mut disks = Vec::new();
        for node in &nodes {
            let node = std::str::from_utf8(node)
                .map_err(|_| Error::new(ErrorKind::InvalidName, "the name of a node is no UTF-8"))?;
            let disk = machine.find(node)?;
            if disks.iter().any(|other: &crate::qemu::Disk| other.node() == disk.node()) {
                return Err(invalid(format!("{node} names a disk that is named already")));
            }
            memory::push(&mut disks, disk)?;
        }
        if nodes.is_empty() {
            memory::extend(&mut disks, machine.disks()?.into_iter().filter(|disk| disk.unfit().is_none()))?;
        }
        let mut images = memory::room(disks.len())?;
        for disk in &disks {
            let options = OpenOptions::new(Access::Write);
            images.push(Image::on(machine.host(disk)?, Path::new(disk.title()), &options));
        }
        let seen = disks.iter().zip(&mut images).map(|(disk, image)| Seen::of_machine(disk, image));
        let seen = memory::gather(seen)?;
        let mut visit = Visit::begin(seen, Some(machine), None, options_of(&options), &mut options)?;
        let (told, left) = Told::of(&mut visit, aim, &mut options)?;
        Ok(hand_out(told, left, out))
    })
}

/// Fills `out` with the findings, disk by disk, `max` at most; with `out` NULL it only counts.
///
/// After a repair those that it found come first, then those that are left.
///
/// Returns: how many there are in all; or a negative errno.
///
/// Ownership: the texts live as long as the diagnosis.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_diagnosis_findings(
    diagnosis: *const checkmap_diagnosis,
    out: *mut checkmap_finding,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `diagnosis`.
        let told = unsafe { shared(diagnosis) }?;
        if out.is_null() {
            return Ok(count(told.findings.len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` findings.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of findings") }?;
        room.fill(told.findings.iter().map(|(found, flags)| row(found, *flags)));
        Ok(count(told.findings.len()))
    })
}

/// Fills `out` with the texts of one kind, in UTF-8, `max` at most; with `out` NULL it only counts.
///
/// `kind` is one of `CHECKMAP_DIAGNOSIS_...`
///
/// Returns: how many texts there are in all; or a negative errno.
///
/// Ownership: the texts live as long as the diagnosis.
///
/// Errors:
/// - `-EINVAL`: an unknown kind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_diagnosis_texts(
    diagnosis: *const checkmap_diagnosis,
    kind: u32,
    out: *mut checkmap_text,
    max: usize,
) -> i64 {
    guard(|| {
        // SAFETY: the caller's promise for `diagnosis`.
        let told = unsafe { shared(diagnosis) }?;
        let texts = match kind {
            CHECKMAP_DIAGNOSIS_STEPS => &told.steps,
            CHECKMAP_DIAGNOSIS_REMARKS => &told.remarks,
            CHECKMAP_DIAGNOSIS_WARNINGS => &told.warnings,
            unknown => return Err(invalid(format!("there is no kind {unknown} of texts"))),
        };
        if out.is_null() {
            return Ok(count(texts.len()));
        }
        // SAFETY: the caller's promise for `out`, which has room for `max` texts.
        let mut room = unsafe { OutBuffer::new(out, max, "the array of texts") }?;
        room.fill(texts.iter().map(|text| lent_text(Some(text.as_bytes()))));
        Ok(count(texts.len()))
    })
}

/// Frees a diagnosis.
///
/// NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn checkmap_diagnosis_free(diagnosis: *mut checkmap_diagnosis) {
    // SAFETY: the caller's promise for `diagnosis`, which it gives up.
    unsafe { free(diagnosis) }
}
