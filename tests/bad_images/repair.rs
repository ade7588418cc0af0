//! The way from each kind of damage to a bitmap back to an image in which nothing is wrong: what the refusal advises is
//! done, step by step, and no diff on the way or afterwards misses a block.

use crate::bases::Base;
use crate::support::raw::{self, Raw};
use crate::support::{folder, qemu_bitmaps, qemu_io, run, tools_are_here, try_run};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// The chain's checkpoints, each with the sectors that were written after it.
const CHAIN: [(&str, &[u64]); 3] = [("1", &[0, 512, 98304]), ("2", &[512, 98304]), ("3", &[98304])];
const CUMULATIVE: [(&str, &[u64]); 2] = [("monday", &[0, 512, 2048]), ("tuesday", &[2048])];

/// A kind of damage, and the checkpoint whose bitmap suffers.
struct Damage {
    name: &'static str,
    base: Base,
    checkpoint: &'static str,
    inflict: fn(&mut Raw),
}

const fn damage(name: &'static str, checkpoint: &'static str, inflict: fn(&mut Raw)) -> Damage {
    Damage { name, base: Base::Chain, checkpoint, inflict }
}

const fn cumulative(name: &'static str, checkpoint: &'static str, inflict: fn(&mut Raw)) -> Damage {
    Damage { name, base: Base::Cumulative, checkpoint, inflict }
}

fn guest_cluster(raw: &Raw) -> u64 {
    raw.u64(raw.l2()) & OFFSET_MASK
}

const DAMAGES: &[Damage] = &[
    damage("data in a cluster of the guest", "1", |raw| raw.put_u64(raw.table(0), guest_cluster(raw))),
    damage("the guest in a cluster of data", "2", |raw| {
        let data = raw.data(1);
        raw.put_u64(raw.l2() + 8 * 40, data as u64 | 1 << 63);
        raw.put(data, &[0; 512]);
    }),
    damage("the guest in a cluster of the table", "1", |raw| {
        raw.put_u64(raw.l2() + 8 * 40, raw.table(0) as u64 | 1 << 63);
    }),
    damage("a table in a cluster of the guest", "2", |raw| {
        let guest = guest_cluster(raw);
        raw.put_u64(raw.entry(1) + raw::ENTRY_TABLE, guest);
    }),
    damage("data in the L1 table", "1", |raw| raw.put_u64(raw.table(0), raw.l1() as u64)),
    damage("data in an L2 table", "2", |raw| raw.put_u64(raw.table(1), raw.l2() as u64)),
    damage("data in the refcount table", "1", |raw| raw.put_u64(raw.table(0), raw.refcount_table() as u64)),
    damage("data in a refcount block", "1", |raw| raw.put_u64(raw.table(0), raw.refcount_block() as u64)),
    damage("a table in a refcount block", "3", |raw| raw.put_u64(raw.entry(2) + raw::ENTRY_TABLE, 512 * 2)),
    damage("data in the directory", "1", |raw| raw.put_u64(raw.table(0), raw.directory() as u64)),
    damage("a table in the L2 table", "2", |raw| raw.put_u64(raw.entry(1), raw.l2() as u64)),
    damage("one cluster of data for two bitmaps", "2", |raw| raw.put_u64(raw.table(1), raw.u64(raw.table(0)))),
    damage("data in another bitmap's table", "2", |raw| raw.put_u64(raw.table(1), raw.table(0) as u64)),
    damage("one table for two bitmaps", "2", |raw| raw.put_u64(raw.entry(1), raw.table(0) as u64)),
    damage("a table past the end of the file", "2", |raw| raw.put_u64(raw.entry(1), raw.past_the_end() as u64)),
    damage("data past the end of the file", "1", |raw| raw.put_u64(raw.table(0), raw.past_the_end() as u64)),
    damage("data as far away as an entry can say", "1", |raw| raw.put_u64(raw.table(0), OFFSET_MASK)),
    damage("a reserved bit in a table", "2", |raw| raw.put_u64(raw.table(1), raw.u64(raw.table(1)) | 1 << 8)),
    damage("a table with refcount 0", "1", |raw| raw.put_u16(raw.refcount_of(raw.table(0)), 0)),
    damage("data with refcount 0", "2", |raw| raw.put_u16(raw.refcount_of(raw.data(1)), 0)),
    cumulative("one cluster of data for two that record", "monday", |raw| {
        raw.put_u64(raw.table(0), raw.u64(raw.table(1)));
    }),
    cumulative("one table for two that record", "tuesday", |raw| raw.put_u64(raw.entry(1), raw.table(0) as u64)),
    cumulative("the guest in a cluster of data of one that records", "tuesday", |raw| {
        let data = raw.data(1);
        raw.put_u64(raw.l2() + 8 * 40, data as u64 | 1 << 63);
    }),
];

/// The image of one damage, and the writes to it.
struct Patient {
    what: String,
    path: PathBuf,
    _folder: tempfile::TempDir,
    written: Vec<(&'static str, Vec<u64>)>,
    content: Vec<u8>,
}

impl Patient {
    fn of(damage: &Damage) -> Self {
        let folder = folder();
        let path = folder.path().join("damaged.qcow2");
        let mut raw = damage.base.raw();
        (damage.inflict)(&mut raw);
        std::fs::write(&path, &raw.bytes).expect("the image can be written");
        let all: &[(&str, &[u64])] = if damage.base == Base::Chain { &CHAIN } else { &CUMULATIVE };
        let written = all.iter().map(|(name, sectors)| (*name, sectors.to_vec())).collect();
        let content = content(&path);
        Self { what: damage.name.to_owned(), path, _folder: folder, written, content }
    }

    fn checkmap(&self, args: &[&str]) -> Output {
        let output =
            Command::new(env!("CARGO_BIN_EXE_checkmap")).arg(args[0]).arg(&self.path).args(&args[1..]).output();
        output.expect("the program starts")
    }

    /// Nothing that is answered misses a block; returns the checkpoints that answer.
    fn assert_no_short_diff(&self, when: &str) -> Vec<&'static str> {
        let mut answering = Vec::new();
        for (since, sectors) in &self.written {
            let output = self.checkmap(&["diff", "--since", since, "--format", "csv"]);
            if !output.status.success() {
                continue;
            }
            answering.push(*since);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let extents: Vec<(u64, u64)> = text
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(','))
                .map(|(start, len)| (start.parse().expect("a number"), len.parse().expect("a number")))
                .collect();
            for sector in sectors {
                let covered = extents.iter().any(|(start, len)| (*start..start + len).contains(sector));
                assert!(covered, "{}, {when}: the diff since {since} misses {sector}: {text}", self.what);
            }
        }
        answering
    }

    /// QEMU's check of the image: 0 is clean, 3 is leaks alone.
    fn check(&self) -> Option<i32> {
        try_run("qemu-img", &["check".as_ref(), "-f".as_ref(), "qcow2".as_ref(), self.path.as_os_str()]).status.code()
    }

    /// With whatever is left, or without anything, a new checkpoint can be made, and it answers.
    fn begin_anew(&mut self) {
        let what = self.what.clone();
        let refused = |output: &Output| !output.status.success();
        if refused(&self.checkmap(&["create", "anew"])) {
            let dropped = self.checkmap(&["drop", "--all", "--yes"]);
            assert!(dropped.status.success(), "{what}: {}", stderr(&dropped));
            self.written.clear();
            let created = self.checkmap(&["create", "anew"]);
            assert!(created.status.success(), "{what}: {}", stderr(&created));
        }
        self.written.push(("anew", Vec::new()));
        self.write();
        assert!(self.assert_no_short_diff("anew").contains(&"anew"), "{what}: the new checkpoint does not answer");
        assert_eq!(content(&self.path), self.content, "{what}: the guest's data changed");
        assert_eq!(self.check(), Some(0), "{what}: not clean with a new checkpoint");
    }

    /// A guest writes to the whole disk's beginning, as long as QEMU runs it.
    fn write(&mut self) {
        qemu_io(&self.path, &["write -P 9 40960 512".into(), "write -P 8 0 512".into()]);
        self.written.iter_mut().for_each(|(_, sectors)| sectors.extend([40960, 0]));
        self.content = content(&self.path);
    }
}

/// What the guest sees, with the bitmaps passed over: QEMU does not open every image whose bitmaps are damaged.
fn content(path: &Path) -> Vec<u8> {
    let (stale, flat) = (path.with_extension("stale"), path.with_extension("flat"));
    let mut image = Raw::read(path);
    image.put_u64(raw::AUTOCLEAR, 0);
    std::fs::write(&stale, image.bytes).expect("a copy can be written");
    run("qemu-img", &["convert".as_ref(), "-O".as_ref(), "raw".as_ref(), stale.as_os_str(), flat.as_os_str()]);
    std::fs::read(flat).expect("the content can be read")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Walks from each damage to the end, removing the bitmap by `remove`.
fn walk_all(remove: fn(&Damage) -> Vec<&'static str>) {
    if !tools_are_here() {
        return;
    }
    for damage in DAMAGES {
        let mut patient = Patient::of(damage);
        let what = patient.what.clone();
        // The refusals: they name a way out that is no repair, and change nothing.
        let before = std::fs::read(&patient.path).expect("the image can be read");
        patient.assert_no_short_diff("damaged");
        for args in [vec!["diff", "--since", damage.checkpoint], vec!["delete", damage.checkpoint]] {
            let refused = patient.checkmap(&args);
            assert_eq!(refused.status.code(), Some(1), "{what}: {args:?}: {}", stderr(&refused));
            let said = stderr(&refused);
            assert!(said.contains("--force-inconsistent"), "{what}: {args:?}: {said}");
            assert!(!said.contains("check -r"), "{what}: {args:?} sends into a repair: {said}");
        }
        assert_eq!(
            before,
            std::fs::read(&patient.path).expect("the image can be read"),
            "{what}: a refusal changed it"
        );
        // The way out.
        let args = remove(damage);
        let removed = patient.checkmap(&args);
        assert_eq!(removed.status.code(), Some(0), "{what}: {args:?}: {}", stderr(&removed));
        patient.assert_no_short_diff("removed");
        assert!(matches!(patient.check(), Some(0 | 3)), "{what}: qemu-img check finds errors: {}", stderr(&removed));
        assert_eq!(content(&patient.path), patient.content, "{what}: the guest's data changed");
        // What may be leaked is said.
        if patient.check() == Some(3) && stderr(&removed).contains("check -r leaks") {
            run(
                "qemu-img",
                &["check".as_ref(), "-q".as_ref(), "-r".as_ref(), "leaks".as_ref(), patient.path.as_os_str()],
            );
        }
        // Whatever QEMU repairs and stores now, no rubbish becomes a bitmap.
        let _ = try_run(
            "qemu-img",
            &["check".as_ref(), "-q".as_ref(), "-r".as_ref(), "all".as_ref(), patient.path.as_os_str()],
        );
        patient.assert_no_short_diff("repaired");
        patient.write();
        patient.assert_no_short_diff("written to");
        assert_eq!(patient.check(), Some(0), "{what}: not clean at the end");
        // What could not be trusted and is left, is known as that, and can go as well.
        let all = patient.checkmap(&["delete", "--all-inconsistent"]);
        assert_eq!(all.status.code(), Some(0), "{what}: {}", stderr(&all));
        assert!(qemu_bitmaps(&patient.path).iter().all(|bitmap| !bitmap.in_use), "{what}: inconsistent ones are left");
        assert_eq!(patient.check(), Some(0), "{what}: not clean after all");
        patient.begin_anew();
    }
}

#[test]
fn a_bitmap_that_cannot_be_trusted_is_deleted_by_force_and_nothing_takes_its_rubbish_for_bits() {
    walk_all(|damage| vec!["delete", damage.checkpoint, "--force-inconsistent"]);
}

#[test]
fn all_bitmaps_that_cannot_be_trusted_are_deleted_in_one_step() {
    walk_all(|_| vec!["delete", "--all-inconsistent"]);
}

#[test]
fn a_bitmap_that_cannot_be_trusted_is_dropped_by_its_own_name() {
    walk_all(|damage| {
        let bitmap = match damage.checkpoint {
            "2" => "1->2",
            "3" => "2->3",
            plain => plain,
        };
        vec!["drop", "--bitmap", bitmap]
    });
}

#[test]
fn the_whole_directory_is_dropped_whatever_is_wrong_with_a_bitmap() {
    walk_all(|_| vec!["drop", "--all", "--yes"]);
}

/// What keeps every bitmap from being used, and mostly QEMU from opening the image.
const DIRECTORY_DAMAGES: &[Damage] = &[
    damage("the guest in a cluster of the directory", "1", |raw| {
        raw.put_u64(raw.l2() + 8 * 40, raw.directory() as u64 | 1 << 63);
    }),
    damage("the directory in the L2 table", "1", |raw| {
        raw.put_u64(raw.extension(raw::EXTENSION_OFFSET), raw.l2() as u64);
    }),
    damage("the directory past the end of the file", "1", |raw| {
        raw.put_u64(raw.extension(raw::EXTENSION_OFFSET), raw.past_the_end() as u64);
    }),
    damage("the directory as far away as can be", "1", |raw| {
        raw.put_u64(raw.extension(raw::EXTENSION_OFFSET), u64::MAX << 9);
    }),
    damage("a directory of zeros", "1", |raw| raw.put(raw.directory(), &[0; 96])),
    damage("rubbish in the second entry", "1", |raw| raw.put(raw.entry(1), &[0xa5; 24])),
    damage("rubbish in the last entry", "1", |raw| raw.put(raw.entry(2), &[0x5a; 24])),
    damage("no bitmaps in an extension", "1", |raw| raw.put_u32(raw.extension(raw::EXTENSION_COUNT), 0)),
    damage("too many bitmaps", "1", |raw| raw.put_u32(raw.extension(raw::EXTENSION_COUNT), 4)),
    damage("a reserved field of the extension", "1", |raw| raw.put_u32(raw.extension(raw::EXTENSION_RESERVED), 1)),
    damage("a directory that is too long", "1", |raw| raw.resize_directory(8)),
    damage("two entries of one name", "1", |raw| {
        let second = raw.entry(1);
        raw.put(second + 24, b"2->3");
    }),
    damage("bitmaps out of date", "1", |raw| raw.put_u64(raw::AUTOCLEAR, 0)),
];

#[test]
fn a_damaged_directory_is_dropped_and_the_disk_goes_on() {
    if !tools_are_here() {
        return;
    }
    for damage in DIRECTORY_DAMAGES {
        let mut patient = Patient::of(damage);
        let what = patient.what.clone();
        let before = std::fs::read(&patient.path).expect("the image can be read");
        assert_eq!(patient.assert_no_short_diff("damaged"), Vec::<&str>::new(), "{what}: something answers");
        let refused = patient.checkmap(&["create", "new"]);
        let said = stderr(&refused);
        assert!(matches!(refused.status.code(), Some(1 | 3)), "{what}: {said}");
        assert!(!said.contains("check -r all"), "{what} sends into a repair: {said}");
        let rehearsed = patient.checkmap(&["drop", "--all", "--yes", "--dry-run"]);
        assert_eq!(rehearsed.status.code(), Some(0), "{what}: {}", stderr(&rehearsed));
        assert_eq!(
            before,
            std::fs::read(&patient.path).expect("the image can be read"),
            "{what}: nothing was to change"
        );
        let dropped = patient.checkmap(&["drop", "--all", "--yes"]);
        assert_eq!(dropped.status.code(), Some(0), "{what}: {}", stderr(&dropped));
        // QEMU opens it now, and finds no more leaks than were announced.
        let leaks = stderr(&dropped).contains("check -r leaks");
        let check = patient.check();
        assert!(check == Some(0) || check == Some(3) && leaks, "{what}: {check:?}: {}", stderr(&dropped));
        run("qemu-img", &["check".as_ref(), "-q".as_ref(), "-r".as_ref(), "leaks".as_ref(), patient.path.as_os_str()]);
        assert_eq!(patient.check(), Some(0), "{what}: not clean");
        assert_eq!(content(&patient.path), patient.content, "{what}: the guest's data changed");
        assert!(qemu_bitmaps(&patient.path).is_empty(), "{what}: bitmaps are left");
        patient.written.clear();
        patient.begin_anew();
    }
}

/// Damage to the disk's own structures, for which no bitmap is to blame.
const DISK_DAMAGES: &[Damage] = &[
    damage("a reserved bit in an L1 entry", "1", |raw| raw.put_u64(raw.l1(), raw.u64(raw.l1()) | 1)),
    damage("an L2 table past the end of the file", "1", |raw| {
        raw.put_u64(raw.l1(), raw.past_the_end() as u64 | 1 << 63);
    }),
    damage("an L2 table in the refcount table", "1", |raw| {
        raw.put_u64(raw.l1(), raw.refcount_table() as u64 | 1 << 63);
    }),
    damage("a reserved bit in the refcount table", "1", |raw| {
        raw.put_u64(raw.refcount_table(), raw.u64(raw.refcount_table()) | 1);
    }),
    damage("a refcount block past the end of the file", "1", |raw| {
        raw.put_u64(raw.refcount_table(), raw.past_the_end() as u64);
    }),
    damage("a refcount block in the L1 table", "1", |raw| raw.put_u64(raw.refcount_table(), raw.l1() as u64)),
    damage("the mark of a crash, and a bitmap in a cluster of the guest", "1", |raw| {
        raw.put_u64(raw.table(0), guest_cluster(raw));
        raw.put_u64(raw::INCOMPATIBLE, 1);
    }),
    damage("the mark of damage, and a bitmap in a cluster of the guest", "1", |raw| {
        raw.put_u64(raw.table(0), guest_cluster(raw));
        raw.put_u64(raw::INCOMPATIBLE, 2);
    }),
    damage("the mark of damage, and a directory of zeros", "1", |raw| {
        raw.put(raw.directory(), &[0; 96]);
        raw.put_u64(raw::INCOMPATIBLE, 2);
    }),
    damage("the mark of a crash alone", "1", |raw| raw.put_u64(raw::INCOMPATIBLE, 1)),
    damage("the mark of damage alone", "1", |raw| raw.put_u64(raw::INCOMPATIBLE, 2)),
];

#[test]
fn what_is_advised_for_a_damaged_disk_leads_to_a_sound_one() {
    if !tools_are_here() {
        return;
    }
    for damage in DISK_DAMAGES {
        let mut raw = damage.base.raw();
        (damage.inflict)(&mut raw);
        let folder = folder();
        let mut path = folder.path().join("damaged.qcow2");
        std::fs::write(&path, &raw.bytes).expect("the image can be written");
        let what = damage.name;
        let checkmap = |args: &[&str], path: &Path| {
            let output = Command::new(env!("CARGO_BIN_EXE_checkmap")).arg(args[0]).arg(path).args(&args[1..]).output();
            output.expect("the program starts")
        };
        let refused = checkmap(&["create", "new"], &path);
        let said = stderr(&refused);
        assert!(matches!(refused.status.code(), Some(1 | 3)), "{what}: {said}");
        assert_eq!(raw, Raw::read(&path), "{what}: a refusal changed it");
        // The messages, in their order.
        if said.contains("`checkmap drop --all`") {
            let dropped = checkmap(&["drop", "--all", "--yes"], &path);
            assert_eq!(dropped.status.code(), Some(0), "{what}: {}", stderr(&dropped));
        }
        if said.contains("qemu-img convert --salvage -O qcow2") {
            let copy = folder.path().join("copy.qcow2");
            run(
                "qemu-img",
                &[
                    "convert".as_ref(),
                    "--salvage".as_ref(),
                    "-O".as_ref(),
                    "qcow2".as_ref(),
                    path.as_os_str(),
                    copy.as_os_str(),
                ],
            );
            path = copy;
        } else {
            assert!(said.contains("qemu-img check -r all"), "{what}: {said}");
            let _ = try_run(
                "qemu-img",
                &["check".as_ref(), "-q".as_ref(), "-r".as_ref(), "all".as_ref(), path.as_os_str()],
            );
        }
        let check = try_run("qemu-img", &["check".as_ref(), path.as_os_str()]);
        assert_eq!(check.status.code(), Some(0), "{what}: not clean: {said}");
        let names = |bitmap: &crate::support::QemuBitmap| bitmap.name == "1";
        if !qemu_bitmaps(&path).iter().any(names) {
            continue;
        }
        // Where the bitmaps were left, they were sound.
        let diff = checkmap(&["diff", "--since", "1", "--format", "csv"], &path);
        assert_eq!(String::from_utf8_lossy(&diff.stdout), "start,length\n0,1024\n98304,512\n", "{what}");
    }
}
