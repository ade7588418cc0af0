//! Owns random verbs on random bitmaps, against a naive interpreter of QMP: each step is one transaction, and its outcome is the chain
//! and the diffs of a model that keeps sets of granules.

use crate::histories::dirty_granules;
use crate::hostile::{change, open};
use crate::support::qmp_server::{Mock, MockBitmap, MockNode, State};
use crate::support::random::Random;
use checkmap::image::{DiffRequest, Image, Layers};
use checkmap::progress::Unobserved;
use std::collections::BTreeSet;

const SIZES: [u64; 2] = [1 << 20, (256 << 10) + 512];
const GRANULES: [u64; 2] = [65536, 4096];

/// The names of the checkpoints, and for each disk the granules that changed after each, until the next.
#[derive(Clone, Debug, Default)]
struct Model {
    names: Vec<String>,
    changed: [Vec<BTreeSet<u64>>; 2],
}

impl Model {
    fn random(random: &mut Random) -> (Self, State) {
        let (mut model, mut state) = (Self::default(), State::default());
        let count = random.below(6);
        model.names = (0..count).map(|number| format!("s{number}")).collect();
        for disk in 0..2 {
            let mut node = MockNode::new(SIZES[disk]);
            for (at, name) in model.names.iter().enumerate() {
                let granules = SIZES[disk].div_ceil(GRANULES[disk]);
                let dirty: BTreeSet<u64> = (0..random.below(6)).map(|_| random.below(granules)).collect();
                let stored = if at == 0 { name.clone() } else { format!("{}->{name}", model.names[at - 1]) };
                let is_last = at + 1 == model.names.len();
                node.bitmaps.insert(stored, MockBitmap::new(GRANULES[disk], is_last, dirty.clone()));
                model.changed[disk].push(dirty);
            }
            // A stranger's, which no verb may touch.
            let mut transient = MockBitmap::new(65536, true, [0]);
            transient.persistent = false;
            node.bitmaps.insert("libvirt-tmp".into(), transient);
            state.nodes.insert(format!("d{disk}"), node);
        }
        (model, state)
    }

    fn compare(&self, images: &[Image], mock: &Mock, random: &mut Random) {
        for (disk, image) in images.iter().enumerate() {
            let chain = image.chain(None).expect("a chain");
            let names: Vec<&[u8]> = chain.checkpoints().iter().map(|one| one.name.as_bytes()).collect();
            assert_eq!(names, self.names.iter().map(String::as_bytes).collect::<Vec<_>>());
            let kept = mock.state().nodes[&format!("d{disk}")].bitmaps.values().filter(|one| one.persistent).count();
            assert_eq!(kept, self.names.len(), "a bitmap too much");
        }
        // The NBD server of the mock has the bitmaps of the first disk.
        if self.names.is_empty() {
            return;
        }
        let from = random.index(self.names.len());
        let to = from + random.index(self.names.len() - from);
        for until in [Some(to), None] {
            let request = DiffRequest::since(self.names[from].as_bytes());
            let request = until.map_or(request, |to| request.until(self.names[to].as_bytes()));
            let diff = images[0].diff(&request, &mut Unobserved).expect("a diff");
            let end = until.unwrap_or(self.names.len());
            let expected: BTreeSet<u64> = self.changed[0][from..end].iter().flatten().copied().collect();
            assert_eq!(dirty_granules(&diff.bitmap, GRANULES[0]), expected, "{from} to {until:?} of {:?}", self.names);
        }
    }
}

#[test]
fn every_transaction_yields_the_chain_that_was_asked_for() {
    let mut random = Random::seeded(31);
    for _ in 0..60 {
        let (mut model, state) = Model::random(&mut random);
        let mock = Mock::start(state);
        let mut images = open(&mock, &mut Unobserved).expect("it opens");
        for number in 0..8 {
            let sent = mock.state().sent.len();
            let picked = (!model.names.is_empty()).then(|| random.index(model.names.len()));
            match (random.below(4), picked) {
                (1, Some(at)) => {
                    let name = model.names.remove(at);
                    change(&mut images, &mut Unobserved, |image| {
                        image.plan_delete(name.as_bytes(), false, Layers::Check, None)
                    })
                    .expect("deleted");
                    for changed in &mut model.changed {
                        let own = changed.remove(at);
                        if let Some(older) = at.checked_sub(1) {
                            changed[older].extend(own);
                        }
                    }
                }
                (2, Some(at)) => {
                    let new = format!("r{number}");
                    change(&mut images, &mut Unobserved, |image| {
                        image.plan_rename(model.names[at].as_bytes(), new.as_bytes(), Layers::Check, None)
                    })
                    .expect("renamed");
                    model.names[at] = new;
                }
                (3, Some(_)) => {
                    let disk = random.index(2);
                    let granule = random.below(SIZES[disk].div_ceil(GRANULES[disk]));
                    let offset = granule * GRANULES[disk];
                    mock.state().nodes.get_mut(&format!("d{disk}")).expect("a disk").write(offset, 1);
                    model.changed[disk].last_mut().expect("a checkpoint").insert(granule);
                    continue;
                }
                _ => {
                    let name = format!("c{number}");
                    change(&mut images, &mut Unobserved, |image| image.plan_create(name.as_bytes(), None, None))
                        .expect("created");
                    model.names.push(name);
                    model.changed.iter_mut().for_each(|changed| changed.push(BTreeSet::new()));
                }
            }
            let transactions = mock.state().sent[sent..].iter().filter(|sent| sent["execute"] == "transaction").count();
            assert_eq!(transactions, 1, "all disks in one step");
            model.compare(&images, &mock, &mut random);
        }
        drop(images);
        mock.assert_tidy("random verbs");
    }
}
