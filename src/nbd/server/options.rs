#![forbid(unsafe_code)]
//! Owns the way of a client from its greeting to an export: every option, granted or refused. Must never know the commands that
//! follow.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::super::protocol::{
    Fields, GREETING, MOST_READ, MOST_STRING_BYTES, NEWSTYLE, OptionReply, broken, decode_option, export_flags,
    handshake_flags, info, option, refusal, reply,
};
use super::super::wire::{Waiting, Wire};
use super::{Chosen, Export, Form};
use crate::error::{Error, Result};
use crate::memory;

/// The longest data of an option that are looked at: many queries for contexts fit.
const MOST_OPTION_BYTES: u32 = 256 << 10;

/// Longer ones are passed over; a client that sends even more is hung up on.
const MOST_PASSED_OVER: u32 = 32 << 20;

/// A client that goes on asking for longer wants nothing.
const MOST_OPTIONS: usize = 1000;

/// The block size that suits the export best: that of most clusters. Any byte can be asked for.
const MIN_BLOCK: u32 = 1;
const PREFERRED_BLOCK: u32 = 64 << 10;

/// Why an option is not granted.
struct Refused(u32, &'static str);

const CUT_SHORT: Refused = Refused(refusal::INVALID, "the data of the option have another length than they say");
const TOO_LONG: Refused = Refused(refusal::TOO_BIG, "a name has more than 4096 bytes");
const NO_SUCH_EXPORT: Refused = Refused(refusal::UNKNOWN, "there is no such export");
const NO_DATA: Refused = Refused(refusal::INVALID, "this option has no data");

/// The parts of an option's data, taken from its beginning on.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn u16(&mut self) -> std::result::Result<u16, Refused> {
        let mut fields = Fields(self.0);
        let value = fields.u16().map_err(|_| CUT_SHORT)?;
        self.0 = self.0.get(2..).unwrap_or_default();
        Ok(value)
    }

    fn string(&mut self) -> std::result::Result<&'a [u8], Refused> {
        let mut fields = Fields(self.0);
        let len = fields.u32().map_err(|_| CUT_SHORT)? as usize;
        if len > MOST_STRING_BYTES {
            return Err(TOO_LONG);
        }
        let rest = self.0.get(4..).unwrap_or_default();
        let (string, rest) = rest.split_at_checked(len).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(string)
    }

    fn u32(&mut self) -> std::result::Result<u32, Refused> {
        let mut fields = Fields(self.0);
        let value = fields.u32().map_err(|_| CUT_SHORT)?;
        self.0 = self.0.get(4..).unwrap_or_default();
        Ok(value)
    }

    fn end(&self) -> std::result::Result<(), Refused> {
        if self.0.is_empty() { Ok(()) } else { Err(CUT_SHORT) }
    }
}

/// What follows an option.
enum Next {
    /// Another option.
    Option,
    /// The commands.
    Commands,
    /// Nothing: the client leaves.
    End,
}

/// Greets the client and answers its options; `None` for one that leaves in order.
pub(super) fn choose(
    wire: &mut Wire,
    name: &[u8],
    export: &dyn Export,
    waiting: &mut Waiting<'_>,
) -> Result<Option<Chosen>> {
    let chosen = Chosen { form: Form::Simple, contexts: Vec::new() };
    Handshake { wire, waiting, name, export, chosen, no_zeroes: false }.run()
}

struct Handshake<'a, 'b> {
    wire: &'a mut Wire,
    waiting: &'a mut Waiting<'b>,
    name: &'a [u8],
    export: &'a dyn Export,
    chosen: Chosen,
    /// Whether the client can do without the padding of an old reply.
    no_zeroes: bool,
}

impl Handshake<'_, '_> {
    fn run(mut self) -> Result<Option<Chosen>> {
        let flags = handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES;
        let mut greeting = [0; 18];
        let fields = GREETING.to_be_bytes().into_iter().chain(NEWSTYLE.to_be_bytes()).chain(flags.to_be_bytes());
        greeting.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        self.wire.send(&greeting, self.waiting)?;
        let theirs = u32::from_be_bytes(self.wire.array(self.waiting)?);
        if theirs & !u32::from(flags) != 0 {
            return Err(broken(format!("the client has the unknown flags {theirs:#x}")));
        }
        self.no_zeroes = theirs & u32::from(handshake_flags::NO_ZEROES) != 0;
        for _ in 0..MOST_OPTIONS {
            match self.option()? {
                Next::Option => {}
                Next::Commands => return Ok(Some(self.chosen)),
                Next::End => return Ok(None),
            }
        }
        Err(broken("the client does not come to an end with its options"))
    }

    /// Answers the next option.
    fn option(&mut self) -> Result<Next> {
        let (option, len) = decode_option(&self.wire.array(self.waiting)?)?;
        if len > MOST_OPTION_BYTES {
            if len > MOST_PASSED_OVER {
                return Err(broken(format!("an option has {len} bytes of data")));
            }
            self.wire.skip(len.into(), self.waiting)?;
            self.refuse(option, &Refused(refusal::TOO_BIG, "the data of the option are too long"))?;
            return Ok(Next::Option);
        }
        let data = self.wire.bytes(len as usize, self.waiting)?;
        if option == option::EXPORT_NAME {
            return self.old_way(&data);
        }
        let answered = match option {
            option::ABORT => {
                // The client may be gone already.
                let _ = self.reply(option, reply::ACK, &[]);
                return Ok(Next::End);
            }
            option::LIST => self.list(&data)?,
            option::STARTTLS => Err(Refused(refusal::UNSUPPORTED, "this server has no TLS")),
            option::INFO | option::GO => self.describe(option, &data)?,
            option::STRUCTURED_REPLY => self.structured(&data),
            option::EXTENDED_HEADERS => self.extended(&data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, &data)?,
            _ => Err(Refused(refusal::UNSUPPORTED, "the option is unknown")),
        };
        match answered {
            Ok(()) => {
                self.reply(option, reply::ACK, &[])?;
                Ok(if option == option::GO { Next::Commands } else { Next::Option })
            }
            Err(refused) => {
                self.refuse(option, &refused)?;
                Ok(Next::Option)
            }
        }
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[&[u8]]) -> Result<()> {
        let message = OptionReply::encode(option, kind, data)?;
        self.wire.send(&message, self.waiting)
    }

    fn refuse(&mut self, option: u32, Refused(code, text): &Refused) -> Result<()> {
        self.reply(option, reply::ERROR | code, &[text.as_bytes()])
    }

    fn flags(&self) -> u16 {
        let always = export_flags::HAS_FLAGS | export_flags::READ_ONLY | export_flags::CAN_MULTI_CONN;
        // Simple replies are never cut into chunks.
        if self.chosen.form == Form::Simple { always } else { always | export_flags::SEND_DF }
    }

    /// The option that chooses an export and cannot be refused.
    fn old_way(&mut self, name: &[u8]) -> Result<Next> {
        if name != self.name {
            return Err(broken("the client asks for another export"));
        }
        // It selects no contexts.
        self.chosen.contexts.clear();
        let padding: &[u8] = if self.no_zeroes { &[] } else { &[0; 124] };
        let message = [&self.export.size_bytes().to_be_bytes()[..], &self.flags().to_be_bytes(), padding];
        let message = memory::gather(message.into_iter().flatten().copied())?;
        self.wire.send(&message, self.waiting)?;
        Ok(Next::Commands)
    }

    fn list(&mut self, data: &[u8]) -> Result<std::result::Result<(), Refused>> {
        if !data.is_empty() {
            return Ok(Err(NO_DATA));
        }
        let len = u32::try_from(self.name.len()).unwrap_or_default().to_be_bytes();
        let name = self.name;
        self.reply(option::LIST, reply::SERVER, &[&len, name])?;
        Ok(Ok(()))
    }

    /// Describes the export, and chooses it where `option` is to go on with it.
    fn describe(&mut self, option: u32, data: &[u8]) -> Result<std::result::Result<(), Refused>> {
        let parse = || {
            let mut data = Data(data);
            let name = data.string()?;
            let count = data.u16()?;
            let mut wants_block_size = false;
            for _ in 0..count {
                wants_block_size |= data.u16()? == info::BLOCK_SIZE;
            }
            data.end()?;
            Ok((name, wants_block_size))
        };
        let (name, wants_block_size) = match parse() {
            Ok(parsed) => parsed,
            Err(refused) => return Ok(Err(refused)),
        };
        if name != self.name {
            return Ok(Err(NO_SUCH_EXPORT));
        }
        if wants_block_size {
            let [least, best, most] = [MIN_BLOCK, PREFERRED_BLOCK, MOST_READ].map(u32::to_be_bytes);
            self.reply(option, reply::INFO, &[&info::BLOCK_SIZE.to_be_bytes(), &least, &best, &most])?;
        }
        let (size, flags) = (self.export.size_bytes().to_be_bytes(), self.flags().to_be_bytes());
        self.reply(option, reply::INFO, &[&info::EXPORT.to_be_bytes(), &size, &flags])?;
        Ok(Ok(()))
    }

    fn structured(&mut self, data: &[u8]) -> std::result::Result<(), Refused> {
        match self.chosen.form {
            _ if !data.is_empty() => Err(NO_DATA),
            Form::Simple => {
                self.chosen.form = Form::Structured;
                Ok(())
            }
            Form::Structured => Err(Refused(refusal::INVALID, "replies are structured already")),
            Form::Extended => Err(Refused(refusal::EXTENDED_REQUIRED, "headers are extended already")),
        }
    }

    fn extended(&mut self, data: &[u8]) -> std::result::Result<(), Refused> {
        if !data.is_empty() {
            return Err(NO_DATA);
        }
        if self.chosen.form == Form::Extended {
            return Err(Refused(refusal::INVALID, "headers are extended already"));
        }
        self.chosen.form = Form::Extended;
        Ok(())
    }

    /// Lists the contexts that match the queries, or selects them.
    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<std::result::Result<(), Refused>> {
        let selects = option == option::SET_META_CONTEXT;
        if selects {
            // Whatever comes of it, an earlier selection is over.
            self.chosen.contexts.clear();
        }
        if self.chosen.form == Form::Simple {
            return Ok(Err(Refused(refusal::INVALID, "contexts need structured replies")));
        }
        let matched = match self.matched(selects, data) {
            Ok(matched) => matched,
            Err(Failed::Refused(refused)) => return Ok(Err(refused)),
            Err(Failed::Error(error)) => return Err(error),
        };
        let export = self.export;
        for place in &matched {
            let name = export.contexts().get(*place).map(Vec::as_slice).unwrap_or_default();
            // The number of a context that is only listed is 0.
            let id = if selects { u32::try_from(*place).unwrap_or_default() } else { 0 };
            self.reply(option, reply::META_CONTEXT, &[&id.to_be_bytes(), name])?;
        }
        if selects {
            self.chosen.contexts = matched;
        }
        Ok(Ok(()))
    }

    /// The places of the contexts that match one of the queries.
    fn matched(&self, selects: bool, data: &[u8]) -> std::result::Result<Vec<usize>, Failed> {
        let mut data = Data(data);
        if data.string()? != self.name {
            return Err(NO_SUCH_EXPORT.into());
        }
        let count = data.u32()?;
        let known = self.export.contexts();
        let mut matches = memory::gather(known.iter().map(|_| count == 0 && !selects)).map_err(Error::from)?;
        for _ in 0..count {
            let query = data.string()?;
            for (matches, name) in matches.iter_mut().zip(known) {
                *matches |= name == query || !selects && is_wildcard_of(query, name);
            }
        }
        data.end()?;
        let places = matches.iter().enumerate().filter_map(|(place, matches)| matches.then_some(place));
        Ok(memory::gather(places).map_err(Error::from)?)
    }
}

/// Whether a query means all names that begin like this one: a namespace with its colon, and each level below it.
fn is_wildcard_of(query: &[u8], name: &[u8]) -> bool {
    query.ends_with(b":") && name.starts_with(query)
}

/// Why no contexts are matched.
enum Failed {
    Refused(Refused),
    Error(Error),
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Failed::Refused(refused)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Error(error)
    }
}
