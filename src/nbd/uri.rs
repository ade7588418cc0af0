#![forbid(unsafe_code)]
//! Owns NBD URIs. Must never know why somebody connects.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::address::{Address, DEFAULT_PORT};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Where an export is: what an NBD URI says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Where the server listens.
    pub address: Address,
    /// The name of the export; the default one's is empty.
    pub export: Vec<u8>,
}

impl Uri {
    /// Whether `text` begins as an NBD URI does: `nbd://`, `nbd+unix://`, or another scheme of that family, supported or not.
    pub fn is_one(text: &[u8]) -> bool {
        scheme_of(text).is_some()
    }

    /// Reads `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
    ///
    /// HOST is a name, an IPv4 address, or an IPv6 address in brackets; without one it is `localhost`. PORT is 10809 unless told.
    /// Every part can have bytes as `%XX`. A scheme with TLS or over vsock or ssh is [`ErrorKind::Unsupported`]; anything else that
    /// is no such URI is [`ErrorKind::InvalidArgument`].
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self> {
        let text = text.as_ref();
        let wrong = |what: &str| {
            let message = format!("'{}' is no NBD URI: {what}", text.escape_ascii());
            Error::new(ErrorKind::InvalidArgument, message)
                .advise("nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH")
        };
        let (scheme, rest) = scheme_of(text).ok_or_else(|| wrong("it does not begin with nbd:// or nbd+unix://"))?;
        if rest.contains(&b'#') {
            return Err(wrong("it has a fragment"));
        }
        let (rest, query) = split_at_byte(rest, b'?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, export) = split_at_byte(rest, b'/').unwrap_or((rest, b""));
        let decode = |bytes| decoded(bytes)?.ok_or_else(|| wrong("% is not followed by two hexadecimal digits"));
        let export = decode(export)?;
        let mut socket = None;
        for parameter in query.unwrap_or_default().split(|byte| *byte == b'&').filter(|part| !part.is_empty()) {
            match split_at_byte(parameter, b'=') {
                Some((b"socket", path)) if socket.is_none() => socket = Some(decode(path)?),
                Some((b"socket", _)) => return Err(wrong("it names two sockets")),
                _ => return Err(wrong(&format!("'{}' is no parameter of it", parameter.escape_ascii()))),
            }
        }
        let address = match (scheme, socket) {
            (b"nbd+unix", Some(path)) if authority.is_empty() && !path.is_empty() && !path.contains(&0) => {
                Address::Unix(OsString::from_vec(path).into())
            }
            (b"nbd+unix", Some(_)) if authority.is_empty() => return Err(wrong("its socket is no path")),
            (b"nbd+unix", Some(_)) => return Err(wrong("a Unix socket has no host: there are three slashes")),
            (b"nbd+unix", None) => return Err(wrong("it has no ?socket=PATH")),
            (b"nbd", Some(_)) => return Err(wrong("a socket needs nbd+unix://")),
            (b"nbd", None) => tcp(&decode(authority)?, authority).ok_or_else(|| wrong("its host or port is none"))?,
            _ => {
                let message = format!("NBD over {}:// is not supported", scheme.escape_ascii());
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .advise("use nbd:// or nbd+unix://, through a tunnel where the way needs protection"));
            }
        };
        Ok(Self { address, export })
    }
}

/// As [`Uri::parse`] reads it: every byte that could mean something else is `%XX`.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                encode(&self.export, f)?;
                f.write_str("?socket=")?;
                encode_but(path.as_os_str().as_bytes(), b"/-._~", f)
            }
            Address::Tcp(host, port) => {
                f.write_str("nbd://")?;
                match host.contains(':') {
                    true => write!(f, "[{host}]")?,
                    false => encode(host.as_bytes(), f)?,
                }
                write!(f, ":{port}/")?;
                encode(&self.export, f)
            }
        }
    }
}

fn encode(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    encode_but(bytes, b"-._~", f)
}

/// Writes all bytes but letters, digits and those in `plain` as `%XX`.
fn encode_but(bytes: &[u8], plain: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in bytes {
        match byte.is_ascii_alphanumeric() || plain.contains(byte) {
            true => f.write_char(char::from(*byte))?,
            false => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

/// The scheme, if it is of NBD's family, and the text behind `://`.
fn scheme_of(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.windows(3).position(|three| three == b"://")?;
    let (scheme, rest) = text.split_at_checked(at)?;
    let after = scheme.strip_prefix(b"nbd")?;
    let after = after.strip_prefix(b"s").unwrap_or(after);
    let is_family = match after.split_first() {
        None => true,
        Some((b'+', transport)) => !transport.is_empty() && transport.iter().all(u8::is_ascii_lowercase),
        Some(_) => false,
    };
    Some((scheme, rest.get(3..)?)).filter(|_| is_family)
}

fn split_at_byte(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((bytes.get(..place)?, bytes.get(place + 1..)?))
}

/// The bytes with each `%XX` replaced; none where one is cut short or has other digits.
fn decoded(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut plain = memory::room(bytes.len())?;
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after.split_first_chunk::<2>()) {
            (b'%', Some((digits, after))) => (hexadecimal(digits), after),
            (b'%', None) => (None, after),
            (byte, _) => (Some(*byte), after),
        };
        let Some(byte) = byte else { return Ok(None) };
        plain.push(byte);
        rest = after;
    }
    Ok(Some(plain))
}

fn hexadecimal(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

/// The host and the port of an authority, which is given decoded and as it stands.
fn tcp(plain: &[u8], raw: &[u8]) -> Option<Address> {
    let plain = std::str::from_utf8(plain).ok()?;
    if raw.contains(&b'@') || plain.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return None;
    }
    let (host, port) = match plain.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port)
        }
        None => plain.find(':').and_then(|at| plain.split_at_checked(at)).unwrap_or((plain, "")),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => DEFAULT_PORT,
        None => return None,
        Some("") => DEFAULT_PORT,
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten()?,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    (port != 0).then(|| Address::Tcp(host.to_owned(), port))
}
