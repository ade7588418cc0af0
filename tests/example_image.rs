#![forbid(unsafe_code)]
//! The image that is shipped as an example: it is what QEMU's tools make by the script beside it, and our diffs of it
//! are what QEMU's own servers say.

mod support;

use checkmap::Extent;
use checkmap::image::Access;
use std::path::Path;
use support::ours::{changed, union};
use support::{TestImage, folder, nbd, run};

const CHECKPOINTS: [&str; 4] = ["monday", "tuesday", "wednesday", "thursday"];
const BITMAPS: [&str; 4] = ["monday", "monday->tuesday", "tuesday->wednesday", "wednesday->thursday"];

fn example(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file)
}

/// A copy of the example, so that no test can change it.
fn copy_of_example() -> Option<TestImage> {
    if !support::tools_are_here() {
        return None;
    }
    let folder = folder();
    let path = folder.path().join("disk.qcow2");
    std::fs::copy(example("vm-disk.qcow2"), &path).expect("the example can be copied");
    Some(TestImage { folder, path })
}

#[test]
fn the_example_is_sound_and_small_and_has_four_checkpoints_of_which_the_last_records() {
    let Some(image) = copy_of_example() else { return };
    image.assert_sound("copying");
    assert!(image.path.metadata().expect("metadata").len() < 640 << 10);
    assert_eq!(image.checkpoints(), CHECKPOINTS);
    let recording = image.qemu_bitmaps().into_iter().map(|bitmap| (bitmap.name, bitmap.recording));
    let expected = BITMAPS.map(|name| (name.to_owned(), name == BITMAPS[3]));
    assert_eq!(recording.collect::<Vec<_>>(), expected);
}

#[test]
fn every_diff_of_the_example_is_the_union_of_what_nbdinfo_shows_of_its_bitmaps() {
    let Some(image) = copy_of_example() else { return };
    let served = BITMAPS.map(|name| nbd::dirty(&image.path, name));
    let opened = image.open(Access::Read);
    for since in 0..CHECKPOINTS.len() {
        for until in since + 1..=CHECKPOINTS.len() {
            let expected = served[since..until].iter().fold(Vec::new(), |all: Vec<Extent>, one| union(&all, one));
            let found = changed(&opened, CHECKPOINTS[since], CHECKPOINTS.get(until).copied());
            assert_eq!(found, expected, "since {since} until {until}");
            assert!((5..=25).contains(&found.len()), "{} extents: no example", found.len());
        }
    }
}

#[test]
fn the_script_beside_the_example_makes_it_anew() {
    let Some(image) = copy_of_example() else { return };
    let anew = image.folder.path().join("anew.qcow2");
    run("sh", &[example("make-vm-disk.sh"), anew.clone()]);
    assert_eq!(support::qemu_bitmaps(&anew), image.qemu_bitmaps());
    for name in BITMAPS {
        assert_eq!(nbd::dirty(&anew, name), nbd::dirty(&image.path, name), "{name}");
    }
    run("qemu-img", &["compare".as_ref(), "-q".as_ref(), anew.as_os_str(), image.path.as_os_str()]);
}
