//! Images that are cut short, at every sector.

use crate::bases::Base;
use crate::support::memory::{Memory, open};
use crate::support::{tools_are_here, try_run};
use crate::table::{diff, unlocked};
use checkmap::chain::Name;
use checkmap::image::{Access, Layers};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, ErrorKind, Image};
use std::sync::Arc;

/// What an image tells, or why it does not.
fn told(image: &Image) -> checkmap::Result<(Vec<Bitmap>, Bitmap)> {
    let names = [&b"1"[..], b"1->2", b"2->3"].map(Name::new);
    let bitmaps = names.iter().map(|name| image.read_bitmap(name, 0, u64::MAX)).collect::<checkmap::Result<_>>()?;
    Ok((bitmaps, diff(image)?))
}

#[test]
fn an_image_cut_short_anywhere_is_refused_or_tells_the_truth() {
    if !tools_are_here() {
        return;
    }
    for base in [Base::Chain, Base::Clusters4K, Base::Snapshot] {
        let whole = base.raw().bytes;
        let sound = told(&open(&Arc::new(Memory::new(whole.clone())), Access::Read).expect("it opens")).expect("sound");
        let lengths = (0..whole.len()).step_by(512).chain((0..600).step_by(7)).chain(whole.len() - 9..whole.len());
        for len in lengths {
            let storage = Arc::new(Memory::new(&whole[..len]));
            let case = format!("{base:?} cut at {len} of {}", whole.len());
            let image = match open(&storage, Access::Write) {
                Err(error) => {
                    let fits = matches!(error.kind(), ErrorKind::Damaged | ErrorKind::UnknownFormat);
                    assert!(fits && error.way_out().is_some(), "{case}: {error:?}");
                    continue;
                }
                Ok(image) => image,
            };
            match told(&image) {
                Ok(told) => assert_eq!(told, sound, "{case}"),
                // Cut inside the header, nothing says that there were bitmaps.
                Err(error) if error.kind() == ErrorKind::NotFound => assert!(len < 512, "{case}: {error:?}"),
                Err(error) => assert!(error.way_out().is_some(), "{case}: {error:?}"),
            }
            write_or_refuse(image, &storage, &case);
        }
    }
}

/// A change either works, or is refused and leaves the bytes.
fn write_or_refuse(mut image: Image, storage: &Arc<Memory>, case: &str) {
    let before = storage.bytes();
    let plan = image.plan_delete(b"2", false, Layers::TopOnly, None);
    match plan.and_then(|plan| image.commit(&plan, &mut Unobserved)) {
        Ok(_) => {
            assert!(told(&open(storage, Access::Read).expect("it opens")).is_err(), "{case}: `1->2` is still there")
        }
        Err(error) => {
            assert!(error.way_out().is_some(), "{case}: {error:?}");
            assert!(storage.holds(&before), "{case}: {error:?}");
        }
    }
}

#[test]
fn a_last_cluster_shorter_than_a_cluster_is_normal() {
    if !tools_are_here() {
        return;
    }
    let image = crate::support::TestImage::create("", "1G");
    image.bitmap(&["--add"], "1");
    let whole = std::fs::metadata(&image.path).expect("it is there").len();
    assert!(!whole.is_multiple_of(65536), "QEMU pads its last cluster now, and this test is empty");
    let opened = Image::open(&image.path, &unlocked(Access::Read)).expect("it opens");
    assert!(opened.check(&mut Unobserved).expect("it can be checked").problems.is_empty());
    assert!(try_run("qemu-img", &["check".as_ref(), image.path.as_os_str()]).status.success());
}
