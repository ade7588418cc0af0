//! A QMP server in a thread that plays a QEMU with a few disks: it carries commands out on a small state, notes what no client should
//! do, and does with any command or answer what a test tells it.

use super::nbd_server::{Context, Server};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// A bitmap, with the numbers of its dirty granules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockBitmap {
    pub granularity: u64,
    pub recording: bool,
    pub persistent: bool,
    pub busy: bool,
    pub dirty: BTreeSet<u64>,
}

impl MockBitmap {
    pub fn new(granularity: u64, recording: bool, dirty: impl IntoIterator<Item = u64>) -> Self {
        Self { granularity, recording, persistent: true, busy: false, dirty: dirty.into_iter().collect() }
    }

    fn set(&mut self, offset: u64, len_bytes: u64) {
        self.dirty.extend(offset / self.granularity..(offset + len_bytes).div_ceil(self.granularity));
    }
}

/// A disk: one qcow2 node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockNode {
    pub size_bytes: u64,
    pub read_only: bool,
    pub backing: Option<String>,
    pub bitmaps: BTreeMap<String, MockBitmap>,
}

impl MockNode {
    pub fn new(size_bytes: u64) -> Self {
        Self { size_bytes, read_only: false, backing: None, bitmaps: BTreeMap::new() }
    }

    /// Writes as a guest does.
    pub fn write(&mut self, offset: u64, len_bytes: u64) {
        self.bitmaps.values_mut().filter(|bitmap| bitmap.recording).for_each(|bitmap| bitmap.set(offset, len_bytes));
    }

    fn told(&self, name: &str) -> Value {
        let bitmaps = self.bitmaps.iter().map(|(name, bitmap)| {
            json!({ "name": name, "granularity": bitmap.granularity, "recording": bitmap.recording,
                "busy": bitmap.busy, "persistent": bitmap.persistent, "inconsistent": false,
                "count": bitmap.dirty.len() as u64 * bitmap.granularity })
        });
        let mut children = vec![json!({ "child": "file", "node-name": format!("{name}-file") })];
        children.extend(self.backing.iter().map(|below| json!({ "child": "backing", "node-name": below })));
        json!({ "node-name": name, "drv": "qcow2", "file": format!("/mock/{name}.qcow2"), "ro": self.read_only,
            "active": true, "children": children, "dirty-bitmaps": bitmaps.collect::<Vec<_>>(),
            "image": { "virtual-size": self.size_bytes, "cluster-size": 65536 } })
    }
}

/// Everything in the hypervisor.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub nodes: BTreeMap<String, MockNode>,
    /// Nodes that clients added.
    pub added: BTreeSet<String>,
    /// The exports by their ids, with the arguments that made them.
    pub exports: BTreeMap<String, Value>,
    /// The mark of a client.
    pub mark: Option<Value>,
    /// The socket of the NBD server, and whether a client of ours started it.
    pub server: Option<(PathBuf, Arc<AtomicBool>)>,
    /// Every command in the order in which it came.
    pub sent: Vec<Value>,
    /// What no client should do.
    pub sins: Vec<String>,
}

/// What becomes of a command, or of the greeting.
pub enum Deed {
    /// It is carried out and answered.
    Answer,
    /// It is carried out, and its answer is changed.
    Edit(Box<dyn FnOnce(&mut Value) + Send>),
    /// These bytes come in the place of an answer, `$ID` being the command's id; it is not carried out.
    Say(Vec<u8>),
    /// The connection is closed without an answer.
    Close { carry_out: bool, listen: bool },
    /// Nothing comes any more.
    Hang,
    /// An event comes every few milliseconds, and never an answer.
    Chatter,
}

type Meddle = Box<dyn FnMut(&str, usize) -> Deed + Send>;

/// A running server; its folder goes away with it.
pub struct Mock {
    pub folder: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    meddle: Mutex<Meddle>,
    socket: PathBuf,
}

type Refused = (&'static str, String);

fn refuse<T>(words: impl Into<String>) -> Result<T, Refused> {
    Err(("GenericError", words.into()))
}

impl Mock {
    pub fn start(state: State) -> Self {
        let folder = TempDir::with_prefix("mock-").expect("a temporary folder");
        let socket = folder.path().join("qmp");
        let meddle: Mutex<Meddle> = Mutex::new(Box::new(|_, _| Deed::Answer));
        let mock = Self { folder, shared: Arc::new(Shared { state: Mutex::new(state), meddle, socket }) };
        mock.listen();
        mock
    }

    /// Takes connections, one after the other; also again, after it stopped.
    pub fn listen(&self) {
        let listener = UnixListener::bind(&self.shared.socket).expect("a socket");
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || shared.serve(listener));
    }

    pub fn socket(&self) -> &Path {
        &self.shared.socket
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nothing panics")
    }

    /// From now on `meddle` decides, by a command's name (`greeting` for the greeting) and how many commands came before.
    pub fn meddle(&self, meddle: impl FnMut(&str, usize) -> Deed + Send + 'static) {
        *self.shared.meddle.lock().expect("nothing panics") = Box::new(meddle);
    }

    /// Answers everything as QEMU does from now on.
    pub fn behave(&self) {
        self.meddle(|_, _| Deed::Answer);
    }

    /// Nothing of a client is left, inside and beside, and none did what it should not.
    pub fn assert_tidy(&self, context: &str) {
        let state = self.state();
        assert_eq!(state.sins, Vec::<String>::new(), "{context}");
        assert_eq!(state.exports, BTreeMap::new(), "{context}");
        assert_eq!(state.added, BTreeSet::new(), "{context}");
        assert_eq!(state.mark, None, "{context}");
        assert!(state.server.is_none(), "{context}: the NBD server runs");
        for entry in std::fs::read_dir(self.folder.path()).expect("the folder can be listed").flatten() {
            assert!(!entry.file_name().to_string_lossy().starts_with("checkmap-"), "{context}: {entry:?} is left");
        }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.behave();
        if let Ok(mut state) = self.shared.state.lock() {
            state.stop_server();
        }
    }
}

impl Shared {
    fn serve(self: Arc<Self>, listener: UnixListener) {
        let mut listener = Some(listener);
        while let Some((stream, _)) = listener.as_ref().and_then(|listener| listener.accept().ok()) {
            // A client that goes away ends its connection only.
            let _ = self.converse(stream, &mut listener);
        }
    }

    fn deed(&self, command: &str, before: usize) -> Deed {
        (self.meddle.lock().expect("nothing panics"))(command, before)
    }

    fn converse(&self, stream: UnixStream, listener: &mut Option<UnixListener>) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        let greeting = json!({ "QMP": { "version": { "qemu": { "major": 10 }, "package": "" }, "capabilities": [] } });
        let before = self.state.lock().expect("nothing panics").sent.len();
        let deed = self.deed("greeting", before);
        self.answer(&mut stream, listener, deed, &Value::Null, |_| greeting)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let command: Value = serde_json::from_str(&line)?;
            let name = command["execute"].as_str().expect("a command").to_owned();
            let before = {
                let mut state = self.state.lock().expect("nothing panics");
                state.sent.push(command.clone());
                state.sent.len() - 1
            };
            let deed = self.deed(&name, before);
            self.answer(&mut stream, listener, deed, &command["id"], |state| {
                match state.carry_out(&name, &command["arguments"]) {
                    Ok(content) => json!({ "return": content, "id": command["id"] }),
                    Err((class, words)) => json!({ "error": { "class": class, "desc": words }, "id": command["id"] }),
                }
            })?;
        }
    }

    fn answer(
        &self,
        stream: &mut UnixStream,
        listener: &mut Option<UnixListener>,
        deed: Deed,
        id: &Value,
        carry_out: impl FnOnce(&mut State) -> Value,
    ) -> std::io::Result<()> {
        let carried_out = || carry_out(&mut self.state.lock().expect("nothing panics"));
        let gone = Err(std::io::ErrorKind::ConnectionAborted.into());
        match deed {
            Deed::Answer => {
                let answer = carried_out();
                stream.write_all(format!("{answer}\r\n").as_bytes())
            }
            Deed::Edit(edit) => {
                let mut answer = carried_out();
                edit(&mut answer);
                stream.write_all(format!("{answer}\r\n").as_bytes())
            }
            Deed::Say(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                match text.contains("$ID") {
                    true => stream.write_all(text.replace("$ID", &id.to_string()).as_bytes()),
                    false => stream.write_all(&bytes),
                }
            }
            Deed::Close { carry_out, listen } => {
                if carry_out {
                    carried_out();
                }
                if !listen {
                    *listener = None;
                    std::fs::remove_file(&self.socket)?;
                }
                gone
            }
            Deed::Hang => {
                std::io::copy(stream, &mut std::io::sink())?;
                gone
            }
            Deed::Chatter => loop {
                stream.write_all(b"{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}}\r\n")?;
                thread::sleep(Duration::from_millis(2));
            },
        }
    }
}

impl State {
    fn sin(&mut self, what: impl Into<String>) {
        self.sins.push(what.into());
    }

    fn stop_server(&mut self) {
        if let Some((path, stopped)) = self.server.take() {
            stopped.store(true, Ordering::Relaxed);
            let _ = std::fs::remove_file(&path);
        }
    }

    fn carry_out(&mut self, name: &str, arguments: &Value) -> Result<Value, Refused> {
        let text = |key: &str| arguments[key].as_str().unwrap_or_default().to_owned();
        match name {
            "qmp_capabilities" => {}
            "query-version" => return Ok(json!({ "qemu": { "major": 10, "minor": 0, "micro": 2 }, "package": "" })),
            "query-named-block-nodes" => {
                let mut nodes: Vec<Value> = self.nodes.iter().map(|(name, node)| node.told(name)).collect();
                for (name, node) in &self.nodes {
                    nodes.push(plain(&format!("{name}-file"), "file", node.size_bytes));
                }
                nodes.extend(self.added.iter().map(|name| plain(name, "null-co", 1 << 20)));
                return Ok(Value::Array(nodes));
            }
            "query-block" => {
                let below: BTreeSet<_> = self.nodes.values().filter_map(|node| node.backing.clone()).collect();
                let tops = self.nodes.keys().filter(|name| !below.contains(*name));
                let device = |name: &String| {
                    json!({ "device": "", "qdev": format!("/machine/peripheral/{name}-device/virtio-backend"),
                        "inserted": { "node-name": name } })
                };
                return Ok(tops.map(device).collect());
            }
            "query-block-exports" => {
                return Ok(self.exports.keys().map(|id| json!({ "id": id, "type": "nbd" })).collect());
            }
            "qom-get" => {
                return match self.mark.as_ref().filter(|_| arguments["path"] == "/objects/checkmap-lock") {
                    Some(mark) => Ok(mark["identity"].clone()),
                    None => Err(("DeviceNotFound", "Device '/objects/checkmap-lock' not found".into())),
                };
            }
            "object-add" if self.mark.is_some() => {
                return refuse("attempt to add duplicate property 'checkmap-lock' to object (type 'container')");
            }
            "object-add" => self.mark = Some(arguments.clone()),
            "object-del" => {
                if !self.exports.is_empty() || !self.added.is_empty() {
                    self.sin("the mark goes before exports and nodes");
                }
                if self.mark.take().is_none() {
                    return refuse("object 'checkmap-lock' not found");
                }
            }
            "transaction" => return self.transaction(arguments),
            "blockdev-add" => {
                self.added.insert(text("node-name"));
            }
            "blockdev-del" => {
                let node = text("node-name");
                if self.exports.values().any(|export| export["node-name"] == *node) {
                    self.sin("a node goes before its export");
                    return refuse(format!("Node {node} is in use"));
                }
                if !self.added.remove(&node) {
                    return refuse(format!("Failed to find node with node-name='{node}'"));
                }
            }
            "nbd-server-start" if self.server.is_some() => return refuse("NBD server already running"),
            "nbd-server-start" => {
                let path = PathBuf::from(arguments["addr"]["data"]["path"].as_str().expect("a path"));
                let Ok(listener) = UnixListener::bind(&path) else { return refuse("Failed to bind socket") };
                let stopped = Arc::new(AtomicBool::new(false));
                self.server = Some((path, Arc::clone(&stopped)));
                self.serve_nbd(listener, stopped);
            }
            "nbd-server-stop" => {
                if !self.exports.is_empty() || self.server.is_none() {
                    self.sin("the server is stopped with its exports, or is none of the client's");
                }
                self.stop_server();
            }
            "block-export-add" => {
                if self.server.is_none() {
                    return refuse("NBD server not running");
                }
                self.exports.insert(text("id"), arguments.clone());
            }
            "block-export-del" => {
                if self.exports.remove(&text("id")).is_none() {
                    return refuse(format!("Export '{}' is not found", text("id")));
                }
            }
            _ => return Err(("CommandNotFound", format!("The command {name} has not been found"))),
        }
        Ok(json!({}))
    }

    /// Serves the bitmaps as they are now, all of them in every export.
    fn serve_nbd(&self, listener: UnixListener, stopped: Arc<AtomicBool>) {
        let nodes = self.nodes.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Each mock has disks of different sizes, or one: the client asks the server of its own disk only.
                for node in nodes.values().take(1) {
                    Server::new(node.size_bytes, node.contexts()).serve(stream.try_clone().expect("a socket"));
                }
            }
        });
    }

    /// Carries out all actions or none.
    fn transaction(&mut self, arguments: &Value) -> Result<Value, Refused> {
        let before = self.nodes.clone();
        let mut removes = false;
        for action in arguments["actions"].as_array().expect("actions") {
            let (kind, data) = (action["type"].as_str().expect("a type"), &action["data"]);
            if removes && kind != "block-dirty-bitmap-remove" {
                self.sin(format!("{kind} after a remove"));
            }
            removes = kind == "block-dirty-bitmap-remove";
            if let Err(refused) = self.act(kind, data) {
                self.nodes = before;
                return Err(refused);
            }
        }
        Ok(json!({}))
    }

    fn act(&mut self, kind: &str, data: &Value) -> Result<(), Refused> {
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        let node_name = text("node");
        let Some(node) = self.nodes.get_mut(&node_name) else {
            return refuse(format!("Cannot find device='' nor node-name='{node_name}'"));
        };
        if node.read_only {
            self.sins.push(format!("{kind} on a read-only node"));
            return refuse("Bitmap is readonly and cannot be modified");
        }
        let key = if kind == "block-dirty-bitmap-merge" { "target" } else { "name" };
        let name = text(key);
        if kind == "block-dirty-bitmap-add" {
            if node.bitmaps.contains_key(&name) {
                return refuse(format!("Bitmap already exists: {name}"));
            }
            let granularity = data["granularity"].as_u64().expect("a granularity");
            let mut bitmap = MockBitmap::new(granularity, data["disabled"] != true, []);
            bitmap.persistent = data["persistent"] == true;
            node.bitmaps.insert(name, bitmap);
            return Ok(());
        }
        let mut sources = Vec::new();
        for source in data["bitmaps"].as_array().into_iter().flatten() {
            let source = source.as_str().expect("a name");
            match node.bitmaps.get(source) {
                Some(bitmap) if !bitmap.busy => sources.push(bitmap.clone()),
                Some(_) => return refuse(format!("Bitmap '{source}' is currently in use by another operation")),
                None => return refuse(format!("Dirty bitmap '{source}' not found")),
            }
        }
        let size = node.size_bytes;
        let Some(bitmap) = node.bitmaps.get_mut(&name) else {
            return refuse(format!("Dirty bitmap '{name}' not found"));
        };
        if bitmap.busy {
            return refuse(format!("Bitmap '{name}' is currently in use by another operation and cannot be used"));
        }
        match kind {
            "block-dirty-bitmap-enable" => bitmap.recording = true,
            "block-dirty-bitmap-disable" => bitmap.recording = false,
            "block-dirty-bitmap-clear" => bitmap.dirty.clear(),
            "block-dirty-bitmap-remove" => drop(node.bitmaps.remove(&name)),
            "block-dirty-bitmap-merge" if sources.is_empty() => {
                self.sins.push("an empty merge, which ends QEMU".to_owned());
            }
            "block-dirty-bitmap-merge" => {
                for source in sources {
                    for granule in source.dirty {
                        let offset = granule * source.granularity;
                        bitmap.set(offset, source.granularity.min(size - offset));
                    }
                }
            }
            _ => return refuse(format!("Invalid parameter '{kind}'")),
        }
        Ok(())
    }
}

impl MockNode {
    /// The contexts of its bitmaps.
    fn contexts(&self) -> Vec<Context> {
        let context = |(name, bitmap): (&String, &MockBitmap)| {
            let granules = self.size_bytes.div_ceil(bitmap.granularity);
            let len = |granule| bitmap.granularity.min(self.size_bytes - granule * bitmap.granularity);
            let runs = (0..granules).map(|granule| (len(granule), u64::from(bitmap.dirty.contains(&granule))));
            Context { name: format!("qemu:dirty-bitmap:{name}").into_bytes(), runs: runs.collect() }
        };
        self.bitmaps.iter().map(context).collect()
    }
}

/// A node without bitmaps.
fn plain(name: &str, driver: &str, size_bytes: u64) -> Value {
    json!({ "node-name": name, "drv": driver, "file": "", "ro": false, "active": true, "children": [],
        "image": { "virtual-size": size_bytes } })
}
