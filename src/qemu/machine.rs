#![forbid(unsafe_code)]
//! Owns a connection to a running hypervisor, the block nodes that it told of, and the one step that changes the bitmaps of all its
//! disks. Must never know the meaning of the bitmaps to one another.

use super::answer::{self, Field};
use super::commands::{self, Commands, Place};
use super::fill::{self, Fill, Filled, Wanted};
use super::moment;
use super::monitor::{Conversation, Failure, Monitor};
use super::nodes::{Answers, DiskNodes, Node, NodeBitmap, Nodes, names_file};
use super::owner;
use super::reopen::Reopened;
use super::virsh::Virsh;
use super::work::{Until, Work, silent};
use super::{Disk, Options};
use crate::bitmap::Bitmap;
use crate::chain::{self, Action, BitmapState, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::host::{Share, Transaction};
use crate::libvirt::Change;
use crate::memory;
use crate::progress::{Observer, Unobserved};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The way out of a refusal that has no other.
const LOOK: &str = "look at the hypervisor's log, and whether another program works on its disks";

/// The hypervisor, shared by the hosts of its disks.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) monitor: Monitor,
    pub(super) options: Options,
    connection: Mutex<Connection>,
}

/// The open conversation, where there is one, and the last answers that came through it.
#[derive(Debug)]
pub(super) struct Connection {
    conversation: Option<Conversation>,
    pub(super) nodes: Nodes,
    /// The names of the guest's disks in libvirt, each with its source, where it has one.
    targets: Vec<(String, Option<String>)>,
    /// The checkpoints that libvirt has of the domain, where a bitmap can be of one.
    theirs: Arc<BTreeSet<Name>>,
    /// The bitmaps of each node for which there is a host, as that host knows them.
    known: BTreeMap<String, Vec<NodeBitmap>>,
}

impl Connection {
    /// The answer to a command. A conversation that broke before is begun anew.
    pub(super) fn command(
        &mut self,
        shared: &Shared,
        name: &str,
        arguments: &Value,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Value, Failure> {
        let conversation = match &mut self.conversation {
            Some(conversation) => conversation,
            None => {
                let opened = Conversation::open(&shared.monitor, shared.options.timeout, observer);
                self.conversation.insert(opened.map_err(Failure::NotSent)?)
            }
        };
        let answer = conversation.command(name, arguments, observer);
        if matches!(answer, Err(Failure::Broken(_))) {
            self.conversation = None;
        }
        answer
    }

    /// The answers to commands that are carried out one after the other, whatever becomes of each, also where this process is killed
    /// meanwhile.
    pub(super) fn series(
        &mut self,
        shared: &Shared,
        commands: &[(&str, Value)],
    ) -> std::result::Result<Vec<std::result::Result<Value, Failure>>, Failure> {
        // Begins the conversation where it broke.
        self.command(shared, "query-version", &Value::Null, &mut Until::timeout(shared))?;
        let Some(conversation) = &mut self.conversation else { return Ok(Vec::new()) };
        let answers = conversation.series(commands);
        let is_broken = |answer: &std::result::Result<Value, Failure>| matches!(answer, Err(Failure::Broken(_)));
        if answers.as_ref().map_or(true, |answers| answers.iter().any(is_broken)) {
            self.conversation = None;
        }
        answers
    }

    /// As [`Connection::command`], where a refusal is an error like any other.
    pub(super) fn ask(
        &mut self,
        shared: &Shared,
        name: &str,
        arguments: &Value,
        observer: &mut dyn Observer,
    ) -> Result<Value> {
        self.command(shared, name, arguments, observer).map_err(|failure| failure.into_error().advise(LOOK))
    }

    /// As [`Connection::command`], where the hypervisor may be silent only so long as the caller told. For commands that can be carried out
    /// twice: where the conversation breaks, it is tried once more.
    pub(super) fn surely(
        &mut self,
        shared: &Shared,
        name: &str,
        arguments: &Value,
    ) -> std::result::Result<Value, Failure> {
        match self.command(shared, name, arguments, &mut Until::timeout(shared)) {
            Err(Failure::Broken(_)) => self.command(shared, name, arguments, &mut Until::timeout(shared)),
            answer => answer,
        }
    }

    /// The answer, or null where this hypervisor has no such command.
    fn ask_if_known(&mut self, shared: &Shared, name: &str, observer: &mut dyn Observer) -> Result<Value> {
        match self.command(shared, name, &Value::Null, observer) {
            Err(Failure::Refused(refusal)) if refusal.is_unknown_command() => Ok(Value::Null),
            answer => answer.map_err(Failure::into_error),
        }
    }

    /// Reads the block nodes anew.
    pub(super) fn refresh(&mut self, shared: &Shared, observer: &mut dyn Observer) -> Result<()> {
        let nodes = self.ask(shared, "query-named-block-nodes", &json!({ "flat": true }), observer)?;
        let tells_children = |node: &Value| !node.is_object() || node.get("children").is_some();
        let tell_children = answer::items(&nodes, "query-named-block-nodes")?.iter().all(tells_children);
        let graph = match tell_children {
            true => Value::Null,
            false => self.ask(shared, "x-debug-query-block-graph", &Value::Null, observer)?,
        };
        let devices = self.ask_if_known(shared, "query-block", observer)?;
        let answers = Answers { nodes, graph, devices };
        self.nodes = Nodes::read(&answers)?;
        // A hypervisor without guests has no state of running.
        if self.nodes.may_be_of_daemon() && self.ask_if_known(shared, "query-status", observer)?.is_null() {
            self.nodes.set_daemon(&answers.nodes)?;
        }
        if let Some(Conversation::Virsh(virsh)) = &self.conversation {
            self.targets = virsh.targets(observer)?;
            // A bitmap by its own name can be libvirt's or ours.
            self.theirs = match self.nodes.has_plain_recording() {
                true => Arc::new(memory::sorted_set(virsh.checkpoints(observer)?)),
                false => Arc::default(),
            };
        }
        Ok(())
    }

    /// Notes the bitmaps by which plans for this node are made from now on.
    pub(super) fn know(&mut self, node: &str) {
        if let Some(node) = self.nodes.get(node) {
            self.known.insert(node.name.clone(), node.bitmaps.clone());
        }
    }

    /// The checkpoints that libvirt has of the domain, where a bitmap can be of one.
    pub(super) fn theirs(&self) -> Arc<BTreeSet<Name>> {
        Arc::clone(&self.theirs)
    }

    /// The conversation, where one is open.
    pub(super) fn conversation(&self) -> Option<&Conversation> {
        self.conversation.as_ref()
    }

    /// The disk that is meant by this word.
    pub(super) fn find(&self, wanted: &str) -> Result<DiskNodes> {
        let known = self.targets.iter().find(|(target, _)| target == wanted).and_then(|(_, source)| source.as_deref());
        let Some(source) = known else { return self.nodes.find(wanted) };
        let is_wanted = |disk: &&DiskNodes| {
            let top = disk.layers.first().and_then(|top| self.nodes.get(top));
            top.is_some_and(|top| self.target(top) == Some(wanted))
        };
        match self.nodes.disks()?.iter().find(is_wanted) {
            Some(disk) => Ok(disk.clone()),
            None => self.nodes.find(source),
        }
    }

    /// The name that libvirt has for the disk; `None` also where two of its disks have this file.
    fn target(&self, node: &Node) -> Option<&str> {
        // A layer with options of its own, such as a key, has them in its name, and its file has not.
        let file = self.nodes.files(&node.name).ok().and_then(|(file, _)| file).map(|file| file.file.as_str());
        let names = || [Some(node.file.as_str()), file].into_iter().flatten().filter(|name| !name.is_empty());
        let with = |is_it: &dyn Fn(&str) -> bool| {
            let mut found = self
                .targets
                .iter()
                .filter(|(_, source)| source.as_deref().is_some_and(is_it))
                .map(|(own, _)| own.as_str());
            (found.next(), found.next().is_some())
        };
        match with(&|source| names().any(|name| name == source)) {
            (None, _) => {}
            (found, is_one_of_two) => return found.filter(|_| !is_one_of_two),
        }
        let (found, is_one_of_two) = with(&|source| names().any(|name| names_file(name, source)));
        found.filter(|_| !is_one_of_two)
    }

    fn disk(&self, disk: DiskNodes) -> Result<Disk> {
        let top = disk.layers.first().map(String::as_str).unwrap_or_default();
        let node = self.nodes.node(top)?;
        let target = self.target(node).map(str::to_owned);
        Ok(Disk {
            title: target.clone().unwrap_or(disk.title),
            target,
            node: node.name.clone(),
            file: node.file.clone(),
            driver: node.driver.clone(),
            size_bytes: node.size_bytes,
            unfit: commands::check_node(node).err(),
        })
    }
}

impl Shared {
    pub(super) fn connect(monitor: Monitor, options: Options, observer: &mut dyn Observer) -> Result<Self> {
        let connection = Connection {
            conversation: None,
            nodes: Nodes::default(),
            targets: Vec::new(),
            theirs: Arc::default(),
            known: BTreeMap::new(),
        };
        let shared = Self { monitor, options, connection: Mutex::new(connection) };
        {
            let mut connection = shared.connection();
            connection.refresh(&shared, observer)?;
            Work::clear_dead(&shared, &mut connection, observer)?;
        }
        let standing = moment::clear_dead(&shared, observer)?;
        owner::sweep(&shared.monitor.folder().unwrap_or_else(std::env::temp_dir), standing.as_deref());
        Ok(shared)
    }

    /// The connection, as soon as no other thread uses it. A panic in another one left whole values behind: each is replaced as a whole.
    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn refresh(&self, observer: &mut dyn Observer) -> Result<()> {
        self.connection().refresh(self, observer)
    }

    /// The disks of the machine as they were last read.
    pub(super) fn disks(&self) -> Result<Vec<Disk>> {
        let connection = self.connection();
        connection.nodes.disks()?.into_iter().map(|disk| connection.disk(disk)).collect()
    }

    pub(super) fn find(&self, wanted: &str) -> Result<Disk> {
        let connection = self.connection();
        connection.disk(connection.find(wanted)?)
    }

    pub(super) fn layers_below(&self, node: &str) -> Result<Vec<Disk>> {
        let connection = self.connection();
        let layers = connection.nodes.layers(node)?;
        layers.iter().skip(1).map(|layer| connection.disk(connection.nodes.find(layer)?)).collect()
    }

    /// The node as it is now.
    pub(super) fn look_at(&self, node: &str) -> Result<Node> {
        let mut connection = self.connection();
        connection.refresh(self, &mut Until::timeout(self)).map_err(silent)?;
        connection.nodes.node(node).cloned()
    }

    /// The commands that the shares come to.
    fn commands(&self, nodes: &Nodes, shares: &[Share<'_>]) -> Result<Commands> {
        let mut commands = Commands::default();
        for share in shares.iter().filter(|share| !share.actions.is_empty()) {
            let place = place_of(nodes, share.disk)?;
            commands.add(nodes.node(share.disk)?, share.actions, place).map_err(|error| at(error, share.disk))?;
        }
        Ok(commands)
    }

    /// Refuses a step that stops the machine for longer than the caller allows.
    fn check_stall(&self, commands: &Commands) -> Result<()> {
        let (stall, most) = (commands.stall(), self.options.max_stall);
        if most.is_some_and(|most| stall > most) {
            let message = format!(
                "the merges of this step would stop every disk of the machine for about {} ms",
                stall.as_millis()
            );
            let way_out = WayOut::from("allow more with ")
                .control(Control::MaxStall)
                .words(", or do it while the machine is off");
            return Err(Error::new(ErrorKind::InUse, message).advise(way_out));
        }
        Ok(())
    }

    /// The expected stall of these actions, and the commands as they would be sent.
    pub(super) fn plan(&self, shares: &[Share<'_>], observer: &mut dyn Observer) -> Result<Commands> {
        let mut connection = self.connection();
        connection.refresh(self, observer)?;
        let commands = self.commands(&connection.nodes, shares)?;
        self.check_stall(&commands)?;
        Ok(commands)
    }

    /// The commands of these actions, by the nodes that were read last. Bits that are to be written are left out: only the commands
    /// around that are told.
    pub(super) fn lines_from_last(&self, shares: &[Share<'_>]) -> Result<Vec<String>> {
        let connection = self.connection();
        let mut commands = self.commands(&connection.nodes, shares)?;
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (at, wanted) in allocations(shares).into_iter().enumerate() {
            let node = connection.nodes.node(&wanted.node)?;
            let around = fill::around(node, at, wanted.granularity);
            commands.fill(&wanted.node, &wanted.target, &around.sources)?;
            before.extend(around.before);
            after.extend(around.after);
        }
        let lines = commands.lines();
        Ok(before.into_iter().chain(lines).chain(after).collect())
    }

    /// The names that libvirt has for all disks of the domain.
    pub(super) fn targets(&self) -> Vec<String> {
        self.connection().targets.iter().map(|(target, _)| target.clone()).collect()
    }

    fn virsh(&self) -> Result<Option<Virsh>> {
        match &self.monitor {
            Monitor::Libvirt { uri, domain } => Virsh::open(uri, domain, self.options.timeout).map(Some),
            Monitor::Socket(_) => Ok(None),
        }
    }

    /// The documents of libvirt's checkpoints; `None` without libvirt.
    pub(super) fn documents(&self, whole: bool, observer: &mut dyn Observer) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(virsh) = self.virsh()? else { return Ok(None) };
        let names = virsh.checkpoints(observer)?;
        virsh.documents(&names, whole, observer).map(Some)
    }

    /// Carries out changes of libvirt's notes, one after the other; `done` counts them.
    pub(super) fn change_notes(&self, changes: &[Change], done: &mut usize, observer: &mut dyn Observer) -> Result<()> {
        let Some(virsh) = self.virsh()? else {
            return Err(Error::new(ErrorKind::Unsupported, "the hypervisor is not reached through libvirt"));
        };
        for change in changes {
            match change {
                Change::Tell(told) => virsh.tell_of(told.text(), observer),
                Change::Forget(name) => virsh.forget(name, observer),
            }
            .map_err(|error| at(error, &format!("checkpoint {}", change.name())))?;
            *done += 1;
        }
        Ok(())
    }

    /// Leaves the monitor to others until the next command.
    pub(super) fn hang_up(&self) {
        self.connection().conversation = None;
    }

    /// Notes the bitmaps by which plans for this node are made from now on.
    pub(super) fn know(&self, node: &Node) {
        self.connection().known.insert(node.name.clone(), node.bitmaps.clone());
    }

    /// Carries out the actions of all shares in one QMP transaction, if each node still has the bitmaps that its host knows, and in
    /// the same step adds bits to bitmaps. Read-only layers are writable meanwhile. The strings are warnings.
    pub(super) fn change(&self, step: Step<'_>, observer: &mut dyn Observer) -> Result<Vec<String>> {
        let mut work = Work::begin(self, observer).map_err(Error::nothing_changed)?;
        let commands = self.prepare(&mut work, step, observer).map_err(Error::nothing_changed)?;
        if commands.changes_below() {
            refuse_jobs(&mut work, &["commit", "stream", "mirror"], observer).map_err(Error::nothing_changed)?;
        }
        let (shares, fills) = step;
        let wanted: Vec<Wanted<'_>> = fills.iter().cloned().chain(allocations(shares)).collect();
        match (wanted.as_slice(), commands.is_empty()) {
            ([], true) => Ok(Vec::new()),
            ([], false) => self.change_open(&mut work, &commands, (step, &[]), observer),
            (wanted, _) => {
                let mut filled = Filled::begin(&mut work, wanted, observer).map_err(Error::nothing_changed)?;
                let ready = filled.ready().to_vec();
                self.change_open(filled.work(), &commands, (step, &ready), observer)
            }
        }
    }

    /// As [`Shared::change`], with bits that are ready to be merged.
    fn change_open(
        &self,
        work: &mut Work<'_>,
        commands: &Commands,
        (step, fills): (Step<'_>, &[Fill]),
        observer: &mut dyn Observer,
    ) -> Result<Vec<String>> {
        let opened = Reopened::begin(work, commands.reopened(), observer).map_err(Error::nothing_changed)?;
        let again = self.prepare(opened.work, step, observer).and_then(|mut again| {
            fills.iter().try_for_each(|fill| again.fill(&fill.node, &fill.target, &fill.sources))?;
            again.check_filled()?;
            Ok(again)
        });
        let outcome = again.map_err(Error::nothing_changed).and_then(|again| match again.reopened() {
            [] => self.send(opened.work, &again, step.0),
            [node, ..] => Err(changed(node).nothing_changed()),
        });
        let (warnings, left) = opened.end();
        match (outcome, left) {
            (Ok(()), left) => Ok(warnings.into_iter().chain(left).collect()),
            (Err(error), None) => Err(error),
            (Err(error), Some(left)) => {
                let both = Error::new(error.kind(), format!("{}; {left}", error.reason()));
                Err(error.way_out().map_or(both.clone(), |way_out| both.advise(way_out.clone())))
            }
        }
    }

    /// Sends the transaction, and finds out what became of it.
    pub(super) fn send(&self, work: &mut Work<'_>, commands: &Commands, shares: &[Share<'_>]) -> Result<()> {
        let expected = expected(&work.connection.nodes, shares).map_err(Error::nothing_changed)?;
        let sent = work.command("transaction", &commands.arguments(), &mut Unobserved);
        self.judge(work, sent, (shares, &expected))
    }

    /// Finds out what became of a transaction that was sent, by the nodes as they were read before and as they are expected to be.
    pub(super) fn judge(
        &self,
        work: &mut Work<'_>,
        sent: std::result::Result<Value, Failure>,
        (shares, expected): (&[Share<'_>], &Expected),
    ) -> Result<()> {
        let doubt = match sent {
            Ok(answer) if answer.is_object() => None,
            Ok(_) => Some(answer::wrong("return", "is no object")),
            Err(Failure::Refused(refusal)) => return Err(refusal.into_error().advise(LOOK).nothing_changed()),
            Err(Failure::NotSent(error)) => return Err(error.nothing_changed()),
            Err(Failure::Broken(error)) => Some(error),
        };
        // A connection that broke does not tell the outcome: QEMU 7.2 drops such a command, later ones carry it out.
        let before: Vec<_> = shares.iter().map(|share| states(&work.connection.nodes, share.disk)).collect();
        let read = work.refresh(&mut Until::timeout(self));
        let after: Vec<_> = shares.iter().map(|share| states(&work.connection.nodes, share.disk)).collect();
        let in_doubt = |why: Error| {
            let message = "the step may have been carried out or not: all of it, or nothing";
            Err(Error::new(ErrorKind::CommitInDoubt, message)
                .with_source(why)
                .advise(WayOut::from("look at it with ").control(Control::List)))
        };
        match (doubt, read) {
            (Some(broken), Err(_)) => in_doubt(broken),
            // Merges alone leave no trace in these states.
            (Some(broken), Ok(())) if after == before && before != *expected => Err(broken.nothing_changed()),
            (Some(broken), Ok(())) if before == *expected => in_doubt(broken),
            (Some(_), Ok(())) if after == *expected => Ok(()),
            (Some(broken), Ok(())) => in_doubt(broken),
            // The hypervisor said that it is done; the next question will tell why it cannot be read.
            (None, Err(_)) => Ok(()),
            (None, Ok(())) if after == *expected => Ok(()),
            (None, Ok(())) => in_doubt(Error::new(ErrorKind::Changed, "somebody else changed the bitmaps meanwhile")),
        }
    }

    pub(super) fn prepare(
        &self,
        work: &mut Work<'_>,
        (shares, fills): Step<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Commands> {
        work.refresh(observer)?;
        for share in shares {
            let node = work.connection.nodes.node(share.disk)?;
            let known = work.connection.known.get(share.disk);
            if known.is_some_and(|known| !is_same(node.bitmaps.iter(), known.iter())) {
                return Err(changed(&node.name));
            }
            let planned_on = share.planned_on.map(|states| states.iter());
            if planned_on.is_some_and(|planned_on| !node.kept().map(|bitmap| &bitmap.state).eq(planned_on)) {
                return Err(changed(&node.name));
            }
        }
        let nodes = &work.connection.nodes;
        let mut commands = self.commands(nodes, shares)?;
        for Wanted { node, target, granularity, bits } in fills {
            let bytes = bits.map_or(0, Bitmap::dirty_bytes);
            let expected =
                commands.expect_fill(nodes.node(node)?, place_of(nodes, node)?, target, (*granularity, bytes));
            expected.map_err(|error| at(error, node))?;
        }
        self.check_stall(&commands)?;
        Ok(commands)
    }
}

/// The part of each disk in a step, and bits that bitmaps get in it.
pub(super) type Step<'a> = (&'a [Share<'a>], &'a [Wanted<'a>]);

fn at(error: Error, node: &str) -> Error {
    error.at(format!("node {node:?}"), None)
}

/// Where a node stands whose bitmaps are to change. The scratch of a backup can stand on the top one of a disk.
fn place_of(nodes: &Nodes, node: &str) -> Result<Place> {
    match nodes.count_above(node) {
        0 => Ok(Place::Top),
        _ if nodes.is_top(node)? => Ok(Place::Top),
        // Without devices, one that is written to can be the top of a disk with two scratches on it.
        2.. if nodes.has_devices() || nodes.node(node)?.is_read_only => {
            let error = Error::new(ErrorKind::BackingLayer, "several disks of the machine stand on this layer");
            let way_out = "change it while the machine is off, and look at every disk on it first";
            Err(at(error.advise(way_out), node))
        }
        _ => Ok(Place::Below),
    }
}

/// Refuses to work while a job of one of these kinds runs: it moves data between layers, takes them out, or writes to them.
pub(super) fn refuse_jobs(work: &mut Work<'_>, kinds: &[&str], observer: &mut dyn Observer) -> Result<()> {
    let shared = work.shared();
    let jobs = work.connection.ask(shared, "query-jobs", &Value::Null, observer)?;
    for job in answer::items(&jobs, "query-jobs")? {
        let (kind, id) = (String::take(job, "type")?, String::take(job, "id")?);
        if kinds.contains(&kind.as_str()) {
            let message = format!("the job {id:?} ({kind}) works on disks of this machine");
            return Err(Error::new(ErrorKind::InUse, message).advise("wait until it is done"));
        }
    }
    Ok(())
}

/// The error where somebody else changed the bitmaps of a node.
pub(super) fn changed(node: &str) -> Error {
    let message = format!("the bitmaps of node {node:?} were changed by somebody else meanwhile");
    Error::new(ErrorKind::Changed, message).advise("try again")
}

/// Whether the kept bitmaps have the same names and flags. Their dirty bytes, and whether an export uses them, do not count.
pub(super) fn is_same<'a>(
    one: impl Iterator<Item = &'a NodeBitmap>,
    other: impl Iterator<Item = &'a NodeBitmap>,
) -> bool {
    let kept = |bitmap: &&NodeBitmap| bitmap.is_persistent;
    one.filter(kept).map(|bitmap| &bitmap.state).eq(other.filter(kept).map(|bitmap| &bitmap.state))
}

/// The bitmaps that are to hold the allocation of their nodes.
fn allocations<'b>(shares: &[Share<'_>]) -> Vec<Wanted<'b>> {
    let of_share = |share: &Share<'_>| {
        let allocated = share.actions.iter().filter_map(|action| match action {
            Action::AddAllocated { name, granularity } => Some((name.clone(), *granularity)),
            _ => None,
        });
        let wanted = |(target, granularity)| Wanted { node: share.disk.to_owned(), target, granularity, bits: None };
        allocated.map(wanted).collect::<Vec<_>>()
    };
    shares.iter().flat_map(of_share).collect()
}

/// The bitmaps of a node, by their names.
fn states(nodes: &Nodes, node: &str) -> Option<Vec<BitmapState>> {
    let mut states: Vec<BitmapState> = nodes.get(node)?.kept().map(|bitmap| bitmap.state.clone()).collect();
    states.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Some(states)
}

/// The bitmaps of each share's node.
pub(super) type Expected = Vec<Option<Vec<BitmapState>>>;

/// The bitmaps as they are to be afterwards.
pub(super) fn expected(nodes: &Nodes, shares: &[Share<'_>]) -> Result<Expected> {
    let of_share = |share: &Share<'_>| match states(nodes, share.disk) {
        Some(before) => chain::after(&before, share.actions).map(Some),
        None => Ok(None),
    };
    shares.iter().map(of_share).collect()
}

impl Transaction for Shared {
    fn apply(&self, shares: &[Share<'_>], observer: &mut dyn Observer) -> Result<Vec<Vec<String>>> {
        let warnings = self.change((shares, &[]), observer)?;
        let mut all: Vec<Vec<String>> = shares.iter().map(|_| Vec::new()).collect();
        all.first_mut().into_iter().for_each(|first| first.clone_from(&warnings));
        Ok(all)
    }

    fn rehearse(&self, shares: &[Share<'_>], observer: &mut dyn Observer) -> Result<Option<Vec<Vec<String>>>> {
        self.plan(shares, observer)?;
        Ok(Some(shares.iter().map(|_| Vec::new()).collect()))
    }
}
