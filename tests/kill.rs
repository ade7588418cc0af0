#![forbid(unsafe_code)]
#![cfg(feature = "cli")]
//! Kills the real program at random moments of a change. Whatever the moment, the image is sound but for leaks, and
//! holds the bitmaps of before or those of after, to the bit; QEMU goes on recording into them.
//!
//! `CHECKMAP_KILLS` sets how many times; without it some dozens, for at most half a minute.

mod support;

use checkmap::Extent;
use checkmap::chain::Name;
use checkmap::image::Access;
use checkmap::progress::Unobserved;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::ours::union;
use support::random::Random;
use support::raw::Raw;
use support::{QemuBitmap, TestImage, nbd, run, try_run};

const DISK: u64 = 8 << 30;
/// The finest there is: a bitmap of this disk has 2 MiB of bits.
const GRANULE: u64 = 512;
const KILLS: u32 = 60;
const AT_MOST: Duration = Duration::from_secs(30);

/// A checkpoint, and the dirty extents of the bitmap that begins there.
#[derive(Clone)]
struct Point {
    name: String,
    dirty: Vec<Extent>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Delete,
    /// A range, and another one.
    DeleteMany,
    Rename,
    /// One frozen bitmap into another one, by their own names.
    Merge,
}

/// What the killed program left, and how often.
#[derive(Debug, Default)]
struct Tally {
    killed_before: u32,
    killed_after: u32,
    ended_first: u32,
    leaks: u32,
}

struct Victim {
    image: TestImage,
    random: Random,
    points: Vec<Point>,
    named: u32,
}

/// One change: the command line, and the checkpoints once it is done.
struct Change {
    args: Vec<String>,
    after: Vec<Point>,
}

impl Victim {
    fn new() -> Self {
        let image = TestImage::create("", &DISK.to_string());
        let mut victim = Self { image, random: Random::seeded(1), points: Vec::new(), named: 0 };
        for _ in 0..6 {
            let change = victim.change(Verb::Create);
            victim.run_whole(change);
            victim.record(40);
        }
        victim
    }

    fn change(&mut self, verb: Verb) -> Change {
        let mut after = self.points.clone();
        self.named += 1;
        let fresh = format!("checkpoint {}", self.named);
        let words: Vec<String> = match verb {
            Verb::Create => {
                after.push(Point { name: fresh.clone(), dirty: Vec::new() });
                vec!["create".into(), fresh, format!("--granularity={GRANULE}")]
            }
            Verb::Rename => {
                let at = self.random.index(after.len());
                let from = std::mem::replace(&mut after[at].name, fresh.clone());
                vec!["rename".into(), from, fresh]
            }
            Verb::Merge => {
                let (from, into) = (self.random.index(after.len() - 1), self.random.index(after.len() - 1));
                let into = if from == into { after.len() - 1 } else { into };
                after[into].dirty = union(&after[into].dirty, &after[from].dirty);
                vec!["merge".into(), bitmap_name(&after, from), "--into".into(), bitmap_name(&after, into)]
            }
            Verb::Delete => {
                let at = self.random.index(after.len());
                vec!["delete".into(), delete(&mut after, at)]
            }
            Verb::DeleteMany => {
                let at = self.random.index(after.len() - 1);
                let (from, to) = (delete(&mut after, at), delete(&mut after, at));
                let other = self.random.index(after.len());
                vec!["delete".into(), format!("{from}..{to}"), delete(&mut after, other)]
            }
        };
        let mut args = words;
        args.insert(1, self.image.path.to_str().expect("the test's folder is UTF-8").to_owned());
        Change { args, after }
    }

    /// Around six checkpoints, most of the changes deletions and creations.
    fn any_verb(&mut self) -> Verb {
        match self.points.len() {
            ..=3 => Verb::Create,
            9.. => Verb::Delete,
            _ => {
                let verbs = [Verb::Create, Verb::Create, Verb::Delete, Verb::DeleteMany, Verb::Rename, Verb::Merge];
                *self.random.pick(&verbs)
            }
        }
    }

    fn run_whole(&mut self, change: Change) -> Duration {
        let started = Instant::now();
        let ended = checkmap(&change.args).status().expect("checkmap runs");
        assert!(ended.success(), "{:?}: {ended}", change.args);
        self.points = change.after;
        started.elapsed()
    }

    /// QEMU marks `count` ranges of the disk, some of them large. A discard where nothing is allocated writes no data.
    fn record(&mut self, count: u64) {
        let ranges: Vec<Extent> = (0..count)
            .map(|_| {
                let longest = *self.random.pick(&[GRANULE, 1 << 20, 256 << 20]);
                let len_bytes = GRANULE * (1 + self.random.below(longest / GRANULE));
                let offset = GRANULE * self.random.below((DISK - len_bytes) / GRANULE);
                Extent { offset, len_bytes }
            })
            .collect();
        let commands: Vec<String> =
            ranges.iter().map(|range| format!("discard {} {}", range.offset, range.len_bytes)).collect();
        self.image.io(&commands);
        let newest = self.points.last_mut().expect("there are checkpoints");
        newest.dirty = union(&newest.dirty, &ranges);
    }

    /// Starts a change, kills it after `delay`, and looks at the image; false if it had ended by then.
    fn kill_after(&mut self, delay: Duration, change: Change, tally: &mut Tally) -> bool {
        let mut child = checkmap(&change.args).stderr(Stdio::null()).spawn().expect("checkmap starts");
        std::thread::sleep(delay);
        child.kill().expect("a child that was not waited for can be killed");
        let ended = child.wait().expect("the child is ours");
        let when = format!("{:?}, killed after {delay:?}", change.args);

        tally.leaks += u32::from(self.assert_sound_but_for_leaks(&when));
        let found = self.bitmaps();
        let is_new = found == bitmaps_of(&change.after);
        assert!(is_new || found == bitmaps_of(&self.points), "{when}: {:?}", found.iter().map(|b| &b.0));
        match ended.signal() {
            Some(_) if is_new => tally.killed_after += 1,
            Some(_) => tally.killed_before += 1,
            None => {
                assert!(ended.success() && is_new, "{when}: {ended}");
                tally.ended_first += 1;
            }
        }
        if is_new {
            self.points = change.after;
        }
        self.assert_seen_by_qemu(&when);
        ended.signal().is_some()
    }

    /// No errors, and both checks find the same leaks; returns whether there were any, and repairs them.
    fn assert_sound_but_for_leaks(&self, when: &str) -> bool {
        let path = self.image.path.as_os_str();
        assert!(nbd::opens_in_qemu(&self.image.path), "{when}");
        let printed = try_run("qemu-img", &["check".as_ref(), "--output=json".as_ref(), path]).stdout;
        let theirs: serde_json::Value = serde_json::from_slice(&printed).expect("qemu-img prints JSON");
        let count = |key: &str| theirs[key].as_u64().unwrap_or(0);
        assert_eq!((count("corruptions"), count("check-errors")), (0, 0), "{when}: {theirs}");

        let image = self.image.open(Access::Read);
        let ours = image.check(&mut Unobserved).expect("the check runs");
        assert_eq!((ours.errors, ours.unusable), (0, 0), "{when}: {ours:?}");
        assert_eq!(ours.leaked_bytes, count("leaks") * image.cluster_bytes(), "{when}: {ours:?}");
        drop(image);
        if ours.leaked_bytes == 0 {
            return false;
        }
        run("qemu-img", &["check".as_ref(), "-q".as_ref(), "-r".as_ref(), "leaks".as_ref(), path]);
        self.image.assert_sound(&format!("{when}, and repaired"));
        true
    }

    /// The bitmaps in the image as we read them: name, whether it records, extents.
    fn bitmaps(&self) -> Vec<(String, bool, Vec<Extent>)> {
        let image = self.image.open(Access::Read);
        let dirty = |name: &Name| {
            let bitmap = image.read_bitmap(name, 0, u64::MAX).expect("a bitmap can be read");
            bitmap.extents(0, u64::MAX).collect()
        };
        let states = image.bitmaps().into_iter();
        let mut bitmaps: Vec<_> =
            states.map(|state| (state.name.to_string_lossy().into(), state.recording, dirty(&state.name))).collect();
        bitmaps.sort();
        bitmaps
    }

    /// QEMU lists the same bitmaps, and serves the same bits for one of them.
    fn assert_seen_by_qemu(&mut self, when: &str) {
        let expected = bitmaps_of(&self.points);
        let mut listed: Vec<QemuBitmap> = self.image.qemu_bitmaps();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let listing = expected.iter().map(|(name, recording, _)| QemuBitmap {
            name: name.clone(),
            granularity: GRANULE,
            recording: *recording,
            in_use: false,
        });
        assert_eq!(listed, listing.collect::<Vec<_>>(), "{when}");
        let (name, _, dirty) = self.random.pick(&expected);
        assert_eq!(&nbd::dirty(&self.image.path, name), dirty, "{when}: {name}");
    }
}

/// Deletes one of these checkpoints, and returns its name.
fn delete(points: &mut Vec<Point>, at: usize) -> String {
    let gone = points.remove(at);
    if let Some(before) = at.checked_sub(1) {
        points[before].dirty = union(&points[before].dirty, &gone.dirty);
    }
    gone.name
}

/// The bitmaps that these checkpoints have, in the order of their names.
fn bitmaps_of(points: &[Point]) -> Vec<(String, bool, Vec<Extent>)> {
    let bitmap = |(at, point): (usize, &Point)| (bitmap_name(points, at), at + 1 == points.len(), point.dirty.clone());
    let mut bitmaps: Vec<_> = points.iter().enumerate().map(bitmap).collect();
    bitmaps.sort();
    bitmaps
}

/// The name of the bitmap of the checkpoint at this place.
fn bitmap_name(points: &[Point], at: usize) -> String {
    let own = &points[at].name;
    at.checked_sub(1).map_or(own.clone(), |before| format!("{}->{own}", points[before].name))
}

fn checkmap(args: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.arg("--quiet").args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[test]
fn a_killed_change_leaves_the_bitmaps_of_before_or_of_after() {
    if !support::tools_are_here() {
        return;
    }
    let asked: Option<u32> = std::env::var("CHECKMAP_KILLS").ok().and_then(|kills| kills.parse().ok());
    let started = Instant::now();
    let mut victim = Victim::new();
    let mut window = [Verb::Create, Verb::Rename, Verb::Merge, Verb::Delete, Verb::DeleteMany].map(|verb| {
        let change = victim.change(verb);
        (verb, victim.run_whole(change))
    });

    let mut tally = Tally::default();
    for _ in 0..asked.unwrap_or(KILLS) {
        let verb = victim.any_verb();
        let (_, window) = window.iter_mut().find(|(of, _)| *of == verb).expect("each verb has its window");
        let delay = window.mul_f64(victim.random.below(1000) as f64 / 1000.0);
        let change = victim.change(verb);
        let was_killed = victim.kill_after(delay, change, &mut tally);
        // The moments around the commit are the interesting ones, wherever they are on this machine and just now.
        *window = window.mul_f64(if was_killed { 1.05 } else { 0.8 });
        victim.record(5);
        if asked.is_none() && started.elapsed() > AT_MOST {
            break;
        }
    }
    eprintln!("{tally:?} in {:?}", started.elapsed());
    assert!(tally.killed_before > 0, "no kill came before the commit: {tally:?}");
}

/// Three bitmaps, the second of which names a cluster of the guest as its data.
fn damaged() -> TestImage {
    let image = TestImage::create("", "32M");
    for name in ["1", "1->2", "2->3"] {
        image.bitmap(&["--add", "-g", "512"], name);
        image.io(&["write -P 7 0 1M".into(), "write -P 8 16M 64k".into()]);
        image.bitmap(&["--disable"], name);
    }
    let mut raw = Raw::read(&image.path);
    let guest = raw.offset(raw.l2()) as u64;
    raw.put_u64(raw.table(1), guest);
    std::fs::write(&image.path, &raw.bytes).expect("the image can be written");
    image
}

#[test]
fn a_killed_removal_of_a_damaged_bitmap_leaves_it_or_not_and_never_touches_the_guest() {
    if !support::tools_are_here() {
        return;
    }
    let image = damaged();
    let (before, content) = (Raw::read(&image.path), image.content());
    let names = || image.qemu_bitmaps().into_iter().map(|bitmap| bitmap.name).collect::<Vec<_>>();
    let old = names();
    let mut random = Random::seeded(9);
    let path = image.path.to_str().expect("the test's folder is UTF-8").to_owned();
    let changes: [&[&str]; 3] =
        [&["delete", "2", "--force-inconsistent"], &["drop", "--bitmap", "1->2"], &["drop", "--all", "--yes"]];
    for words in changes {
        let mut args: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        args.insert(1, path.clone());
        let started = Instant::now();
        assert!(checkmap(&args).status().expect("checkmap runs").success(), "{words:?}");
        let (mut window, new) = (started.elapsed(), names());
        assert_ne!(old, new, "{words:?}");
        let mut tally = Tally::default();
        for _ in 0..10 {
            std::fs::write(&image.path, &before.bytes).expect("the image can be restored");
            let mut child = checkmap(&args).stderr(Stdio::null()).spawn().expect("checkmap starts");
            std::thread::sleep(window.mul_f64(random.below(1000) as f64 / 1000.0));
            child.kill().expect("a child that was not waited for can be killed");
            let killed = child.wait().expect("the child is ours").signal().is_some();
            window = window.mul_f64(if killed { 1.1 } else { 0.8 });
            let found = names();
            assert!(found == old || found == new, "{words:?}: {found:?}");
            tally.killed_before += u32::from(killed && found == old);
            tally.killed_after += u32::from(killed && found == new);
            assert!(image.content() == content, "{words:?}: the guest's data changed");
            let check = try_run("qemu-img", &["check".as_ref(), image.path.as_os_str()]);
            assert!(found == old || matches!(check.status.code(), Some(0 | 3)), "{words:?}: errors are left");
        }
        eprintln!("{words:?}: {tally:?}");
        std::fs::write(&image.path, &before.bytes).expect("the image can be restored");
    }
}
