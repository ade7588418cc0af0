//! Bitmaps as `qemu-nbd` and `qemu-storage-daemon` serve them.

use crate::support::nbd::Served;
use crate::support::{self, TestImage};
use checkmap::nbd::{Client, ConnectOptions, Uri, context_of};
use checkmap::progress::Unobserved;
use checkmap::{Extent, Granularity};

fn extents(bitmap: &checkmap::Bitmap) -> Vec<Extent> {
    bitmap.extents(0, u64::MAX).collect()
}

#[test]
fn qemu_nbd_serves_one_bitmap() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("cluster_size=64k", "100M");
    image.bitmap(&["--add", "-g", "4096"], "mon");
    image.write(0, 4096);
    image.write(10 << 20, 70_000);
    image.bitmap(&["--disable"], "mon");
    let served = Served::start(&image.path, "mon");
    let uri = Uri::parse(served.uri()).expect("a URI");
    let context = context_of(b"mon").expect("memory");
    let contexts: &[&[u8]] = &[&context];
    let options = ConnectOptions::new(&uri.export).contexts(contexts);
    let mut client = Client::connect(&uri.address, &options, &mut Unobserved).expect("a client");
    let bitmaps = client.dirty_bitmaps(0, u64::MAX, &[None], &mut Unobserved).expect("a bitmap");
    assert_eq!(extents(&bitmaps[0]), served.dirty());
    assert_eq!(bitmaps[0].granularity(), Granularity::from_bytes(4096).expect("a granularity"));
}
