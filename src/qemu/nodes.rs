#![forbid(unsafe_code)]
//! Owns the reading of a hypervisor's answers: its block nodes with their bitmaps, its devices, and the disks that these
//! make. Pure; must never know how the answers came here.
//!
//! QEMU's QMP reference, `query-named-block-nodes`, `query-block` and `x-debug-query-block-graph`.

use super::answer::{self, Field};
use crate::chain::{BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Drivers that pass everything on to one node below, and keep no bitmaps of a disk. While a job runs, the top of a disk is one.
const FILTERS: [&str; 10] = [
    "copy-on-read",
    "throttle",
    "compress",
    "preallocate",
    "copy-before-write",
    "commit_top",
    "mirror_top",
    "backup-top",
    "blkdebug",
    "blkreplay",
];

/// The beginning of every name that checkmap gives to things in somebody's process.
pub(super) const PREFIX: &str = "checkmap-";

/// The roles that the node below a filter can have: each driver has one of them.
const BELOW_A_FILTER: [&str; 3] = ["file", "backing", "image"];

/// More layers than these are taken for a loop.
const MOST_LAYERS: usize = 256;

/// The largest disk: QEMU counts bytes in 63 bits.
const MOST_DISK_BYTES: u64 = i64::MAX as u64;

/// A bitmap of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeBitmap {
    pub(super) state: BitmapState,
    /// Whether it is stored when the node is closed.
    pub(super) is_persistent: bool,
    /// Whether an export or a job uses it, so that nothing else can.
    pub(super) is_busy: bool,
    /// The bytes of its dirty granules; the last one counts whole.
    pub(super) dirty_bytes: u64,
}

/// A block node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) file: String,
    pub(super) size_bytes: u64,
    pub(super) cluster_bytes: u64,
    pub(super) is_read_only: bool,
    pub(super) is_encrypted: bool,
    /// Whether this process may use the image: not the source of a finished migration.
    pub(super) is_active: bool,
    pub(super) bitmaps: Vec<NodeBitmap>,
    pub(super) reopening: Reopening,
}

/// How a node can be opened for another access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Reopening {
    /// By the monitor for people, which keeps every option.
    #[default]
    ByPeople,
    /// By the options that QMP tells of; the others get their defaults.
    ByOptions(Value),
    /// Its options are not told.
    Untold,
}

impl Node {
    fn read(value: &Value) -> Result<Self> {
        let image = answer::field(value, "image")?;
        let cluster_bytes = match image.get("cluster-size") {
            None => 0,
            Some(_) => u64::take(image, "cluster-size")?,
        };
        let mut bitmaps: Vec<NodeBitmap> = match value.get("dirty-bitmaps") {
            None => Vec::new(),
            Some(bitmaps) => answer::items(bitmaps, "dirty-bitmaps")?.iter().map(read_bitmap).collect::<Result<_>>()?,
        };
        refuse_twins(&bitmaps)?;
        let size_bytes = u64::take(image, "virtual-size")?;
        if size_bytes > MOST_DISK_BYTES {
            return Err(answer::wrong("virtual-size", "is larger than a disk can be"));
        }
        // QEMU does not let an inconsistent bitmap record; the image still tells whether it did.
        for bitmap in bitmaps.iter_mut().filter(|bitmap| bitmap.state.inconsistent) {
            bitmap.state.recording = records_in_image(image, &bitmap.state.name);
        }
        Ok(Self {
            name: String::take(value, "node-name")?,
            driver: String::take(value, "drv")?,
            file: String::take(value, "file")?,
            size_bytes,
            cluster_bytes,
            is_read_only: bool::take(value, "ro")?,
            is_encrypted: answer::flag(value, "encrypted", false)?,
            // QEMU before 10.0 does not tell.
            is_active: answer::flag(value, "active", true)?,
            bitmaps,
            reopening: Reopening::default(),
        })
    }

    fn is_filter(&self) -> bool {
        FILTERS.contains(&self.driver.as_str())
    }

    /// The bitmaps that are kept when the node is closed.
    pub(super) fn kept(&self) -> impl Iterator<Item = &NodeBitmap> {
        self.bitmaps.iter().filter(|bitmap| bitmap.is_persistent)
    }
}

/// Whether the bitmap is stored in the image as one that records.
fn records_in_image(image: &Value, name: &Name) -> bool {
    let stored = image.pointer("/format-specific/data/bitmaps").and_then(Value::as_array);
    let is_it =
        |one: &&Value| one.get("name").and_then(Value::as_str).is_some_and(|own| own.as_bytes() == name.as_bytes());
    let flags = stored.and_then(|stored| stored.iter().find(is_it)?.get("flags")?.as_array());
    flags.is_some_and(|flags| flags.iter().any(|flag| flag == "auto"))
}

/// Refuses names that are there twice: nobody could tell which of the two a command means.
fn refuse_twins(bitmaps: &[NodeBitmap]) -> Result<()> {
    let mut names = BTreeSet::new();
    // Transient bitmaps can be without a name, and names that are no UTF-8 can look alike.
    let told = bitmaps.iter().filter(|bitmap| !bitmap.state.unusable && !bitmap.state.name.as_bytes().is_empty());
    match told.map(|bitmap| &bitmap.state.name).find(|name| !names.insert(*name)) {
        Some(name) => Err(answer::wrong("dirty-bitmaps", format_args!("has the name {name} twice"))),
        None => Ok(()),
    }
}

fn read_bitmap(value: &Value) -> Result<NodeBitmap> {
    // A transient bitmap can have no name.
    let name = match value.get("name") {
        None => String::new(),
        Some(_) => String::take(value, "name")?,
    };
    let is_persistent = bool::take(value, "persistent")?;
    if is_persistent && name.is_empty() {
        return Err(answer::wrong("dirty-bitmaps", "has a persistent bitmap without a name"));
    }
    // QEMU writes U+FFFD for bytes that are no UTF-8: such a bitmap cannot be addressed over QMP.
    let is_lossy = name.contains(char::REPLACEMENT_CHARACTER);
    let granularity = Granularity::from_bytes(u64::take(value, "granularity")?)
        .map_err(|error| answer::wrong("dirty-bitmaps", error.message()))?;
    let mut state = BitmapState::new(Name::new(name), granularity, bool::take(value, "recording")?);
    state.inconsistent = answer::flag(value, "inconsistent", false)?;
    state.unusable = is_lossy;
    Ok(NodeBitmap {
        state,
        is_persistent,
        is_busy: bool::take(value, "busy")?,
        dirty_bytes: u64::take(value, "count")?,
    })
}

/// A guest's device, and the node behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    names: Vec<String>,
    /// The node that it reads and writes, filters included.
    pub(super) node: String,
    /// Its id, or its path among the objects.
    pub(super) qdev: Option<String>,
}

impl Device {
    /// The device, where it has a medium.
    fn read(value: &Value) -> Result<Option<Self>> {
        let Some(inserted) = value.get("inserted") else { return Ok(None) };
        let node = String::take(inserted, "node-name")?;
        let mut names = Vec::new();
        for key in ["device", "qdev"] {
            let Some(name) = value.get(key).and_then(Value::as_str).filter(|name| !name.is_empty()) else { continue };
            names.push(name.to_owned());
            // `/machine/peripheral/ID/virtio-backend` is the device that the command line calls ID.
            let id = name.strip_prefix("/machine/peripheral/").and_then(|rest| rest.split('/').next());
            names.extend(id.map(str::to_owned));
        }
        let qdev = value.get("qdev").and_then(Value::as_str).filter(|qdev| !qdev.is_empty()).map(str::to_owned);
        Ok(Some(Self { names, node, qdev }))
    }
}

/// The answers to the questions from which the disks are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// Of `query-named-block-nodes`, flat.
    pub(super) nodes: Value,
    /// Of `x-debug-query-block-graph`; null where the nodes tell their children themselves.
    pub(super) graph: Value,
    /// Of `query-block`; null where there is no such command.
    pub(super) devices: Value,
}

/// A disk: the block nodes of one image and of the images below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskNodes {
    /// The nodes of the layers, the top first.
    pub(super) layers: Vec<String>,
    /// Every name by which the disk can be asked for, beside its files.
    pub(super) names: Vec<String>,
    /// The name of the device, or of the node where there is no device.
    pub(super) title: String,
}

/// All block nodes of a hypervisor.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<String, Node>,
    /// For each node, its children by their roles.
    children: HashMap<String, Vec<(String, String)>>,
    devices: Vec<Device>,
}

impl Nodes {
    pub(super) fn read(answers: &Answers) -> Result<Self> {
        let mut all = Self::default();
        for value in answer::items(&answers.nodes, "query-named-block-nodes")? {
            let node = Node::read(value)?;
            if let Some(children) = value.get("children") {
                let children = answer::items(children, "children")?
                    .iter()
                    .map(|child| Ok((String::take(child, "child")?, String::take(child, "node-name")?)));
                let children: Result<Vec<_>> = children.collect();
                all.children.insert(node.name.clone(), children?);
            }
            if all.nodes.contains_key(&node.name) {
                return Err(answer::wrong("node-name", format_args!("is {:?} for two nodes", node.name)));
            }
            all.nodes.insert(node.name.clone(), node);
        }
        if !answers.graph.is_null() {
            all.read_graph(&answers.graph)?;
        }
        if !answers.devices.is_null() {
            for device in answer::items(&answers.devices, "query-block")? {
                all.devices.extend(Device::read(device)?);
            }
        }
        Ok(all)
    }

    /// Whether there are layers and no device of a guest: only then it can be a hypervisor without a monitor for people.
    pub(super) fn may_be_of_daemon(&self) -> bool {
        self.devices.is_empty() && self.children.values().flatten().any(|(role, _)| role == "backing")
    }

    /// Notes that there is no monitor for people, with the answer from which these nodes were read.
    pub(super) fn set_daemon(&mut self, nodes: &Value) -> Result<()> {
        for value in answer::items(nodes, "query-named-block-nodes")? {
            let name = String::take(value, "node-name")?;
            let reopening = self.reopening(&name, value);
            self.nodes.get_mut(&name).into_iter().for_each(|node| node.reopening = reopening.clone());
        }
        Ok(())
    }

    /// The options of a node, as far as QMP tells of them.
    fn reopening(&self, node: &str, told: &Value) -> Reopening {
        let child = |role: &str| {
            let children = self.children.get(node).into_iter().flatten();
            children.clone().find(|(own, _)| own == role).map(|(_, child)| child)
        };
        let is_told = told.get("encrypted") == Some(&Value::Bool(false)) && child("data-file").is_none();
        match (told.get("drv"), child("file"), told.get("cache")) {
            (Some(driver), Some(file), Some(cache)) if is_told => Reopening::ByOptions(json!({
                "driver": driver, "node-name": node, "file": file, "backing": child("backing"),
                "cache": { "direct": cache.get("direct"), "no-flush": cache.get("no-flush") },
                "detect-zeroes": told.get("detect_zeroes"),
            })),
            _ => Reopening::Untold,
        }
    }

    fn read_graph(&mut self, graph: &Value) -> Result<()> {
        let mut names = HashMap::new();
        for node in answer::items(answer::field(graph, "nodes")?, "nodes")? {
            if String::take(node, "type")? == "block-driver" {
                names.insert(u64::take(node, "id")?, String::take(node, "name")?);
            }
        }
        for edge in answer::items(answer::field(graph, "edges")?, "edges")? {
            let (parent, child) = (u64::take(edge, "parent")?, u64::take(edge, "child")?);
            if let (Some(parent), Some(child)) = (names.get(&parent), names.get(&child)) {
                let role = String::take(edge, "name")?;
                self.children.entry(parent.clone()).or_default().push((role, child.clone()));
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, node: &str) -> Option<&Node> {
        self.nodes.get(node)
    }

    /// Whether any bitmap records that can be a checkpoint of libvirt's by its name.
    pub(super) fn has_plain_recording(&self) -> bool {
        let mut bitmaps = self.nodes.values().flat_map(Node::kept);
        bitmaps.any(|bitmap| bitmap.state.recording && !bitmap.state.name.is_helper() && !bitmap.state.name.has_arrow())
    }

    /// The names of all nodes.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// The node of this name; an error says that it is gone.
    pub(super) fn node(&self, node: &str) -> Result<&Node> {
        self.get(node).ok_or_else(|| {
            Error::new(ErrorKind::Changed, format!("the block node {node:?} is not there any more"))
                .advise("look at the disks again")
        })
    }

    /// The node below in this role, where there is one. A node that is told of and not described is an error: without it the layers
    /// below would be missing.
    fn child(&self, node: &str, role: &str) -> Result<Option<&Node>> {
        let children = self.children.get(node).map(Vec::as_slice).unwrap_or_default();
        let child = children.iter().find(|(own, _)| own == role);
        child.map(|(_, child)| self.node(child)).transpose()
    }

    /// The node itself, or the first below it that is no filter.
    fn below_filters(&self, top: &str) -> Result<&Node> {
        let mut node = self.node(top)?;
        for _ in 0..MOST_LAYERS {
            if !node.is_filter() {
                return Ok(node);
            }
            let mut below = None;
            for role in BELOW_A_FILTER {
                below = below.or(self.child(&node.name, role)?);
            }
            let nothing =
                || answer::wrong("children", format_args!("of the filter {:?} has nothing below it", node.name));
            node = below.ok_or_else(nothing)?;
        }
        Err(a_loop(top))
    }

    /// The nodes of the layers from this one on, the top first.
    pub(super) fn layers(&self, top: &str) -> Result<Vec<String>> {
        let mut layers: Vec<String> = Vec::new();
        let mut next = Some(self.below_filters(top)?);
        while let Some(node) = next {
            if layers.contains(&node.name) || layers.len() >= MOST_LAYERS {
                return Err(a_loop(top));
            }
            layers.push(node.name.clone());
            let below = self.child(&node.name, "backing")?;
            next = below.map(|below| self.below_filters(&below.name)).transpose()?;
        }
        Ok(layers)
    }

    /// The bitmaps with such a name that are not kept, each with its node.
    pub(super) fn transient_bitmaps(&self, has_name: &dyn Fn(&str) -> bool) -> Vec<(String, String)> {
        let all = self.nodes.values().flat_map(|node| node.bitmaps.iter().map(move |bitmap| (node, bitmap)));
        let named = all.filter(|(_, bitmap)| !bitmap.is_persistent);
        let named = named.map(|(node, bitmap)| (node.name.clone(), bitmap.state.name.to_string_lossy().into_owned()));
        named.filter(|(_, bitmap)| has_name(bitmap)).collect()
    }

    /// Whether this node is the top one of a disk, past filters.
    pub(super) fn is_top(&self, node: &str) -> Result<bool> {
        Ok(self.disks()?.iter().any(|disk| disk.layers.first().is_some_and(|top| top == node)))
    }

    /// The devices whose disk has this node at its top, past filters.
    pub(super) fn devices_of(&self, top: &str) -> Result<Vec<&Device>> {
        let mut found = Vec::new();
        for device in &self.devices {
            if self.below_filters(&device.node)?.name == top {
                found.push(device);
            }
        }
        Ok(found)
    }

    /// The device with this id or path.
    pub(super) fn device(&self, qdev: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.qdev.as_deref() == Some(qdev))
    }

    /// Whether there are devices of a guest, which tell the top of each disk.
    pub(super) fn has_devices(&self) -> bool {
        !self.devices.is_empty()
    }

    /// How many nodes stand on this one as on a layer below them, past filters.
    pub(super) fn count_above(&self, node: &str) -> usize {
        let is_on_it = |(_, children): &(&String, &Vec<(String, String)>)| {
            let below = children.iter().filter(|(role, _)| role == "backing");
            let mut below = below.filter_map(|(_, child)| self.below_filters(child).ok());
            below.any(|below| below.name == node)
        };
        // A filter stands on nothing of its own.
        let disks = self.children.iter().filter(|(name, _)| self.get(name).is_some_and(|own| !own.is_filter()));
        disks.filter(is_on_it).count()
    }

    /// Whether a node that can be written to lies in this file node.
    pub(super) fn is_file_of_writable(&self, file: &str) -> bool {
        let holds =
            |children: &[(String, String)]| children.iter().any(|(role, child)| role == "file" && child == file);
        let mut in_it = self.children.iter().filter(|(_, children)| holds(children)).map(|(name, _)| name);
        in_it.any(|name| self.get(name).is_some_and(|node| !node.is_read_only))
    }

    /// The node of a layer's image file, and that of an external data file.
    pub(super) fn files(&self, node: &str) -> Result<(Option<&Node>, Option<&Node>)> {
        Ok((self.child(node, "file")?, self.child(node, "data-file")?))
    }

    /// The disks of the machine: behind each device of the guest, or, where there are no devices, each node on which none stands.
    pub(super) fn disks(&self) -> Result<Vec<DiskNodes>> {
        let mut disks = Vec::new();
        for device in &self.devices {
            disks.extend(self.disk(&device.node, &device.names)?);
        }
        if disks.is_empty() {
            // The filters of a moment stand on disks that are still the tops.
            let others = self.children.iter().filter(|(name, _)| !name.starts_with(PREFIX));
            let below: BTreeSet<&str> =
                others.flat_map(|(_, children)| children).map(|(_, child)| child.as_str()).collect();
            let tops = self.nodes.keys().filter(|name| !below.contains(name.as_str()) && !name.starts_with(PREFIX));
            for top in tops {
                disks.extend(self.disk(top, &[])?);
            }
        }
        Ok(disks)
    }

    /// The disk whose top node, filters included, is this one.
    fn disk(&self, top: &str, names: &[String]) -> Result<Option<DiskNodes>> {
        let layers = self.layers(top)?;
        let Some(own) = layers.first() else { return Ok(None) };
        let mut all = names.to_vec();
        for name in [top, own] {
            if !all.iter().any(|known| known == name) {
                all.push(name.to_owned());
            }
        }
        // Names that QEMU made up begin with '#'.
        let title = [own].into_iter().chain(names).find(|name| !name.starts_with('#')).unwrap_or(own).clone();
        Ok(Some(DiskNodes { layers, names: all, title }))
    }

    /// The disk that is meant by a node's name, a device, its id, or an image file: the top of a disk, or any node with layers.
    pub(super) fn find(&self, wanted: &str) -> Result<DiskNodes> {
        let disks = self.disks()?;
        let is_file = |disk: &DiskNodes| {
            let top = disk.layers.first().and_then(|top| self.get(top));
            top.is_some_and(|top| names_file(&top.file, wanted))
        };
        let steps: [&dyn Fn(&DiskNodes) -> bool; 2] = [&|disk| disk.names.iter().any(|name| name == wanted), &is_file];
        for matches in steps {
            let mut found = disks.iter().filter(|disk| matches(disk));
            if let Some(first) = found.next() {
                return match found.next() {
                    None => Ok(first.clone()),
                    Some(second) => Err(Error::new(
                        ErrorKind::InvalidName,
                        format!("{wanted:?} can mean {:?} and {:?}", first.title, second.title),
                    )
                    .with_kind(ErrorKind::Exists)
                    .advise("name the node")),
                };
            }
        }
        // A node that is no disk of the guest, such as one without a device.
        match self.nodes.contains_key(wanted).then(|| self.disk(wanted, &[])).transpose()?.flatten() {
            Some(disk) => Ok(disk),
            None => {
                let known: Vec<&str> = disks.iter().map(|disk| disk.title.as_str()).collect();
                let message = format!("no disk, node, device or image file is called {wanted:?}");
                Err(Error::new(ErrorKind::NotFound, message).advise(match known.as_slice() {
                    [] => "the hypervisor has no disk".to_owned(),
                    known => format!("there are {}", known.join(", ")),
                }))
            }
        }
    }
}

fn a_loop(top: &str) -> Error {
    Error::new(ErrorKind::Damaged, "the backing nodes form a loop").at(format!("node {top:?}"), None)
}

/// Whether a node's file is the one that is meant: the same path, or the same file by two paths.
pub(super) fn names_file(file: &str, wanted: &str) -> bool {
    let real = |path: &str| std::fs::canonicalize(path).ok();
    !file.is_empty() && (file == wanted || real(file).is_some_and(|file| Some(file) == real(wanted)))
}
