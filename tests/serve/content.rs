//! The content of chains that were made at random, byte by byte, and their allocation, beside QEMU's answers.

use crate::support::ours::open;
use crate::support::random::Random;
use crate::support::raw::Raw;
use crate::support::{self, TestImage, qemu_io, run};
use crate::{converted, wait_until};
use checkmap::image::{Access, DiffRequest};
use checkmap::nbd::server::Export;
use checkmap::nbd::{Client, ConnectOptions};
use checkmap::progress::Unobserved;
use checkmap::serve::{Options, Served};
use checkmap::{ErrorKind, Extent};
use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Opens an image to be served since `mon`.
fn served(path: &Path, options: &Options<'_>) -> checkmap::Result<Served> {
    Served::open(open(path, Access::Read), &DiffRequest::since(b"mon"), options, &mut Unobserved)
}

/// Stretches with their flags, two that touch different.
type Runs = Vec<(u64, u64, u64)>;

fn push(runs: &mut Runs, extent: Extent, flags: u64) {
    match runs.last_mut() {
        Some((offset, len, same)) if *same == flags && *offset + *len == extent.offset => *len += extent.len_bytes,
        _ => runs.push((extent.offset, extent.len_bytes, flags)),
    }
}

/// What an export says of itself in its first context.
fn allocation(served: &Served) -> Runs {
    let mut runs = Vec::new();
    let window = Extent { offset: 0, len_bytes: served.size_bytes() };
    let mut visit = |extent: Extent, flags: u64| {
        push(&mut runs, extent, flags);
        std::ops::ControlFlow::Continue(())
    };
    served.status(0, window, &mut visit).expect("the allocation is known");
    runs
}

/// Data of which a file system knows that they are zeros. QEMU looks for these where it guesses that an image's metadata were
/// allocated beforehand; the plain reader calls them data.
const ZERO_DATA: u64 = 2;

/// What qemu-nbd says of `base:allocation`, as a reader of this kind says it.
fn by_qemu(path: &Path, is_plain: bool) -> Runs {
    let folder = support::folder();
    let socket = folder.path().join("s");
    let mut server = Command::new("qemu-nbd")
        .args(["--read-only", "--format=qcow2", "--socket"])
        .arg(&socket)
        .arg(path)
        .spawn()
        .expect("qemu-nbd starts");
    let mut probe = None;
    wait_until("qemu-nbd listens", || {
        probe = UnixStream::connect(&socket).ok();
        assert!(server.try_wait().expect("a child").is_none(), "qemu-nbd ended");
        probe.is_some()
    });
    let contexts: &[&[u8]] = &[b"base:allocation"];
    let options = ConnectOptions::new(b"").contexts(contexts);
    let stream = Box::new(probe.expect("a connection"));
    let mut client = Client::over(stream, &options, &mut Unobserved).expect("they agree");
    let mut runs = Vec::new();
    let mut visit = |status: checkmap::nbd::Status| {
        push(&mut runs, status.extent, if is_plain && status.flags == ZERO_DATA { 0 } else { status.flags });
        Ok(())
    };
    client.block_status(0, u64::MAX, &mut visit, &mut Unobserved).expect("the status");
    drop(client);
    server.wait().expect("it ends with its last client");
    runs
}

/// Everything that an export reads, in pieces of any size and order.
fn assert_reads(served: &Served, expected: &[u8], random: &mut Random, what: &str) {
    assert_eq!(served.size_bytes(), expected.len() as u64, "{what}");
    let mut at = 0;
    while at < expected.len() {
        let most = [512, 4097, 70_000, 1 << 20][usize::try_from(random.below(4)).expect("few")];
        let len = (1 + usize::try_from(random.below(most)).expect("few")).min(expected.len() - at);
        let mut buffer = vec![0xa5; len];
        served.read_at(&mut buffer, at as u64).expect("a read");
        if let Some(differs) = support::ours::first_difference(&buffer, &expected[at..at + len]) {
            panic!("{what}: byte {} differs", at + differs);
        }
        at += len;
    }
}

/// A layer that was made at random.
struct Made {
    path: PathBuf,
    format: &'static str,
    /// Whether everything in it is of the kinds that are read plainly.
    is_plain: bool,
}

fn kib(random: &mut Random, most: u64) -> u64 {
    (1 + random.below(most)) * 1024
}

/// Makes a chain of one to four layers in `folder`; the last one has the checkpoint `mon`.
fn chain(folder: &Path, random: &mut Random) -> Vec<Made> {
    let count = 1 + random.below(4);
    let mut layers: Vec<Made> = Vec::new();
    for number in 0..count {
        let is_top = number + 1 == count;
        let path = folder.join(format!("layer-{number}"));
        if number == 0 && !is_top && random.below(3) == 0 {
            let size = kib(random, 3000) + [0, 1, 511, 512][usize::try_from(random.below(4)).expect("few")];
            std::fs::File::create(&path).and_then(|file| file.set_len(size)).expect("a raw file");
            write(&path, "raw", size, random);
            layers.push(Made { path, format: "raw", is_plain: true });
            continue;
        }
        let size = kib(random, 3000) + 512 * random.below(2);
        let mut options =
            vec![format!("cluster_size={}", [512, 4096, 65536][usize::try_from(random.below(3)).expect("few")])];
        let mut is_plain = true;
        let has_backing = !layers.is_empty();
        match random.below(10) {
            0 => {
                options = vec!["extended_l2=on".into(), "cluster_size=64k".into()];
                is_plain = false;
            }
            1 => {
                options.push("compression_type=zstd".into());
                is_plain = false;
            }
            2 if !is_top => {
                options.push("compat=0.10".into());
                is_plain = false;
            }
            3 | 4 => options.push(format!("data_file={}.data", path.display())),
            5 if !has_backing => options.push(format!("data_file={}.data,data_file_raw=on", path.display())),
            6 => options.push("lazy_refcounts=on".into()),
            _ => {}
        }
        let options = options.join(",");
        let size_word = size.to_string();
        let mut args: Vec<&OsStr> = ["create", "-q", "-f", "qcow2", "-o", &options].map(OsStr::new).to_vec();
        if let Some(below) = layers.last() {
            args.extend(["-b".as_ref(), below.path.as_os_str(), "-F".as_ref(), below.format.as_ref()]);
        }
        args.extend([path.as_os_str(), OsStr::new(&size_word)]);
        run("qemu-img", &args);
        if is_top {
            run("qemu-img", &["bitmap".as_ref(), "--add".as_ref(), path.as_os_str(), "mon".as_ref()]);
        }
        // Compressed clusters need data in the image itself.
        write(&path, if options.contains("data_file") { "data" } else { "qcow2" }, size, random);
        layers.push(Made { path, format: "qcow2", is_plain });
    }
    layers
}

/// Writes of every kind at random places.
fn write(path: &Path, kind: &str, size: u64, random: &mut Random) {
    let size = size - size % 512;
    let mut commands = Vec::new();
    for _ in 0..random.below(14) {
        let offset = random.below(size / 512) * 512;
        let len = (512 * (1 + random.below(300))).min(size - offset);
        let pattern = 1 + random.below(255);
        commands.push(match (random.below(8), kind) {
            (0, _) => format!("write -z {offset} {len}"),
            (1, _) => format!("write -z -u {offset} {len}"),
            (2, _) => format!("discard {offset} {len}"),
            (3 | 4, "qcow2") => {
                let offset = offset - offset % 65536;
                format!("write -c -P {pattern} {offset} {}", 65536.min(size - offset))
            }
            _ => format!("write -P {pattern} {offset} {len}"),
        });
    }
    if commands.is_empty() {
        return;
    }
    if kind == "raw" {
        let mut args: Vec<&OsStr> = vec!["-f".as_ref(), "raw".as_ref()];
        args.extend(commands.iter().flat_map(|command| [OsStr::new("-c"), OsStr::new(command)]));
        args.push(path.as_os_str());
        run("qemu-io", &args);
    } else {
        // A cluster that has data already cannot be compressed: then the write fails.
        let mut args: Vec<&OsStr> =
            commands.iter().flat_map(|command| [OsStr::new("-c"), OsStr::new(command)]).collect();
        args.push(path.as_os_str());
        support::try_run("qemu-io", &args);
    }
}

#[test]
fn chains_of_every_kind_are_read_byte_for_byte_and_their_allocation_is_that_of_qemu() {
    if !support::tools_are_here() {
        return;
    }
    let mut random = Random::seeded(46);
    let rounds: u64 = std::env::var("CHECKMAP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let (mut plain, mut through_qemu) = (0, 0);
    for round in 0..24 * rounds {
        let folder = support::folder();
        let layers = chain(folder.path(), &mut random);
        let top = &layers.last().expect("a layer").path;
        let what = format!("round {round}, {} layers", layers.len());
        let expected = converted(&[top.as_os_str()]);
        let served = match served(top, &Options::new()) {
            // Some of these writes end QEMU 10.0.2 before it has stored the bitmap.
            Err(error) if error.kind() == ErrorKind::Inconsistent => continue,
            served => served.unwrap_or_else(|error| panic!("{what}: {error}")),
        };
        // And some let it mark the image as corrupt.
        let is_corrupt = served.through_qemu().is_some_and(|why| why.ends_with("is marked corrupt"));
        let is_plain = !is_corrupt && layers.iter().all(|layer| layer.is_plain);
        assert_eq!(served.through_qemu().is_none(), is_plain, "{what}: {:?}", served.through_qemu());
        *if is_plain { &mut plain } else { &mut through_qemu } += 1;
        assert_reads(&served, &expected, &mut random, &what);
        assert_eq!(allocation(&served), by_qemu(top, is_plain), "{what}");
        let files = served.files().iter().map(|file| file.path.clone());
        let known: Vec<PathBuf> = layers.iter().rev().map(|layer| layer.path.clone()).collect();
        let images: Vec<PathBuf> = files.filter(|path| path.extension().is_none()).collect();
        assert_eq!(images, known, "{what}");
    }
    assert!(plain > 5 && through_qemu > 3, "{plain} plain chains, {through_qemu} others: the seed is a bad one");
}

/// What a shrunk layer left behind its end must not show.
#[test]
fn a_layer_that_was_shrunk_ends_where_it_says() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let (base, top) = (folder.path().join("base"), folder.path().join("top"));
    let qemu_img = |args: &[&str]| run("qemu-img", args);
    let (base, top) = (base.to_str().expect("UTF-8"), top.to_str().expect("UTF-8"));
    qemu_img(&["create", "-q", "-f", "qcow2", base, "1M"]);
    qemu_io(base.as_ref(), &["write -P 5 0 1M".into()]);
    qemu_img(&["resize", "-q", "--shrink", base, "500k"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top, "2M"]);
    qemu_img(&["bitmap", "--add", top, "mon"]);
    let served = served(top.as_ref(), &Options::new()).expect("a plain chain");
    assert!(served.through_qemu().is_none());
    assert_reads(&served, &converted(&[top]), &mut Random::from_seed(1), "shrunk");
    assert_eq!(allocation(&served), by_qemu(top.as_ref(), true));
}

#[test]
fn encrypted_images_are_read_with_their_passphrase_and_not_without() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let (image, secret) = (folder.path().join("secret, disk"), folder.path().join("pass,word"));
    std::fs::write(&secret, "open sesame").expect("a file");
    let object = format!("secret,id=s,file={}", secret.to_str().expect("UTF-8").replace(',', ",,"));
    let path = image.to_str().expect("UTF-8");
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    run("qemu-img", &["create", "-q", "-f", "qcow2", "--object", &object, "-o", options, path, "1M"]);
    let opts = format!("driver=qcow2,file.filename={},encrypt.key-secret=s", path.replace(',', ",,"));
    let io = |command: &str| run("qemu-io", &["--object", &object, "-c", command, "--image-opts", &opts]);
    run("qemu-img", &["bitmap", "--add", "--object", &object, "--image-opts", &opts, "mon"]);
    io("write -P 9 100k 300k");
    let expected = converted(&["--object", &object, "--image-opts", &opts]);
    let with = Options::new().secret_file(Some(&secret));
    let served_with = served(&image, &with).expect("it has the passphrase");
    assert!(served_with.through_qemu().expect("QEMU reads it").contains("is encrypted"));
    assert_reads(&served_with, &expected, &mut Random::from_seed(2), "encrypted");
    drop(served_with);
    let without = served(&image, &Options::new()).expect_err("it has none");
    assert!(without.to_string().contains("passphrase"), "{without}");
    std::fs::write(&secret, "wrong").expect("a file");
    let wrong = served(&image, &with).expect_err("it is the wrong one");
    assert!(wrong.to_string().contains("Invalid password"), "{wrong}");
}

/// The image that [`TestImage`] makes, with everything in it, also where no bitmap is at stake.
#[test]
fn metadata_that_is_preallocated_reads_as_zeros() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("preallocation=metadata,cluster_size=4k", "3M");
    image.create_checkpoint("mon", None, None);
    image.io(&["write -P 3 1M 5k".into()]);
    let served = served(&image.path, &Options::new()).expect("a plain image");
    assert_reads(&served, &image.content(), &mut Random::from_seed(3), "preallocated");
    assert_eq!(allocation(&served), by_qemu(&image.path, true));
}

/// Tables that nobody would write: the bytes are QEMU's or there is an error, nothing hangs, and no panic comes out.
#[test]
fn damaged_tables_give_the_bytes_of_qemu_or_an_error() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("cluster_size=4k", "2M");
    image.create_checkpoint("mon", None, None);
    image.io(&["write -P 1 0 300k".into(), "write -c -P 2 512k 4k".into(), "write -z 600k 100k".into()]);
    image.io(&["write -P 3 1M 1M".into()]);
    let whole = Raw::read(&image.path);
    let index = |offset: u64| usize::try_from(offset).expect("a small image");
    let l1 = whole.u64(40);
    let l2 = whole.u64(index(l1)) & 0x00ff_ffff_ffff_fe00;
    let mut random = Random::seeded(47);
    let (mut right, mut failed) = (0, 0);
    for round in 0..80 {
        let mut raw = Raw { bytes: whole.bytes.clone() };
        for _ in 0..1 + random.below(3) {
            let at = index(if random.below(6) == 0 { l1 } else { l2 } + 8 * random.below(512));
            let old = raw.u64(at);
            let other = raw.u64(index(l2 + 8 * random.below(512)));
            let new = [
                random.next(),
                old ^ 1 << random.below(64),
                old | 1,
                old | 1 << 62,
                old & !(1 << 63),
                other,
                0,
                1 << 63 | (random.below(1 << 30) << 12),
            ];
            raw.put_u64(at, new[index(random.below(8))]);
        }
        std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
        let copy = image.folder.path().join("copy");
        let args = ["convert".as_ref(), "-O".as_ref(), "raw".as_ref(), image.path.as_os_str(), copy.as_os_str()];
        let by_qemu =
            support::try_run("qemu-img", &args).status.success().then(|| std::fs::read(&copy).expect("a copy"));
        let Ok(served) = served(&image.path, &Options::new()) else { continue };
        let mut all = vec![0; 2 << 20];
        let read = all.chunks_mut(4096).zip(0..).try_for_each(|(part, number)| served.read_at(part, number * 4096));
        let _ =
            served.status(0, Extent { offset: 0, len_bytes: 2 << 20 }, &mut |_, _| std::ops::ControlFlow::Continue(()));
        match (read, by_qemu) {
            (Ok(()), Some(by_qemu)) => {
                assert_eq!(support::ours::first_difference(&all, &by_qemu), None, "round {round}");
                right += 1;
            }
            (Ok(()), None) => panic!("round {round}: QEMU finds an error, and we do not"),
            (Err(_), _) => failed += 1,
        }
    }
    assert!(right > 10 && failed > 5, "{right} read right, {failed} failed: the seed is a bad one");
}

/// QEMU rounds the size in a header down to whole sectors, in every layer.
#[test]
fn sizes_of_no_whole_sectors_are_rounded_as_qemu_does() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let (base, top) = (folder.path().join("base"), folder.path().join("top"));
    let (base_name, top_name) = (base.to_str().expect("UTF-8"), top.to_str().expect("UTF-8"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", base_name, "100k"]);
    qemu_io(&base, &["write -P 6 0 100k".into()]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", base_name, "-F", "qcow2", top_name, "200k"]);
    run("qemu-img", &["bitmap", "--add", top_name, "mon"]);
    for (path, size) in [(&base, 90_000), (&top, 200_001), (&base, 51_201), (&top, 60_000)] {
        let mut raw = Raw::read(path);
        raw.put_u64(24, size);
        std::fs::write(path, &raw.bytes).expect("the image can be written");
        let served = served(&top, &Options::new()).expect("a chain");
        assert_reads(&served, &converted(&[top_name]), &mut Random::from_seed(4), &format!("{size}"));
        assert_eq!(allocation(&served), by_qemu(&top, served.through_qemu().is_none()), "{size}");
    }
}

#[test]
fn layers_of_other_formats_are_read_through_qemu() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let name = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let raw = name("raw");
    std::fs::write(&raw, vec![0; 2 << 20]).expect("a file");
    run("qemu-io", &["-f", "raw", "-c", "write -P 8 300k 1M", &raw]);
    for format in ["vdi", "vhdx", "vpc"] {
        let (base, top) = (name(&format!("base.{format}")), name(&format!("over-{format}")));
        run("qemu-img", &["convert", "-f", "raw", "-O", format, &raw, &base]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", format, &top, "2M"]);
        run("qemu-img", &["bitmap", "--add", &top, "mon"]);
        qemu_io(top.as_ref(), &["write -P 9 1M 100k".into()]);
        let served = served(top.as_ref(), &Options::new()).expect("QEMU reads it");
        assert!(served.through_qemu().expect("QEMU reads it").contains(format), "{:?}", served.through_qemu());
        assert_reads(&served, &converted(&[&top]), &mut Random::from_seed(5), format);
    }
}

#[test]
fn sixty_layers_are_one_disk() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let name = |number: u64| folder.path().join(format!("layer-{number}")).to_str().expect("UTF-8").to_owned();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &name(0), "8M"]);
    for number in 1..60 {
        let (below, path) = (name(number - 1), name(number));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &below, "-F", "qcow2", &path]);
        qemu_io(path.as_ref(), &[format!("write -P {number} {}k 150k", number * 130)]);
    }
    let top = name(59);
    run("qemu-img", &["bitmap", "--add", &top, "mon"]);
    let served = served(top.as_ref(), &Options::new()).expect("a plain chain");
    assert!(served.through_qemu().is_none() && served.files().len() == 60);
    assert_reads(&served, &converted(&[&top]), &mut Random::from_seed(6), "sixty layers");
    assert_eq!(allocation(&served), by_qemu(top.as_ref(), true));
}

#[test]
fn a_sparse_disk_of_16_tib_is_told_and_read_at_its_end() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "16T");
    image.create_checkpoint("mon", None, None);
    let last = (16 << 40) - 65536;
    image.io(&["write -P 1 8T 64k".into(), format!("write -P 2 {last} 64k")]);
    let served = served(&image.path, &Options::new()).expect("a plain image");
    let expected =
        [(0, 8 << 40, 3), (8 << 40, 65536, 0), ((8 << 40) + 65536, last - (8 << 40) - 65536, 3), (last, 65536, 0)];
    assert_eq!(allocation(&served), expected);
    let mut end = [0; 1024];
    served.read_at(&mut end, (16 << 40) - 1024).expect("a read");
    assert_eq!(end, [2; 1024]);
}
