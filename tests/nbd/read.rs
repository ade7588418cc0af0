//! Reads from a server that breaks every rule: no answer is ever shorter than the question, nor are its bytes anywhere else.

use crate::recorded::Recorded;
use checkmap::ErrorKind::{Damaged, Io};
use checkmap::nbd::{Client, ConnectOptions};
use checkmap::progress::Unobserved;

const DONE: u16 = 1;
const DATA: u16 = 1;
const HOLE: u16 = 2;

/// A chunk of the answer to the first request, which is for 100 bytes at 1000.
fn chunk(flags: u16, kind: u16, data: &[&[u8]]) -> Vec<u8> {
    chunk_of(1, 1000, flags, kind, data)
}

fn chunk_of(cookie: u64, offset: u64, flags: u16, kind: u16, data: &[&[u8]]) -> Vec<u8> {
    let data = data.concat();
    let head = [&0x6e8a_278c_u32.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes(), &cookie.to_be_bytes()];
    [&head.concat()[..], &offset.to_be_bytes(), &(data.len() as u64).to_be_bytes(), &data].concat()
}

/// Data for the bytes from `from` on.
fn data(flags: u16, from: u64, byte: u8, len: usize) -> Vec<u8> {
    chunk(flags, DATA, &[&from.to_be_bytes(), &vec![byte; len]])
}

fn hole(flags: u16, from: u64, len: u32) -> Vec<u8> {
    chunk(flags, HOLE, &[&from.to_be_bytes(), &len.to_be_bytes()])
}

/// What a client reads that asks for 100 bytes at 1000 of an export of 5000, and gets these chunks.
fn read(chunks: &[Vec<u8>]) -> checkmap::Result<Vec<u8>> {
    let reply = |option: u32, kind: u32, data: &[u8]| {
        let len = u32::try_from(data.len()).expect("a short reply").to_be_bytes();
        [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &len, data].concat()
    };
    let export = [&0_u16.to_be_bytes()[..], &5000_u64.to_be_bytes(), &3_u16.to_be_bytes()].concat();
    let greeting = [b"NBDMAGICIHAVEOPT", &3_u16.to_be_bytes()[..]].concat();
    let handshake = [greeting, reply(11, 1, b""), reply(7, 3, &export), reply(7, 1, b"")].concat();
    let stream = Recorded::new(&[handshake, chunks.concat()].concat());
    let mut client = Client::over(Box::new(stream), &ConnectOptions::new(b""), &mut Unobserved).expect("they agree");
    let mut buffer = vec![0xee; 100];
    client.read(&mut buffer, 1000, &mut Unobserved)?;
    Ok(buffer)
}

#[test]
fn answers_come_in_pieces_of_any_kind_and_order() {
    let expected = [vec![7; 30], vec![0; 50], vec![9; 20]].concat();
    for chunks in [
        vec![data(0, 1000, 7, 30), hole(0, 1030, 50), data(DONE, 1080, 9, 20)],
        vec![data(0, 1080, 9, 20), hole(0, 1030, 50), data(DONE, 1000, 7, 30)],
        vec![hole(0, 1030, 50), data(0, 1080, 9, 20), data(0, 1000, 7, 30), chunk(DONE, 0, &[])],
        vec![data(0, 1000, 7, 10), data(0, 1010, 7, 20), hole(0, 1030, 49), hole(0, 1079, 1), data(DONE, 1080, 9, 20)],
    ] {
        assert_eq!(read(&chunks).expect("all of it came"), expected);
    }
    assert_eq!(read(&[hole(DONE, 1000, 100)]).expect("all of it came"), [0; 100]);
}

#[test]
fn answers_that_break_a_rule_are_errors() {
    let whole = |flags| data(flags, 1000, 7, 100);
    for (name, chunks, kind, text) in [
        ("too few bytes", vec![data(DONE, 1000, 7, 99)], Damaged, "fewer"),
        ("none", vec![chunk(DONE, 0, &[])], Damaged, "fewer"),
        ("a gap and something twice", vec![data(0, 1000, 7, 50), data(DONE, 1000, 7, 50)], Damaged, "still to come"),
        ("an overlap", vec![data(0, 1000, 7, 60), data(DONE, 1059, 7, 41)], Damaged, "still to come"),
        ("bytes before it", vec![data(DONE, 999, 7, 100)], Damaged, "still to come"),
        ("bytes behind it", vec![data(DONE, 1001, 7, 100)], Damaged, "still to come"),
        ("bytes far behind", vec![data(DONE, u64::MAX, 7, 1)], Damaged, "still to come"),
        ("more than all", vec![whole(0), data(DONE, 1000, 7, 1)], Damaged, "still to come"),
        ("a hole of nothing", vec![hole(0, 1000, 0), whole(DONE)], Damaged, "still to come"),
        ("a long hole", vec![hole(DONE, 1000, u32::MAX)], Damaged, "still to come"),
        ("data of nothing", vec![data(0, 1000, 7, 0), whole(DONE)], Damaged, "still to come"),
        ("a chunk without a place", vec![chunk(DONE, DATA, &[&[1; 7]])], Damaged, "7 bytes"),
        ("a hole of another length", vec![chunk(DONE, HOLE, &[&[1; 11]])], Damaged, "11 bytes"),
        ("an empty chunk with data", vec![chunk(DONE, 0, &[&[1]])], Damaged, "empty chunk"),
        ("an empty chunk in the middle", vec![chunk(0, 0, &[]), whole(DONE)], Damaged, "empty chunk"),
        ("an unknown type", vec![chunk(DONE, 9, &[])], Damaged, "unknown type 9"),
        ("the status of blocks", vec![chunk(DONE, 6, &[&[0; 24]])], Damaged, "unknown type 6"),
        ("another request", vec![chunk_of(2, 1000, DONE, DATA, &[&[0; 108]])], Damaged, "unasked"),
        ("another offset", vec![chunk_of(1, 1001, DONE, DATA, &[&[0; 108]])], Damaged, "answered at 1001"),
        ("an end in the middle", vec![data(0, 1000, 7, 30)], Io, "closed the connection"),
        ("a chunk that is cut short", vec![whole(DONE)[..60].to_vec()], Io, "closed the connection"),
        (
            "an error",
            vec![chunk(DONE, 0x8001, &[&5_u32.to_be_bytes(), &4_u16.to_be_bytes(), b"rust"])],
            Io,
            "cannot read; it says 'rust'",
        ),
        (
            "an error behind data",
            vec![
                data(0, 1000, 7, 30),
                chunk(DONE, 0x8002, &[&5_u32.to_be_bytes(), &0_u16.to_be_bytes(), &1030_u64.to_be_bytes()]),
            ],
            Io,
            "cannot read",
        ),
    ] {
        let error = read(&chunks).expect_err(name);
        assert!(error.kind() == kind && error.to_string().contains(text), "{name}: {error:?}");
    }
}
