//! Reads a bitmap as other programs see it: served by `qemu-nbd -B`, read by `nbdinfo` and `qemu-img map`.

use super::{run, try_run};
use checkmap::Extent;
use std::ffi::{OsStr, OsString};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A running `qemu-nbd` that serves one bitmap of an image, read-only.
pub struct Served {
    server: Child,
    socket: PathBuf,
    name: OsString,
    _folder: tempfile::TempDir,
}

impl Served {
    pub fn start(image: &Path, bitmap: impl AsRef<OsStr>) -> Self {
        Self::start_as("qcow2", image, bitmap)
    }

    /// As [`Served::start`], of an image of any format.
    pub fn start_as(format: &str, image: &Path, bitmap: impl AsRef<OsStr>) -> Self {
        let folder = super::folder();
        let socket = folder.path().join("nbd");
        let server = Command::new("qemu-nbd")
            .args(["--read-only", "--persistent", "--shared=8", "--format", format, "--socket"])
            .arg(&socket)
            .arg("-B")
            .arg(bitmap.as_ref())
            .arg(image)
            .spawn()
            .expect("qemu-nbd starts");
        let mut served = Self { server, socket, name: bitmap.as_ref().to_owned(), _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(60);
        // The socket's file is there a moment before anybody listens.
        while UnixStream::connect(&served.socket).is_err() {
            let ended = served.server.try_wait().expect("qemu-nbd can be waited for");
            assert!(ended.is_none(), "qemu-nbd -B {:?} {} ended: {ended:?}", served.name, image.display());
            assert!(Instant::now() < deadline, "qemu-nbd did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        served
    }

    /// Where it serves.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// What `nbdinfo --map --json` prints for the bitmap.
    pub fn nbdinfo(&self) -> String {
        let mut map = OsString::from("--map=qemu:dirty-bitmap:");
        map.push(&self.name);
        run("nbdinfo", &[map, "--json".into(), self.uri().into()])
    }

    /// What `qemu-img map --output=json` prints with `x-dirty-bitmap`; only for names in UTF-8.
    pub fn qemu_map(&self) -> String {
        let image = serde_json::json!({
            "driver": "nbd",
            "server": {"type": "unix", "path": self.socket.to_str()},
            "x-dirty-bitmap": format!("qemu:dirty-bitmap:{}", self.name.to_str().expect("a name in UTF-8")),
        });
        run("qemu-img", &["map".to_owned(), "--output=json".to_owned(), format!("json:{image}")])
    }

    /// The dirty extents that `nbdinfo` sees.
    pub fn dirty(&self) -> Vec<Extent> {
        let printed = self.nbdinfo();
        let map: serde_json::Value = serde_json::from_str(&printed).expect("nbdinfo prints JSON");
        let dirty = map.as_array().expect("an array").iter().filter(|run| run["type"] == 1);
        dirty.map(|run| extent(&run["offset"], &run["length"])).collect()
    }

    /// The dirty extents that `qemu-img map` sees: those that read as absent.
    pub fn dirty_by_map(&self) -> Vec<Extent> {
        let printed = self.qemu_map();
        let map: serde_json::Value = serde_json::from_str(&printed).expect("qemu-img prints JSON");
        let dirty = map.as_array().expect("an array").iter().filter(|run| run["data"] == false);
        join(dirty.map(|run| extent(&run["start"], &run["length"])).collect())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// `qemu-img map` may split a run.
fn join(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::new();
    for extent in extents {
        match joined.last_mut() {
            Some(last) if last.end() == extent.offset => last.len_bytes += extent.len_bytes,
            _ => joined.push(extent),
        }
    }
    joined
}

fn extent(offset: &serde_json::Value, length: &serde_json::Value) -> Extent {
    Extent { offset: offset.as_u64().expect("an offset"), len_bytes: length.as_u64().expect("a length") }
}

/// The dirty extents of a bitmap as QEMU serves them.
pub fn dirty(image: &Path, bitmap: impl AsRef<OsStr>) -> Vec<Extent> {
    Served::start(image, bitmap).dirty()
}

/// Whether QEMU opens the image, as a reader.
pub fn opens_in_qemu(image: &Path) -> bool {
    try_run("qemu-io", &["-r".as_ref(), "-c".as_ref(), "read 0 512".as_ref(), image.as_os_str()]).status.success()
}
