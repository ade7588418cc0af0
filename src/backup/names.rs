#![forbid(unsafe_code)]
//! Owns how names and times are spelled in a backup directory: what a file is called after a checkpoint or a disk, and the name
//! that a checkpoint gets from the clock. Must never know the content of the files.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest part of a file's name that stands for a name; a longer one is cut, and ends with a hash.
const MOST_BYTES: usize = 200;
const CUT_BYTES: usize = 180;

/// A name as the part of a file's name: every byte outside `[A-Za-z0-9._+-]`, and a leading dot, is `%XX`.
pub(crate) fn encode(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for (at, byte) in name.iter().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || b"_+-".contains(byte) || (*byte == b'.' && at > 0);
        match is_plain {
            true => text.push(char::from(*byte)),
            // Writing to a string does not fail.
            false => drop(write!(text, "%{byte:02X}")),
        }
    }
    if text.len() > MOST_BYTES {
        text.truncate(CUT_BYTES);
        let _ = write!(text, "-{:016x}", hash(name));
    }
    text
}

/// The name of a file or folder that stands for a name of any bytes, as in a backup directory: every byte outside `[A-Za-z0-9._+-]`, and
/// a leading dot, is `%XX`; at most 200 bytes, as a longer one is cut and ends with a hash.
pub fn file_name(name: &[u8]) -> String {
    encode(name)
}

/// The hash FNV-1a of 64 bits: the name of a file must be the same on every machine and in every version.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The seconds since 1970 of a time.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The name that a checkpoint gets from the clock, in UTC: `20261125T020000Z`.
pub fn checkpoint_name(time: SystemTime) -> String {
    let (year, month, day, rest) = date(seconds(time));
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month, day and the second of the day, in UTC.
pub(crate) fn date(seconds: u64) -> (u64, u64, u64, u64) {
    let (mut days, rest) = (seconds / 86400, seconds % 86400);
    let mut year = 1970;
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Periods of 400 years are alike.
    year += days / 146_097 * 400;
    days %= 146_097;
    loop {
        let of_year = if is_leap(year) { 366 } else { 365 };
        if days < of_year {
            break;
        }
        days -= of_year;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for of_month in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < of_month {
            break;
        }
        days -= of_month;
        month += 1;
    }
    (year, month, days + 1, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_of_files_hold_plain_bytes_alone() {
        for (name, file) in [
            (&b"mon"[..], "mon"),
            (b"a:b", "a%3Ab"),
            (b"../x", "%2E.%2Fx"),
            (b".x.y", "%2Ex.y"),
            (b"new\nline", "new%0Aline"),
            (b"50%", "50%25"),
            (b"\xff", "%FF"),
            (b"A+b_c-1", "A+b_c-1"),
        ] {
            assert_eq!(encode(name), file);
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let (one, other) = ([b'a'; 510], [b'a'; 509]);
        assert!(encode(&one).len() <= MOST_BYTES && encode(&one) != encode(&other));
        assert_eq!(encode(&[b'a'; 200]), "a".repeat(200));
        assert!(encode(&[0; 510]).len() <= MOST_BYTES);
    }

    #[test]
    fn the_clock_gives_names() {
        let at = |seconds| checkpoint_name(UNIX_EPOCH + Duration::from_secs(seconds));
        // As `date -u -d @N +%Y%m%dT%H%M%SZ` has them.
        for (seconds, name) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_795_572_000, "20261125T020000Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(at(seconds), name);
        }
    }
}
