#![forbid(unsafe_code)]
//! Owns `checkmap compare`: whether two bitmaps mark the same bytes of a disk, by content and by hash. Must never know how they are
//! read.

use crate::compared::{Choice, CompareArgs, Other, Side};
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::words::{amount, hex, one_line, text};
use checkmap::bitmap::Comparison;
use checkmap::chain::Name;
use checkmap::{Error, ErrorKind};
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &CompareArgs, session: &Session) -> Outcome {
    let (a, b) = args.read(session)?;
    let verdict = Verdict::of(&a, &b)?;
    print(session, |out| match args.json {
        true => verdict.write_json(&a, &b, out),
        false => verdict.write_text(&a, &b, out),
    })?;
    Ok(if verdict.is_equal { Status::Done } else { Status::Fault })
}

struct Verdict {
    is_equal: bool,
    /// Where they differ; `None` where the hashes alone were compared.
    comparison: Option<Comparison>,
}

impl Verdict {
    fn of(a: &Side<'_>, b: &Other<'_>) -> Result<Self, Failure> {
        let b = match b {
            Other::Hash(hash) => return Ok(Self { is_equal: a.hash == *hash, comparison: None }),
            Other::Side(side) => side,
        };
        if a.size_bytes != b.size_bytes {
            let message = format!("bitmaps of disks of {} and {} bytes", a.size_bytes, b.size_bytes);
            return Err(Error::new(ErrorKind::SizeMismatch, message).in_file(&b.source).into());
        }
        if let (Some(ours), Some(theirs)) = (&a.bits, &b.bits) {
            let comparison = ours.compare(theirs)?;
            return Ok(Self { is_equal: comparison.is_equal(), comparison: Some(comparison) });
        }
        if a.granularity != b.granularity {
            let (one, other) = (amount(a.granularity.bytes()), amount(b.granularity.bytes()));
            let message = format!(
                "bitmaps of granularity {one} and {other} have different hashes, whatever they mark: leave out --hash-only"
            );
            return Err(Failure::Usage(message));
        }
        Ok(Self { is_equal: a.hash == b.hash, comparison: None })
    }

    fn write_text(&self, a: &Side<'_>, b: &Other<'_>, out: &mut dyn Write) -> Result<(), Failure> {
        match (&self.comparison, self.is_equal) {
            (Some(comparison), false) => {
                let (in_a, in_b) = (amount(comparison.only_in_first_bytes), amount(comparison.only_in_second_bytes));
                let at = comparison.first_difference.map(|first| first.offset).unwrap_or_default();
                writeln!(out, "different: {in_a} dirty in A only, {in_b} in B only, from byte {at} on")?;
            }
            (Some(_), true) => {
                let dirty = a.bits.as_ref().map(|bits| bits.dirty_bytes()).unwrap_or_default();
                writeln!(out, "equal: {} of {} dirty", amount(dirty), amount(a.size_bytes))?;
            }
            (None, is_equal) => writeln!(out, "{} by hash", if is_equal { "equal" } else { "different" })?,
        }
        write_side("A", a, out)?;
        match b {
            Other::Side(b) => write_side("B", b, out),
            Other::Hash(hash) => Ok(writeln!(out, "B  {hash}  the hash that was given")?),
        }
    }

    fn write_json(&self, a: &Side<'_>, b: &Other<'_>, out: &mut dyn Write) -> Result<(), Failure> {
        let comparison = self.comparison.as_ref();
        let first = comparison.and_then(|comparison| comparison.first_difference);
        let document = json!({
            "equal": self.is_equal,
            "by": if comparison.is_some() { "content" } else { "hash" },
            "virtual_size": a.size_bytes,
            "a": of_side(a),
            "b": match b {
                Other::Side(b) => of_side(b),
                Other::Hash(hash) => json!({ "sha256": hash.to_string() }),
            },
            "only_in_a": comparison.map(|comparison| comparison.only_in_first_bytes),
            "only_in_b": comparison.map(|comparison| comparison.only_in_second_bytes),
            "first_difference": first.map(|first| json!({ "start": first.offset, "length": first.len_bytes })),
        });
        serde_json::to_writer_pretty(&mut *out, &document).map_err(std::io::Error::from)?;
        Ok(writeln!(out)?)
    }
}

fn name(word: &OsStr) -> Name {
    Name::new(word.as_bytes())
}

fn write_side(letter: &str, side: &Side<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    let bits = match side.choice {
        Choice::Bitmap(bitmap) => format!(", bitmap {}", name(bitmap)),
        Choice::Span(since, None) => format!(", changed since {}", name(since)),
        Choice::Span(since, Some(until)) => format!(", changed since {} until {}", name(since), name(until)),
        Choice::Whole => String::new(),
    };
    let (source, granularity) = (one_line(&side.source.to_string_lossy()), amount(side.granularity.bytes()));
    Ok(writeln!(out, "{letter}  {}  {source}{bits}, granularity {granularity}", side.hash)?)
}

fn of_side(side: &Side<'_>) -> Value {
    let mut members = Map::new();
    let mut put = |key: &str, value: Value| members.insert(key.to_owned(), value);
    let mut names = Vec::new();
    match side.choice {
        Choice::Bitmap(bitmap) => names.push(("bitmap", Some(name(bitmap)))),
        Choice::Span(since, until) => names.extend([("since", Some(name(since))), ("until", until.map(name))]),
        Choice::Whole => {}
    }
    put("source", side.source.to_string_lossy().into());
    for (key, name) in &names {
        put(key, name.as_ref().map(text).into());
        if let Some(hex) = name.as_ref().and_then(hex) {
            put(&format!("{key}_hex"), hex.into());
        }
    }
    put("granularity", side.granularity.bytes().into());
    put("dirty_bytes", side.bits.as_ref().map(|bits| bits.dirty_bytes()).into());
    put("sha256", side.hash.to_string().into());
    Value::Object(members)
}
