#![forbid(unsafe_code)]
//! Owns the names: what a checkpoint may be called, and how a bitmap's name carries its checkpoint and the one before.
//! Knows nothing of the bitmaps behind the names.

use super::nearest::suggestion;
use crate::error::{Control, Error, ErrorKind, Result};
use std::borrow::{Borrow, Cow};
use std::fmt::{self, Write};

/// The most bytes of a checkpoint's name: two of them and the arrow fit into [`MAX_BITMAP_NAME`], so no delete or
/// rename can overflow it.
pub const MAX_CHECKPOINT_NAME: usize = 510;

/// The most bytes of a bitmap's name, as in QEMU.
pub const MAX_BITMAP_NAME: usize = 1023;

/// The most bytes of a checkpoint's name for which QEMU can migrate the bitmap `parent->name`.
const MAX_MIGRATED_NAME: usize = 126;

const ARROW: &[u8] = b"->";

/// The name of a bitmap or a checkpoint: the bytes as they are stored, not necessarily UTF-8.
///
/// `Display` and `Debug` print it for people: in quotes, lossy, with control characters escaped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// The name of these bytes, whatever they are; see [`check_checkpoint_name`] for what a new checkpoint may be called.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Name {
        Name(bytes.into())
    }

    /// The bytes as they are stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as text, with U+FFFD for bytes that are not UTF-8.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Whether the name is UTF-8, so that [`Name::to_string_lossy`] loses nothing.
    pub fn is_utf8(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok()
    }

    /// The bytes in lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(self.0.len() * 2), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// Whether libvirt reserves the name for helpers that live as long as a job: `libvirt-tmp-*`, and `backup-` before
    /// the target of a disk (`backup-vda`). A crash can leave them in an image; no checkpoint may be called so.
    pub fn is_helper(&self) -> bool {
        !self.has_arrow()
            && (self.0.starts_with(b"libvirt-tmp-") || self.0.strip_prefix(b"backup-").is_some_and(is_disk_target))
    }

    /// The warning for a checkpoint that gets this name.
    pub fn warning(&self) -> Option<String> {
        (self.0.len() > MAX_MIGRATED_NAME).then(|| {
            format!(
                "the name {self} has {} bytes: QEMU can migrate the bitmaps of checkpoints up to {MAX_MIGRATED_NAME} \
                 bytes only",
                self.0.len()
            )
        })
    }

    /// The name of the bitmap that begins at `own`, whose predecessor is `parent`.
    pub(super) fn chained(parent: Option<&Name>, own: &Name) -> Name {
        match parent {
            Some(parent) => Name([parent.as_bytes(), ARROW, own.as_bytes()].concat()),
            None => own.clone(),
        }
    }

    /// The name of a root's bitmap that cannot be taken for one of somebody else: an arrow with nothing before it.
    pub(super) fn marked_root(own: &Name) -> Name {
        Name([ARROW, own.as_bytes()].concat())
    }

    /// The checkpoints that the name of a bitmap speaks of: its own and the one before it, or the name itself. A name
    /// with several arrows speaks of all that stands between them. Before the arrow of a marked root stands nothing.
    pub fn mentions(&self) -> Vec<Name> {
        let mut rest = self.0.as_slice();
        let mut mentioned = Vec::new();
        while let Some(at) = find_arrow(rest) {
            let (part, from_arrow) = rest.split_at(at);
            if !part.is_empty() {
                mentioned.push(Name::new(part));
            }
            rest = from_arrow.strip_prefix(ARROW).unwrap_or_default();
        }
        mentioned.push(Name::new(rest));
        mentioned
    }

    /// The call that drops the bitmap of this name, for a way out.
    pub(crate) fn drop_it(&self) -> Control {
        Control::DropBitmapNamed(self.0.clone())
    }

    pub(crate) fn has_arrow(&self) -> bool {
        find_arrow(&self.0).is_some()
    }

    /// The predecessor and the own checkpoint of a chain name, as [`Self::split`]; `None` where that is none.
    pub(crate) fn link(&self) -> Option<(Option<Name>, Name)> {
        self.split()?.ok()
    }

    /// The predecessor, which a marked root has not, and the own checkpoint of a chain name. `None` without an arrow, an
    /// error if a side is no name of a checkpoint: too long, with an arrow of its own, or, of the own one, empty.
    pub(super) fn split(&self) -> Option<Result<(Option<Name>, Name)>> {
        let at = find_arrow(&self.0)?;
        let (parent, rest) = self.0.split_at_checked(at)?;
        let own = rest.strip_prefix(ARROW)?;
        let parent = (!parent.is_empty()).then(|| check_checkpoint_name(parent)).transpose();
        Some(parent.and_then(|parent| Ok((parent, check_checkpoint_name(own)?))))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('\'')?;
        for char in self.to_string_lossy().chars() {
            match char.is_control() {
                true => write!(f, "{}", char.escape_default())?,
                false => f.write_char(char)?,
            }
        }
        f.write_char('\'')
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Name {
        Name::new(name)
    }
}

/// Checks the name of a checkpoint: 1 to [`MAX_CHECKPOINT_NAME`] bytes, without `->`, without NUL, and not one that
/// libvirt reserves ([`Name::is_helper`]).
pub fn check_checkpoint_name(name: &[u8]) -> Result<Name> {
    let name = Name::new(name);
    let invalid =
        |why: &str| Err(Error::new(ErrorKind::InvalidName, format!("{name} cannot name a checkpoint: {why}")));
    if name.0.is_empty() {
        return Err(Error::new(ErrorKind::InvalidName, "the name of a checkpoint cannot be empty"));
    }
    if name.0.len() > MAX_CHECKPOINT_NAME {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            format!("the name of a checkpoint has at most {MAX_CHECKPOINT_NAME} bytes, not {}", name.0.len()),
        ));
    }
    if name.has_arrow() {
        return invalid("'->' stands between the two checkpoints in the name of a bitmap");
    }
    if name.0.contains(&0) {
        return invalid("it holds a NUL byte");
    }
    if name.is_helper() {
        return invalid("libvirt reserves it for helper bitmaps");
    }
    Ok(name)
}

/// Names for a message: ten at most, then how many more.
pub(crate) fn list<N: Borrow<Name>>(names: impl IntoIterator<Item = N>) -> String {
    let mut names = names.into_iter();
    let shown: Vec<String> = names.by_ref().take(10).map(|name| name.borrow().to_string()).collect();
    match names.count() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The error for the name of a bitmap that none of these has.
pub(crate) fn no_bitmap<'a>(name: &Name, bitmaps: impl Iterator<Item = &'a Name> + Clone) -> Error {
    let way_out = match bitmaps.clone().next() {
        None => "there are no bitmaps".to_owned(),
        Some(_) => suggestion(name, bitmaps),
    };
    Error::new(ErrorKind::NotFound, format!("no bitmap is named {name}")).advise(way_out)
}

fn find_arrow(bytes: &[u8]) -> Option<usize> {
    bytes.windows(ARROW.len()).position(|window| window == ARROW)
}

/// Whether these bytes are the target of a disk as libvirt writes it: `vda`, `sdb`, `hdc`, `xvdaa`.
fn is_disk_target(bytes: &[u8]) -> bool {
    let buses: [&[u8]; 6] = [b"fd", b"hd", b"sd", b"vd", b"xvd", b"ubd"];
    buses.iter().any(|bus| {
        bytes.strip_prefix(*bus).is_some_and(|unit| {
            let letters = unit.iter().take_while(|byte| byte.is_ascii_lowercase()).count();
            (1..=3).contains(&letters) && unit.iter().skip(letters).all(u8::is_ascii_digit)
        })
    })
}
