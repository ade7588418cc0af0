#![forbid(unsafe_code)]
//! Random histories of a disk on up to three layers: writes, zeros, discards, checkpoints, snapshots with and without the
//! recording bitmap, commits with `commit_bitmaps` before, after or both, rebases, renamings and deletions. At each checkpoint the
//! content of the disk is kept: a diff has to hold every block in which the disk differs from it.

mod support;

use checkmap::chain::{Name, Plan};
use checkmap::image::{Access, DiffRequest, Edit, Layers};
use checkmap::progress::{Step, Unobserved};
use checkmap::{Bitmap, Error, ErrorKind, Granularity, Image};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use support::ours::open;
use support::random::Random;
use support::{qemu_bitmaps, run};
use tempfile::TempDir;

const BLOCK: u64 = 4096;
const SIZE: u64 = 2 << 20;
const MOST_LAYERS: usize = 3;

struct Moment {
    name: String,
    content: Vec<u8>,
    at: usize,
}

struct Disk {
    folder: TempDir,
    /// The base first.
    layers: Vec<PathBuf>,
    made: usize,
    moments: Vec<Moment>,
    /// For each block the number of the step that wrote it last; 0 for none.
    written: Vec<usize>,
    step: usize,
    /// Whether a layer was taken out without its bitmaps: then a diff may be refused.
    has_lost_layer: bool,
    /// The step since which the top layer is the same one, and is no base of others' bits.
    top_since: usize,
    cluster: &'static str,
    done: Vec<String>,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl Disk {
    fn new(cluster: &'static str) -> Self {
        let mut disk = Self {
            folder: support::folder(),
            layers: Vec::new(),
            made: 0,
            moments: Vec::new(),
            written: vec![0; usize::try_from(SIZE / BLOCK).expect("few")],
            step: 0,
            has_lost_layer: false,
            top_since: 0,
            cluster,
            done: Vec::new(),
        };
        disk.put_on_top();
        disk
    }

    fn put_on_top(&mut self) {
        self.made += 1;
        let path = self.folder.path().join(format!("layer{}.qcow2", self.made));
        let options = format!("cluster_size={}", self.cluster);
        let size = SIZE.to_string();
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
        let below = self.layers.last().map(|below| text(below).to_owned());
        match &below {
            Some(below) => args.extend(["-b", below, "-F", "qcow2", text(&path)]),
            None => args.extend([text(&path), &size]),
        }
        run("qemu-img", &args);
        self.layers.push(path);
        self.top_since = self.step;
    }

    fn top(&self) -> &Path {
        self.layers.last().expect("a layer")
    }

    fn content(&self) -> Vec<u8> {
        let raw = self.folder.path().join("content.raw");
        run("qemu-img", &["convert", "-O", "raw", text(self.top()), text(&raw)]);
        std::fs::read(&raw).expect("it can be read")
    }

    /// What libvirt's snapshot does: the recording bitmap goes on, empty, under its name.
    fn copy_recording(&self) {
        let Some(below) = self.layers.len().checked_sub(2).and_then(|at| self.layers.get(at)) else { return };
        let there = qemu_bitmaps(self.top());
        for bitmap in qemu_bitmaps(below).into_iter().filter(|bitmap| bitmap.recording) {
            if there.is_empty() {
                let granularity = bitmap.granularity.to_string();
                run("qemu-img", &["bitmap", "--add", "-g", &granularity, text(self.top()), &bitmap.name]);
            }
        }
    }

    fn write(&mut self, random: &mut Random) {
        let blocks = SIZE / BLOCK;
        let first = random.below(blocks);
        let count = 1 + random.below(24.min(blocks - first));
        let (offset, len) = (first * BLOCK, count * BLOCK);
        let command = match random.below(6) {
            0 => format!("write -q -z {offset} {len}"),
            1 => format!("write -q -z -u {offset} {len}"),
            2 => format!("discard -q {offset} {len}"),
            _ => format!("write -q -P {} {offset} {len}", 1 + self.step % 250),
        };
        self.done.push(command.clone());
        run("qemu-io", &["-d", "unmap", "-c", &command, text(self.top())]);
        for block in first..first + count {
            self.written[usize::try_from(block).expect("few")] = self.step;
        }
    }

    fn create(&mut self, random: &mut Random) {
        let name = format!("c{}", self.step);
        let content = self.content();
        let granularity = [None, Some(BLOCK), Some(65536)][random.index(3)];
        let granularity = granularity.map(|bytes| Granularity::from_bytes(bytes).expect("a granularity"));
        let mut image = open(self.top(), Access::Write);
        let plan = image.plan_create(name.as_bytes(), granularity, None).expect("a checkpoint can be created");
        image.commit(&plan, &mut Unobserved).expect("it is created");
        self.done.push(format!("create {name}"));
        self.moments.push(Moment { name, content, at: self.step });
    }

    fn delete(&mut self, random: &mut Random) {
        if self.moments.is_empty() {
            return;
        }
        let at = random.index(self.moments.len());
        let names = [Name::new(self.moments[at].name.as_str())];
        let plan = |image: &Image| image.plan_delete(names[0].as_bytes(), false, Layers::Check, None);
        if self.change(&Edit::Delete(&names), None, plan) {
            self.moments.remove(at);
            self.assert_right("a deletion");
        }
    }

    fn rename(&mut self, random: &mut Random) {
        if self.moments.is_empty() {
            return;
        }
        let at = random.index(self.moments.len());
        let old = self.moments[at].name.clone();
        let new = format!("r{}", self.step);
        let names = [old.as_str(), new.as_str()].map(Name::new);
        let plan = |image: &Image| image.plan_rename(old.as_bytes(), new.as_bytes(), Layers::Check, None);
        if self.change(&Edit::Rename(&names[0], &names[1]), Some((at, &new)), plan) {
            self.moments[at].name = new;
            self.assert_right("a renaming");
        }
    }

    /// Changes the top layer, or all that have to; says whether it did. `renamed` is a moment with its new name.
    fn change(
        &mut self,
        edit: &Edit<'_>,
        renamed: Option<(usize, &str)>,
        plan: impl Fn(&Image) -> Result<Plan, Error>,
    ) -> bool {
        let mut image = open(self.top(), Access::Write);
        self.done.push(format!("{edit:?}"));
        if image.spans_layers(edit, None).expect("the layers can be read") {
            drop(image);
            return self.change_layers(edit, renamed);
        }
        match plan(&image) {
            Ok(plan) => {
                image.commit(&plan, &mut Unobserved).expect("it is changed");
                true
            }
            Err(error) => {
                assert!(self.has_lost_layer && error.kind() == ErrorKind::NotFound, "{error} {:?}", self.done);
                false
            }
        }
    }

    fn files(&self) -> Vec<Vec<u8>> {
        self.layers.iter().map(|layer| std::fs::read(layer).expect("a file")).collect()
    }

    fn bitmaps(&self) -> Vec<Vec<(String, bool)>> {
        let of =
            |layer: &PathBuf| qemu_bitmaps(layer).into_iter().map(|bitmap| (bitmap.name, bitmap.recording)).collect();
        self.layers.iter().map(of).collect()
    }

    /// Changes every layer. Ended at each moment at which it tells of itself, every state that this leaves is looked at, and finished.
    fn change_layers(&mut self, edit: &Edit<'_>, renamed: Option<(usize, &str)>) -> bool {
        let (before, old) = (self.files(), self.bitmaps());
        let change = open(self.top(), Access::Write).change_layers(edit, None, &mut Unobserved);
        let change = match change {
            Ok(change) => change,
            Err(error) => {
                assert!(self.has_lost_layer, "{error} {:?}", self.done);
                return false;
            }
        };
        let (after, bitmaps) = (self.files(), self.bitmaps());
        let mut seen = vec![old, bitmaps.clone()];
        for last in 0.. {
            self.put(&before);
            let mut told = 0;
            let mut end = |_: Step| {
                told += 1;
                if told > last {
                    std::panic::resume_unwind(Box::new(()));
                }
                ControlFlow::Continue(())
            };
            let mut image = open(self.top(), Access::Write);
            let until_the_end = AssertUnwindSafe(|| image.change_layers(edit, None, &mut end));
            if let Ok(changed) = std::panic::catch_unwind(until_the_end) {
                changed.expect("it is changed");
                break;
            }
            drop(image);
            let half = self.bitmaps();
            if seen.contains(&half) {
                continue;
            }
            seen.push(half);
            let moments = self.moments.len();
            if let Some((at, new)) = renamed {
                let Moment { content, at, .. } = &self.moments[at];
                self.moments.push(Moment { name: new.to_owned(), content: content.clone(), at: *at });
            }
            // The old checkpoint is answered too, as long as a layer has it.
            self.assert_right("a kill while layers were changed");
            self.moments.truncate(moments);
            assert!(open(self.top(), Access::Read).spans_layers(edit, None).expect("they can be read"));
            let again = open(self.top(), Access::Write).change_layers(edit, None, &mut Unobserved);
            let again = again.unwrap_or_else(|error| panic!("it is not finished: {error} {:?}", self.done));
            assert!(again.layers.len() < change.layers.len(), "{:?}", self.done);
            assert_eq!(self.bitmaps(), bitmaps, "{:?}", self.done);
        }
        assert_eq!(seen.len(), change.layers.len() + 1, "each step is seen: {:?}", self.done);
        self.put(&after);
        true
    }

    fn put(&self, files: &[Vec<u8>]) {
        for (layer, file) in self.layers.iter().zip(files) {
            std::fs::write(layer, file).expect("it can be written");
        }
    }

    fn commit_bitmaps(top: &Path, base: &Path) {
        let mut base = open(base, Access::Write);
        open(top, Access::Read).commit_bitmaps(&mut base, &mut Unobserved).expect("the base takes them in");
    }

    /// A layer goes into the one below it, which stays.
    fn commit(&mut self, random: &mut Random) {
        if self.layers.len() < 2 {
            return;
        }
        // QEMU's commit is a write to the base, and is recorded there.
        self.top_since = self.step;
        let is_top = self.layers.len() < 3 || random.chance(2);
        let at = if is_top { self.layers.len() - 1 } else { 1 };
        let (top, base) = (self.layers[at].clone(), self.layers[at - 1].clone());
        let (before, after) = [(true, false), (false, true), (true, true)][random.index(3)];
        self.done.push(format!("commit layer {at}, bitmaps before: {before}, after: {after}"));
        let keep = if random.chance(2) { &["-d"][..] } else { &[] };
        if before {
            Self::commit_bitmaps(&top, &base);
            self.assert_right("the bitmaps are committed");
        }
        run("qemu-img", &[&["commit", "-q"], keep, &[text(&top)]].concat());
        if after {
            self.assert_right("the data are committed");
            Self::commit_bitmaps(&top, &base);
            Self::commit_bitmaps(&top, &base);
        }
        self.assert_right("both are committed");
        if !is_top {
            run("qemu-img", &["rebase", "-q", "-u", "-b", text(&base), "-F", "qcow2", text(&self.layers[at + 1])]);
        }
        self.layers.remove(at);
    }

    /// The middle layer is taken out; QEMU copies its data up, and nobody its bitmaps.
    fn rebase(&mut self) {
        let [base, middle, top] = self.layers.as_slice() else { return };
        // A plain name on both says nothing of the layer between: see docs/layers.md.
        if qemu_bitmaps(base).is_empty() || qemu_bitmaps(middle).is_empty() || qemu_bitmaps(top).is_empty() {
            return;
        }
        run("qemu-img", &["rebase", "-q", "-b", text(base), "-F", "qcow2", text(top)]);
        self.done.push("rebase".into());
        self.layers.remove(1);
        self.has_lost_layer = true;
        // What QEMU copies up is recorded too.
        self.top_since = self.step;
    }

    fn diff(&self, since: &str, until: Option<&str>) -> Result<Bitmap, Error> {
        let request = DiffRequest::since(since.as_bytes());
        let request = until.map_or(request, |until| request.until(until.as_bytes()));
        open(self.top(), Access::Read).diff(&request, &mut Unobserved).map(|diff| diff.bitmap)
    }

    fn assert_right(&self, when: &str) {
        let now = self.content();
        for (number, moment) in self.moments.iter().enumerate() {
            self.assert_holds(when, moment, None, &now);
            for later in self.moments.iter().skip(number + 1).step_by(2) {
                self.assert_holds(when, moment, Some(&later.name), &later.content);
            }
        }
    }

    fn assert_holds(&self, when: &str, since: &Moment, until: Option<&str>, content: &[u8]) {
        let what = || format!("{when}: {} until {until:?} after {:#?}", since.name, self.done);
        let diff = match self.diff(&since.name, until) {
            Ok(diff) => diff,
            Err(error) => {
                // While a change is half done, its checkpoint is linked to no other in the upper layers.
                let is_half_done = until.is_some() && when.starts_with("a kill");
                assert!(is_half_done || self.has_lost_layer, "{}: {error}", what());
                return;
            }
        };
        let block = usize::try_from(BLOCK).expect("small");
        let pairs = since.content.chunks(block).zip(content.chunks(block));
        for (offset, (then, now)) in (0..).step_by(block).zip(pairs) {
            if then != now {
                assert!(diff.get(offset).expect("inside"), "MISSED {offset:#x}: {}", what());
            }
        }
        // Nothing is said to have changed that nobody ever wrote, as far as clusters and granules reach.
        let reach = 65536;
        for extent in diff.extents(0, u64::MAX) {
            for offset in (extent.offset / reach * reach..extent.end()).step_by(65536) {
                let blocks = offset / BLOCK..((offset + reach).min(SIZE)) / BLOCK;
                let newest = blocks.map(|block| self.written[usize::try_from(block).expect("few")]).max();
                // Of a checkpoint of this very layer every bit is a write since.
                let since_step = if since.at > self.top_since && self.is_not_first(&since.name) { since.at } else { 1 };
                assert!(newest.is_some_and(|newest| newest >= since_step), "TOO MUCH at {offset:#x}: {}", what());
            }
        }
    }

    /// Whether the top layer has the bitmap before this checkpoint's too.
    fn is_not_first(&self, name: &str) -> bool {
        let names: Vec<String> = qemu_bitmaps(self.top()).into_iter().map(|bitmap| bitmap.name).collect();
        let parent = names.iter().find_map(|bitmap| bitmap.strip_suffix(&format!("->{name}")));
        parent.is_some_and(|parent| {
            names.iter().any(|bitmap| *bitmap == parent || bitmap.ends_with(&format!("->{parent}")))
        })
    }
}

fn play(seed: u64, steps: usize) {
    let mut random = Random::from_seed(seed);
    let mut disk = Disk::new(["64k", "4k", "64k"][random.index(3)]);
    for step in 1..=steps {
        disk.step = step;
        match random.below(16) {
            0..=6 => disk.write(&mut random),
            7..=9 => disk.create(&mut random),
            10 if disk.layers.len() < MOST_LAYERS => {
                disk.put_on_top();
                disk.copy_recording();
                disk.done.push("snapshot with bitmaps".into());
            }
            11 if disk.layers.len() < MOST_LAYERS => {
                disk.put_on_top();
                disk.done.push("plain snapshot".into());
                if random.chance(2) {
                    disk.write(&mut random);
                    disk.copy_recording();
                    disk.done.push("recording came late".into());
                }
            }
            12 => disk.commit(&mut random),
            13 if random.chance(2) => disk.rename(&mut random),
            13 => disk.delete(&mut random),
            14 if random.chance(3) => disk.rebase(),
            _ => disk.write(&mut random),
        }
        if step % 4 == 0 || step == steps {
            disk.assert_right(&format!("seed {seed}, step {step}"));
        }
    }
    for layer in &disk.layers {
        run("qemu-img", &["check", "-q", text(layer)]);
    }
    let answered = disk.moments.iter().filter(|moment| disk.diff(&moment.name, None).is_ok()).count();
    assert!(answered > 0 || disk.moments.is_empty() || disk.has_lost_layer, "seed {seed}: {:?}", disk.done);
}

#[test]
fn no_history_of_layers_misses_a_block() {
    if !support::tools_are_here() {
        return;
    }
    let first = Random::seeded(16).next();
    for seed in first..first + 5 {
        play(seed, 36);
    }
}

/// A base in use, or one that is no layer, changes nothing.
#[test]
fn a_base_that_cannot_take_them_in_stays_as_it_is() {
    if !support::tools_are_here() {
        return;
    }
    let mut disk = Disk::new("64k");
    disk.step = 1;
    disk.create(&mut Random::from_seed(1));
    disk.put_on_top();
    disk.copy_recording();
    let other = Disk::new("64k");
    let (base, top) = (disk.layers[0].clone(), disk.layers[1].clone());
    let before = std::fs::read(&base).expect("it can be read");
    let image: Image = open(&top, Access::Read);
    let mut foreign = open(&other.layers[0], Access::Write);
    let refused = image.commit_bitmaps(&mut foreign, &mut Unobserved).expect_err("it is no layer");
    assert_eq!(refused.kind(), ErrorKind::BackingLayer, "{refused}");
    let refused = image.commit_bitmaps(&mut open(&base, Access::Read), &mut Unobserved).expect_err("it is read only");
    assert_eq!(refused.kind(), ErrorKind::ReadOnly, "{refused}");
    assert_eq!(std::fs::read(&base).expect("it can be read"), before);
}
