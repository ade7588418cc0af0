//! A server that breaks the rules: every fault is an error with its reason, and never a shorter answer.

use crate::support::nbd_server::{Context, Deed, Message, Server};
use crate::{talk, talk_within};
use checkmap::ErrorKind::{
    self, Damaged, InvalidArgument, Io, NameTooLong, NotFound, OutOfRange, UnknownFormat, Unsupported,
};
use checkmap::nbd::{Client, ConnectOptions, Status};
use checkmap::progress::{Step, Unobserved};
use checkmap::{Bitmap, Result};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

const SIZE: u64 = 1 << 20;
const MON: &[u8] = b"qemu:dirty-bitmap:mon";
const TUE: &[u8] = b"qemu:dirty-bitmap:tue";
const NAMES: &[&[u8]] = &[MON, TUE];

const SET: u32 = 10;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;
const EXTENDED: u32 = 11;

fn server(extended: bool) -> Server {
    let runs = |first: u64| vec![(first, 0), (65536, 1), (SIZE - first - 65536, 0)];
    let contexts =
        [(MON, 65536), (TUE, 262_144)].map(|(name, first)| Context { name: name.to_vec(), runs: runs(first) });
    let mut server = Server::new(SIZE, contexts.to_vec());
    server.extended = extended;
    server.min_block = 512;
    server
}

fn all(client: &mut Client) -> Result<Vec<Bitmap>> {
    client.dirty_bitmaps(0, u64::MAX, &[None, None], &mut Unobserved)
}

#[track_caller]
fn assert_fails<T>(what: &str, answer: Result<T>, kind: ErrorKind, text: &str) {
    let error = answer.err().unwrap_or_else(|| panic!("{what}: an answer is given"));
    assert_eq!(error.kind(), kind, "{what}: {error}");
    assert!(error.to_string().contains(text), "{what}: {error}");
}

/// Changes each message that `when` picks, but not the acknowledgement after contexts and information.
fn meddled(mut server: Server, when: Message, change: fn(&mut Vec<u8>)) -> Server {
    server.meddle = Box::new(move |message, bytes| {
        let is_last = matches!(message, Message::Reply(SET | GO)) && bytes[12..16] == 1_u32.to_be_bytes();
        if message == when && !is_last {
            change(bytes);
        }
        Deed::Send
    });
    server
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Makes a reply to an option a refusal.
fn refuse(bytes: &mut Vec<u8>, code: u32, text: &str) {
    bytes.truncate(12);
    bytes.extend((1_u32 << 31 | code).to_be_bytes());
    bytes.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
    bytes.extend(text.as_bytes());
}

type Row = (&'static str, Message, fn(&mut Vec<u8>), ErrorKind, &'static str);

#[test]
fn a_handshake_that_goes_wrong() {
    let rows: &[Row] = &[
        ("no NBD", Message::Greeting, |bytes| put(bytes, 0, b"SSH-2.0-"), UnknownFormat, "does not greet"),
        ("no style", Message::Greeting, |bytes| put(bytes, 8, b"HAVEIOPT"), UnknownFormat, "does not greet"),
        (
            "oldstyle",
            Message::Greeting,
            |bytes| put(bytes, 8, &0x0000_4202_8186_1253_u64.to_be_bytes()),
            Unsupported,
            "old form",
        ),
        ("not fixed", Message::Greeting, |bytes| put(bytes, 16, &[0, 2]), Unsupported, "old form"),
        ("magic of a reply", Message::Reply(EXTENDED), |bytes| bytes[0] ^= 1, Damaged, "begins with"),
        ("another option", Message::Reply(EXTENDED), |bytes| bytes[11] = 8, Damaged, "answered as option 8"),
        ("an unknown reply", Message::Reply(EXTENDED), |bytes| bytes[15] = 99, Damaged, "unknown type 0x63"),
        ("a long ack", Message::Reply(EXTENDED), |bytes| bytes[19] = 1, Damaged, "acknowledgement has 1 bytes"),
        ("TLS", Message::Reply(EXTENDED), |bytes| refuse(bytes, 5, "use TLS"), Unsupported, "it says 'use TLS'"),
        ("TLS later", Message::Reply(SET), |bytes| refuse(bytes, 5, ""), Unsupported, "wants TLS"),
        (
            "policy",
            Message::Reply(GO),
            |bytes| refuse(bytes, 2, "not you"),
            Io,
            "policy does not allow it; it says 'not you'",
        ),
        ("no export", Message::Reply(GO), |bytes| refuse(bytes, 6, ""), NotFound, "no such export"),
        (
            "no export for maps",
            Message::Reply(SET),
            |bytes| refuse(bytes, 6, ""),
            NotFound,
            "the maps of export 'disk'",
        ),
        ("shutdown", Message::Reply(GO), |bytes| refuse(bytes, 7, ""), Io, "about to end"),
        ("block size", Message::Reply(GO), |bytes| refuse(bytes, 8, ""), Unsupported, "block sizes"),
        ("too big", Message::Reply(SET), |bytes| refuse(bytes, 9, ""), Unsupported, "too long"),
        ("an unknown refusal", Message::Reply(GO), |bytes| refuse(bytes, 77, ""), Io, "invalid"),
        (
            "a refusal of 4 GiB",
            Message::Reply(GO),
            |bytes| put(bytes, 12, &[0x80, 0, 0, 6, 0xff, 0xff, 0xff, 0xff]),
            Damaged,
            "4294967295 bytes",
        ),
        ("a context of 4 GiB", Message::Reply(SET), |bytes| put(bytes, 16, &[0xff; 4]), Damaged, "described by"),
        ("a context of 3 bytes", Message::Reply(SET), |bytes| put(bytes, 16, &[0, 0, 0, 3]), Damaged, "described by"),
        ("another name", Message::Reply(SET), |bytes| bytes[24] = b'x', Damaged, "granted, unasked"),
        (
            "a shorter name",
            Message::Reply(SET),
            |bytes| {
                bytes.pop();
                bytes[19] -= 1;
            },
            Damaged,
            "granted, unasked",
        ),
        (
            "one number twice",
            Message::Reply(SET),
            |bytes| put(bytes, 20, &[0, 0, 0, 1]),
            Damaged,
            "two contexts have the number 1",
        ),
        (
            "one name twice",
            Message::Reply(SET),
            |bytes| {
                if let Some(last) = bytes.get_mut(24..) {
                    last.copy_from_slice(MON);
                }
            },
            Damaged,
            "granted twice",
        ),
        ("an info of 4 GiB", Message::Reply(GO), |bytes| put(bytes, 16, &[0xff; 4]), Damaged, "4294967295 bytes"),
        ("an info of 1 byte", Message::Reply(GO), |bytes| put(bytes, 16, &[0, 0, 0, 1]), Damaged, "no type"),
        (
            "an unknown info of 4 GiB",
            Message::Reply(GO),
            |bytes| put(bytes, 16, &[0xff, 0xff, 0xff, 0xff, 0, 9]),
            Damaged,
            "type 9",
        ),
        (
            "no size",
            Message::Reply(GO),
            |bytes| {
                if bytes.get(21) == Some(&0) {
                    bytes[21] = 9
                }
            },
            Damaged,
            "does not tell the size",
        ),
        (
            "a hostile size",
            Message::Reply(GO),
            |bytes| {
                if bytes.get(21) == Some(&0) {
                    bytes[22] = 0xff
                }
            },
            Damaged,
            "the export has",
        ),
        (
            "blocks of 3 bytes",
            Message::Reply(GO),
            |bytes| {
                if bytes.get(21) == Some(&3) {
                    put(bytes, 22, &[0, 0, 0, 3])
                }
            },
            Damaged,
            "smallest block",
        ),
        (
            "blocks of no byte",
            Message::Reply(GO),
            |bytes| {
                if bytes.get(21) == Some(&3) {
                    put(bytes, 22, &[0, 0, 0, 0])
                }
            },
            Damaged,
            "smallest block",
        ),
        (
            "blocks of 128 KiB",
            Message::Reply(GO),
            |bytes| {
                if bytes.get(21) == Some(&3) {
                    put(bytes, 22, &[0, 2, 0, 0])
                }
            },
            Damaged,
            "smallest block",
        ),
    ];
    for (what, when, change, kind, text) in rows {
        let changed = meddled(server(true), *when, *change);
        let (answer, _) = talk_within(Duration::from_secs(5), changed, NAMES, all);
        assert_fails(what, answer, *kind, text);
    }
}

#[test]
fn headers_that_are_refused() {
    let (answer, _) = talk(server(false), NAMES, |client| {
        assert!(!client.has_extended_headers());
        all(client)
    });
    assert_eq!(answer.expect("structured replies are enough").len(), 2);
    let mut simple = server(false);
    simple.structured = false;
    let (answer, seen) = talk(simple, NAMES, all);
    assert_fails("no structured replies", answer, Unsupported, "structured replies");
    assert!(seen.farewell, "the client leaves politely");
    let tls = meddled(server(false), Message::Reply(STRUCTURED), |bytes| refuse(bytes, 5, ""));
    assert_fails("TLS for structured replies", talk(tls, NAMES, all).0, Unsupported, "wants TLS");
}

#[test]
fn a_context_that_is_not_there_is_named_with_those_that_are() {
    let (answer, seen) = talk(server(true), &[MON, b"qemu:dirty-bitmap:wed"], all);
    let text = "export 'disk' with the name 'qemu:dirty-bitmap:wed' (the server offers 'qemu:dirty-bitmap:mon', 'qemu:dirty-bitmap:tue')";
    assert_fails("a missing context", answer, NotFound, text);
    assert!(seen.farewell);
    let mut none = server(true);
    none.contexts.clear();
    assert_fails("no context at all", talk(none, &[MON], all).0, NotFound, "offers none");
    let mut many = server(true);
    let numbers = 0..100;
    many.contexts = numbers.map(|number| Context { name: format!("x:{number}").into(), runs: Vec::new() }).collect();
    assert_fails("many others", talk(many, &[MON], all).0, NotFound, "and 80 more");
    // A list that fails does not hide the reason.
    let list = meddled(server(true), Message::Reply(9), |bytes| refuse(bytes, 2, ""));
    assert_fails("no list", talk(list, &[b"qemu:dirty-bitmap:wed"], all).0, NotFound, "'qemu:dirty-bitmap:wed'");
}

/// Where the fields of a chunk stand: without and with extended headers.
fn field(extended: bool, compact_at: usize, extended_at: usize) -> usize {
    if extended { extended_at } else { compact_at }
}

#[test]
fn replies_that_break_a_rule() {
    type Change = fn(bool, &mut Vec<u8>);
    let rows: &[(&str, Change, ErrorKind, &str)] = &[
        ("magic", |_, bytes| bytes[0] = 0, Damaged, "a reply begins with"),
        ("an unknown type", |_, bytes| put(bytes, 6, &[0, 9]), Damaged, "unknown type 9"),
        ("data", |_, bytes| put(bytes, 6, &[0, 1]), Damaged, "unknown type 1"),
        (
            "the form of the other headers",
            |extended, bytes| bytes[7] = if extended { 5 } else { 6 },
            Damaged,
            "unknown type",
        ),
        ("an empty chunk with data", |_, bytes| put(bytes, 6, &[0, 0]), Damaged, "empty chunk"),
        ("another cookie", |_, bytes| bytes[15] ^= 0x40, Damaged, "answered as request"),
        ("an unknown context", |extended, bytes| bytes[field(extended, 23, 35)] = 99, Damaged, "unknown context 99"),
        ("a context twice", |extended, bytes| bytes[field(extended, 23, 35)] = 7, Damaged, "two chunks of context 7"),
        (
            "a long chunk",
            |extended, bytes| put(bytes, field(extended, 16, 24), &[0xff; 4]),
            Damaged,
            "a chunk of extents has",
        ),
        (
            "a short chunk",
            |extended, bytes| put(bytes, field(extended, 19, 31), &[3]),
            Damaged,
            "a chunk of extents has 3 bytes",
        ),
        ("half an extent", |extended, bytes| bytes[field(extended, 19, 31)] -= 4, Damaged, "a chunk of extents has"),
        (
            "no extent",
            |extended, bytes| {
                bytes.truncate(field(extended, 24, 40));
                bytes[field(extended, 19, 31)] = if extended { 8 } else { 4 };
                if extended {
                    put(bytes, 36, &[0; 4]);
                }
            },
            Damaged,
            "a chunk of extents has",
        ),
        (
            "length 0",
            |extended, bytes| bytes[field(extended, 24, 40)..][..if extended { 8 } else { 4 }].fill(0),
            Damaged,
            "has 0 bytes",
        ),
        (
            "past the end",
            |extended, bytes| put(bytes, field(extended, 24, 44), &[0x7f]),
            Damaged,
            "passes the export's end",
        ),
        (
            "extents behind the end",
            |extended, bytes| put(bytes, field(extended, 24, 44), &[0, 0x10, 0, 0]),
            Damaged,
            "behind the end",
        ),
        ("unknown flags", |extended, bytes| bytes[field(extended, 31, 55)] = 2, Damaged, "status 0x2 at 0 is neither"),
        ("dirty with another flag", |extended, bytes| bytes[field(extended, 31, 55)] = 3, Damaged, "status 0x3"),
        ("high flags", |extended, bytes| bytes[field(extended, 28, 48)] = 0x80, Damaged, "is neither clean nor dirty"),
    ];
    for (what, change, kind, text) in rows {
        for extended in [false, true] {
            let (change, mut server) = (*change, server(extended));
            // Both chunks of the reply: a fault of the second one alone must be seen too.
            for second_only in [false, true] {
                let mut chunks = 0;
                server.meddle = Box::new(move |message, bytes| {
                    if matches!(message, Message::Chunk(_)) {
                        chunks += 1;
                        if chunks == 2 || !second_only {
                            change(extended, bytes);
                        }
                    }
                    Deed::Send
                });
                let (answer, _) = talk_within(Duration::from_secs(5), server, NAMES, all);
                assert_fails(&format!("{what}, extended {extended}"), answer, *kind, text);
                server = self::server(extended);
            }
        }
    }
}

#[test]
fn extended_headers_have_rules_of_their_own() {
    let rows: &[Row] = &[
        ("another offset", Message::Chunk(1), |bytes| bytes[23] = 1, Damaged, "answered at 1"),
        ("a hostile length", Message::Chunk(1), |bytes| put(bytes, 24, &[0xff; 8]), Damaged, "a chunk of extents has"),
        ("a hostile count", Message::Chunk(1), |bytes| put(bytes, 36, &[0xff; 4]), Damaged, "a chunk of extents has"),
        ("2^64-1 bytes", Message::Chunk(1), |bytes| put(bytes, 40, &[0xff; 8]), Damaged, "passes the export's end"),
        (
            "compact headers",
            Message::Chunk(1),
            |bytes| put(bytes, 0, &0x668e_33ef_u32.to_be_bytes()),
            Damaged,
            "begins with 0x668e33ef",
        ),
        (
            "a simple reply",
            Message::Chunk(1),
            |bytes| put(bytes, 0, &0x6744_6698_u32.to_be_bytes()),
            Damaged,
            "begins with 0x67446698",
        ),
    ];
    for (what, when, change, kind, text) in rows {
        let (answer, _) = talk_within(Duration::from_secs(5), meddled(server(true), *when, *change), NAMES, all);
        assert_fails(what, answer, *kind, text);
    }
}

/// Extents that are no whole blocks are fine, but a reply that never gets past its first block is none.
#[test]
fn replies_that_do_not_go_on() {
    for extended in [false, true] {
        let mut server = server(extended);
        server.min_block = 4096;
        server.meddle = Box::new(move |message, bytes| {
            if matches!(message, Message::Chunk(_)) {
                // One clean extent of 512 bytes.
                bytes.truncate(field(extended, 32, 56));
                put(bytes, field(extended, 19, 31), &[if extended { 24 } else { 12 }]);
                put(bytes, field(extended, 24, 44), &512_u32.to_be_bytes());
                if extended {
                    put(bytes, 36, &1_u32.to_be_bytes());
                }
            }
            Deed::Send
        });
        let (answer, seen) = talk_within(Duration::from_secs(5), server, NAMES, all);
        assert_fails("no progress", answer, Damaged, "a reply ends at 512, as the one before it did");
        assert_eq!(seen.requests, [(0, SIZE), (0, SIZE)]);
    }
}

/// More extents than the protocol allows, told truly.
#[test]
fn a_chunk_has_a_million_extents_and_no_more() {
    for (extents, fine) in [(1_u64 << 20, true), ((1 << 20) + 1, false)] {
        let runs = (0..extents).map(|number| (512, number & 1)).collect();
        let server = Server::new(extents * 512, vec![Context { name: MON.to_vec(), runs }]);
        // The mock looks for each extent from the beginning, so the chunk is made here.
        let (answer, _) =
            talk(quick(server), &[MON], |client| client.dirty_bitmaps(0, u64::MAX, &[None], &mut Unobserved));
        match fine {
            true => assert_eq!(answer.expect("an answer")[0].dirty_granules(), extents / 2),
            false => assert_fails("too many", answer, Damaged, "a chunk of extents has"),
        }
    }
}

/// A server of one context that tells all of its runs in one chunk.
fn quick(mut server: Server) -> Server {
    let runs = std::mem::replace(&mut server.contexts[0].runs, vec![(server.size_bytes, 0)]);
    server.meddle = Box::new(move |message, bytes| {
        if matches!(message, Message::Chunk(_)) {
            bytes.truncate(36);
            put(bytes, 24, &(runs.len() as u64 * 16 + 8).to_be_bytes());
            bytes.extend(u32::try_from(runs.len()).expect("few runs").to_be_bytes());
            runs.iter().for_each(|(len, flags)| bytes.extend([len.to_be_bytes(), flags.to_be_bytes()].concat()));
        }
        Deed::Send
    });
    server
}

#[test]
fn a_context_that_is_left_out_of_a_reply() {
    for extended in [false, true] {
        let mut server = server(extended);
        let mut chunks = 0;
        server.meddle = Box::new(move |message, bytes| {
            if matches!(message, Message::Chunk(_)) {
                chunks += 1;
                match chunks {
                    1 => bytes[5] = 1,
                    _ => bytes.clear(),
                }
            }
            Deed::Send
        });
        assert_fails("left out", talk(server, NAMES, all).0, Damaged, "leaves out context 'qemu:dirty-bitmap:tue'");
    }
}

/// Turns the second chunk of a reply into an error.
fn report(bytes: &mut Vec<u8>, extended: bool, kind: u16, code: u32, text: &[u8]) {
    bytes.truncate(field(extended, 20, 32));
    put(bytes, 6, &kind.to_be_bytes());
    let tail: &[u8] = if kind == 0x8002 { &[0; 8] } else { &[] };
    let len = u16::try_from(text.len()).expect("short");
    let data = [&code.to_be_bytes()[..], &len.to_be_bytes(), text, tail].concat();
    put(bytes, field(extended, 18, 30), &u16::try_from(data.len()).expect("short").to_be_bytes());
    bytes.extend(data);
}

#[test]
fn errors_that_the_server_reports() {
    for extended in [false, true] {
        for (kind, code, errno) in
            [(0x8001, 5, 5), (0x8002, 5, 5), (0x8001, 12, 12), (0x8001, 9999, 22), (0x8009, 1, 1)]
        {
            let mut server = server(extended);
            server.meddle = Box::new(move |message, bytes| {
                if matches!(message, Message::Chunk(_)) {
                    report(bytes, extended, kind, code, b"the disk is gone");
                }
                Deed::Send
            });
            let (answer, _) = talk(server, NAMES, |client| {
                let error = all(client).expect_err("the server reports an error");
                assert_eq!(error.errno(), errno, "{error}");
                assert_fails("afterwards", all(client), Io, "failed before");
                Err::<(), _>(error)
            });
            assert_fails("reported", answer, Io, "it says 'the disk is gone'");
        }
    }
    let mut server = server(false);
    server.meddle = Box::new(move |message, bytes| {
        if matches!(message, Message::Chunk(_)) {
            let cookie = bytes[8..16].to_vec();
            *bytes = [&0x6744_6698_u32.to_be_bytes()[..], &22_u32.to_be_bytes(), &cookie].concat();
        }
        Deed::Send
    });
    assert_fails("a simple reply with an error", talk(server, NAMES, all).0, Io, "cannot tell the status");
}

#[test]
fn errors_that_are_told_wrongly() {
    let lies: &[fn(&mut Vec<u8>)] = &[
        // No error, a text that is longer than its chunk, a chunk of 4 GiB, one that is too short.
        |bytes| put(bytes, 20, &[0; 4]),
        |bytes| put(bytes, 24, &[0xff; 2]),
        |bytes| put(bytes, 16, &[0xff; 4]),
        |bytes| put(bytes, 16, &[0, 0, 0, 5]),
    ];
    for lie in lies {
        let mut server = server(false);
        server.meddle = Box::new(move |message, bytes| {
            if matches!(message, Message::Chunk(_)) {
                report(bytes, false, 0x8001, 5, b"text");
                lie(bytes);
            }
            Deed::Send
        });
        assert_fails("a lie", talk_within(Duration::from_secs(5), server, NAMES, all).0, Damaged, "told in");
    }
}

#[test]
fn a_server_that_is_silent_trickles_or_leaves() {
    let second = |deed: Deed, when: Message| {
        let mut server = server(true);
        server.meddle = Box::new(move |message, _| if message == when { deed } else { Deed::Send });
        server
    };
    for when in
        [Message::Greeting, Message::Reply(EXTENDED), Message::Reply(SET), Message::Reply(GO), Message::Chunk(1)]
    {
        for (deed, text) in [
            (Deed::Hang, "did not answer within 0.15 s"),
            (Deed::Trickle, "did not answer within 0.15 s"),
            (Deed::Close, "closed the connection"),
        ] {
            let timeout = Duration::from_millis(if deed == Deed::Close { 60_000 } else { 150 });
            let begin = Instant::now();
            let (answer, _) = talk_within(timeout, second(deed, when), NAMES, all);
            assert_fails(&format!("{deed:?} at {when:?}"), answer, Io, text);
            assert!(begin.elapsed() < Duration::from_secs(50), "{deed:?} at {when:?}");
        }
    }
}

#[test]
fn an_observer_stops_a_wait() {
    for when in [Message::Greeting, Message::Chunk(1)] {
        let mut server = server(true);
        server.meddle = Box::new(move |message, _| if message == when { Deed::Hang } else { Deed::Send });
        let (stream, thread) = server.start();
        let mut steps = 0;
        let mut observer = |step: Step| {
            assert!(step.done <= step.total);
            steps += 1;
            if steps > 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = ConnectOptions::new(b"").contexts(NAMES).timeout(Duration::from_secs(3600));
        let answer = Client::over(Box::new(stream), &options, &mut observer)
            .and_then(|mut client| client.dirty_bitmaps(0, u64::MAX, &[None, None], &mut observer));
        assert_fails("stopped", answer, ErrorKind::Cancelled, "stopped as asked");
        thread.join().expect("the server does not panic");
    }
}

#[test]
fn questions_that_cannot_be_asked() {
    let long = vec![b'x'; 4097];
    for (contexts, kind) in [(&[MON, MON][..], InvalidArgument), (&[&[]], InvalidArgument), (&[&long], NameTooLong)] {
        assert_fails("contexts", talk(server(true), contexts, all).0, kind, "");
    }
    let (stream, thread) = server(true).start();
    let answer = Client::over(Box::new(stream), &ConnectOptions::new(&long), &mut Unobserved);
    assert_fails("a long export", answer, NameTooLong, "4097 bytes");
    thread.join().expect("the server does not panic");
    let (answer, _) = talk(server(true), NAMES, |client| {
        assert_fails("past the end", client.dirty_bitmaps(SIZE + 1, 1, &[None, None], &mut Unobserved), OutOfRange, "");
        let mut never = |_: Status| unreachable!();
        assert_fails("past the end", client.block_status(SIZE + 1, 1, &mut never, &mut Unobserved), OutOfRange, "");
        assert_fails(
            "one of two",
            client.dirty_bitmaps(0, 1, &[None], &mut Unobserved),
            InvalidArgument,
            "1 granularities",
        );
        assert!(client.block_status(SIZE, u64::MAX, &mut never, &mut Unobserved).is_ok(), "nothing is asked");
        let stop = |_: Status| Err(checkmap::Error::new(InvalidArgument, "enough"));
        let stopped = client.block_status(0, u64::MAX, &mut { stop }, &mut Unobserved);
        assert_fails("the visitor", stopped, InvalidArgument, "enough");
        Ok(())
    });
    answer.expect("the rest is fine");
    let mut other = server(true);
    other.contexts[0].name = b"base:allocation".to_vec();
    let (answer, _) = talk(other, &[b"base:allocation", TUE], all);
    assert_fails("no dirty bitmap", answer, InvalidArgument, "'base:allocation' is no dirty bitmap");
}

#[test]
fn an_export_must_be_of_the_disk() {
    let connect = |disk: u64| {
        let (stream, thread) = server(true).start();
        let options = ConnectOptions::new(b"disk").contexts(NAMES).disk_bytes(disk);
        let client = Client::over(Box::new(stream), &options, &mut Unobserved);
        let bitmaps = client.and_then(|mut client| all(&mut client));
        assert!(thread.join().expect("the server does not panic").farewell);
        bitmaps
    };
    for disk in [0, SIZE - 512, SIZE - 1, SIZE + 512, SIZE + 513, SIZE * 2] {
        assert_fails(&format!("{disk}"), connect(disk), ErrorKind::SizeMismatch, "the export has 1048576 bytes");
    }
    assert_eq!(connect(SIZE).expect("the same size")[0].dirty_bytes(), 65536);
    for tail in [1, 511] {
        let bitmaps = connect(SIZE + tail).expect("a tail that is no sector");
        assert_eq!(
            (bitmaps[0].size_bytes(), bitmaps[0].dirty_bytes()),
            (SIZE + tail, 65536 + tail),
            "the tail is dirty"
        );
    }
}
