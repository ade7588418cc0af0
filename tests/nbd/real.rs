//! Bitmaps as `qemu-nbd` and `qemu-storage-daemon` serve them, beside `nbdinfo`'s answer and the bitmaps in the file.

use crate::support::nbd::Served;
use crate::support::random::Random;
use crate::support::raw::{self, Raw};
use crate::support::{self, TestImage, run};
use checkmap::chain::Name;
use checkmap::image::{Access, OpenOptions};
use checkmap::nbd::{Address, Client, ConnectOptions, Uri, context_of};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, Extent, Granularity, Image};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// No multiple of any granularity above 512.
pub(crate) const SIZE: u64 = (100 << 20) + 43 * 512;

pub(crate) const BITMAPS: [(&str, u64); 4] = [("fine", 4096), ("mon->tue", 8192), ("tue->wed", 65536), ("a, b", 32768)];

/// An image with frozen bitmaps of several granularities, each with writes of its own.
pub(crate) fn image() -> TestImage {
    let image = TestImage::create("cluster_size=64k", &SIZE.to_string());
    let mut random = Random::from_seed(3);
    for (name, granularity) in BITMAPS {
        image.bitmap(&["--add", "-g", &granularity.to_string()], name);
        let mut writes: Vec<String> = (0..20)
            .map(|_| {
                let offset = random.below((SIZE - 200_000) >> 9) << 9;
                format!("write -P 1 {offset} {}", (1 + random.below(300)) * 512)
            })
            .collect();
        writes.push(format!("write -P 1 {} 512", SIZE - 512));
        image.io(&writes);
        image.bitmap(&["--disable"], name);
    }
    image
}

/// A running `qemu-storage-daemon` that exports all bitmaps of an image as `disk`.
pub(crate) struct Daemon {
    process: Child,
    _folder: tempfile::TempDir,
    pub(crate) uri: String,
}

impl Daemon {
    /// On a Unix socket, or on a TCP port of this machine.
    pub(crate) fn start(image: &Path, bitmaps: &[&str], tcp: bool) -> Self {
        Self::with_blocks(image, bitmaps, tcp, 1)
    }

    /// The same, where the smallest block of the export has `block_bytes` bytes.
    fn with_blocks(image: &Path, bitmaps: &[&str], tcp: bool, block_bytes: u64) -> Self {
        let folder = support::folder();
        let socket = folder.path().join("nbd.sock");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let (address, uri) = match tcp {
            true => (
                format!(r#"{{"type": "inet", "host": "127.0.0.1", "port": "{port}"}}"#),
                format!("nbd://127.0.0.1:{port}/disk"),
            ),
            false => (
                format!(r#"{{"type": "unix", "path": "{}"}}"#, socket.display()),
                format!("nbd+unix:///disk?socket={}", socket.display()),
            ),
        };
        let export = serde_json::json!({
            "type": "nbd", "id": "export", "node-name": "blocks", "name": "disk", "writable": false, "bitmaps": bitmaps,
        });
        let node = serde_json::json!({
            "driver": "blkdebug", "node-name": "blocks", "read-only": true, "align": block_bytes,
            "image": {
                "driver": "qcow2", "node-name": "disk", "read-only": true,
                "file": {"driver": "file", "filename": image.to_str(), "read-only": true},
            },
        });
        let process = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &node.to_string(), "--nbd-server", &format!(r#"{{"addr": {address}}}"#)])
            .args(["--export", &export.to_string()])
            .spawn()
            .expect("qemu-storage-daemon starts");
        let mut daemon = Self { process, _folder: folder, uri };
        let deadline = Instant::now() + Duration::from_secs(60);
        let listens = || match tcp {
            true => TcpStream::connect(("127.0.0.1", port)).is_ok(),
            false => UnixStream::connect(&socket).is_ok(),
        };
        while !listens() {
            let ended = daemon.process.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "qemu-storage-daemon ended: {ended:?}");
            assert!(Instant::now() < deadline, "qemu-storage-daemon did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// The dirty extents that `nbdinfo` sees in a bitmap.
    pub(crate) fn nbdinfo(&self, bitmap: &str) -> String {
        run("nbdinfo", &[format!("--map=qemu:dirty-bitmap:{bitmap}"), "--json".into(), self.uri.clone()])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn dirty_by_nbdinfo(printed: &str) -> Vec<Extent> {
    let map: serde_json::Value = serde_json::from_str(printed).expect("nbdinfo prints JSON");
    let dirty = map.as_array().expect("an array").iter().filter(|run| run["type"] == 1);
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    dirty.map(|run| Extent { offset: number(&run["offset"]), len_bytes: number(&run["length"]) }).collect()
}

fn in_file(image: &Path, bitmap: &str, offset: u64, len_bytes: u64) -> Bitmap {
    let image = Image::open(image, &OpenOptions::new(Access::Read).no_lock(true)).expect("the image opens");
    image.read_bitmap(&Name::new(bitmap.as_bytes()), offset, len_bytes).expect("the bitmap is read")
}

fn granularity(bytes: u64) -> Option<Granularity> {
    Some(Granularity::from_bytes(bytes).expect("a granularity"))
}

fn connect(uri: &str, contexts: &[Vec<u8>], disk_bytes: Option<u64>) -> checkmap::Result<Client> {
    let uri = Uri::parse(uri).expect("a URI");
    let contexts: Vec<&[u8]> = contexts.iter().map(Vec::as_slice).collect();
    let mut options = ConnectOptions::new(&uri.export).contexts(&contexts);
    if let Some(disk_bytes) = disk_bytes {
        options = options.disk_bytes(disk_bytes);
    }
    Client::connect(&uri.address, &options, &mut Unobserved)
}

#[test]
fn several_bitmaps_of_one_export_are_those_of_the_file() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    let names = BITMAPS.map(|(name, _)| name);
    for tcp in [false, true] {
        let daemon = Daemon::start(&image.path, &names, tcp);
        let contexts = names.map(|name| context_of(name.as_bytes()).expect("memory"));
        let mut client = connect(&daemon.uri, &contexts, Some(SIZE)).expect("a client");
        eprintln!("extended headers: {}", client.has_extended_headers());
        assert_eq!(client.size_bytes(), SIZE);
        let wanted = BITMAPS.map(|(_, bytes)| granularity(bytes));
        for (offset, len_bytes) in [(0, u64::MAX), (12_345, 50 << 20), (SIZE - 1000, u64::MAX), (SIZE, u64::MAX)] {
            let bitmaps = client.dirty_bitmaps(offset, len_bytes, &wanted, &mut Unobserved).expect("the bitmaps");
            for (bitmap, name) in bitmaps.iter().zip(names) {
                let stored = in_file(&image.path, name, offset, len_bytes);
                assert!(bitmap.extents(offset, len_bytes).eq(stored.extents(offset, len_bytes)), "{name}");
                if (offset, len_bytes) == (0, u64::MAX) {
                    assert!(*bitmap == stored, "{name}");
                    let theirs = dirty_by_nbdinfo(&daemon.nbdinfo(name));
                    assert!(!theirs.is_empty() && bitmap.extents(0, u64::MAX).eq(theirs), "{name}");
                }
            }
        }
        // A granularity that nobody told is found.
        let found = client.dirty_bitmaps(0, u64::MAX, &[None; 4], &mut Unobserved).expect("the bitmaps");
        for (bitmap, (name, bytes)) in found.iter().zip(BITMAPS) {
            assert_eq!(bitmap.granularity().bytes(), bytes, "{name}");
        }
    }
}

#[test]
fn qemu_nbd_serves_one_bitmap() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    for (name, bytes) in BITMAPS {
        let served = Served::start(&image.path, name);
        let contexts = [context_of(name.as_bytes()).expect("memory")];
        let mut client = connect(&served.uri(), &contexts, Some(SIZE)).expect("a client");
        let bitmaps = client.dirty_bitmaps(0, u64::MAX, &[granularity(bytes)], &mut Unobserved).expect("a bitmap");
        assert!(bitmaps[0] == in_file(&image.path, name, 0, u64::MAX), "{name}");
        assert!(bitmaps[0].extents(0, u64::MAX).eq(served.dirty()), "{name}");
        // Another disk's size, or the export without the bitmap's name.
        let other = connect(&served.uri(), &contexts, Some(SIZE + 512)).expect_err("another size");
        assert_eq!(other.kind(), checkmap::ErrorKind::SizeMismatch, "{other}");
        let missing = connect(&served.uri(), &[context_of(b"sun").expect("memory")], None).expect_err("no such bitmap");
        assert_eq!(missing.kind(), checkmap::ErrorKind::NotFound, "{missing}");
        assert!(missing.to_string().contains(&format!("'qemu:dirty-bitmap:{name}'")), "{missing}");
        let export = served.uri().replace(":///", ":///nowhere");
        let missing = connect(&export, &contexts, None).expect_err("no such export");
        assert_eq!(missing.kind(), checkmap::ErrorKind::NotFound, "{missing}");
        assert!(missing.to_string().contains("nowhere"), "{missing}");
    }
}

/// QEMU tells the bounds of such a bitmap as they are, inside of blocks.
#[test]
fn a_bitmap_that_is_finer_than_the_blocks_of_its_export() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("cluster_size=64k", "10M");
    image.bitmap(&["--add", "-g", "512"], "mon");
    image.io(&["write 512 512".into(), "write 8192 1536".into(), format!("write {} 512", (10 << 20) - 512)]);
    image.bitmap(&["--disable"], "mon");
    let daemon = Daemon::with_blocks(&image.path, &["mon"], false, 4096);
    let mut client = connect(&daemon.uri, &[context_of(b"mon").expect("memory")], None).expect("a client");
    assert_eq!(client.min_block_bytes(), 4096);
    for (offset, len_bytes) in [(0, u64::MAX), (700, 8000), (8200, 100)] {
        let bitmaps = client.dirty_bitmaps(offset, len_bytes, &[granularity(512)], &mut Unobserved).expect("a bitmap");
        assert!(bitmaps[0] == in_file(&image.path, "mon", offset, len_bytes), "{offset}");
    }
    let theirs = dirty_by_nbdinfo(&daemon.nbdinfo("mon"));
    assert_eq!(theirs.len(), 3);
    let bitmaps = client.dirty_bitmaps(0, u64::MAX, &[None], &mut Unobserved).expect("a bitmap");
    assert!(bitmaps[0].extents(0, u64::MAX).eq(theirs));
}

/// QEMU leaves out the bytes that fill no sector; nobody knows of them, so they count as dirty.
#[test]
fn a_disk_whose_last_bytes_are_no_sector() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("cluster_size=64k", "1M");
    image.bitmap(&["--add", "--disable", "-g", "65536"], "mon");
    let mut raw = Raw::read(&image.path);
    raw.put_u64(raw::DISK_SIZE, (1 << 20) - 100);
    std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
    let served = Served::start(&image.path, "mon");
    let mut client =
        connect(&served.uri(), &[context_of(b"mon").expect("memory")], Some((1 << 20) - 100)).expect("a client");
    assert_eq!((client.size_bytes(), client.disk_bytes()), ((1 << 20) - 512, (1 << 20) - 100));
    let bitmap = client.dirty_bitmaps(0, u64::MAX, &[granularity(65536)], &mut Unobserved).expect("a bitmap").remove(0);
    let tail = Extent { offset: (1 << 20) - 65536, len_bytes: 65536 - 100 };
    assert_eq!(bitmap.extents(0, u64::MAX).collect::<Vec<_>>(), [tail]);
    let clean = client.dirty_bitmaps(0, (1 << 20) - 512, &[granularity(65536)], &mut Unobserved).expect("a bitmap");
    assert!(clean[0].is_empty(), "the window ends before it");
}

#[test]
fn nobody_listens() {
    let folder = support::folder();
    let path: PathBuf = folder.path().join("nobody");
    let options = ConnectOptions::new(b"");
    let error = Client::connect(&Address::Unix(path.clone()), &options, &mut Unobserved).expect_err("nobody is there");
    assert_eq!((error.kind(), error.errno()), (checkmap::ErrorKind::Io, 2));
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let address = Address::Tcp("127.0.0.1".into(), port);
    let error = Client::connect(&address, &options, &mut Unobserved).expect_err("nobody is there");
    assert!(error.to_string().starts_with(&format!("nbd://127.0.0.1:{port}: cannot connect")), "{error}");
}
