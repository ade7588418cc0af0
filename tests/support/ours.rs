//! Checkpoints as a caller of the library works with them, and copying what it names.

use super::{TestImage, run};
use checkmap::chain::{KnownModel, Plan};
use checkmap::image::{Access, DiffRequest, Layers, OpenOptions, Scope};
use checkmap::progress::Unobserved;
use checkmap::{Extent, Granularity, Image};
use std::path::Path;

pub fn open(path: &Path, access: Access) -> Image {
    Image::open(path, &OpenOptions::new(access)).expect("the image opens")
}

impl TestImage {
    pub fn open(&self, access: Access) -> Image {
        open(&self.path, access)
    }

    /// Makes a plan and carries it out.
    pub fn change(&self, plan: impl FnOnce(&Image) -> checkmap::Result<Plan>) {
        let mut image = self.open(Access::Write);
        let plan = plan(&image).expect("the change is possible");
        let warnings = image.commit(&plan, &mut Unobserved).expect("the change is carried out");
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    pub fn create_checkpoint(&self, name: &str, granularity: Option<u64>, model: Option<KnownModel>) {
        let granularity = granularity.map(|bytes| Granularity::from_bytes(bytes).expect("a granularity"));
        self.change(|image| image.plan_create(name.as_bytes(), granularity, model));
    }

    pub fn delete_checkpoint(&self, name: &str) {
        self.change(|image| image.plan_delete(name.as_bytes(), false, Layers::Check, None));
    }

    pub fn rename_checkpoint(&self, name: &str, to: &str) {
        self.change(|image| image.plan_rename(name.as_bytes(), to.as_bytes(), Layers::Check, None));
    }

    /// The names of the checkpoints, oldest first where that is known.
    pub fn checkpoints(&self) -> Vec<String> {
        let overview = self.open(Access::Read).overview(None, Scope::Checkpoints, &mut Unobserved);
        let chain = overview.expect("nobody stops it").chain.expect("a chain");
        chain.checkpoints().iter().map(|checkpoint| checkpoint.name.to_string_lossy().into_owned()).collect()
    }

    /// What changed since a checkpoint, until another or until now.
    pub fn changed(&self, since: &str, until: Option<&str>) -> Vec<Extent> {
        changed(&self.open(Access::Read), since, until)
    }

    /// Neither QEMU's check nor ours finds anything.
    pub fn assert_sound(&self, when: &str) {
        self.assert_clean(when);
        let report = self.open(Access::Read).check(&mut Unobserved).expect("the check runs");
        assert!(report.problems.is_empty(), "after {when}: {report:?}");
    }

    /// The whole content of the disk, as `qemu-img convert` reads it.
    pub fn content(&self) -> Vec<u8> {
        let raw = self.folder.path().join("content.raw");
        run("qemu-img", &["convert".as_ref(), "-O".as_ref(), "raw".as_ref(), self.path.as_os_str(), raw.as_os_str()]);
        let content = std::fs::read(&raw).expect("the raw copy can be read");
        std::fs::remove_file(&raw).expect("the raw copy can be removed");
        content
    }
}

/// What changed in an image since a checkpoint, until another or until now.
pub fn changed(image: &Image, since: &str, until: Option<&str>) -> Vec<Extent> {
    let request = DiffRequest::since(since.as_bytes());
    let request = until.map_or(request, |until| request.until(until.as_bytes()));
    let diff = image.diff(&request, &mut Unobserved).expect("a diff");
    diff.bitmap.extents(0, u64::MAX).collect()
}

/// The extents in `one` or in `two`, joined where they touch.
pub fn union(one: &[Extent], two: &[Extent]) -> Vec<Extent> {
    let mut all = [one, two].concat();
    all.sort();
    let mut joined: Vec<Extent> = Vec::new();
    for extent in all {
        match joined.last_mut() {
            Some(last) if extent.offset <= last.end() => {
                last.len_bytes = last.end().max(extent.end()) - last.offset;
            }
            _ => joined.push(extent),
        }
    }
    joined
}

/// Copies `extents`, and nothing else, from one content of a disk onto another.
pub fn copy(extents: &[Extent], from: &[u8], onto: &mut [u8]) {
    for extent in extents {
        onto[bytes_of(*extent)].copy_from_slice(&from[bytes_of(*extent)]);
    }
}

/// An extent as a range of indices.
pub fn bytes_of(extent: Extent) -> std::ops::Range<usize> {
    let index = |byte: u64| usize::try_from(byte).expect("a test's disk fits into memory");
    index(extent.offset)..index(extent.end())
}

/// The first byte in which two contents of a disk differ; `None` if they are equal.
pub fn first_difference(one: &[u8], two: &[u8]) -> Option<usize> {
    if one == two {
        return None;
    }
    let differing = one.iter().zip(two).position(|(a, b)| a != b);
    Some(differing.unwrap_or(one.len().min(two.len())))
}
