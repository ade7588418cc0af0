//! The NBD server against our own client, and against a client that is written out byte by byte, in every form of the protocol.

use crate::support::random::Random;
use checkmap::nbd::server::{Export, Visit, converse};
use checkmap::nbd::{Client, ConnectOptions};
use checkmap::progress::Unobserved;
use checkmap::{Error, ErrorKind, Extent};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

/// A disk in memory with runs of flags for each of its contexts.
#[derive(Clone, Debug)]
struct Disk {
    bytes: Vec<u8>,
    contexts: Vec<Vec<u8>>,
    runs: Vec<Vec<(u64, u64)>>,
    /// Reads from this byte on fail.
    broken_from: u64,
}

impl Disk {
    fn random(size: u64, random: &mut Random) -> Self {
        let contexts = vec![b"base:allocation".to_vec(), b"qemu:dirty-bitmap:mon".to_vec()];
        let runs = contexts.iter().map(|_| {
            let (mut runs, mut left) = (Vec::new(), size);
            while left > 0 {
                let len = (1 + random.below(size / 7 + 1)).min(left);
                runs.push((len, random.below(3)));
                left -= len;
            }
            runs
        });
        let runs = runs.collect();
        let bytes = (0..size).map(|_| random.next().to_be_bytes()[0]).collect();
        Self { bytes, contexts, runs, broken_from: u64::MAX }
    }
}

impl Export for Disk {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn contexts(&self) -> &[Vec<u8>] {
        &self.contexts
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> checkmap::Result<()> {
        if offset + buffer.len() as u64 > self.broken_from {
            return Err(Error::new(ErrorKind::Io, "the disk is broken here"));
        }
        let at = usize::try_from(offset).expect("a small disk");
        buffer.copy_from_slice(&self.bytes[at..at + buffer.len()]);
        Ok(())
    }

    fn status(&self, context: usize, window: Extent, visit: Visit<'_>) -> checkmap::Result<()> {
        let mut at = 0;
        for (len, flags) in &self.runs[context] {
            let (from, end) = (at.max(window.offset), (at + len).min(window.end()));
            if from < end && visit(Extent { offset: from, len_bytes: end - from }, *flags).is_break() {
                return Ok(());
            }
            at += len;
        }
        Ok(())
    }
}

/// The client's end of a connection to a server of `disk`, and how the conversation ends.
fn serve(disk: &Disk) -> (UnixStream, JoinHandle<checkmap::Result<()>>) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let disk = disk.clone();
    (ours, thread::spawn(move || converse(Box::new(theirs), b"disk", &disk, &mut Unobserved)))
}

/// What a context says of a window, run by run.
fn expected(disk: &Disk, context: usize, window: Extent) -> Vec<(u64, u64, u64)> {
    let mut told: Vec<(u64, u64, u64)> = Vec::new();
    disk.status(context, window, &mut |extent, flags| {
        match told.last_mut() {
            Some((_, len, same)) if *same == flags => *len += extent.len_bytes,
            _ => told.push((extent.offset, extent.len_bytes, flags)),
        }
        std::ops::ControlFlow::Continue(())
    })
    .expect("memory does not fail");
    told
}

#[test]
fn our_client_reads_every_byte_and_every_flag() {
    let mut random = Random::seeded(41);
    for round in 0..40 {
        let size = [0, 1, 511, 4096, 70_001, 3_000_017][round % 6];
        let disk = Disk::random(size, &mut random);
        let (stream, server) = serve(&disk);
        let contexts: Vec<&[u8]> = disk.contexts.iter().map(Vec::as_slice).collect();
        let options = ConnectOptions::new(b"disk").contexts(&contexts);
        let mut client = Client::over(Box::new(stream), &options, &mut Unobserved).expect("they agree");
        assert_eq!(client.size_bytes(), size);
        assert!(client.has_extended_headers());
        for _ in 0..10 {
            let offset = random.below(size + 1);
            let len = random.below(size - offset + 1);
            let mut buffer = vec![0xa5; usize::try_from(len).expect("a small disk")];
            client.read(&mut buffer, offset, &mut Unobserved).expect("a read");
            let at = usize::try_from(offset).expect("a small disk");
            assert!(buffer == disk.bytes[at..at + buffer.len()], "{len} bytes at {offset}");
            let mut told = vec![Vec::new(); contexts.len()];
            let mut visit = |status: checkmap::nbd::Status| {
                let Extent { offset, len_bytes } = status.extent;
                told[status.context].push((offset, len_bytes, status.flags));
                Ok(())
            };
            client.block_status(offset, len, &mut visit, &mut Unobserved).expect("the status");
            for (context, told) in told.iter().enumerate() {
                assert_eq!(*told, expected(&disk, context, Extent { offset, len_bytes: len }));
            }
        }
        // Several extents at once, in any order.
        let mut extents = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..random.below(40) {
            let offset = random.below(size + 1);
            let len_bytes = random.below((size - offset).min(4096) + 1);
            let at = usize::try_from(offset).expect("a small disk");
            wanted.extend_from_slice(&disk.bytes[at..at + usize::try_from(len_bytes).expect("a small disk")]);
            extents.push(Extent { offset, len_bytes });
        }
        let mut buffer = vec![0xa5; wanted.len()];
        client.read_extents(&mut buffer, &extents, &mut Unobserved).expect("a read");
        assert!(buffer == wanted, "{extents:?}");
        let mut longer = vec![0; wanted.len() + 1];
        let error = client.read_extents(&mut longer, &extents, &mut Unobserved).expect_err("a byte too many");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let outside = client.read(&mut [0; 2], size, &mut Unobserved).expect_err("it is past the end");
        assert_eq!(outside.kind(), ErrorKind::OutOfRange);
        drop(client);
        server.join().expect("no panic").expect("the client left in order");
    }
}

#[test]
fn an_error_of_the_disk_is_one_of_the_read_and_of_nothing_else() {
    let mut random = Random::seeded(42);
    let mut disk = Disk::random(9 << 20, &mut random);
    disk.broken_from = 5 << 20;
    let (stream, _server) = serve(&disk);
    let mut client = Client::over(Box::new(stream), &ConnectOptions::new(b"disk"), &mut Unobserved).expect("agreed");
    let mut buffer = vec![0; 5 << 20];
    client.read(&mut buffer, 0, &mut Unobserved).expect("it is whole until there");
    let error = client.read(&mut buffer, 4 << 20, &mut Unobserved).expect_err("it is broken");
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("the disk is broken here"), "{error}");
}

/// A client that is written out byte by byte.
struct Raw(UnixStream, Option<JoinHandle<checkmap::Result<()>>>);

const OPTION: u64 = 0x4948_4156_454f_5054;
const REPLY: u64 = 0x0003_e889_0455_65a9;

impl Raw {
    fn connect(disk: &Disk) -> Self {
        let (stream, server) = serve(disk);
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a time-out");
        let mut raw = Raw(stream, Some(server));
        let greeting = raw.bytes(18);
        assert_eq!(&greeting[..8], b"NBDMAGIC");
        assert_eq!(greeting[8..16], OPTION.to_be_bytes());
        assert_eq!(greeting[16..], [0, 3]);
        raw.send(&[&3_u32.to_be_bytes()]);
        raw
    }

    fn send(&mut self, parts: &[&[u8]]) {
        self.0.write_all(&parts.concat()).expect("the server listens");
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().expect("4 bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().expect("8 bytes"))
    }

    /// Sends an option; returns the replies until the last one.
    fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let len = u32::try_from(data.len()).expect("a short option").to_be_bytes();
        self.send(&[&OPTION.to_be_bytes(), &option.to_be_bytes(), &len, data]);
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.u64(), REPLY);
            assert_eq!(self.u32(), option);
            let (kind, len) = (self.u32(), self.u32());
            let data = self.bytes(len as usize);
            replies.push((kind, data));
            if kind == 1 || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    /// The type of the last reply to an option.
    fn outcome(&mut self, option: u32, data: &[u8]) -> u32 {
        self.option(option, data).last().expect("a reply").0
    }

    fn go(&mut self) {
        assert_eq!(self.outcome(7, &go(b"disk", &[])), 1);
    }

    fn request(&mut self, flags: u16, command: u16, offset: u64, len: u32) {
        self.send(&[
            &0x2560_9513_u32.to_be_bytes(),
            &flags.to_be_bytes(),
            &command.to_be_bytes(),
            &77_u64.to_be_bytes(),
            &offset.to_be_bytes(),
            &len.to_be_bytes(),
        ]);
    }

    /// The next chunk of a structured reply: whether it is the last one, its type, its data.
    fn chunk(&mut self) -> (bool, u16, Vec<u8>) {
        assert_eq!(self.u32(), 0x668e_33ef);
        let head = self.bytes(4);
        assert_eq!(self.u64(), 77);
        let len = self.u32();
        let data = self.bytes(len as usize);
        (head[1] == 1, u16::from_be_bytes([head[2], head[3]]), data)
    }

    /// The errno of a structured reply that is an error.
    fn error(&mut self) -> u32 {
        let (done, kind, data) = self.chunk();
        assert!(done && kind == 0x8001, "{kind:#x}");
        u32::from_be_bytes(data[..4].try_into().expect("an error has a number"))
    }

    /// The server ends the conversation; how.
    fn end(mut self) -> checkmap::Result<()> {
        let server = self.1.take().expect("it runs");
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
        server.join().expect("no panic")
    }
}

/// The data of the option GO or INFO.
fn go(name: &[u8], wanted: &[u16]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).expect("short").to_be_bytes().to_vec();
    data.extend(name);
    data.extend(u16::try_from(wanted.len()).expect("few").to_be_bytes());
    data.extend(wanted.iter().flat_map(|wanted| wanted.to_be_bytes()));
    data
}

/// The data of an option about contexts.
fn queries(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat();
    let count = u32::try_from(queries.len()).expect("few").to_be_bytes();
    let queries: Vec<u8> = queries.iter().flat_map(|query| string(query)).collect();
    [string(name), count.to_vec(), queries].concat()
}

const UNSUPPORTED: u32 = 1 << 31 | 1;
const INVALID: u32 = 1 << 31 | 3;
const UNKNOWN: u32 = 1 << 31 | 6;
const TOO_BIG: u32 = 1 << 31 | 9;
const EXTENDED_REQUIRED: u32 = 1 << 31 | 10;

fn disk() -> Disk {
    Disk::random(100_000, &mut Random::from_seed(43))
}

#[test]
fn options_are_granted_and_refused_by_the_rules() {
    let mut raw = Raw::connect(&disk());
    assert_eq!(raw.option(3, b""), [(2, b"\0\0\0\x04disk".to_vec()), (1, vec![])]);
    for (option, data, kind) in [
        (3, vec![1], INVALID),
        (5, vec![], UNSUPPORTED),
        (99, b"whatever".to_vec(), UNSUPPORTED),
        (6, go(b"other", &[]), UNKNOWN),
        (7, go(b"", &[]), UNKNOWN),
        (7, vec![], INVALID),
        (7, go(b"disk", &[])[..6].to_vec(), INVALID),
        (7, [go(b"disk", &[3]), vec![0]].concat(), INVALID),
        (6, go(&[b'x'; 4097], &[]), TOO_BIG),
        (99, vec![7; 300 << 10], TOO_BIG),
        (8, vec![1], INVALID),
        // Contexts need structured replies.
        (10, queries(b"disk", &[b"base:allocation"]), INVALID),
        (9, queries(b"disk", &[]), INVALID),
        (8, vec![], 1),
        (8, vec![], INVALID),
        (9, queries(b"other", &[]), UNKNOWN),
        (10, queries(b"disk", &[b"base:allocation"])[..20].to_vec(), INVALID),
        (10, [&queries(b"disk", &[])[..8], &[255; 4]].concat(), INVALID),
        (11, vec![0], INVALID),
        (11, vec![], 1),
        (11, vec![], INVALID),
        (8, vec![], EXTENDED_REQUIRED),
    ] {
        let outcome = raw.outcome(option, &data);
        assert_eq!(outcome, kind, "option {option} with {} bytes: {outcome:#x}", data.len());
    }
    let described = raw.option(6, &go(b"disk", &[3, 1, 9]));
    let info = |kind: u16, rest: &[&[u8]]| (3, [&kind.to_be_bytes()[..], &rest.concat()].concat());
    let blocks: Vec<u8> = [1_u32, 64 << 10, 32 << 20].iter().flat_map(|size| size.to_be_bytes()).collect();
    // For reading only, no fragments where they are unwanted, several connections.
    let flags = 1_u16 | 2 | 1 << 7 | 1 << 8;
    let export = info(0, &[&100_000_u64.to_be_bytes(), &flags.to_be_bytes()]);
    assert_eq!(described, [info(3, &[&blocks]), export, (1, vec![])]);
    assert_eq!(raw.outcome(2, b""), 1);
    raw.end().expect("it left in order");
}

#[test]
fn contexts_are_matched_by_name_and_listed_by_the_beginning_of_it() {
    let mut raw = Raw::connect(&disk());
    assert_eq!(raw.outcome(8, b""), 1);
    let names = |replies: Vec<(u32, Vec<u8>)>| -> Vec<(u32, String)> {
        let (end, contexts) = replies.split_last().expect("an end");
        assert_eq!(end.0, 1);
        let id = |data: &[u8]| u32::from_be_bytes(data[..4].try_into().expect("a number"));
        contexts.iter().map(|(_, data)| (id(data), String::from_utf8_lossy(&data[4..]).into_owned())).collect()
    };
    let (allocation, bitmap) = ("base:allocation".to_owned(), "qemu:dirty-bitmap:mon".to_owned());
    let both = vec![(0, allocation.clone()), (0, bitmap.clone())];
    for (query, expected) in [
        (&[][..], both.clone()),
        (&[&b"base:"[..]], vec![(0, allocation.clone())]),
        (&[b"qemu:"], vec![(0, bitmap.clone())]),
        (&[b"qemu:dirty-bitmap:"], vec![(0, bitmap.clone())]),
        (&[b"qemu:dirty-bitmap:mon", b"qemu:"], vec![(0, bitmap.clone())]),
        (&[b"qemu:dirty-bitmap:mo"], vec![]),
        (&[b"", b"q:", b"nobody:knows"], vec![]),
        (&[b"qemu:", b"base:"], both),
    ] {
        assert_eq!(names(raw.option(9, &queries(b"disk", query))), expected, "{query:?}");
    }
    // A selection takes no wildcards, and the last one counts.
    assert_eq!(names(raw.option(10, &queries(b"disk", &[b"qemu:", b"base:"]))), []);
    assert_eq!(names(raw.option(10, &queries(b"disk", &[b"base:allocation"]))).len(), 1);
    let selected = names(raw.option(10, &queries(b"disk", &[b"qemu:dirty-bitmap:mon", b"qemu:dirty-bitmap:tue"])));
    assert_eq!(selected, [(1, bitmap)]);
    raw.go();
    raw.request(0, 7, 0, 10);
    let (done, kind, data) = raw.chunk();
    assert!(done && kind == 5 && data[..4] == [0, 0, 0, 1], "{data:?}");
}

#[test]
fn a_selection_that_fails_selects_nothing() {
    let mut raw = Raw::connect(&disk());
    assert_eq!(raw.outcome(8, b""), 1);
    assert_eq!(raw.outcome(10, &queries(b"disk", &[b"base:allocation"])), 1);
    assert_eq!(raw.outcome(10, &queries(b"other", &[b"base:allocation"])), UNKNOWN);
    raw.go();
    raw.request(0, 7, 0, 10);
    assert_eq!(raw.error(), 22);
}

#[test]
fn structured_replies_have_the_compact_form() {
    let disk = disk();
    let mut raw = Raw::connect(&disk);
    assert_eq!(raw.outcome(8, b""), 1);
    assert_eq!(raw.outcome(10, &queries(b"disk", &[b"base:allocation", b"qemu:dirty-bitmap:mon"])), 1);
    raw.go();
    let window = Extent { offset: 5, len_bytes: 90_000 };
    raw.request(0, 7, window.offset, 90_000);
    for context in 0..2 {
        let (done, kind, data) = raw.chunk();
        assert_eq!((done, kind, data[3]), (context == 1, 5, u8::from(context == 1)));
        let number = |bytes: &[u8]| u64::from(u32::from_be_bytes(bytes.try_into().expect("4 bytes")));
        let told: Vec<(u64, u64)> = data[4..].chunks(8).map(|one| (number(&one[..4]), number(&one[4..]))).collect();
        let all = expected(&disk, context, window).into_iter().map(|(_, len, flags)| (len, flags));
        assert_eq!(told, all.collect::<Vec<_>>());
    }
    // One extent of each context is enough.
    raw.request(1 << 3, 7, 0, 90_000);
    assert_eq!((raw.chunk().2.len(), raw.chunk().2.len()), (12, 12));
    raw.request(0, 0, 10, 20);
    let (done, kind, data) = raw.chunk();
    assert!(done && kind == 1 && data[..8] == 10_u64.to_be_bytes() && data[8..] == disk.bytes[10..30]);
    raw.request(0, 0, 10, 0);
    assert_eq!(raw.chunk(), (true, 0, vec![]));
    for (command, offset, len, error) in [
        // Past the end, too long, and nothing.
        (0, 99_999, 2, 22),
        (0, u64::MAX, 2, 22),
        (7, 99_999, 2, 22),
        (7, 0, 0, 22),
        (4, 0, 512, 1),
        (6, 0, 512, 1),
        (3, 0, 0, 22),
        (5, 0, 512, 22),
        (1000, 0, 0, 22),
    ] {
        raw.request(0, command, offset, len);
        assert_eq!(raw.error(), error, "command {command} at {offset}");
    }
    // The data of a write are passed over.
    raw.request(0, 1, 0, 70_000);
    raw.send(&[&vec![9; 70_000]]);
    assert_eq!(raw.error(), 1);
    raw.request(0, 0, 0, 1);
    assert_eq!(raw.chunk().2[8..], disk.bytes[..1]);
    raw.request(0, 2, 0, 0);
    raw.end().expect("it left in order");
}

#[test]
fn a_long_read_comes_in_pieces_unless_that_is_unwanted() {
    let disk = Disk::random(3 << 20, &mut Random::from_seed(44));
    let mut raw = Raw::connect(&disk);
    assert_eq!(raw.outcome(8, b""), 1);
    raw.go();
    raw.request(0, 0, 7, (3 << 20) - 7);
    let mut read = Vec::new();
    loop {
        let (done, kind, data) = raw.chunk();
        assert_eq!((kind, u64::from_be_bytes(data[..8].try_into().expect("8 bytes"))), (1, 7 + read.len() as u64));
        read.extend_from_slice(&data[8..]);
        if done {
            break;
        }
    }
    assert!(read == disk.bytes[7..]);
    raw.request(1 << 2, 0, 0, (1 << 20) + 1);
    assert_eq!(raw.error(), 75);
    raw.request(1 << 2, 0, 0, 1 << 20);
    let (done, kind, data) = raw.chunk();
    assert!(done && kind == 1 && data[8..] == disk.bytes[..1 << 20]);
}

#[test]
fn a_client_of_the_old_days_reads_too() {
    let mut disk = Disk::random(3 << 20, &mut Random::from_seed(45));
    disk.broken_from = (2 << 20) + 5;
    let mut raw = Raw::connect(&disk);
    raw.send(&[&OPTION.to_be_bytes(), &1_u32.to_be_bytes(), &4_u32.to_be_bytes(), b"disk"]);
    assert_eq!(raw.u64(), 3 << 20);
    assert_eq!(raw.bytes(2), [1, 3]);
    let simple = |raw: &mut Raw| {
        assert_eq!(raw.u32(), 0x6744_6698);
        let error = raw.u32();
        assert_eq!(raw.u64(), 77);
        error
    };
    raw.request(0, 0, 2 << 20, 6);
    assert_eq!(simple(&mut raw), 5);
    raw.request(0, 0, 5, 1 << 20);
    assert_eq!(simple(&mut raw), 0);
    assert!(raw.bytes(1 << 20) == disk.bytes[5..(1 << 20) + 5]);
    raw.request(0, 4, 5, 1 << 20);
    assert_eq!(simple(&mut raw), 1);
    raw.request(0, 7, 5, 1 << 20);
    assert_eq!(simple(&mut raw), 22);
    // Behind the head of a simple reply no error can be told: the connection ends before the wrong bytes.
    raw.request(0, 0, 0, (2 << 20) + 6);
    assert_eq!(simple(&mut raw), 0);
    assert!(raw.bytes(2 << 20) == disk.bytes[..2 << 20]);
    assert_eq!(raw.end().expect_err("it is broken").kind(), ErrorKind::Io);
}

#[test]
fn nonsense_ends_the_conversation_and_takes_no_memory() {
    type Send = fn(&mut Raw);
    let cases: [(&str, Send); 6] = [
        ("an unknown magic", |raw| raw.send(&[&[7; 16]])),
        ("an option of 4 GiB", |raw| raw.send(&[&OPTION.to_be_bytes(), &7_u32.to_be_bytes(), &[255; 4]])),
        ("another export by the old option", |raw| {
            raw.send(&[&OPTION.to_be_bytes(), &1_u32.to_be_bytes(), &4_u32.to_be_bytes(), b"none"]);
        }),
        ("a request with an unknown magic", |raw| {
            raw.go();
            raw.send(&[&[1; 28]]);
        }),
        ("a write of 4 GiB", |raw| {
            raw.go();
            raw.request(0, 1, 0, u32::MAX);
        }),
        ("an extended request where none was agreed", |raw| {
            raw.go();
            raw.send(&[&0x21e4_1c71_u32.to_be_bytes(), &[0; 28]]);
        }),
    ];
    for (name, send) in cases {
        let mut raw = Raw::connect(&disk());
        send(&mut raw);
        let error = raw.end().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Damaged, "{name}: {error}");
    }
    // One that never comes to an end.
    let mut raw = Raw::connect(&disk());
    for _ in 0..1000 {
        assert_eq!(raw.outcome(99, b""), UNSUPPORTED);
    }
    assert_eq!(raw.end().expect_err("a thousand options").kind(), ErrorKind::Damaged);
}

/// More extents than an answer holds: the client asks again for the rest.
#[test]
fn a_map_of_more_extents_than_an_answer_holds_is_told_in_several() {
    let size = 150_001;
    let mut disk = Disk::random(size, &mut Random::from_seed(46));
    disk.runs = vec![(0..size).map(|at| (1, at % 2)).collect(), vec![(size, 1)]];
    let (stream, _server) = serve(&disk);
    let contexts: Vec<&[u8]> = disk.contexts.iter().map(Vec::as_slice).collect();
    let options = ConnectOptions::new(b"disk").contexts(&contexts);
    let mut client = Client::over(Box::new(stream), &options, &mut Unobserved).expect("they agree");
    let mut told = vec![Vec::new(); 2];
    let mut visit = |status: checkmap::nbd::Status| {
        told[status.context].push((status.extent.len_bytes, status.flags));
        Ok(())
    };
    client.block_status(0, u64::MAX, &mut visit, &mut Unobserved).expect("the status");
    assert!(told == disk.runs);
}
