#![forbid(unsafe_code)]
//! Owns the proof for two chains in one image: libvirt's cumulative checkpoints beside intervals, each changed by its owner
//! and by us, in any order and with any names.

use super::{Blocks, Image, Stored, cases, name, options};
use checkmap::chain::{Chain, KnownModel, Model, Name};
use checkmap::{ErrorKind, Result};
use proptest::prelude::*;

/// What happens to an image that both use. `ours` is the chain of intervals.
#[derive(Clone, Debug)]
enum Event {
    Write(u32),
    Create {
        ours: bool,
        number: u8,
    },
    Delete {
        ours: bool,
        at: usize,
        force: bool,
    },
    DeleteMany {
        ours: bool,
        mask: u8,
    },
    DeleteAllInconsistent {
        ours: bool,
    },
    DropBefore {
        at: usize,
    },
    Rename {
        ours: bool,
        at: usize,
        to: u8,
    },
    Crash {
        mask: u8,
    },
    /// libvirt makes a checkpoint, or deletes one, and knows nothing of us.
    LibvirtCreates(u8),
    LibvirtDeletes(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let (at, number) = (0..8_usize, 0..10_u8);
    prop_oneof![
        8 => (0..24_u32).prop_map(Event::Write),
        6 => (any::<bool>(), number.clone()).prop_map(|(ours, number)| Event::Create { ours, number }),
        4 => (any::<bool>(), at.clone(), any::<bool>()).prop_map(|(ours, at, force)| Event::Delete { ours, at, force }),
        1 => (any::<bool>(), any::<u8>()).prop_map(|(ours, mask)| Event::DeleteMany { ours, mask }),
        1 => any::<bool>().prop_map(|ours| Event::DeleteAllInconsistent { ours }),
        1 => at.clone().prop_map(|at| Event::DropBefore { at }),
        2 => (any::<bool>(), at.clone(), number.clone()).prop_map(|(ours, at, to)| Event::Rename { ours, at, to }),
        1 => any::<u8>().prop_map(|mask| Event::Crash { mask }),
        3 => number.prop_map(Event::LibvirtCreates),
        2 => at.prop_map(Event::LibvirtDeletes),
    ]
}

/// What really happened since one checkpoint: until the next one in ours, until now in libvirt's.
#[derive(Clone, Debug)]
struct Truth {
    name: String,
    writes: Blocks,
    trusted: bool,
}

#[derive(Default)]
struct World {
    image: Image,
    ours: Vec<Truth>,
    theirs: Vec<Truth>,
    turn: usize,
}

impl World {
    fn chain(&self, ours: bool) -> Result<Chain> {
        let model = if ours { KnownModel::Interval } else { KnownModel::Cumulative };
        Chain::read(&self.image.states(self.turn), Some(model))
    }

    fn side(&mut self, ours: bool) -> &mut Vec<Truth> {
        if ours { &mut self.ours } else { &mut self.theirs }
    }

    /// The bitmaps of one side, with their content.
    fn bitmaps(&self, ours: bool) -> Vec<(Name, Stored)> {
        let theirs = |name: &Name| self.theirs.iter().any(|truth| truth.name.as_bytes() == name.as_bytes());
        let of_side = self.image.0.iter().filter(|(name, _)| theirs(name) != ours);
        of_side.map(|(name, stored)| (name.clone(), stored.clone())).collect()
    }

    fn write(&mut self, block: u32) {
        self.image.write(block);
        self.theirs.iter_mut().chain(self.ours.last_mut()).for_each(|truth| truth.writes.extend([block]));
    }

    fn happen(&mut self, event: Event) {
        self.turn += 1;
        match event {
            Event::Write(block) => return self.write(block),
            Event::LibvirtCreates(number) => {
                let name = name(number);
                let bitmap = Name::new(name.as_str());
                if self.image.0.contains_key(&bitmap) {
                    return;
                }
                // Nothing tells a plain bitmap of ours that is alone from one of libvirt's: it is one of those now.
                if let [root] = self.ours.as_slice()
                    && !self.image.0.contains_key(&Name::new(format!("->{}", root.name)))
                {
                    self.theirs.append(&mut self.ours);
                }
                self.image.0.insert(bitmap, Stored { recording: true, ..Stored::default() });
                self.theirs.push(Truth { name, writes: Blocks::new(), trusted: true });
                return;
            }
            Event::LibvirtDeletes(at) => {
                // The last one, alone, would read as the first of an interval chain.
                if let (Some(at), true) = (at.checked_rem(self.theirs.len()), self.theirs.len() > 2) {
                    let gone = self.theirs.remove(at);
                    assert!(self.image.0.remove(&Name::new(gone.name)).is_some());
                }
                return;
            }
            Event::Crash { mask } => {
                for (at, (bitmap, stored)) in self.image.0.iter_mut().enumerate() {
                    if mask & (1 << (at % 8)) == 0 {
                        continue;
                    }
                    stored.inconsistent = true;
                    stored.bits.clear();
                    let plain = |truth: &&mut Truth| truth.name.as_bytes() == bitmap.as_bytes();
                    let hit = match self.theirs.iter_mut().find(plain) {
                        Some(theirs) => theirs,
                        None => {
                            let own = bitmap.mentions().pop().unwrap();
                            self.ours.iter_mut().find(|truth| truth.name.as_bytes() == own.as_bytes()).unwrap()
                        }
                    };
                    hit.trusted = false;
                }
                return;
            }
            _ => {}
        }
        self.change(event);
    }

    /// A change by us: of one side only.
    fn change(&mut self, event: Event) {
        let (Event::Create { ours, .. }
        | Event::Delete { ours, .. }
        | Event::DeleteMany { ours, .. }
        | Event::DeleteAllInconsistent { ours }
        | Event::Rename { ours, .. }) = event
        else {
            let Event::DropBefore { at } = event else { unreachable!("{event:?}") };
            let (Some(at), Ok(chain)) = (at.checked_rem(self.ours.len()), self.chain(true)) else { return };
            let other = self.bitmaps(false);
            if let Ok(plan) = chain.plan_drop_before(self.ours[at].name.as_bytes()) {
                self.image.carry_out(&plan);
                self.ours.drain(..at);
            }
            return assert_eq!(self.bitmaps(false), other, "the other chain was touched");
        };
        // Without any of libvirt's there is no such chain that could be picked; a single one would be taken for ours.
        let others = self.theirs.len();
        if others
            < if !ours {
                1
            } else if self.ours.is_empty() {
                2
            } else {
                0
            }
        {
            return;
        }
        let chain = self.chain(ours).unwrap();
        let other = self.bitmaps(!ours);
        let model = if ours { KnownModel::Interval } else { KnownModel::Cumulative };
        let len = self.side(ours).len();
        match event {
            Event::Create { number, .. } => {
                let name = name(number);
                let is_taken = self.ours.iter().chain(&self.theirs).any(|truth| truth.name == name);
                let plan = chain.plan_create(name.as_bytes(), options(Some(model)));
                let expected = if is_taken {
                    Some(ErrorKind::Exists)
                } else if self.side(ours).iter().any(|truth| !truth.trusted) {
                    Some(ErrorKind::Inconsistent)
                } else {
                    None
                };
                assert_eq!(plan.as_ref().err().map(|error| error.kind()), expected, "{plan:?}");
                if let Ok(plan) = plan {
                    self.image.carry_out(&plan);
                    self.side(ours).push(Truth { name, writes: Blocks::new(), trusted: true });
                }
            }
            Event::Delete { at, force, .. } => {
                let Some(at) = at.checked_rem(len) else { return };
                let name = self.side(ours)[at].name.clone();
                let Ok(plan) = chain.plan_delete(name.as_bytes(), force) else {
                    let parts = if ours { at.saturating_sub(1)..=at } else { at..=at };
                    assert!(!force && self.side(ours)[parts].iter().any(|truth| !truth.trusted));
                    return;
                };
                self.image.carry_out(&plan);
                self.delete(ours, at);
            }
            Event::DeleteMany { mask, .. } => {
                let meant = |at: &usize| mask & (1 << (at % 8)) != 0;
                let names: Vec<String> = (0..len).filter(meant).map(|at| self.side(ours)[at].name.clone()).collect();
                if let Ok(plan) = chain.plan_delete_many(&names, false) {
                    self.image.carry_out(&plan);
                    for name in names {
                        let at = self.side(ours).iter().position(|truth| truth.name == name).unwrap();
                        self.delete(ours, at);
                    }
                }
            }
            Event::DeleteAllInconsistent { .. } => {
                self.image.carry_out(&chain.plan_delete_all_inconsistent().unwrap());
                let side = self.side(ours);
                match side.iter().rposition(|truth| !truth.trusted) {
                    Some(last) if ours => drop(side.drain(..=last)),
                    _ => side.retain(|truth| truth.trusted),
                }
            }
            Event::Rename { at, to, .. } => {
                let (Some(at), to) = (at.checked_rem(len), name(to)) else { return };
                let is_taken = self.ours.iter().chain(&self.theirs).any(|truth| truth.name == to);
                let plan = chain.plan_rename(self.side(ours)[at].name.as_bytes(), to.as_bytes());
                if is_taken {
                    return assert_eq!(plan.unwrap_err().kind(), ErrorKind::Exists);
                }
                self.image.carry_out(&plan.unwrap());
                self.side(ours)[at].name = to;
            }
            _ => {}
        }
        assert_eq!(self.bitmaps(!ours), other, "the other chain was touched");
    }

    fn delete(&mut self, ours: bool, at: usize) {
        let side = self.side(ours);
        let is_forced = ours && side[at.saturating_sub(1)..=at].iter().any(|truth| !truth.trusted);
        if is_forced {
            return drop(side.drain(..=at));
        }
        let gone = side.remove(at);
        if ours && at > 0 {
            side[at - 1].writes.extend(gone.writes);
        }
    }

    fn check(&self) {
        let states = self.image.states(self.turn);
        let names = |chain: &Chain| -> Vec<String> {
            let names = chain.checkpoints().iter().map(|checkpoint| checkpoint.name.to_string_lossy().into_owned());
            names.collect()
        };
        let expected = |side: &[Truth]| -> Vec<String> { side.iter().map(|truth| truth.name.clone()).collect() };
        if !self.ours.is_empty() {
            let chain = Chain::read(&states, None).unwrap();
            assert_eq!((chain.model(), names(&chain)), (Model::Interval, expected(&self.ours)));
            let beside = Chain::beside(&states).unwrap();
            let mut theirs = expected(&self.theirs);
            theirs.sort_unstable();
            assert_eq!(beside.as_ref().map(names).unwrap_or_default(), theirs);
        }
        for since in &self.ours {
            let place = self.ours.iter().position(|truth| truth.name == since.name).unwrap();
            let span = &self.ours[place..];
            let diff = self.chain(true).and_then(|chain| chain.plan_diff(since.name.as_bytes(), None));
            assert_eq!(diff.is_ok(), span.iter().all(|truth| truth.trusted), "{diff:?}");
            if let Ok(diff) = diff {
                let writes: Blocks = span.iter().flat_map(|truth| truth.writes.iter().copied()).collect();
                assert_eq!(self.image.union(&diff.bitmaps), writes, "a write is missing, or the answer is too large");
            }
        }
        for since in &self.theirs {
            let diff = self.chain(false).and_then(|chain| chain.plan_diff(since.name.as_bytes(), None));
            assert_eq!(diff.is_ok(), since.trusted, "{diff:?}");
            if let Ok(diff) = diff {
                assert_eq!(self.image.union(&diff.bitmaps), since.writes);
            }
        }
        // Without a model a name means the chain that has it, and is refused where both have one.
        for (truth, model) in self
            .ours
            .iter()
            .map(|own| (own, Model::Interval))
            .chain(self.theirs.iter().filter(|_| !self.ours.is_empty()).map(|other| (other, Model::Cumulative)))
        {
            let sides = [&self.ours, &self.theirs];
            let twins = sides.iter().filter(|side| side.iter().any(|other| other.name == truth.name)).count();
            match Chain::read_for(&states, None, &[truth.name.as_bytes()]) {
                Ok(chain) => assert_eq!((chain.model(), twins), (model, 1)),
                Err(error) => assert_eq!((error.kind(), twins), (ErrorKind::Model, 2)),
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn two_chains_in_one_image_answer_each_for_itself(events in prop::collection::vec(event(), 1..80)) {
        let mut world = World::default();
        world.happen(Event::LibvirtCreates(8));
        world.write(1);
        world.happen(Event::LibvirtCreates(9));
        for event in events {
            world.happen(event);
            world.check();
        }
    }
}
