//! Any bytes as those of an NBD client: the server neither panics nor waits, and every byte that it sends is of the disk.

use crate::recorded::Recorded;
use checkmap::nbd::server::{Export, Visit, converse};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Extent};

use std::ops::ControlFlow;

const SIZE: u64 = 5000;
const SIZE_BYTES: usize = 5000;

/// A small disk: each byte tells its place, every 700 bytes the flags change.
struct Disk(Vec<Vec<u8>>);

fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

impl Export for Disk {
    fn size_bytes(&self) -> u64 {
        SIZE
    }

    fn contexts(&self) -> &[Vec<u8>] {
        &self.0
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> checkmap::Result<()> {
        assert!(offset + buffer.len() as u64 <= SIZE, "a read past the end");
        buffer.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = byte_at(at));
        Ok(())
    }

    fn status(&self, context: usize, window: Extent, visit: Visit<'_>) -> checkmap::Result<()> {
        assert!(context < self.0.len() && window.len_bytes > 0 && window.end() <= SIZE, "{window:?}");
        let mut at = window.offset;
        while at < window.end() {
            let end = ((at / 700 + 1) * 700).min(window.end());
            if visit(Extent { offset: at, len_bytes: end - at }, (at / 700 + context as u64) % 4)
                == ControlFlow::Break(())
            {
                break;
            }
            at = end;
        }
        Ok(())
    }
}

pub(crate) fn serve_nbd(bytes: &[u8]) {
    let disk = Disk(vec![b"base:allocation".to_vec(), b"qemu:dirty-bitmap:mon".to_vec()]);
    let stream = Recorded::new(bytes);
    let hears = stream.hears();
    if let Err(error) = converse(Box::new(stream), b"disk", &disk, &mut Unobserved) {
        assert!(matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Io), "{error}");
    }
    let heard = hears.lock().expect("one thread");
    // A request has at least 28 bytes, an option 16.
    let most = 18 + (bytes.len() / 16 + 1) * 600 + (bytes.len() / 28 + 1) * (SIZE_BYTES + 600);
    assert!(heard.len() <= most, "{} bytes are answered with {}", bytes.len(), heard.len());
    check(heard.get(18..).unwrap_or_default());
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Every message is framed as it says, until one that does not tell its length.
fn check(mut heard: &[u8]) {
    while heard.len() >= 20 {
        let (head, len) = match number(&heard[..4]) {
            0x0003_e889 => (20, number(&heard[16..20])),
            0x668e_33ef => (20, number(&heard[16..20])),
            0x6e8a_278c if heard.len() >= 32 => (32, number(&heard[24..32])),
            _ => return,
        };
        let data = &heard[head..head + usize::try_from(len).expect("a short message")];
        let is_data = number(&heard[..4]) != 0x0003_e889 && heard[6..8] == [0, 1];
        if is_data {
            let offset = number(&data[..8]);
            assert!(data[8..].iter().zip(offset..).all(|(byte, at)| *byte == byte_at(at)), "other bytes at {offset}");
        }
        heard = &heard[head + data.len()..];
    }
}
