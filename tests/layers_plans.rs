#![forbid(unsafe_code)]
//! The plans for a disk on several layers against a naive model: a layer is a set of blocks that it holds, and a set of blocks for
//! each bitmap. Random histories of up to four layers; after each step of each plan every diff that is answered has to hold every
//! block that was written in its span, and a plan made anew from there has to end where the first one ends.

mod support;

use checkmap::chain::{Action, BitmapState, Chain, CreateOptions, KnownModel, Layer, LayerActions, Name, Stack};
use checkmap::{Error, ErrorKind, Granularity};
use std::collections::{BTreeMap, BTreeSet};
use support::random::Random;

const SEEDS: u64 = 150;
const BLOCKS: u64 = 40;
const MOST_LAYERS: usize = 4;

type Blocks = BTreeSet<u64>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Level {
    bitmaps: BTreeMap<String, (Blocks, bool)>,
    held: Blocks,
    inconsistent: BTreeSet<String>,
}

impl Level {
    fn write(&mut self, block: u64) {
        self.held.insert(block);
        for (blocks, _) in self.bitmaps.values_mut().filter(|(_, recording)| *recording) {
            blocks.insert(block);
        }
    }

    fn apply(&mut self, actions: &[Action]) {
        let text = |name: &Name| name.to_string_lossy().into_owned();
        for action in actions {
            match action {
                Action::Add { name, .. } => {
                    assert_eq!(self.bitmaps.insert(text(name), (Blocks::new(), true)), None, "{action}");
                }
                Action::AddAllocated { name, .. } => {
                    assert_eq!(self.bitmaps.insert(text(name), (self.held.clone(), false)), None, "{action}");
                }
                Action::Merge { sources, target } => {
                    let all: Vec<u64> = sources.iter().flat_map(|name| self.bitmaps[&text(name)].0.clone()).collect();
                    self.bitmaps.get_mut(&text(target)).expect("it is there").0.extend(all);
                }
                Action::Remove { name } => {
                    assert!(self.bitmaps.remove(&text(name)).is_some(), "{action}");
                    self.inconsistent.remove(&text(name));
                }
                Action::Rename { from, to } => {
                    if self.inconsistent.remove(&text(from)) {
                        self.inconsistent.insert(text(to));
                    }
                    let moved = self.bitmaps.remove(&text(from)).expect("it is there");
                    assert_eq!(self.bitmaps.insert(text(to), moved), None, "{action}");
                }
                Action::SetRecording { name, recording } => {
                    self.bitmaps.get_mut(&text(name)).expect("it is there").1 = *recording;
                }
                other => panic!("{other} has no model"),
            }
        }
    }
}

/// A checkpoint, and the number of writes before it.
#[derive(Clone, Debug, PartialEq)]
struct Moment {
    name: String,
    at: usize,
}

#[derive(Clone, Debug)]
struct Disk {
    /// The base first.
    levels: Vec<Level>,
    log: Vec<u64>,
    moments: Vec<Moment>,
    made: usize,
    model: KnownModel,
    done: Vec<String>,
    has_lost_layer: bool,
}

impl Disk {
    fn new(model: KnownModel) -> Self {
        let levels = vec![Level::default()];
        Self { levels, log: Vec::new(), moments: Vec::new(), made: 0, model, done: Vec::new(), has_lost_layer: false }
    }

    fn stack(&self) -> Stack {
        let granularity = Granularity::from_bytes(65536).expect("a granularity");
        let layers: Vec<Layer> = (0..)
            .zip(self.levels.iter().rev())
            .map(|(number, level)| {
                let state = |(name, (_, recording)): (&String, &(Blocks, bool))| {
                    let mut state = BitmapState::new(Name::new(name.as_str()), granularity, *recording);
                    state.inconsistent = level.inconsistent.contains(name);
                    state
                };
                Layer::new(format!("layer {number}"), level.bitmaps.iter().map(state).collect(), BLOCKS * 65536)
            })
            .collect();
        Stack::read(&layers, false, Some(self.model)).expect("layers")
    }

    fn level(&mut self, layer: usize) -> &mut Level {
        let last = self.levels.len() - 1;
        &mut self.levels[last - layer]
    }

    fn apply(&mut self, step: &LayerActions) {
        self.level(step.layer).apply(&step.actions);
    }

    fn write(&mut self, random: &mut Random) {
        for _ in 0..=random.below(2) {
            let block = random.below(BLOCKS);
            self.level(0).write(block);
            self.log.push(block);
            self.done.push(format!("write {block}"));
        }
    }

    fn create(&mut self) {
        self.made += 1;
        let name = format!("c{}", self.made);
        let granularity = Granularity::from_bytes(65536).expect("a granularity");
        let mut options = CreateOptions::new(granularity);
        options.model = Some(self.model);
        let plan = self.stack().plan_create(name.as_bytes(), options, &|granularity| Ok(granularity));
        let plan = plan.unwrap_or_else(|error| panic!("{error}: {:#?}", self.done));
        self.level(0).apply(plan.actions());
        self.done.push(format!("create {name}"));
        self.moments.push(Moment { name, at: self.log.len() });
    }

    fn snapshot(&mut self, random: &mut Random) {
        if self.levels.len() == MOST_LAYERS {
            return;
        }
        let recording: Vec<String> =
            self.level(0).bitmaps.iter().filter(|(_, (_, is))| *is).map(|(name, _)| name.clone()).collect();
        self.levels.push(Level::default());
        let how = random.below(4);
        self.done.push(format!("snapshot {how}"));
        if how == 0 {
            return;
        }
        if how == 1 {
            self.write(random);
        }
        self.done.push("the recording bitmaps are copied".into());
        self.level(0).bitmaps.extend(recording.into_iter().map(|name| (name, (Blocks::new(), true))));
    }

    fn commit(&mut self, random: &mut Random) {
        if self.levels.len() < 2 || self.model == KnownModel::Cumulative {
            return;
        }
        let Ok(plan) = self.stack().plan_commit(1) else { return };
        self.done.push("commit".into());
        let is_before = random.chance(2);
        let take = |disk: &mut Disk| {
            let layers: Vec<Level> = disk.levels.iter().rev().cloned().collect();
            disk.level(1).apply(&plan.actions);
            for taken in &plan.taken {
                let of_bitmaps =
                    taken.bitmaps.iter().flat_map(|(at, name)| layers[*at].bitmaps[&*name.to_string_lossy()].0.clone());
                let held = taken.allocations.iter().flat_map(|at| layers[*at].held.clone());
                let all: Vec<u64> = of_bitmaps.chain(held).collect();
                let into = taken.into.as_ref().expect("a bitmap").to_string_lossy().into_owned();
                disk.level(1).bitmaps.get_mut(&into).expect("it is there").0.extend(all);
            }
        };
        let commit = |disk: &mut Disk| {
            let held = disk.level(0).held.clone();
            held.into_iter().for_each(|block| disk.level(1).write(block));
        };
        if is_before {
            take(self);
            commit(self);
        } else {
            commit(self);
            take(self);
        }
        self.levels.pop();
    }

    /// A layer in the middle is taken out; its data are copied up, and not its bitmaps.
    fn rebase(&mut self, random: &mut Random) {
        // A plain name says nothing of the layer that is gone: see docs/layers.md.
        let is_plain = self.model == KnownModel::Cumulative || self.levels.iter().any(|level| level.bitmaps.is_empty());
        if self.levels.len() < 3 || is_plain {
            return;
        }
        let at = 1 + random.index(self.levels.len() - 2);
        let gone = self.levels.remove(at);
        gone.held.into_iter().for_each(|block| self.levels[at].write(block));
        self.done.push(format!("take out {at}"));
        self.has_lost_layer = true;
    }

    fn diff(&self, since: &str, until: Option<&str>) -> Result<Blocks, Error> {
        let span = self.stack().plan_diff(since.as_bytes(), until.map(str::as_bytes))?;
        let mut all = Blocks::new();
        for part in &span.parts {
            let level = &self.levels[self.levels.len() - 1 - part.layer];
            for name in &part.bitmaps {
                all.extend(&level.bitmaps[&*name.to_string_lossy()].0);
            }
            if part.allocation {
                all.extend(&level.held);
            }
        }
        Ok(all)
    }

    /// Every diff that is answered holds the blocks that were written in its span; returns all answers until now.
    fn assert_right(&self, when: &str) -> BTreeMap<String, Option<Blocks>> {
        let mut answers = BTreeMap::new();
        for since in &self.moments {
            let untils = self.moments.iter().filter(|until| until.at >= since.at && until.name != since.name);
            let untils = untils.map(|until| (Some(until.name.as_str()), until.at));
            for (until, end) in untils.chain([(None, self.log.len())]) {
                if self.model == KnownModel::Cumulative && until.is_some() {
                    continue;
                }
                let answer = self.diff(&since.name, until);
                if let Ok(answer) = &answer {
                    let missed: Vec<&u64> =
                        self.log[since.at..end].iter().filter(|block| !answer.contains(block)).collect();
                    assert!(
                        missed.is_empty(),
                        "{when}: since {} until {until:?} MISSED {missed:?}: {self:#?}",
                        since.name
                    );
                }
                if until.is_none() {
                    answers.insert(since.name.clone(), answer.ok());
                }
            }
        }
        answers
    }

    /// Whether the first bitmap can be an alias of the second one.
    fn is_alias(&self, layer: usize, alias: &Name, own: &Name) -> bool {
        let level = &self.levels[self.levels.len() - 1 - layer];
        let blocks = |name: &Name| &level.bitmaps[&*name.to_string_lossy()].0;
        match self.model {
            KnownModel::Interval => blocks(alias).is_empty(),
            _ => blocks(alias) == blocks(own),
        }
    }

    fn plan_rename(&self, from: &str, to: &str) -> Result<Vec<LayerActions>, Error> {
        let is_alias = |layer: usize, alias: &Name, own: &Name| Ok(self.is_alias(layer, alias, own));
        self.stack().plan_rename(from.as_bytes(), to.as_bytes(), &is_alias)
    }

    fn plan_rename_at_once(&self, from: &str, to: &str) -> Result<Vec<LayerActions>, Error> {
        let is_alias = |layer: usize, alias: &Name, own: &Name| Ok(self.is_alias(layer, alias, own));
        self.stack().plan_rename_at_once(from.as_bytes(), to.as_bytes(), &is_alias)
    }

    fn after(&self, steps: &[LayerActions]) -> Disk {
        let mut after = self.clone();
        for step in steps {
            after.done.push(format!("layer {}: {:?}", step.layer, step.actions));
            after.apply(step);
        }
        after
    }

    fn rename_moment(&mut self, from: &str, to: &str) {
        for moment in self.moments.iter_mut().filter(|moment| moment.name == from) {
            moment.name = to.to_owned();
        }
    }

    fn rename(&mut self, random: &mut Random, seen: &mut Seen) {
        if self.moments.is_empty() {
            return;
        }
        let from = random.pick(&self.moments).clone();
        self.made += 1;
        let to = format!("r{}", self.made);
        let before = self.assert_right("before");
        let is_in_layers = self.stack().is_known_to_lower(&[&from.name]);
        let steps = match self.plan_rename(&from.name, &to) {
            Ok(steps) => steps,
            Err(error) => {
                let is_lost = self.has_lost_layer || error.kind() == ErrorKind::BackingLayer;
                assert!(is_lost, "{error}: rename {} {to}: {self:#?}", from.name);
                seen.refused += 1;
                return;
            }
        };
        let mut whole = self.after(&steps);
        whole.rename_moment(&from.name, &to);
        let after = whole.assert_right("renamed");
        for (name, answer) in &before {
            let name = if *name == from.name { &to } else { name };
            assert_eq!(after[name], *answer, "since {name}: {whole:#?}");
        }
        let mut at_once = self.after(&self.plan_rename_at_once(&from.name, &to).expect("a plan"));
        at_once.rename_moment(&from.name, &to);
        assert_eq!(at_once.levels, whole.levels, "{steps:#?} {self:#?}");

        for done in 0..steps.len() {
            let mut half = self.after(&steps[..done]);
            half.moments.push(Moment { name: to.clone(), at: from.at });
            let answers = half.assert_right("half renamed");
            for (name, answer) in &before {
                assert!(answers[name].is_some() || answer.is_none(), "since {name} in {half:#?}");
            }
            assert!(done == 0 || answers[&to].is_some() || before[&from.name].is_none(), "since {to}: {half:#?}");
            let rest = half.plan_rename(&from.name, &to).unwrap_or_else(|error| panic!("{error}: {half:#?}"));
            assert_eq!(rest, steps[done..], "{half:#?}");
            let rest = half.after(&half.plan_rename_at_once(&from.name, &to).expect("a plan"));
            assert_eq!(rest.levels, whole.levels, "{half:#?}");
            if done > 0 {
                seen.half_done += 1;
                half.go_on(random, &from, &to, seen);
            }
        }
        seen.renamed += usize::from(is_in_layers);
        *self = whole;
    }

    /// The disk is used on in the middle of a renaming, which is finished later.
    fn go_on(mut self, random: &mut Random, from: &Moment, to: &str, seen: &mut Seen) {
        for _ in 0..random.below(6) {
            match random.below(5) {
                0..=1 => self.write(random),
                2 => self.create(),
                3 => self.snapshot(random),
                _ => self.commit(random),
            }
            self.assert_right("used on");
        }
        let steps = match self.plan_rename(&from.name, to) {
            Ok(steps) => steps,
            // A commit emptied the layer of the alias, or a new layer got both names: to delete the old one is the same.
            Err(_) => match self.stack().plan_delete(&[&from.name]) {
                Ok(steps) => steps,
                Err(_) => return,
            },
        };
        seen.finished_later += 1;
        for done in 1..steps.len() {
            self.after(&steps[..done]).assert_right("half finished");
        }
        let mut whole = self.after(&steps);
        whole.moments.retain(|moment| moment.name != from.name);
        whole.assert_right("finished later");
        assert!(whole.stack().plan_diff(from.name.as_bytes(), None).is_err(), "{whole:#?}");
    }

    fn delete(&mut self, random: &mut Random, seen: &mut Seen) {
        if self.moments.is_empty() {
            return;
        }
        let name = random.pick(&self.moments).name.clone();
        if !self.stack().is_known_to_lower(&[&name]) {
            let top = self.stack();
            let layer: Vec<BitmapState> = top.checkpoints().map_or_else(|_| Vec::new(), |_| self.states_of_top());
            let chain = Chain::read(&layer, Some(self.model)).expect("a chain");
            match chain.plan_delete(name.as_bytes(), false) {
                Ok(plan) => self.level(0).apply(plan.actions()),
                Err(error) => {
                    assert!(self.has_lost_layer, "{error}: {self:#?}");
                    return;
                }
            }
        } else {
            let steps = match self.stack().plan_delete(&[&name]) {
                Ok(steps) => steps,
                Err(error) => {
                    assert!(self.has_lost_layer, "{error}: {self:#?}");
                    return;
                }
            };
            for done in 0..steps.len() {
                self.after(&steps[..done]).assert_right("half deleted");
            }
            *self = self.after(&steps);
            seen.deleted += 1;
        }
        self.done.push(format!("deleted {name}"));
        self.moments.retain(|moment| moment.name != name);
        self.assert_right("deleted");
    }

    /// Bitmaps of some layers were not stored; they are deleted by force.
    fn crash(&mut self, random: &mut Random, seen: &mut Seen) {
        let before = self.assert_right("before a crash");
        for level in &mut self.levels {
            let from = if random.chance(2) { 0 } else { random.index(level.bitmaps.len() + 1) };
            for (name, (blocks, _)) in level.bitmaps.iter_mut().skip(from).filter(|_| random.chance(2)) {
                level.inconsistent.insert(name.clone());
                blocks.clear();
            }
        }
        self.assert_right("crashed");
        for names in [1, 0] {
            let names: Vec<Name> = self
                .moments
                .iter()
                .filter(|_| names == 1 && random.chance(3))
                .map(|moment| Name::new(moment.name.as_str()))
                .collect();
            let plan = match self.stack().plan_delete_forced((!names.is_empty()).then_some(&names)) {
                Ok(plan) => plan,
                Err(error) => {
                    // A copy whose original is gone, or a newest bitmap that records before a younger one.
                    assert!(self.has_lost_layer || !names.is_empty(), "{error}: {names:?} {self:#?}");
                    continue;
                }
            };
            for done in 0..plan.steps.len() {
                self.after(&plan.steps[..done]).assert_right("half given up");
            }
            *self = self.after(&plan.steps);
            self.done.push(format!("deleted {names:?} by force, lost {:?}", plan.lost));
            self.moments.retain(|moment| {
                let name = Name::new(moment.name.as_str());
                !names.contains(&name) && !plan.lost.contains(&name)
            });
            let answers = self.assert_right("given up");
            let is_sound = self.levels.iter().all(|level| level.inconsistent.is_empty());
            for (name, answer) in answers {
                assert!(answer.is_some() || before[&name].is_none() || !is_sound, "since {name}: {self:#?}");
            }
            seen.given_up += plan.lost.len();
            assert!(is_sound || !names.is_empty(), "{self:#?}");
        }
        // Nothing more can be forced.
        for level in &mut self.levels {
            assert!(self.has_lost_layer || level.inconsistent.is_empty());
            level.inconsistent.clear();
        }
        if self.has_lost_layer {
            self.moments.clear();
            self.levels.iter_mut().for_each(|level| level.bitmaps.clear());
        }
    }

    fn states_of_top(&self) -> Vec<BitmapState> {
        let granularity = Granularity::from_bytes(65536).expect("a granularity");
        let top = self.levels.last().expect("a layer");
        let state = |(name, (_, recording)): (&String, &(Blocks, bool))| {
            BitmapState::new(Name::new(name.as_str()), granularity, *recording)
        };
        top.bitmaps.iter().map(state).collect()
    }
}

#[derive(Debug, Default)]
struct Seen {
    renamed: usize,
    refused: usize,
    half_done: usize,
    finished_later: usize,
    given_up: usize,
    deleted: usize,
}

fn play(seed: u64, model: KnownModel, seen: &mut Seen) {
    let mut random = Random::from_seed(seed);
    let mut disk = Disk::new(model);
    for _ in 0..30 {
        match random.below(16) {
            0..=4 => disk.write(&mut random),
            5..=7 => disk.create(),
            8..=9 => disk.snapshot(&mut random),
            10 => disk.commit(&mut random),
            11..=13 => disk.rename(&mut random, seen),
            14 if random.chance(2) => disk.rebase(&mut random),
            14 => disk.delete(&mut random, seen),
            _ if random.chance(3) => disk.rebase(&mut random),
            _ if random.chance(2) => disk.crash(&mut random, seen),
            _ => disk.write(&mut random),
        }
        disk.assert_right(&format!("seed {seed}"));
    }
}

#[test]
fn no_step_of_a_plan_for_layers_makes_a_diff_short() {
    let first = Random::seeded(1616).next() % (1 << 32);
    for model in [KnownModel::Interval, KnownModel::Cumulative] {
        let mut seen = Seen::default();
        for seed in first..first + SEEDS {
            play(seed, model, &mut seen);
        }
        eprintln!("{model:?}: {seen:?}");
        assert!(seen.renamed > 50 && seen.half_done > 50 && seen.finished_later > 50 && seen.deleted > 10, "{seen:?}");
    }
}
