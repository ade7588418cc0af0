//! Header clusters of every shape: where QEMU finds room for a first bitmap we find it, too, without losing what we do not
//! know; where we do not, the refusal says what fills the header, and its way out works.

mod support;

use checkmap::image::{Access, Layers, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{Error, ErrorKind, Image};
use std::fs;
use std::path::{Path, PathBuf};
use support::random::Random;
use support::raw::Raw;
use support::{TestImage, qemu_bitmaps, run, try_run};

const FORMAT: u32 = 0xe279_2aca;
const FEATURES: u32 = 0x6803_f857;
const DATA_FILE: u32 = 0x4441_5441;
const UNKNOWN: [u32; 3] = [0x1234_5678, 0x1111_1111, 0x9999_9999];

fn change(path: &Path, name: &[u8], delete: bool) -> checkmap::Result<()> {
    let mut image = Image::open(path, &OpenOptions::new(Access::Write).no_lock(true))?;
    let plan = match delete {
        true => image.plan_delete(name, false, Layers::TopOnly, None)?,
        false => image.plan_create(name, None, None)?,
    };
    image.commit(&plan, &mut Unobserved).map(drop)
}

fn create(path: &Path) -> checkmap::Result<()> {
    change(path, b"1", false)
}

/// A folder with an image without bitmaps, and a base that its backing names mean.
struct Place {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = support::folder();
        fs::write(folder.path().join("base"), vec![0; 1 << 20]).expect("a base");
        let path = folder.path().join("disk.qcow2");
        Self { folder, path }
    }

    fn hold(&self, raw: &Raw) {
        fs::write(&self.path, &raw.bytes).expect("the image can be written");
    }

    fn qemu_writes(&self) -> bool {
        try_run("qemu-io", &["-c".as_ref(), "write 0 512".as_ref(), self.path.as_os_str()]).status.success()
    }

    fn is_clean(&self) -> bool {
        try_run("qemu-img", &["check".as_ref(), self.path.as_os_str()]).status.code() == Some(0)
    }

    /// Whether QEMU can add a bitmap. QEMU 7.2 reports success where it could not store one, so the image is asked.
    fn qemu_adds(&self) -> bool {
        let args = ["bitmap".as_ref(), "--add".as_ref(), self.path.as_os_str(), "1".as_ref()];
        let says = try_run("qemu-img", &args).status.success();
        let stored = !qemu_bitmaps(&self.path).is_empty();
        if says && !stored {
            eprintln!("this qemu-img reports success for a bitmap that it did not store");
        }
        says && stored
    }
}

/// An image of 1 MiB as QEMU makes it, with a header of 104 bytes and no extensions.
fn plain(cluster_bytes: usize) -> Raw {
    let mut raw = Raw::read(&TestImage::create(&format!("cluster_size={cluster_bytes}"), "1M").path);
    raw.set_header_len(104);
    raw
}

/// A name of `len` bytes for the file `base`.
fn name_of(len: usize) -> Vec<u8> {
    ["./".repeat((len - 4) / 2), "base".into()].concat().into_bytes()
}

fn backing_name_of(raw: &Raw) -> &[u8] {
    let at = usize::try_from(raw.u64(support::raw::BACKING_OFFSET)).expect("near");
    let len = usize::try_from(raw.u32(support::raw::BACKING_LEN)).expect("short");
    if at == 0 { &[] } else { &raw.bytes[at..at + len] }
}

fn unknown_of(raw: &Raw) -> Vec<(u32, Vec<u8>)> {
    let mut unknown = raw.extension_list();
    unknown.retain(|(kind, _)| UNKNOWN.contains(kind));
    unknown.sort();
    unknown
}

/// A header that is more or less full, and what it is called in messages; `None` where it is too full.
fn random_header(plain: &Raw, random: &mut Random) -> Option<(Raw, String)> {
    let mut raw = plain.clone();
    let cluster = raw.cluster();
    let header_len = *random.pick(&[104, 104, 112, 112, 108, 117, 120, 160, 200]);
    raw.set_header_len(header_len);
    let name = if random.chance(2) { name_of(*random.pick(&[4, 20, 100, 200, 330, 600, 1000])) } else { Vec::new() };
    let mut extensions: Vec<(u32, Vec<u8>)> = Vec::new();
    if !name.is_empty() {
        extensions.push((FORMAT, b"raw".to_vec()));
    }
    for _ in 0..random.below(4) {
        let len = *random.pick(&[0, 3, 8, 24, 100, 392, 700]);
        let features = 48 * random.index(9);
        extensions.push(match random.chance(2) {
            true => (FEATURES, (0..features).map(|_| random.pick(b"dirty")).copied().collect()),
            false => (*random.pick(&UNKNOWN), vec![b'u'; len]),
        });
    }
    let used = |extensions: &[(u32, Vec<u8>)]| {
        header_len + extensions.iter().map(|(_, data)| 8 + data.len().next_multiple_of(8)).sum::<usize>()
    };
    if random.chance(2) {
        let slack = *random.pick(&[0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 100, 400, 440]);
        if let Some(len) = cluster.checked_sub(used(&extensions) + name.len() + 8 + slack) {
            extensions.insert(random.index(extensions.len() + 1), (UNKNOWN[2], vec![b'z'; len]));
        }
    }
    let end = used(&extensions);
    let name_at = match random.below(5) {
        0 => end,
        // The last extension needs no padding before a name.
        1 => end - extensions.last().map_or(0, |(_, data)| data.len().next_multiple_of(8) - data.len()),
        _ => end + 8 + random.pick(&[0, 0, 8, 40]),
    };
    let room = cluster.checked_sub(end).filter(|room| *room == 0 || *room >= 8);
    if room.is_none() || name_at + name.len() > cluster {
        return None;
    }
    raw.set_extensions(&extensions);
    if !name.is_empty() {
        raw.set_backing_name(name_at, &name);
    }
    let lens: Vec<_> = extensions.iter().map(|(kind, data)| format!("{kind:#x} {}", data.len())).collect();
    Some((raw, format!("clusters of {cluster}, header {header_len}, {lens:?}, name {} at {name_at}", name.len())))
}

#[test]
fn where_qemu_finds_room_we_do_and_never_where_it_does_not() {
    if !support::tools_are_here() {
        return;
    }
    let place = Place::new();
    let mut random = Random::seeded(35);
    let plains = [512, 512, 1024, 2048, 4096, 8192, 65536].map(plain);
    let (mut both, mut neither, mut only_qemu) = (0, 0, 0);
    for _ in 0..150 {
        let Some((raw, case)) = random_header(random.pick(&plains), &mut random) else { continue };
        place.hold(&raw);
        assert!(place.is_clean(), "{case}: the preparation failed");
        let qemu_adds = place.qemu_adds();
        place.hold(&raw);
        match create(&place.path) {
            Ok(()) => {
                assert!(qemu_adds, "{case}: QEMU has no room for a bitmap");
                both += 1;
                assert!(place.is_clean(), "{case}: after the create");
                let kept = |when: &str| {
                    let now = Raw::read(&place.path);
                    assert_eq!(unknown_of(&now), unknown_of(&raw), "{case}: {when}");
                    assert_eq!(backing_name_of(&now), backing_name_of(&raw), "{case}: {when}");
                };
                kept("after the create");
                if random.chance(2) {
                    // Before QEMU lays the header out anew.
                    change(&place.path, b"1", true).unwrap_or_else(|error| panic!("{case}: {error}"));
                    kept("after a delete");
                    assert!(place.is_clean(), "{case}: after a delete");
                    create(&place.path).unwrap_or_else(|error| panic!("{case}: created again: {error}"));
                    kept("created again");
                }
                assert!(place.qemu_writes() && place.is_clean(), "{case}: QEMU cannot open it for writing");
                assert_eq!(qemu_bitmaps(&place.path).len(), 1, "{case}");
                change(&place.path, b"1", true).unwrap_or_else(|error| panic!("{case}: {error}"));
                assert!(place.qemu_writes() && place.is_clean(), "{case}: after the delete");
                kept("at the end");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::CannotStore, "{case}: {error}");
                assert_eq!(Raw::read(&place.path).bytes[..raw.cluster()], raw.bytes[..raw.cluster()], "{case}");
                assert!(place.is_clean(), "{case}: after the refusal");
                let has_name = raw.u64(support::raw::BACKING_OFFSET) != 0;
                assert!(has_name || !error.to_string().contains("backing"), "{case}: {error}");
                assert!(error.way_out().is_some(), "{case}: {error}");
                let way_out = error.to_string();
                match qemu_adds {
                    // QEMU writes the header in one piece; a part of it cannot move by single sectors.
                    true => {
                        only_qemu += 1;
                        assert!(way_out.contains("qemu-img bitmap --add"), "{case}: {error}");
                    }
                    false => {
                        neither += 1;
                        assert!(!way_out.contains("qemu-img bitmap --add"), "{case}: {error}");
                    }
                }
            }
        }
    }
    eprintln!("{both} with room, {neither} without, {only_qemu} that only QEMU can write");
    assert!(both > 50 && neither > 5 && only_qemu < both / 4, "{both} {neither} {only_qemu}");
}

#[test]
fn qemu_opens_for_writing_what_is_filled_to_the_last_byte() {
    if !support::tools_are_here() {
        return;
    }
    let place = Place::new();
    for cluster in [512, 1024, 2048, 4096, 8192, 65536] {
        let mut raw = plain(cluster);
        let fits = (0..cluster - 120).rev().step_by(8).find(|len| {
            raw.set_extensions(&[(UNKNOWN[0], vec![b'u'; *len])]);
            place.hold(&raw);
            create(&place.path).is_ok()
        });
        let len = fits.expect("a short extension leaves room");
        assert!(place.qemu_writes() && place.is_clean(), "{cluster}: an extension of {len} bytes");
        // QEMU's header is 8 bytes longer than this one, and ends with a marker; larger clusters get its feature names.
        let names = if cluster > 4096 { 392 } else { 0 };
        assert_eq!((len + 8).next_multiple_of(8), cluster - 112 - names - 32 - 8, "{cluster}");
    }
}

/// The refusal of a first checkpoint.
fn refusal(place: &Place, raw: &Raw) -> Error {
    place.hold(raw);
    let error = create(&place.path).expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::CannotStore, "{error}");
    error
}

/// Finds `words` in this order.
fn assert_says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    let mut rest = text.as_str();
    for word in words {
        let at = rest.find(word).unwrap_or_else(|| panic!("no {word:?} in its place: {text}"));
        rest = &rest[at..];
    }
}

#[test]
fn the_refusal_names_what_fills_the_header_and_its_way_out_works() {
    if !support::tools_are_here() {
        return;
    }
    let place = Place::new();
    let path = place.path.to_str().expect("UTF-8");

    let mut raw = plain(512);
    raw.set_extensions(&[(UNKNOWN[0], vec![1; 384])]);
    let error = refusal(&place, &raw);
    assert_says(&error, &["512 bytes", "unknown extension 0x12345678 (392 bytes)", "fields (104 bytes)", "convert"]);
    assert!(!error.to_string().contains("backing"), "{error}");
    let larger = place.folder.path().join("larger.qcow2");
    let convert = ["convert", "-f", "qcow2", "-O", "qcow2", "-o", "cluster_size=64k", path];
    run("qemu-img", &[&convert[..], &[larger.to_str().expect("UTF-8")]].concat());
    create(&larger).expect("the way out leads to a checkpoint");

    let mut raw = plain(512);
    raw.set_backing_name(112, &name_of(380));
    let error = refusal(&place, &raw);
    assert_says(&error, &["the backing file's name (380 bytes)", "fields (104 bytes)", "qemu-img rebase -u"]);
    run("qemu-img", &["rebase", "-q", "-u", "-F", "raw", "-b", "base", path]);
    create(&place.path).expect("the way out leads to a checkpoint");
    assert!(place.qemu_writes() && place.is_clean());

    let mut raw = plain(512);
    raw.set_extensions(&[(DATA_FILE, vec![b'd'; 376])]);
    raw.put_u64(support::raw::INCOMPATIBLE, 4);
    assert_says(&refusal(&place, &raw), &["the data file's name (384 bytes)", "fields (104 bytes)", "convert"]);

    // The type of the extension would cross two sectors.
    let mut raw = plain(1024);
    raw.set_header_len(108);
    raw.set_extensions(&[(UNKNOWN[0], vec![1; 392])]);
    let error = refusal(&place, &raw);
    assert_says(&error, &["unknown extension 0x12345678 (400 bytes)", "fields (108 bytes)", "qemu-img bitmap --add"]);
    assert!(place.qemu_adds() && place.is_clean(), "the way out works");

    // There is room for the final header, but none for a second copy of the name on the way to it.
    let mut raw = plain(1024);
    raw.set_backing_name(112, &name_of(600));
    let error = refusal(&place, &raw);
    assert_says(&error, &["the backing file's name (600 bytes)", "qemu-img bitmap --add"]);
    assert!(place.qemu_adds(), "the way out works");
    change(&place.path, b"2", false).expect("the way out leads to a chain");
    let names: Vec<String> = qemu_bitmaps(&place.path).into_iter().map(|bitmap| bitmap.name).collect();
    assert_eq!(names, ["1", "1->2"]);
    assert!(place.qemu_writes() && place.is_clean());
}

#[test]
fn an_encryption_extension_and_a_data_file_keep_their_room() {
    if !support::tools_are_here() {
        return;
    }
    // The name of a data file, up to the last byte that QEMU finds room for.
    for len in [330, 336, 337, 344, 352, 360] {
        let image = TestImage::create("cluster_size=512,data_file=here", "1M");
        fs::copy(image.folder.path().join("disk.raw"), image.folder.path().join("base")).expect("a data file");
        let mut raw = Raw::read(&image.path);
        raw.set_header_len(104);
        raw.set_extensions(&[(DATA_FILE, name_of(len & !1))]);
        fs::write(&image.path, &raw.bytes).expect("the image can be written");
        let copy = image.folder.path().join("copy.qcow2");
        fs::copy(&image.path, &copy).expect("a copy");
        let here = |path: &Path, args: &[&str]| {
            let file = path.file_name().expect("a name").to_str().expect("UTF-8");
            let args = args.iter().map(|arg| if *arg == "IMAGE" { file } else { arg });
            let tool = std::process::Command::new("sh")
                .args(["-c", "cd \"$0\" && exec \"$@\""])
                .arg(image.folder.path())
                .args(args)
                .output()
                .expect("sh runs");
            tool.status.success()
        };
        let listed = ["sh", "-c", "qemu-img info \"$0\" | grep -q bitmaps:", "IMAGE"];
        let qemu_adds = here(&copy, &["qemu-img", "bitmap", "--add", "IMAGE", "1"]) && here(&copy, &listed);
        assert_eq!(create(&image.path).is_ok(), qemu_adds, "a name of {len} bytes");
        assert!(here(&image.path, &["qemu-io", "-c", "write 0 512", "IMAGE"]), "a name of {len} bytes");
        assert!(here(&image.path, &["qemu-img", "check", "IMAGE"]), "a name of {len} bytes");
    }
}
