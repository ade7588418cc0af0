//! The seeds of the corpus: small images that QEMU made, one for each thing an image can have; Parallels images; bitmaps as Roaring and as
//! segments; answers of NBD servers; and sequences of operations.

use super::support::nbd_server::{Context, Server};
use super::support::parallels::{Hds, MARK, OPEN};
use super::support::random::Random;
use super::support::raw::{self, Raw};
use super::support::{TestImage, run};
use checkmap::nbd::{Client, ConnectOptions};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, Granularity, segment};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::PathBuf;

/// What `commit_qcow2` is told to do with each image: each operation on the first checkpoint and on a later one.
const SELECTORS: &[u8] = &[0x00, 0x01, 0x09, 0x02, 0x0b, 0x0f];

/// Writes every seed into the folder that `corpus` gives for its target.
pub(super) fn write(corpus: &dyn Fn(&str) -> PathBuf) {
    let keep = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus(target);
        std::fs::create_dir_all(&folder).expect("the folder of the corpus");
        assert!(bytes.len() <= 12 << 10, "{name} has {} bytes", bytes.len());
        std::fs::write(folder.join(format!("seed-{name}")), bytes).expect("the seed can be written");
    };
    let mut images = images();
    let chain = images.iter().find(|(name, _)| *name == "chain").expect("the chain is one of them").1.clone();
    images.extend(oddities().map(|(name, change)| {
        let mut raw = Raw { bytes: chain.clone() };
        change(&mut raw);
        (name, raw.bytes)
    }));
    let chosen = images.into_iter().zip(SELECTORS.iter().copied().cycle());
    for ((name, image), selector) in chosen.chain(headers()) {
        keep("read_qcow2", name, &image);
        keep("commit_qcow2", name, &[&image[..], &[selector]].concat());
    }
    for (name, bytes) in parallels() {
        keep("read_parallels", name, &bytes);
    }
    for (name, bitmap) in bitmaps() {
        let mut bytes = Vec::new();
        bitmap.write_roaring(&mut bytes).expect("memory can be written");
        keep("read_roaring", name, &bytes);
    }
    for (name, bitmap) in bitmaps() {
        let mut bytes = Vec::new();
        segment::write(&bitmap, &mut bytes).expect("memory can be written");
        keep("read_segment", name, &bytes);
    }
    for (name, bytes) in conversations() {
        keep("read_nbd", name, &bytes);
    }
    for (name, bytes) in clients() {
        keep("serve_nbd", name, &bytes);
    }
    for (name, bytes) in answers() {
        keep("read_nodes", &name, &bytes);
    }
    let mut random = Random::seeded(7);
    for number in 0..6 {
        let bytes: Vec<u8> = (0..9 * 40).map(|_| random.next().to_be_bytes()[0]).collect();
        keep("bitmap_ops", &format!("operations-{number}"), &bytes);
    }
}

/// A disk of 96 KiB with a tail that fills no granule, in clusters of 512 bytes.
fn small(options: &str) -> TestImage {
    let options = format!("cluster_size=512{}{options}", if options.is_empty() { "" } else { "," });
    TestImage::create(&options, "98816")
}

fn qemu_img(args: &[&OsStr]) {
    run("qemu-img", args);
}

/// Three checkpoints by intervals, each with its own writes.
fn add_chain(image: &TestImage) {
    image.bitmap(&["--add", "-g", "512"], "1");
    image.write(0, 512);
    image.bitmap(&["--disable"], "1");
    image.bitmap(&["--add", "-g", "512"], "1->2");
    image.io(&["write -P 3 512 512".into(), "write -P 4 96k 512".into()]);
    image.bitmap(&["--disable"], "1->2");
    image.bitmap(&["--add", "-g", "1024"], "2->3");
    image.write(512, 512);
}

/// A name, and the change that it stands for.
type Oddity = (&'static str, fn(&mut Raw));

/// What QEMU does not write of itself: changes to the chain.
fn oddities() -> [Oddity; 9] {
    [
        ("in-use", |raw| raw.put_u32(raw.entry(1) + raw::ENTRY_FLAGS, 1)),
        ("stale", |raw| raw.put_u64(raw::AUTOCLEAR, 0)),
        ("unknown-autoclear", |raw| raw.put_u64(raw::AUTOCLEAR, 0x107)),
        ("all-ones", |raw| raw.put_u64(raw.table(1), 1)),
        ("extra-data", |raw| raw.replace_entry(1, b"what is this", b"1->2")),
        ("shared-data", |raw| raw.put_u64(raw.table(0), raw.u64(raw.table(1)))),
        ("no-room", Raw::leave_no_room),
        ("size-not-of-sectors", |raw| raw.put_u64(raw::DISK_SIZE, raw.u64(raw::DISK_SIZE) + 100)),
        ("ends-inside-a-table", |raw| {
            raw.bytes.resize(raw.bytes.len().next_multiple_of(raw.cluster()), 0);
            raw.move_to_end(raw::REFCOUNT_TABLE, raw.cluster());
            raw.bytes.truncate(raw.len_without_zeros());
        }),
    ]
}

/// Header clusters that are full, with the operation that has to find a way: of feature names before the first bitmap is
/// created, of an unknown extension behind the last one that is deleted.
fn headers() -> [((&'static str, Vec<u8>), u8); 2] {
    let mut names = Raw::read(&small("").path);
    names.set_header_len(104);
    names.set_extensions(&[(0x6803_f857, vec![b'n'; 384])]);

    let image = TestImage::create("cluster_size=1k", "98816");
    image.bitmap(&["--add", "-g", "512"], "1");
    let mut behind = Raw::read(&image.path);
    let mut extensions = behind.extension_list();
    extensions.push((0x1234_5678, vec![b'u'; 600]));
    behind.set_extensions(&extensions);
    [(("feature-names", names.bytes), 0), (("unknown-extension", behind.bytes), 1)]
}

fn images() -> Vec<(&'static str, Vec<u8>)> {
    let mut images = Vec::new();
    let mut keep = |name, image: &TestImage| images.push((name, std::fs::read(&image.path).expect("the image")));

    keep("no-bitmaps", &small(""));
    keep("version-2", &small("compat=0.10"));

    let empty = small("");
    empty.bitmap(&["--add"], "empty");
    keep("empty-bitmap", &empty);

    for (name, options) in [
        ("chain", ""),
        ("refcounts-of-1-bit", "refcount_bits=1"),
        ("refcounts-of-64-bits", "refcount_bits=64"),
        ("data-file", "data_file=here,data_file_raw=on"),
        ("lazy", "lazy_refcounts=on"),
    ] {
        let image = small(options);
        add_chain(&image);
        keep(name, &image);
    }

    let cumulative = small("");
    cumulative.bitmap(&["--add", "-g", "512"], "monday");
    cumulative.write(0, 1024);
    cumulative.bitmap(&["--add", "-g", "512"], "tuesday");
    cumulative.write(2048, 512);
    keep("cumulative", &cumulative);

    let snapshots = small("");
    snapshots.bitmap(&["--add", "-g", "512"], "1");
    snapshots.write(0, 512);
    qemu_img(&["snapshot".as_ref(), "-c".as_ref(), "before".as_ref(), snapshots.path.as_os_str()]);
    snapshots.write(512, 512);
    keep("snapshot", &snapshots);

    let compressed = small("");
    compressed.bitmap(&["--add", "-g", "512"], "1");
    compressed.io(&["write -c -P 7 0 512".into(), "write -c -P 8 512 512".into()]);
    keep("compressed", &compressed);

    let overlay = small("");
    overlay.bitmap(&["--add", "-g", "512"], "1");
    overlay.write(0, 512);
    qemu_img(&[
        "rebase".as_ref(),
        "-u".as_ref(),
        "-b".as_ref(),
        "base.qcow2".as_ref(),
        "-F".as_ref(),
        "qcow2".as_ref(),
        overlay.path.as_os_str(),
    ]);
    keep("backing-file", &overlay);

    // Large enough for several clusters of data in one table.
    let wide = TestImage::create("cluster_size=512", "4M");
    wide.bitmap(&["--add", "-g", "512"], "1");
    wide.write(0, 512);
    wide.write((4 << 20) - 512, 512);
    wide.bitmap(&["--disable"], "1");
    wide.bitmap(&["--add", "-g", "512"], "1->2");
    wide.write(512, 512);
    keep("several-clusters", &wide);
    images
}

/// Parallels images in clusters of one or two sectors; the table of a large disk is left short, since only its entries count.
fn parallels() -> Vec<(&'static str, Vec<u8>)> {
    let small = || Hds::new(1, 193);
    let mut clusters = vec![0xff; 3 * 512];
    clusters[512..1024].fill(0);
    clusters[1024..].fill(0x3c);
    let large = |counts_clusters| Hds { counts_clusters, table_entries: Some(8), ..Hds::new(1, 3 * 4096 * 8) };
    let mut not_closed = small().with(8, vec![5]).bytes();
    not_closed[MARK..MARK + 4].copy_from_slice(&OPEN.to_le_bytes());
    let mut stale = small().with(8, vec![5]).bytes();
    stale[MARK..MARK + 4].fill(0);
    vec![
        ("no-bitmaps", small().bytes()),
        ("one", small().with(1, vec![0x41, 0, 0xff]).bytes()),
        ("three", Hds::new(2, 193).with(1, vec![1]).with(8, vec![2]).with(1 << 22, vec![1]).bytes()),
        ("several-clusters", large(true).with(8, clusters.clone()).bytes()),
        ("old-magic", large(false).with(8, clusters).bytes()),
        ("not-closed", not_closed),
        ("stale", stale),
    ]
}

fn bitmaps() -> Vec<(&'static str, Bitmap)> {
    let granularity = Granularity::from_bits(21).expect("2 MiB is a granularity");
    let size_bytes = 1 << 62;
    let shape = |ranges: &[(u64, u64, u64)]| {
        let mut bitmap = Bitmap::new(size_bytes, granularity).expect("a disk");
        for (first, count, step) in ranges {
            for number in 0..*count {
                bitmap.set((first + number * step) << 21, 1).expect("inside the disk");
            }
        }
        bitmap
    };
    vec![
        ("empty", shape(&[])),
        ("one", shape(&[(5, 1, 1)])),
        ("array", shape(&[(100, 50, 7)])),
        ("bits", shape(&[(0, 5000, 2)])),
        ("runs", shape(&[(10, 500, 1), (70_000, 3000, 1), (140_000, 9, 1)])),
        ("full", shape(&[(0, 65536, 1)])),
        ("four-runs", shape(&[(0, 99, 1), (65_536, 99, 1), (131_072, 99, 1), (196_608, 99, 1), (262_144, 5, 3)])),
        ("high-keys", shape(&[(1, 9, 3), (1 << 32, 40, 1), ((7 << 32) + 65_530, 20, 1)])),
    ]
}

/// What QEMUs tell of their block nodes, and the byte that chooses the verb and the chain: with the children of each node, as since 10.1,
/// and with the graph and the devices beside them, as before.
fn answers() -> Vec<(String, Vec<u8>)> {
    let bitmap = |name: &str, granularity: u64, recording: bool| {
        json!({ "name": name, "granularity": granularity, "recording": recording, "busy": false, "persistent": true,
            "inconsistent": false, "count": 3 * granularity })
    };
    let node = |name: &str, backing: Option<&str>| {
        let mut children = vec![json!({ "child": "file", "node-name": "f" })];
        children.extend(backing.map(|below| json!({ "child": "backing", "node-name": below })));
        json!({ "node-name": name, "drv": "qcow2", "file": format!("{name}.qcow2"), "ro": name == "d1", "active": true,
            "children": children, "image": { "virtual-size": 98816, "cluster-size": 65536 },
            "dirty-bitmaps": [bitmap("mon", 4096, false), bitmap("mon->tue", 4096, false),
                bitmap("tue->wed", 65536, true), bitmap("x", 4096, false), bitmap("y", 4096, false)] })
    };
    let file = json!({ "node-name": "f", "drv": "file", "file": "f", "ro": false, "children": [],
        "image": { "virtual-size": 98816 } });
    let filter = json!({ "node-name": "top", "drv": "mirror_top", "file": "", "ro": false,
        "children": [{ "child": "backing", "node-name": "d0" }], "image": { "virtual-size": 98816 } });
    let nodes = json!([filter, node("d0", Some("d1")), node("d1", None), file]);
    let graph = json!({
        "nodes": [{ "type": "block-driver", "id": 1, "name": "d0" }, { "type": "block-driver", "id": 2, "name": "d1" }],
        "edges": [{ "parent": 1, "child": 2, "name": "backing" }],
    });
    let devices = json!([{ "device": "", "qdev": "/machine/peripheral/v/virtio-backend",
        "inserted": { "node-name": "top" } }]);
    let mut all: Vec<(String, Vec<u8>)> = (0..7_u8)
        .map(|choice| {
            let mut bytes = nodes.to_string().into_bytes();
            bytes.push(choice | if choice < 5 { 0 } else { 16 });
            (format!("verb-{choice}"), bytes)
        })
        .collect();
    let whole = json!({ "return": nodes, "id": 1 }).to_string();
    all.push(("whole-answer".to_owned(), [whole.as_bytes(), &[0]].concat()));
    all.push(("three-answers".to_owned(), json!([nodes, graph, devices]).to_string().into_bytes()));
    all.push(("no-devices".to_owned(), json!([nodes, Value::Null, Value::Null]).to_string().into_bytes()));
    all
}

/// All that a server says to a client, and the byte that chooses what the client asks for.
fn conversations() -> Vec<(&'static str, Vec<u8>)> {
    let names: [&[u8]; 3] = [b"qemu:dirty-bitmap:mon", b"qemu:dirty-bitmap:tue", b"qemu:dirty-bitmap:wed"];
    let record = |size: u64, extended: bool, seed: Option<u64>, choice: u8| {
        let contexts = (2..).zip(names).map(|(number, name)| {
            let part = ((size / (2 * number)) >> 16) << 16;
            let mut runs: Vec<(u64, u64)> = (0..2 * number).map(|run| (part, run & 1)).collect();
            runs.push((size - part * 2 * number, 0));
            runs.retain(|(len, _)| *len > 0);
            Context { name: name.to_vec(), runs }
        });
        let mut server = Server::new(size, contexts.collect());
        (server.extended, server.min_block, server.random) = (extended, 512, seed.map(Random::from_seed));
        let (stream, thread) = server.start();
        let asked = &names[..usize::from(choice & 3)];
        let options = ConnectOptions::new(b"disk").contexts(asked);
        let client = Client::over(Box::new(stream), &options, &mut Unobserved);
        let (offset, len) = if choice & 4 == 0 { (0, u64::MAX) } else { (size / 3, size / 2) };
        let answer = client.and_then(|mut client| client.block_status(offset, len, &mut |_| Ok(()), &mut Unobserved));
        answer.expect("the server does everything right");
        let mut bytes = thread.join().expect("the server does not panic").sent;
        bytes.push(choice);
        bytes
    };
    vec![
        ("extended", record(100 << 20, true, None, 2)),
        ("extended-split", record(100 << 20, true, Some(1), 3)),
        ("extended-window", record(16 << 40, true, Some(2), 7)),
        ("compact", record(100 << 20, false, None, 2)),
        ("compact-split", record(100 << 20, false, Some(3), 3)),
        ("compact-large", record(20 << 30, false, None, 1)),
        ("no-context", record(1 << 20, true, None, 0)),
        ("empty-disk", record(0, true, None, 3)),
    ]
}

/// All that a client says to a server.
fn clients() -> Vec<(&'static str, Vec<u8>)> {
    let option = |option: u32, data: &[u8]| {
        let len = u32::try_from(data.len()).expect("a short option");
        [b"IHAVEOPT", &option.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
    };
    let string = |text: &[u8]| [&u32::try_from(text.len()).expect("short").to_be_bytes(), text].concat();
    let queries = |texts: &[&[u8]]| {
        let count = u32::try_from(texts.len()).expect("few").to_be_bytes();
        [string(b"disk"), count.to_vec(), texts.iter().flat_map(|text| string(text)).collect()].concat()
    };
    let go = [string(b"disk"), vec![0, 2, 0, 3, 0, 0]].concat();
    let request = |extended: bool, flags: u16, command: u16, offset: u64, len: u32| {
        let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let wide: &[u8] = if extended { &[0; 4] } else { &[] };
        let head = [&magic.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes(), &offset.to_be_bytes()];
        [&head.concat()[..], &offset.to_be_bytes(), wide, &len.to_be_bytes()].concat()
    };
    let commands = |extended: bool| -> Vec<u8> {
        let parts = [
            request(extended, 0, 0, 100, 1000),
            request(extended, 0, 7, 0, 5000),
            request(extended, 8, 7, 600, 2000),
            request(extended, 4, 0, 4000, 1000),
            request(extended, 0, 1, 0, 10),
            vec![1; 10],
            request(extended, 0, 4, 0, 512),
            request(extended, 0, 0, 4999, 2),
            request(extended, 0, 2, 0, 0),
        ];
        parts.concat()
    };
    let both: &[&[u8]] = &[b"base:allocation", b"qemu:dirty-bitmap:mon"];
    let flags = 3_u32.to_be_bytes().to_vec();
    vec![
        (
            "extended",
            [&flags[..], &option(11, b""), &option(10, &queries(both)), &option(7, &go), &commands(true)].concat(),
        ),
        (
            "structured",
            [&flags[..], &option(8, b""), &option(10, &queries(both)), &option(7, &go), &commands(false)].concat(),
        ),
        ("simple", [&flags[..], &option(7, &go), &commands(false)].concat()),
        ("old", [&flags[..], &option(1, b"disk"), &commands(false)].concat()),
        (
            "lists",
            [
                &flags[..],
                &option(3, b""),
                &option(8, b""),
                &option(9, &queries(&[b"qemu:", b"base:"])),
                &option(2, b""),
            ]
            .concat(),
        ),
        ("refused", [&flags[..], &option(5, b""), &option(6, &go), &option(77, b"what"), &option(7, b"")].concat()),
    ]
}
