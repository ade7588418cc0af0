#![forbid(unsafe_code)]
//! Owns how a command line says which two bitmaps are compared, and reads them. Must never know how they differ.

use crate::args::{LayersArg, ModelArg};
use crate::exit::Failure;
use crate::session::Session;
use crate::target::{Target, TargetArgs, exactly};
use checkmap::chain::Name;
use checkmap::image::{Access, DiffRequest};
use checkmap::{Bitmap, ErrorKind, Granularity, Image, Segment};
use clap::{Args, ValueHint};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const OTHER_SIDE: &str = "The other side";

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// An image, or a segment
    #[command(flatten)]
    target: TargetArgs,
    /// Another image or segment; without it, two bitmaps of the same disk are compared
    #[arg(value_name = "OTHER", value_hint = ValueHint::FilePath)]
    other: Option<OsString>,
    /// The bitmap's own name, in quotes: 'mon->tue'. On both sides, unless --other-bitmap names another one there
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, conflicts_with = "since")]
    bitmap: Option<OsString>,
    /// In the place of one bitmap, what changed since this checkpoint; on both sides, unless --other-since says otherwise
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<OsString>,
    /// The checkpoint until which; now without it
    #[arg(long, value_name = "CHECKPOINT", requires = "since")]
    until: Option<OsString>,
    /// The bitmap of the other side
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, conflicts_with = "other_since", help_heading = OTHER_SIDE)]
    other_bitmap: Option<OsString>,
    /// What changed on the other side since this checkpoint
    #[arg(long, value_name = "CHECKPOINT", help_heading = OTHER_SIDE)]
    other_since: Option<OsString>,
    /// The checkpoint until which on the other side; now without it
    #[arg(long, value_name = "CHECKPOINT", requires = "other_since", help_heading = OTHER_SIDE)]
    other_until: Option<OsString>,
    /// In the place of OTHER: a disk of another running QEMU, by the Unix socket of a QMP monitor
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath, conflicts_with = "sha256", help_heading = OTHER_SIDE)]
    other_qmp: Option<PathBuf>,
    /// That disk, where the QEMU has several
    #[arg(long, value_name = "NODE", requires = "other_qmp", help_heading = OTHER_SIDE)]
    other_node: Option<String>,
    /// In the place of OTHER: the hash of the bitmap there, as `dump --format sha256` and QEMU's
    /// x-debug-block-dirty-bitmap-sha256 tell it
    #[arg(long, value_name = "HASH", value_parser = parse_hash, conflicts_with_all = ["other_bitmap", "other_since"], help_heading = OTHER_SIDE)]
    sha256: Option<Hash>,
    /// Compare the hashes alone: a running QEMU computes its own, and no bit is moved
    #[arg(long, conflicts_with = "since")]
    hash_only: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    layers: LayersArg,
    #[command(flatten)]
    model: ModelArg,
}

/// A SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash(pub(crate) [u8; 32]);

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn parse_hash(word: &str) -> Result<Hash, String> {
    let mut hash = [0; 32];
    let (digits, rest) = word.as_bytes().as_chunks::<2>();
    let is_hash = digits.len() == hash.len() && rest.is_empty() && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (byte, digits) in hash.iter_mut().zip(digits).filter(|_| is_hash) {
        let value = std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
        *byte = value.unwrap_or_default();
    }
    if is_hash { Ok(Hash(hash)) } else { Err("a SHA-256 has 64 hexadecimal digits".to_owned()) }
}

/// Where bitmaps come from.
enum Source {
    Segment(Segment<'static>, PathBuf),
    Disk(Image),
}

/// The bits of a source that are meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice<'a> {
    Bitmap(&'a OsStr),
    Span(&'a OsStr, Option<&'a OsStr>),
    /// All that a segment holds.
    Whole,
}

/// One side, read.
pub(crate) struct Side<'a> {
    /// The name of the image, disk or segment.
    pub(crate) source: PathBuf,
    pub(crate) choice: Choice<'a>,
    pub(crate) size_bytes: u64,
    pub(crate) granularity: Granularity,
    /// `None` where only the hash was asked for.
    pub(crate) bits: Option<Bitmap>,
    pub(crate) hash: Hash,
}

/// The other side.
pub(crate) enum Other<'a> {
    Side(Box<Side<'a>>),
    Hash(Hash),
}

impl CompareArgs {
    /// Reads both sides.
    pub(crate) fn read(&self, session: &Session) -> Result<(Side<'_>, Other<'_>), Failure> {
        let (target, words) = self.target.split(&self.other)?;
        let other = match words.is_empty() {
            true => None,
            false => Some(exactly(&words, ["OTHER"]).map(|[other]| Path::new(other))?),
        };
        if other.is_some() && (self.other_qmp.is_some() || self.sha256.is_some()) {
            return Err(Failure::Usage("OTHER, --other-qmp and --sha256 contradict each other".into()));
        }
        let choice = choice(self.bitmap.as_deref(), self.since.as_deref(), self.until.as_deref());
        let others =
            choice_or(self.other_bitmap.as_deref(), self.other_since.as_deref(), self.other_until.as_deref(), choice);
        let is_same = other.is_none() && self.other_qmp.is_none() && self.sha256.is_none();
        if is_same && self.other_bitmap.is_none() && self.other_since.is_none() {
            let message = "nothing to compare with: say OTHER, --other-bitmap, --other-since, --other-qmp or --sha256";
            return Err(Failure::Usage(message.into()));
        }
        if self.hash_only && matches!(others, Some(Choice::Span(..))) {
            return Err(Failure::Usage(
                "--hash-only is for bitmaps: changes since a checkpoint have to be read".into(),
            ));
        }
        let source = open(target, session)?;
        let only_hash = self.hash_only || self.sha256.is_some();
        let first = self.side(&source, choice, only_hash, session)?;
        if let Some(hash) = self.sha256 {
            return Ok((first, Other::Hash(hash)));
        }
        if is_same {
            let second = self.side(&source, others, only_hash, session)?;
            return Ok((first, Other::Side(Box::new(second))));
        }
        // A monitor talks to one client at a time.
        drop(source);
        let machine = self.other_qmp.as_ref().map(|socket| self.target.at(socket, self.other_node.as_ref()));
        let target = match (&machine, other) {
            (Some(machine), _) => Target::Machine(machine),
            (None, path) => Target::Image(path.unwrap_or(Path::new(""))),
        };
        let second = self.side(&open(target, session)?, others, only_hash, session)?;
        Ok((first, Other::Side(Box::new(second))))
    }

    fn side<'a>(
        &'a self,
        source: &Source,
        choice: Option<Choice<'a>>,
        only_hash: bool,
        session: &Session,
    ) -> Result<Side<'a>, Failure> {
        let image = match source {
            Source::Segment(segment, path) => {
                return Side::of(path, Choice::Whole, segment.load(0, u64::MAX)?);
            }
            Source::Disk(image) => image,
        };
        match choice {
            Some(choice @ Choice::Bitmap(name)) => {
                let name = Name::new(name.as_bytes());
                image.survey(&mut session.watch())?;
                if !only_hash {
                    return Side::of(image.path(), choice, image.read_bitmap(&name, 0, u64::MAX)?);
                }
                let hash = Hash(image.sha256(&name, &mut session.watch())?);
                let state = image.bitmaps().into_iter().find(|bitmap| bitmap.name == name);
                let granularity = state.map(|state| state.granularity).ok_or_else(|| {
                    checkmap::Error::new(ErrorKind::NotFound, format!("no bitmap is named {name}"))
                        .in_file(image.path())
                })?;
                let (source, size_bytes) = (image.path().to_owned(), image.virtual_size());
                Ok(Side { source, choice, size_bytes, granularity, bits: None, hash })
            }
            Some(choice @ Choice::Span(since, until)) => {
                let request =
                    DiffRequest::since(since.as_bytes()).layers(self.layers.wanted()).model(self.model.wanted());
                let request = until.map_or(request, |until| request.until(until.as_bytes()));
                Side::of(image.path(), choice, image.diff(&request, &mut session.watch())?.bitmap)
            }
            Some(Choice::Whole) | None => {
                let message = format!("say which bits of {} are meant: --bitmap or --since", image.path().display());
                Err(Failure::Usage(message))
            }
        }
    }
}

impl<'a> Side<'a> {
    fn of(source: &Path, choice: Choice<'a>, bits: Bitmap) -> Result<Self, Failure> {
        let (size_bytes, granularity, hash) = (bits.size_bytes(), bits.granularity(), Hash(bits.sha256()?));
        Ok(Self { source: source.to_owned(), choice, size_bytes, granularity, bits: Some(bits), hash })
    }
}

fn choice<'a>(bitmap: Option<&'a OsStr>, since: Option<&'a OsStr>, until: Option<&'a OsStr>) -> Option<Choice<'a>> {
    choice_or(bitmap, since, until, None)
}

fn choice_or<'a>(
    bitmap: Option<&'a OsStr>,
    since: Option<&'a OsStr>,
    until: Option<&'a OsStr>,
    default: Option<Choice<'a>>,
) -> Option<Choice<'a>> {
    bitmap.map(Choice::Bitmap).or(since.map(|since| Choice::Span(since, until))).or(default)
}

/// Opens an image, a disk of a running hypervisor, or a segment: told apart by the content.
fn open(target: Target<'_>, session: &Session) -> Result<Source, Failure> {
    let path = match target {
        Target::Image(path) => path,
        Target::Machine(_) => return session.open_one(target, Access::Read).map(Source::Disk),
    };
    match session.open(path, Access::Read) {
        Err(Failure::Library(refused)) if refused.kind() == ErrorKind::UnknownFormat => {
            match Segment::open_file(path) {
                Err(error) if error.kind() == ErrorKind::UnknownFormat => Err(refused.into()),
                segment => Ok(Source::Segment(segment?, path.to_owned())),
            }
        }
        image => image.map(Source::Disk),
    }
}
