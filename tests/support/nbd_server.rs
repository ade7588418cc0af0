//! An NBD server in a thread, which follows the protocol except where a test tells it not to: it splits its answers at random,
//! and hands each message to the test before it is sent.

use super::random::Random;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A context: its name, and stretches of the export with their flags, from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Context {
    pub name: Vec<u8>,
    pub runs: Vec<(u64, u64)>,
}

impl Context {
    /// The flags at `offset`, and how far they reach.
    fn at(&self, offset: u64) -> (u64, u64) {
        let mut end = 0;
        for (len, flags) in &self.runs {
            end += len;
            if offset < end {
                return (end - offset, *flags);
            }
        }
        panic!("{offset} is past the export's end");
    }
}

/// A message that the server is about to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Greeting,
    /// A reply to this option.
    Reply(u32),
    /// A chunk of a reply to the request with this number, counted from 1.
    Chunk(u64),
}

/// What the server does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Send,
    /// It sends nothing any more, and keeps the connection.
    Hang,
    /// It sends one byte, waits, sends the next.
    Trickle,
    /// It closes the connection, having sent the first half.
    Close,
}

type Meddle = Box<dyn FnMut(Message, &mut Vec<u8>) -> Deed + Send>;

/// A server of one export.
pub struct Server {
    pub size_bytes: u64,
    pub min_block: u32,
    pub extended: bool,
    pub structured: bool,
    pub contexts: Vec<Context>,
    /// Where it is set, extents are split, replies stop short or reach further, and chunks change places.
    pub random: Option<Random>,
    pub meddle: Meddle,
}

/// What the server saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// The offset and the length of each request.
    pub requests: Vec<(u64, u64)>,
    /// Whether the client said farewell.
    pub farewell: bool,
    /// Everything that was sent.
    pub sent: Vec<u8>,
}

/// The client went away, or the server has enough.
struct Gone;

type Result<T> = std::result::Result<T, Gone>;

impl Server {
    /// A server that does everything right.
    pub fn new(size_bytes: u64, contexts: Vec<Context>) -> Self {
        let meddle = Box::new(|_, _: &mut Vec<u8>| Deed::Send);
        Self { size_bytes, min_block: 1, extended: true, structured: true, contexts, random: None, meddle }
    }

    /// The client's end of a connection to it, and the server.
    pub fn start(self) -> (UnixStream, JoinHandle<Seen>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        (ours, thread::spawn(move || self.serve(theirs)))
    }

    /// Serves one connection until it ends.
    pub fn serve(self, stream: UnixStream) -> Seen {
        let mut session = Session { server: self, stream, ids: Vec::new(), extended: false, seen: Seen::default() };
        let _ = session.handshake().and_then(|()| session.transmission());
        session.seen
    }
}

struct Session {
    server: Server,
    stream: UnixStream,
    /// The places of the contexts that were selected; their ids are 7 more.
    ids: Vec<usize>,
    extended: bool,
    seen: Seen,
}

impl Session {
    fn bytes(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).map_err(|_| Gone)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.bytes(2)?.try_into().expect("two bytes")))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.bytes(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.bytes(8)?.try_into().expect("eight bytes")))
    }

    fn send(&mut self, message: Message, mut bytes: Vec<u8>) -> Result<()> {
        let deed = (self.server.meddle)(message, &mut bytes);
        match deed {
            Deed::Send => {
                self.seen.sent.extend_from_slice(&bytes);
                self.stream.write_all(&bytes).map_err(|_| Gone)
            }
            Deed::Hang => {
                let _ = self.stream.read_to_end(&mut Vec::new());
                Err(Gone)
            }
            Deed::Trickle => {
                for byte in bytes {
                    self.stream.write_all(&[byte]).map_err(|_| Gone)?;
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            }
            Deed::Close => {
                let _ = self.stream.write_all(&bytes[..bytes.len() / 2]);
                Err(Gone)
            }
        }
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> Result<()> {
        let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).expect("short data").to_be_bytes());
        bytes.extend(data);
        self.send(Message::Reply(option), bytes)
    }

    fn refuse(&mut self, option: u32, code: u32, text: &str) -> Result<()> {
        self.reply(option, code | 1 << 31, text.as_bytes())
    }

    fn handshake(&mut self) -> Result<()> {
        self.send(Message::Greeting, [&b"NBDMAGICIHAVEOPT"[..], &3_u16.to_be_bytes()].concat())?;
        assert_eq!(self.u32()?, 3, "the client's flags");
        loop {
            assert_eq!(self.bytes(8)?, b"IHAVEOPT");
            let (option, len) = (self.u32()?, self.u32()?);
            let data = self.bytes(len as usize)?;
            match option {
                2 => {
                    self.seen.farewell = true;
                    return Err(Gone);
                }
                11 if self.server.extended => {
                    self.extended = true;
                    self.reply(option, 1, &[])?;
                }
                8 if self.server.structured => self.reply(option, 1, &[])?,
                9 | 10 => self.contexts(option, &data)?,
                7 => {
                    let size = [&0_u16.to_be_bytes()[..], &self.server.size_bytes.to_be_bytes(), &[1, 3]].concat();
                    self.reply(option, 3, &size)?;
                    let blocks = [self.server.min_block, 65536, 32 << 20].map(u32::to_be_bytes).concat();
                    self.reply(option, 3, &[&3_u16.to_be_bytes()[..], &blocks].concat())?;
                    self.reply(option, 3, &[&1_u16.to_be_bytes()[..], b"a name"].concat())?;
                    return self.reply(option, 1, &[]);
                }
                _ => self.refuse(option, 1, "")?,
            }
        }
    }

    /// Lists or selects contexts.
    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let number = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().expect("four bytes")) as usize;
        let mut at = 4 + number(0);
        let count = number(at);
        at += 4;
        let mut wanted = Vec::new();
        for _ in 0..count {
            wanted.push(data[at + 4..at + 4 + number(at)].to_vec());
            at += 4 + number(at);
        }
        assert_eq!(at, data.len(), "the data of option {option}");
        self.ids.clear();
        for place in 0..self.server.contexts.len() {
            let name = self.server.contexts[place].name.clone();
            if option == 9 || wanted.contains(&name) {
                self.ids.push(place);
                let id = u32::try_from(place + 7).expect("few contexts");
                self.reply(option, 4, &[&id.to_be_bytes()[..], &name].concat())?;
            }
        }
        self.reply(option, 1, &[])
    }

    fn transmission(&mut self) -> Result<()> {
        let magic = if self.extended { 0x21e4_1c71 } else { 0x2560_9513 };
        loop {
            match self.u32()?.to_be_bytes() {
                // The client gave up while the server had agreed already.
                [b'I', b'H', b'A', b'V'] => return Err(Gone),
                found => assert_eq!(u32::from_be_bytes(found), magic),
            }
            assert_eq!(self.u16()?, 0, "flags");
            let (command, cookie, offset) = (self.u16()?, self.u64()?, self.u64()?);
            let len = if self.extended { self.u64()? } else { self.u32()?.into() };
            if command == 2 {
                self.seen.farewell = true;
                return Ok(());
            }
            assert!([6, 7].contains(&command), "zeroes, or the status of blocks");
            let (block, end) = (u64::from(self.server.min_block), offset + len);
            assert!(len > 0 && end <= self.server.size_bytes, "{offset} + {len}");
            assert!(offset.is_multiple_of(block) && (end.is_multiple_of(block) || end == self.server.size_bytes));
            self.seen.requests.push((offset, len));
            self.answer(command, cookie, offset, len)?;
        }
    }

    fn answer(&mut self, command: u16, cookie: u64, offset: u64, len: u64) -> Result<()> {
        let mut chunks: Vec<(u16, Vec<u8>)> = match command {
            6 => vec![(0, Vec::new())],
            _ => self.ids.clone().into_iter().map(|place| self.chunk(place, offset, len)).collect(),
        };
        if let Some(random) = &mut self.server.random {
            random.shuffle(&mut chunks);
            if random.chance(2) {
                chunks.push((0, Vec::new()));
            }
        }
        let count = chunks.len();
        for (number, (kind, data)) in (1..).zip(chunks) {
            let flags = u16::from(number == count);
            let mut bytes = if self.extended { 0x6e8a_278c_u32 } else { 0x668e_33ef }.to_be_bytes().to_vec();
            bytes.extend(flags.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(cookie.to_be_bytes());
            if self.extended {
                bytes.extend(offset.to_be_bytes());
                bytes.extend((data.len() as u64).to_be_bytes());
            } else {
                bytes.extend(u32::try_from(data.len()).expect("short data").to_be_bytes());
            }
            bytes.extend(data);
            let request = self.seen.requests.len() as u64;
            self.send(Message::Chunk(request), bytes)?;
        }
        Ok(())
    }

    /// The chunk of one context: its type and its data.
    fn chunk(&mut self, place: usize, offset: u64, len: u64) -> (u16, Vec<u8>) {
        let (context, block) = (&self.server.contexts[place], u64::from(self.server.min_block));
        let most = if self.extended { u64::MAX } else { u64::from(u32::MAX) / block * block };
        let mut extents: Vec<(u64, u64)> = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let (mut run, flags) = context.at(at);
            let left = offset + len - at;
            run = run.min(most);
            match &mut self.server.random {
                None => run = run.min(left),
                Some(random) => {
                    if !random.chance(3) {
                        run = run.min(left);
                    }
                    if run > block && random.chance(4) {
                        run = (1 + random.below(run / block)) * block;
                    }
                }
            }
            extents.push((run, flags));
            at += run;
            // A reply that stops inside its first block would never go on.
            if at - offset >= block && self.server.random.as_mut().is_some_and(|random| random.chance(12)) {
                break;
            }
        }
        let id = u32::try_from(place + 7).expect("few contexts").to_be_bytes();
        let mut data = id.to_vec();
        if self.extended {
            data.extend(u32::try_from(extents.len()).expect("few extents").to_be_bytes());
            extents.iter().for_each(|(len, flags)| data.extend([len.to_be_bytes(), flags.to_be_bytes()].concat()));
            return (6, data);
        }
        let narrow = |number: u64| u32::try_from(number).expect("32 bits").to_be_bytes();
        extents.iter().for_each(|(len, flags)| data.extend([narrow(*len), narrow(*flags)].concat()));
        (5, data)
    }
}
