//! Any bytes as those of an NBD server: the client neither panics nor waits, and what it accepts covers the window.

use crate::recorded::Recorded;
use checkmap::nbd::{Client, ConnectOptions, Status};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, ErrorKind};

/// The contexts of the servers in the corpus.
const CONTEXTS: [&[u8]; 3] = [b"qemu:dirty-bitmap:mon", b"qemu:dirty-bitmap:tue", b"qemu:dirty-bitmap:wed"];

/// The last byte chooses how many contexts are asked for, and the window.
pub(crate) fn read_nbd(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_last() else { return };
    let contexts = &CONTEXTS[..usize::from(choice & 3)];
    let stream = |bytes: &[u8]| Box::new(Recorded::new(bytes));
    let options = ConnectOptions::new(b"disk").contexts(contexts);
    let connect = || Client::over(stream(bytes), &options, &mut Unobserved).inspect_err(|error| refused(error.kind()));
    let Ok(mut client) = connect() else { return };
    let size = client.size_bytes();
    let (offset, len) = if choice & 4 == 0 { (0, u64::MAX) } else { (size / 3, size / 2) };
    let end = offset.saturating_add(len).min(size);

    let mut reached = [offset; CONTEXTS.len()];
    let mut dirty: [Vec<(u64, u64)>; CONTEXTS.len()] = Default::default();
    let mut visit = |status: Status| {
        assert!(status.extent.offset == reached[status.context] && status.extent.len_bytes > 0, "{status:?}");
        reached[status.context] = status.extent.end();
        if status.flags == 1 {
            dirty[status.context].push((status.extent.offset, status.extent.end()));
        }
        Ok(())
    };
    match client.block_status(offset, len, &mut visit, &mut Unobserved) {
        Ok(()) => assert!(reached[..contexts.len()].iter().all(|reached| *reached == end), "a part is missing"),
        Err(error) => {
            refused(error.kind());
            assert!(reached.iter().all(|reached| *reached <= end));
        }
    }

    // The same bytes once more, into bitmaps.
    let mut client = connect().expect("it was accepted before");
    match client.dirty_bitmaps(offset, len, &vec![None; contexts.len()], &mut Unobserved) {
        Ok(bitmaps) => bitmaps.iter().zip(&dirty).for_each(|(bitmap, dirty)| holds(bitmap, dirty)),
        Err(error) => refused(error.kind()),
    }
}

fn refused(kind: ErrorKind) {
    let kinds = [
        ErrorKind::Damaged,
        ErrorKind::UnknownFormat,
        ErrorKind::Unsupported,
        ErrorKind::NotFound,
        ErrorKind::Io,
        // A disk that has too many granules at 2^31 bytes.
        ErrorKind::InvalidArgument,
    ];
    assert!(kinds.contains(&kind), "{kind:?}");
}

/// The bitmap has every stretch, and no dirty extent without one.
fn holds(bitmap: &Bitmap, dirty: &[(u64, u64)]) {
    bitmap.validate().expect("a bitmap keeps its own rules");
    for (from, end) in dirty {
        assert_eq!(bitmap.next_clean(*from, end - from), None, "{from}..{end} is not dirty");
    }
    for extent in bitmap.extents(0, u64::MAX).take(1000) {
        let touches = dirty.iter().any(|(from, end)| *from < extent.end() && extent.offset < *end);
        assert!(touches, "{extent:?} is dirty for no reason");
    }
}
