//! Owns random histories: a guest writes to two disks while checkpoints are made, renamed, deleted and diffed, and every diff is
//! compared with the log of the writes: no block is missing, and none is there that nobody wrote.

use crate::support::hypervisor::{DiskSpec, Hypervisor, Program};
use crate::support::random::Random;
use checkmap::chain::Plan;
use checkmap::image::{Access, DiffRequest, Group, Image, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::qemu::{Machine, Monitor, Options};
use checkmap::{ErrorKind, Result};
use std::collections::BTreeSet;
use std::path::Path;

/// Two disks of different size and granularity; the last granule of the second is cut by the disk's end.
pub(crate) const DISKS: [DiskSpec; 2] = [
    DiskSpec { node: "d0", size_bytes: 64 << 20, options: "" },
    DiskSpec { node: "d1", size_bytes: (6 << 20) + 512, options: "cluster_size=4096" },
];

/// The granularity of each disk's bitmaps: QEMU's default for its clusters.
const GRANULE_BYTES: [u64; 2] = [65536, 4096];

/// The writes to each disk, in their order, and the moments of the checkpoints: how many writes there were before.
#[derive(Default)]
struct Log {
    writes: [Vec<(u64, u64)>; 2],
    checkpoints: Vec<(String, [usize; 2])>,
}

impl Log {
    fn now(&self) -> [usize; 2] {
        [self.writes[0].len(), self.writes[1].len()]
    }

    /// The granules that were written between two moments.
    fn dirty(&self, disk: usize, since: usize, until: usize) -> BTreeSet<u64> {
        let granule = GRANULE_BYTES[disk];
        let writes = self.writes[disk][since..until].iter();
        writes.flat_map(|(offset, len)| offset / granule..=(offset + len - 1) / granule).collect()
    }

    /// Compares every diff that can be asked for with the log.
    fn compare(&self, disk: usize, image: &Image, until_now: bool) {
        for (at, (since, moment)) in self.checkpoints.iter().enumerate() {
            let later = self.checkpoints[at..].iter().map(|(name, moment)| (Some(name), *moment));
            let now = until_now.then(|| (None, self.now()));
            for (until, end) in later.chain(now) {
                let request = DiffRequest::since(since.as_bytes());
                let request = until.map_or(request, |until: &String| request.until(until.as_bytes()));
                let diff = image.diff(&request, &mut Unobserved).unwrap_or_else(|error| panic!("{error}"));
                let granule = GRANULE_BYTES[disk];
                let found = dirty_granules(&diff.bitmap, granule);
                let expected = self.dirty(disk, moment[disk], end[disk]);
                assert_eq!(found, expected, "{}: {since} to {until:?}", DISKS[disk].node);
            }
        }
    }
}

/// The granules of this size that are dirty.
pub(crate) fn dirty_granules(bitmap: &checkmap::Bitmap, granule: u64) -> BTreeSet<u64> {
    let granules =
        |extent: checkmap::Extent| extent.offset / granule..(extent.offset + extent.len_bytes).div_ceil(granule);
    bitmap.extents(0, u64::MAX).flat_map(granules).collect()
}

pub(crate) fn connect(hypervisor: &Hypervisor) -> Machine {
    let options = Options::default().nbd_socket(hypervisor.nbd_socket());
    Machine::connect(Monitor::Socket(hypervisor.qmp()), &options, &mut Unobserved).expect("checkmap connects")
}

pub(crate) fn open(machine: &Machine) -> Vec<Image> {
    let disks = machine.disks().expect("disks");
    let host = |disk| machine.host(disk).expect("a host");
    disks.iter().map(|disk| Image::on(host(disk), Path::new(disk.title()), &OpenOptions::new(Access::Write))).collect()
}

fn change(images: &mut [Image], plan: impl FnMut(&Image) -> Result<Plan>) -> Result<()> {
    let mut group = Group::new(images)?;
    let plans = group.plan(plan)?;
    group.commit(&plans, &mut Unobserved)?;
    Ok(())
}

fn history(program: Program, seed: u64, steps: usize) {
    let mut random = Random::from_seed(seed);
    let mut hypervisor = Hypervisor::start(program, &DISKS);
    let machine = connect(&hypervisor);
    let mut images = open(&machine);
    let mut log = Log::default();
    let mut names = 0;
    for step in 0..steps {
        match random.below(10) {
            0..=4 => {
                let disk = usize::try_from(random.below(2)).expect("small");
                let sectors = DISKS[disk].size_bytes / 512;
                let start = random.below(sectors);
                let len = (1 + random.below(300)).min(sectors - start);
                hypervisor.write(disk, start * 512, len * 512);
                log.writes[disk].push((start * 512, len * 512));
            }
            5 | 6 => {
                let name = format!("c{names}");
                names += 1;
                change(&mut images, |image| image.plan_create(name.as_bytes(), None, None)).expect("created");
                let moment = log.now();
                log.checkpoints.push((name, moment));
            }
            7 if !log.checkpoints.is_empty() => {
                let at = usize::try_from(random.below(log.checkpoints.len() as u64)).expect("small");
                let (name, _) = log.checkpoints.remove(at);
                let layers = checkmap::image::Layers::Check;
                change(&mut images, |image| image.plan_delete(name.as_bytes(), false, layers, None)).expect("deleted");
            }
            8 if !log.checkpoints.is_empty() => {
                let at = usize::try_from(random.below(log.checkpoints.len() as u64)).expect("small");
                let (old, new) = (log.checkpoints[at].0.clone(), format!("r{names}"));
                names += 1;
                let layers = checkmap::image::Layers::Check;
                let renamed =
                    change(&mut images, |image| image.plan_rename(old.as_bytes(), new.as_bytes(), layers, None));
                renamed.expect("renamed");
                log.checkpoints[at].0 = new;
            }
            _ => {
                for (disk, image) in images.iter().enumerate() {
                    log.compare(disk, image, program == Program::System);
                }
            }
        }
        if step % 16 == 0 {
            hypervisor.assert_tidy();
        }
    }
    let taken = images.iter().map(|image| image.chain(None).expect("a chain").checkpoints().len());
    assert_eq!(taken.collect::<Vec<_>>(), [log.checkpoints.len(); 2]);
    drop((images, machine));
    hypervisor.assert_tidy();
    // An image moves between the two worlds at any checkpoint.
    let paths = [hypervisor.image(0), hypervisor.image(1)];
    let _folder = hypervisor.quit();
    for (disk, path) in paths.iter().enumerate() {
        let image = Image::open(path, &OpenOptions::new(Access::Read)).expect("it opens offline");
        log.compare(disk, &image, true);
    }
}

#[test]
fn a_storage_daemon_keeps_every_write() {
    if crate::support::tools_are_here() {
        history(Program::StorageDaemon, 1, 120);
    }
}

#[test]
fn a_machine_keeps_every_write() {
    if crate::support::hypervisors_are_here() {
        history(Program::System, 2, 120);
    }
}

#[test]
fn a_checkpoint_is_gone_after_a_kill_and_the_chain_has_ended() {
    if !crate::support::tools_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::StorageDaemon, &DISKS);
    let machine = connect(&hypervisor);
    let mut images = open(&machine);
    change(&mut images, |image| image.plan_create(b"one", None, None)).expect("created");
    drop((images, machine));
    let disks = hypervisor.disks.clone();
    hypervisor.write(0, 0, 512);
    let path = hypervisor.image(0);
    // Stored once, so that the file has a chain that could be taken for intact.
    let hypervisor = Hypervisor::start_on(hypervisor.quit(), Program::StorageDaemon, &disks);
    let machine = connect(&hypervisor);
    let mut images = open(&machine);
    change(&mut images, |image| image.plan_create(b"two", None, None)).expect("created");
    drop((images, machine));
    let folder = hypervisor.kill();
    let path = folder.path().join(path.file_name().expect("a name"));
    let image = Image::open(&path, &OpenOptions::new(Access::Read)).expect("it opens");
    let diff = image.diff(&DiffRequest::since(b"one"), &mut Unobserved);
    assert_eq!(diff.expect_err("writes are missing").kind(), ErrorKind::Inconsistent);
    drop(image);
    let hypervisor = Hypervisor::start_on(folder, Program::StorageDaemon, &disks);
    let machine = connect(&hypervisor);
    let mut images = open(&machine);
    let planned = change(&mut images, |image| image.plan_create(b"three", None, None));
    assert_eq!(planned.expect_err("the chain ended").kind(), ErrorKind::Inconsistent);
    let diff = images[0].diff(&DiffRequest::since(b"one"), &mut Unobserved);
    assert_eq!(diff.expect_err("writes are missing").kind(), ErrorKind::Inconsistent);
}
