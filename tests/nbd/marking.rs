//! Zeroes that are written over blocks: exactly those that are dirty, whatever the server's blocks; and every fault is an error.

use crate::support::nbd_server::{Deed, Message, Server};
use crate::support::random::Random;
use crate::{talk, talk_within};
use checkmap::ErrorKind::{self, Damaged, Io, SizeMismatch};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, Granularity};
use std::time::Duration;

const SIZE: u64 = 1 << 20;

fn bitmap(size: u64, granularity: u64, marks: &[(u64, u64)]) -> Bitmap {
    let granularity = Granularity::from_bytes(granularity).expect("a granularity");
    let mut bits = Bitmap::new(size, granularity).expect("a bitmap");
    marks.iter().for_each(|(offset, len)| bits.set(*offset, *len).expect("a mark"));
    bits
}

fn server(extended: bool, min_block: u32) -> Server {
    let mut server = Server::new(SIZE, Vec::new());
    (server.extended, server.min_block) = (extended, min_block);
    server
}

#[test]
fn zeroes_lie_over_the_dirty_blocks_and_no_others() {
    let mut random = Random::seeded(7);
    for round in 0..60 {
        let min_block = *random.pick(&[1, 512, 4096]);
        let granularity = *random.pick(&[512, 4096, 65536]);
        let marks: Vec<(u64, u64)> = (0..random.below(200))
            .map(|_| {
                let offset = random.below(SIZE);
                (offset, 1 + random.below((SIZE - offset).min(9000)))
            })
            .collect();
        let bits = bitmap(SIZE, granularity, &marks);
        let (answer, seen) =
            talk(server(round % 2 == 0, min_block), &[], |client| client.write_zeroes(&bits, &mut Unobserved));
        answer.expect("it is written");
        let mut written = Bitmap::new(SIZE, Granularity::from_bytes(512).expect("a granularity")).expect("a bitmap");
        for (offset, len) in &seen.requests {
            assert_eq!(written.count_range(*offset, *len), 0, "{offset} is written twice");
            written.set(*offset, *len).expect("a mark");
        }
        let coarse = granularity.max(min_block.into());
        let expected = bits.to_granularity(Granularity::from_bytes(coarse).expect("a granularity")).expect("rounded");
        assert!(written.extents(0, u64::MAX).eq(expected.extents(0, u64::MAX)), "round {round}");
        assert!(seen.farewell);
    }
}

#[test]
fn a_long_stretch_is_written_in_parts() {
    for extended in [true, false] {
        let size = 5 << 30;
        let mut server = Server::new(size, Vec::new());
        (server.extended, server.min_block) = (extended, 512);
        let bits = bitmap(size, 65536, &[(0, size)]);
        let (answer, seen) = talk(server, &[], |client| client.write_zeroes(&bits, &mut Unobserved));
        answer.expect("it is written");
        assert_eq!(seen.requests.iter().map(|(_, len)| len).sum::<u64>(), size);
        assert!(seen.requests.iter().all(|(_, len)| *len < 1 << 32));
    }
}

#[test]
fn a_reply_that_breaks_a_rule_is_an_error() {
    type Change = fn(&mut Vec<u8>);
    let faults: [(&str, bool, Change, ErrorKind); 7] = [
        ("another magic", false, |bytes| bytes[0] ^= 1, Damaged),
        ("another cookie", false, |bytes| bytes[15] ^= 64, Damaged),
        ("another cookie", true, |bytes| bytes[15] ^= 64, Damaged),
        ("another offset", true, |bytes| bytes[23] ^= 1, Damaged),
        ("a status", false, |bytes| bytes[7] = 5, Damaged),
        ("not the last one", false, |bytes| bytes[5] = 0, Damaged),
        // A simple reply with an error.
        ("refused", false, |bytes| *bytes = [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28][..], &bytes[8..16]].concat(), Io),
    ];
    for (what, extended, change, kind) in faults {
        let mut server = server(extended, 512);
        server.meddle = Box::new(move |message, bytes| {
            if message == Message::Chunk(2) {
                change(bytes);
            }
            Deed::Send
        });
        let bits = bitmap(SIZE, 512, &[(0, 512), (4096, 512), (65536, 512)]);
        let (answer, _) = talk(server, &[], |client| client.write_zeroes(&bits, &mut Unobserved));
        assert_eq!(answer.expect_err(what).kind(), kind, "{what}");
    }
    for deed in [Deed::Close, Deed::Hang] {
        let mut server = server(false, 512);
        server.meddle = Box::new(move |message, _| if message == Message::Chunk(1) { deed } else { Deed::Send });
        let bits = bitmap(SIZE, 512, &[(0, 512)]);
        let short = Duration::from_millis(300);
        let (answer, _) = talk_within(short, server, &[], |client| client.write_zeroes(&bits, &mut Unobserved));
        assert_eq!(answer.expect_err("cut").kind(), Io, "{deed:?}");
    }
    let other = bitmap(SIZE * 2, 512, &[(0, 512)]);
    let (answer, seen) = talk(server(true, 512), &[], |client| client.write_zeroes(&other, &mut Unobserved));
    assert_eq!(answer.expect_err("another size").kind(), SizeMismatch);
    assert_eq!(seen.requests, []);
}
