//! A storage that cannot grow, as a block device: whether a change fits is known before the first write, to the cluster.

use crate::support::memory::{Memory, open};
use crate::support::raw::Raw;
use crate::{Change, Create, DeleteMiddle, bitmaps, chain, plan, tools_are_here};
use checkmap::ErrorKind;
use checkmap::image::Access;
use checkmap::io::Storage;
use checkmap::progress::Unobserved;
use std::io;
use std::sync::Arc;

/// A device of the length that it has from the beginning.
#[derive(Debug)]
struct Device(Memory);

impl Storage for Device {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = self.0.len_bytes()?;
        assert!(offset + bytes.len() as u64 <= end, "written past the end, which a look at the room should have told");
        self.0.write_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }

    fn can_grow(&self) -> bool {
        false
    }
}

/// The clusters that a change needs behind the end of the image; each device that is smaller is refused and left alone.
fn clusters_needed(image: &[u8], cluster: usize, change: Change) -> usize {
    for clusters in 0..64 {
        let mut bytes = image.to_vec();
        bytes.resize(image.len().next_multiple_of(cluster) + clusters * cluster, 0xee);
        let device = Arc::new(Device(Memory::new(bytes.clone())));
        let mut handle = open(&device, Access::Write).expect("it opens");
        let before = bitmaps(&handle);
        let plan = plan(&handle, change);
        let rehearsed = handle.rehearse(&plan, &mut Unobserved);
        assert!(device.0.holds(&bytes), "{change:?}: a rehearsal wrote");
        match handle.commit(&plan, &mut Unobserved) {
            Ok(_) => {
                assert!(rehearsed.is_ok(), "{change:?}: {rehearsed:?}");
                assert_ne!(bitmaps(&handle), before, "{change:?}");
                return clusters;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{change:?}: {error:?}");
                assert_eq!(rehearsed.expect_err("as the commit").kind(), ErrorKind::NoSpace, "{change:?}");
                assert!(device.0.holds(&bytes), "{change:?}: a refusal wrote");
            }
        }
    }
    panic!("{change:?}: never enough");
}

#[test]
fn whether_a_change_fits_a_device_is_known_before_the_first_write() {
    if !tools_are_here() {
        return;
    }
    for change in [Create, DeleteMiddle] {
        let mut image = Raw { bytes: chain("cluster_size=4k", "1M", 900 << 10) };
        image.leave_no_room();
        let (image, cluster) = (image.bytes, 4096);
        // A file takes what the change itself needs; a device may have to leave room for QEMU beside it.
        let file = Arc::new(Memory::new(image.clone()));
        let mut handle = open(&file, Access::Write).expect("it opens");
        let planned = plan(&handle, change);
        handle.commit(&planned, &mut Unobserved).expect("a file grows");
        let grown = file.bytes().len().div_ceil(cluster) - image.len().div_ceil(cluster);
        assert!(grown > 0, "{change:?}: there was room already, so nothing is tested");
        let needed = clusters_needed(&image, cluster, change);
        assert!(needed >= grown, "{change:?}: {needed} clusters behind the end are too few");
    }
}
