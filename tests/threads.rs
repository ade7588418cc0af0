#![forbid(unsafe_code)]
//! Threads change nothing but the time: an image that several of them wrote is, to the byte, what one writes.

mod support;

use checkmap::chain::Plan;
use checkmap::image::{Access, DiffRequest, Layers, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, Image};
use std::path::Path;
use std::sync::Arc;
use support::TestImage;
use support::memory::Memory;

const CLUSTERS: u64 = 300;
/// What one cluster of 512 bytes has of a bitmap of 512-byte granules.
const COVERED: u64 = 4096 * 512;

/// Three bitmaps of many clusters, the last one coarser; each cluster with other bits in each.
fn image() -> TestImage {
    let image = TestImage::create("cluster_size=512", &(CLUSTERS * COVERED + 1024).to_string());
    for (number, (name, granularity)) in [("1", "512"), ("1->2", "512"), ("2->3", "1024")].into_iter().enumerate() {
        image.bitmap(&["--add", "-g", granularity], name);
        let place = |cluster: u64| cluster * COVERED + (cluster * 7 + number as u64 * 3) % 4000 * 512;
        let written = (0..CLUSTERS).filter(|cluster| cluster % (number as u64 + 2) > 0);
        image.io(&written.map(|cluster| format!("write -P 1 {} 512", place(cluster))).collect::<Vec<_>>());
        if number < 2 {
            image.bitmap(&["--disable"], name);
        }
    }
    image
}

fn open(storage: &Arc<Memory>, threads: usize) -> Image {
    let options = OpenOptions::new(Access::Write).no_lock(true).threads(threads);
    Image::open_storage(storage.clone(), Path::new("disk.qcow2"), &options).expect("the image opens")
}

/// What changed since the first checkpoint.
fn changed(image: &Image) -> Bitmap {
    let request = DiffRequest::since(b"1");
    image.diff(&request, &mut Unobserved).expect("there is a diff").bitmap
}

fn change(bytes: &[u8], threads: usize, plan: fn(&Image) -> checkmap::Result<Plan>) -> (Vec<u8>, Bitmap) {
    let storage = Arc::new(Memory::new(bytes));
    let mut image = open(&storage, threads);
    let plan = plan(&image).expect("there is a plan");
    image.rehearse(&plan, &mut Unobserved).expect("it could be carried out");
    assert!(storage.holds(bytes), "a rehearsal writes");
    image.commit(&plan, &mut Unobserved).expect("it is carried out");
    (storage.bytes(), changed(&image))
}

#[test]
fn what_threads_write_and_read_is_what_one_thread_does() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    let bytes = std::fs::read(&image.path).expect("the image can be read");
    let before = changed(&open(&Arc::new(Memory::new(&*bytes)), 0));
    assert!(before.dirty_granules() > CLUSTERS);
    let plans: [fn(&Image) -> checkmap::Result<Plan>; 2] = [
        |image| image.plan_delete(b"2", false, Layers::Check, None),
        |image| image.plan_merge(&[b"1->2", b"2->3"], b"1"),
    ];
    for plan in plans {
        let (alone, bits) = change(&bytes, 0, plan);
        assert_ne!(alone, bytes);
        for threads in [1, 2, 5] {
            let (together, same) = change(&bytes, threads, plan);
            assert!(together == alone, "{threads} threads write something else");
            assert_eq!(same, bits, "{threads} threads read something else");
        }
    }
}
