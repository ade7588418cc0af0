#![forbid(unsafe_code)]
//! Owns the making of a moment: the scratch images, the step that makes the checkpoint, and the nodes and exports behind it. Must never
//! leave a write of the guest to a rule that lets it fail.

use super::super::Disk;
use super::super::commands::Commands;
use super::super::machine::{self, Shared};
use super::super::monitor::Failure;
use super::super::nodes::Nodes;
use super::super::owner::{self, Owner};
use super::super::work::{Until, Work, silent};
use super::knows::{Knows, ON_ERROR, TIMEOUT};
use super::note::{Form, NOTE, Note, NotedDisk, Thing};
use super::scratch::{Folder, file_in, nearly_full};
use super::standing::{self, Pause, path_of};
use super::{Moment, MomentOptions};
use crate::chain::Plan;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::formats::Scratch;
use crate::host::Share;
use crate::progress::Observer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// How long the copy of a block may hold up a write of the guest, in seconds: systems give up on a disk after 30.
const MOST_WAIT_S: u32 = 10;

/// The rule that never fails a write of the guest.
const RULE: &str = "break-snapshot";

/// Jobs that change what stands on a disk, or copy it before it is overwritten.
const JOBS: [&str; 4] = ["backup", "commit", "mirror", "stream"];

/// Filters of jobs, and those of another moment: the device of a guest has them for a time only.
const PASSING_FILTERS: [&str; 3] = ["commit_top", "mirror_top", "copy-before-write"];

pub(super) fn begin(
    shared: &Arc<Shared>,
    disks: &[(&Disk, Option<&Plan>)],
    options: &MomentOptions,
    say: &mut dyn FnMut(&str),
    observer: &mut dyn Observer,
) -> Result<Moment> {
    let moment = begin_open(shared, disks, (options, say), observer);
    // Others may use the monitor while the moment is read.
    shared.hang_up();
    moment
}

fn begin_open<'a>(
    shared: &Arc<Shared>,
    disks: &[(&'a Disk, Option<&'a Plan>)],
    (options, say): (&MomentOptions, &mut dyn FnMut(&str)),
    observer: &mut dyn Observer,
) -> Result<Moment> {
    let share = |(disk, plan): &(&'a Disk, Option<&'a Plan>)| {
        Share::new(&disk.node, plan.map(Plan::actions).unwrap_or_default())
    };
    let shares: Vec<Share<'a>> = disks.iter().map(share).collect();
    let mut work = Work::begin(shared, observer).map_err(Error::nothing_changed)?;
    let prepared = Prepared::new(shared, &mut work, (disks, &shares), options, observer);
    let Prepared { owner, note, folder, commands, knows, said } = prepared.map_err(Error::nothing_changed)?;
    said.iter().for_each(|sentence| say(sentence));
    // From here on the folder belongs to the note.
    let (scratch, limits) = folder.keep();
    let mut setup = Setup { work: &mut work, note: &note, knows, warnings: Vec::new(), has_rotated: false };
    let made = setup.make(shared, commands, (&shares, &limits), observer);
    let (warnings, has_rotated) = (std::mem::take(&mut setup.warnings), setup.has_rotated);
    match made {
        Ok(()) => {
            for disk in &note.disks {
                work.connection.know(&disk.node);
            }
            drop(work);
            Ok(Moment::new(shared, note, (Some(owner), scratch), warnings))
        }
        Err(error) => {
            let mut owners = [Some(owner), scratch];
            if standing::remove(&mut work, &note).is_err() {
                // The next client goes on with it.
                owners.iter_mut().flatten().for_each(Owner::leave);
            }
            Err(if has_rotated { error } else { error.nothing_changed() })
        }
    }
}

/// All that is known and made before anything is in the hypervisor.
struct Prepared {
    owner: Owner,
    note: Note,
    folder: Folder,
    commands: Commands,
    knows: Knows,
    /// What the user should know before it begins.
    said: Vec<String>,
}

impl Prepared {
    fn new(
        shared: &Shared,
        work: &mut Work<'_>,
        (disks, shares): (&[(&Disk, Option<&Plan>)], &[Share<'_>]),
        options: &MomentOptions,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        if disks.iter().any(|(_, plan)| plan.is_some_and(|plan| !plan.below().is_empty())) || disks.is_empty() {
            return Err(Error::new(
                ErrorKind::BackingLayer,
                "a moment begins with new checkpoints on top layers alone",
            ));
        }
        standing::clear_in(work, observer)?;
        if let Some(note) = standing::noted(shared, &mut work.connection, observer)? {
            return Err(another(&note));
        }
        machine::refuse_jobs(work, &JOBS, observer)?;
        let commands = shared.prepare(work, (shares, &[]), observer)?;
        commands.check_filled().map_err(|error| {
            error.advise(WayOut::from("make a checkpoint on this overlay first, with ").control(Control::Create))
        })?;
        for (disk, _) in disks {
            if !work.connection.nodes.is_top(&disk.node)? {
                let message = format!(
                    "the node of the disk {:?} is not its top one any more: somebody made a snapshot",
                    disk.title
                );
                return Err(Error::new(ErrorKind::Changed, message).advise("look for the disks of the machine again"));
            }
        }
        let knows = Knows::ask(work)?;
        let form = match knows {
            Knows { job_rule: true, .. } => Form::Job,
            Knows { filter: true, .. } => Form::Filter,
            _ => {
                let message = format!(
                    "neither the backup job nor the filter copy-before-write of this QEMU has {ON_ERROR} and {TIMEOUT}, so a full scratch \
                     would fail writes of the guest"
                );
                return Err(Error::new(ErrorKind::Unsupported, message).advise("use QEMU 7.2 or later"));
            }
        };
        let mut noted = Vec::new();
        for (disk, _) in disks {
            noted.push(noted_disk(&work.connection.nodes, disk, form)?);
        }
        if form == Form::Filter {
            check_filter(shared, work, &noted)?;
        }
        let user = work.connection.user(shared, observer)?;
        let sizes: Vec<u64> = noted.iter().map(|disk| disk.size_bytes).collect();
        let folder = Folder::make(options.scratch.as_deref(), options.most_scratch_bytes, &sizes, user)?;
        let owner = Owner::new(shared.monitor.folder().as_deref(), user)?;
        let named = &shared.options.nbd_socket;
        if let Some(server) = named {
            owner.note_server(server)?;
        }
        let note = Note {
            folder: owner.folder().to_owned(),
            id: options.id.clone(),
            began_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            form,
            scratch: folder.path().to_owned(),
            server: named.clone().unwrap_or_else(|| owner.socket()),
            is_own_server: named.is_none(),
            disks: noted,
        };
        let mut said = vec![said_of_scratch(&folder)];
        for disk in &note.disks {
            if is_encrypted(&work.connection.nodes, &disk.node)? {
                said.push(format!(
                    "the disk {:?} is encrypted, and its scratch image holds plaintext until the moment ends",
                    disk.node
                ));
            }
        }
        if form == Form::Job && !knows.job_timeout {
            said.push(format!(
                "the backup job of this QEMU has no {TIMEOUT}: if the storage of the scratch hangs, the guest's writes wait for it, so use \
                 local storage"
            ));
        }
        said.push(match form {
            Form::Job => "until the moment ends, resizing and snapshots of the disks are refused by QEMU, and the guest's discards \
                          may do nothing"
                .to_owned(),
            Form::Filter => "until the moment ends, QEMU refuses to resize the disks".to_owned(),
        });
        Ok(Self { owner, note, folder, commands, knows, said })
    }
}

fn another(note: &Note) -> Error {
    let own = owner::life_of(&note.folder.to_string_lossy());
    let error = owner::in_use(&note.folder.to_string_lossy(), &own);
    match &note.id {
        None => error,
        Some(id) => {
            let message = format!("a moment stands in this hypervisor, which belongs to {id:?}");
            Error::new(ErrorKind::InUse, message).advise("let its owner go on with it, or end it")
        }
    }
}

fn said_of_scratch(folder: &Folder) -> String {
    let most: u64 = folder.limits.iter().sum();
    format!(
        "blocks that the guest overwrites until the moment ends are copied to {}, {most} bytes at most; all blocks of the disks would need \
         {}. If it is too little, the moment is lost and the guest goes on",
        folder.path().display(),
        folder.need_bytes
    )
}

/// Whether data of the disk are encrypted in any of its layers.
fn is_encrypted(nodes: &Nodes, top: &str) -> Result<bool> {
    for layer in nodes.layers(top)? {
        let node = nodes.node(&layer)?;
        let (file, data) = nodes.files(&layer)?;
        let is_luks = |node: &super::super::nodes::Node| node.is_encrypted || node.driver == "luks";
        if is_luks(node) || file.is_some_and(is_luks) || data.is_some_and(is_luks) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn noted_disk(nodes: &Nodes, disk: &Disk, form: Form) -> Result<NotedDisk> {
    let size_bytes = nodes.node(&disk.node)?.size_bytes;
    let devices = nodes.devices_of(&disk.node)?;
    let (above, qdev) = match devices.as_slice() {
        [device] => (device.node.clone(), device.qdev.clone()),
        [] => (disk.node.clone(), None),
        _ => {
            let message = format!("several devices of the guest have the disk {:?}", disk.title);
            return Err(Error::new(ErrorKind::Unsupported, message).advise("read it while the machine is off"));
        }
    };
    if form == Form::Filter && qdev.is_none() {
        let message = format!(
            "this QEMU's backup job has no on-cbw-error, so only a filter below a guest's device keeps the guest from harm, and the disk \
             {:?} has no device",
            disk.title
        );
        return Err(Error::new(ErrorKind::Unsupported, message).advise("use QEMU 11.1 or later"));
    }
    let driver = &nodes.node(&above)?.driver;
    if PASSING_FILTERS.contains(&driver.as_str()) {
        let message = format!("the filter {above:?} ({driver}) of a job stands on the disk {:?}", disk.title);
        return Err(Error::new(ErrorKind::InUse, message).advise("wait until that job is done"));
    }
    Ok(NotedDisk { node: disk.node.clone(), above, qdev, size_bytes })
}

/// Refuses where a filter cannot be put below each device.
fn check_filter(shared: &Shared, work: &mut Work<'_>, disks: &[NotedDisk]) -> Result<()> {
    if shared.options.nbd_socket.is_some() {
        let message = "the map of such a moment is read as far as now, over an NBD server of checkmap's own only";
        let way_out = WayOut::from("end the server that runs, and leave out ").control(Control::NbdSocket);
        return Err(Error::new(ErrorKind::InUse, message).advise(way_out));
    }
    for disk in disks {
        let path = path_of(disk.qdev.as_deref().unwrap_or_default());
        let arguments = json!({ "path": path, "property": "drive" });
        match work.command("qom-get", &arguments, &mut Until::timeout(shared)) {
            Ok(drive) if drive.as_str().is_some_and(|drive| !drive.is_empty()) => {}
            Ok(_) | Err(Failure::Refused(_)) => {
                let message = format!("the device {path:?} does not let a filter be put below it");
                return Err(Error::new(ErrorKind::Unsupported, message).advise("use QEMU 11.1 or later"));
            }
            Err(failure) => return Err(silent(failure.into_error())),
        }
    }
    Ok(())
}

/// A moment in the making.
struct Setup<'w, 'a> {
    work: &'w mut Work<'a>,
    note: &'w Note,
    knows: Knows,
    warnings: Vec<String>,
    /// Whether the checkpoint may be there.
    has_rotated: bool,
}

impl Setup<'_, '_> {
    fn make(
        &mut self,
        shared: &Shared,
        mut commands: Commands,
        (shares, limits): (&[Share<'_>], &[u64]),
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let note = self.note;
        let mark = json!({ "qom-type": "authz-simple", "id": NOTE, "identity": note.text() });
        self.work.ask("object-add", &mark)?;
        for (at, limit) in limits.iter().enumerate() {
            self.add_scratch(at, *limit)?;
        }
        if note.is_own_server {
            self.start_server()?;
        }
        match note.form {
            Form::Job => {
                for (at, disk) in note.disks.iter().enumerate() {
                    commands.begin_job("blockdev-backup", self.job_of(at, disk));
                }
                self.rotate(shared, &commands, shares)?;
            }
            Form::Filter => {
                for (at, disk) in note.disks.iter().enumerate() {
                    let filter = json!({
                        "driver": "copy-before-write", "node-name": note.name(Thing::Filter, at), "file": disk.above,
                        "target": note.name(Thing::Scratch, at), ON_ERROR: RULE, TIMEOUT: MOST_WAIT_S,
                        "discard": "unmap",
                    });
                    self.work.ask("blockdev-add", &filter)?;
                }
                self.rotate_and_insert(shared, &commands, shares)?;
            }
        }
        for at in 0..note.disks.len() {
            let name = note.name(Thing::Access, at);
            let access =
                json!({ "driver": "snapshot-access", "node-name": name, "file": note.name(Thing::Filter, at) });
            self.work.ask("blockdev-add", &access)?;
            let export = json!({ "type": "nbd", "id": name, "node-name": name, "name": name, "writable": false });
            self.work.ask("block-export-add", &export)?;
        }
        self.work.refresh(observer)
    }

    /// Opens a scratch image, which cannot take more than its file has now. Nothing of it needs to reach the disk.
    fn add_scratch(&mut self, at: usize, limit: u64) -> Result<()> {
        let note = self.note;
        let node = json!({
            "driver": Scratch::DRIVER, "node-name": note.name(Thing::Scratch, at), "cache": { "no-flush": true },
            "file": {
                "driver": "raw", "node-name": note.name(Thing::Room, at), "size": limit,
                "file": {
                    "driver": "file", "node-name": note.name(Thing::File, at),
                    "filename": file_in(&note.scratch, at).to_string_lossy(),
                },
            },
        });
        self.work.ask("blockdev-add", &node)?;
        // For those who listen at the monitor; this client looks at the file.
        let threshold = json!({ "node-name": note.name(Thing::File, at), "write-threshold": nearly_full(limit) });
        self.work.ask("block-set-write-threshold", &threshold).map(drop)
    }

    fn start_server(&mut self) -> Result<()> {
        let arguments = json!({ "addr": { "type": "unix", "data": { "path": self.note.server.to_string_lossy() } } });
        let shared = self.work.shared();
        match self.work.command("nbd-server-start", &arguments, &mut Until::timeout(shared)) {
            Ok(_) => Ok(()),
            Err(Failure::Refused(refusal)) if refusal.words.contains("already running") => {
                let message = "another NBD server runs in this hypervisor, and QEMU has one at a time";
                let way_out = WayOut::from("wait until it ends, or name its socket with ").control(Control::NbdSocket);
                Err(Error::new(ErrorKind::InUse, message).advise(way_out))
            }
            Err(failure) => Err(silent(failure.into_error())),
        }
    }

    /// The job that copies blocks of a disk before they are overwritten.
    fn job_of(&self, at: usize, disk: &NotedDisk) -> Value {
        let note = self.note;
        let mut job = json!({
            "job-id": note.name(Thing::Job, at), "device": disk.above, "target": note.name(Thing::Scratch, at), "sync": "none",
            "filter-node-name": note.name(Thing::Filter, at), ON_ERROR: RULE,
        });
        if self.knows.job_timeout
            && let Some(all) = job.as_object_mut()
        {
            all.insert(TIMEOUT.to_owned(), MOST_WAIT_S.into());
        }
        job
    }

    /// Makes the checkpoint.
    fn rotate(&mut self, shared: &Shared, commands: &Commands, shares: &[Share<'_>]) -> Result<()> {
        // The bitmaps may not have changed since they were looked at, and a plan may be empty.
        let sent = shared.send(self.work, commands, shares);
        self.note_rotation(sent)
    }

    fn note_rotation(&mut self, sent: Result<()>) -> Result<()> {
        self.has_rotated = match &sent {
            Ok(()) => true,
            Err(error) => error.kind() == ErrorKind::CommitInDoubt,
        };
        sent
    }

    /// Makes the checkpoint, and puts the filters below the devices. Several disks show one moment, so the machine stands still for it.
    ///
    /// All is sent at once, so that QEMU also lets the machine go on where this process is killed.
    fn rotate_and_insert(&mut self, shared: &Shared, commands: &Commands, shares: &[Share<'_>]) -> Result<()> {
        let note = self.note;
        let mut series = Vec::new();
        let mut filters = Vec::new();
        for (at, disk) in note.disks.iter().enumerate() {
            let filter = note.name(Thing::Filter, at);
            filters.extend(standing::putting(self.work, disk, &disk.above, &filter)?);
        }
        let pause = match note.disks.len() {
            1 => None,
            _ => Pause::begin(self.work)?,
        };
        series.extend(pause.iter().map(|_| ("stop", Value::Null)));
        series.push(("transaction", commands.arguments()));
        series.extend(filters.into_iter().map(|arguments| ("qom-set", arguments)));
        series.extend(pause.iter().map(|_| ("cont", Value::Null)));
        let expected = machine::expected(&self.work.connection.nodes, shares)?;
        let answers = self.work.connection.series(shared, &series);
        let stood = pause.map(|pause| pause.end(self.work)).transpose();
        let mut answers = answers.map_err(Failure::into_error)?.into_iter().zip(&series);
        let mut failed = Ok(());
        for (answer, (name, _)) in answers.by_ref() {
            let done = match *name {
                "transaction" => {
                    let judged = shared.judge(self.work, answer, (shares, &expected));
                    self.note_rotation(judged)
                }
                _ => answer.map(drop).map_err(Failure::into_error),
            };
            failed = failed.and(done);
        }
        failed?;
        for (at, disk) in note.disks.iter().enumerate() {
            standing::check_behind(self.work, disk, &note.name(Thing::Filter, at))?;
        }
        if let Some(stood) = stood? {
            self.warnings.push(format!("the guest stood still for at most {} ms", stood.as_millis()));
        }
        Ok(())
    }
}
