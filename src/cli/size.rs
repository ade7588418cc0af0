#![forbid(unsafe_code)]
//! Owns how sizes are written on the command line. Must never know what they measure.

use checkmap::Granularity;

/// Bytes, or a number with a suffix K, M, G, T, P or E for powers of 1024.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let at = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(at);
    let Some(shift) = shift_of(suffix).filter(|_| !digits.is_empty()) else {
        return Err(
            "a size is a whole number of bytes, or one with a suffix K, M, G, T, P or E (powers of 1024), such \
                    as 65536 or 64K"
                .into(),
        );
    };
    let factor = 1_u64 << shift;
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.ok_or_else(|| "a size is below 2^64 bytes".into())
}

/// The granularity of a bitmap, given as a size.
pub(crate) fn parse_granularity(text: &str) -> Result<Granularity, String> {
    Granularity::from_bytes(parse(text)?).map_err(|error| error.to_string())
}

/// How far the suffix shifts: `K`, `k`, `KiB`, `kib` and `Ki` are the same; `KB` is none, since it means 1000 elsewhere.
fn shift_of(suffix: &str) -> Option<u32> {
    let lower = suffix.to_ascii_lowercase();
    let unit = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('i')).unwrap_or(&lower);
    match unit {
        "" if suffix.is_empty() => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        "p" => Some(50),
        "e" => Some(60),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_suffix_is_a_power_of_1024_in_either_case() {
        for (text, bytes) in
            [("0", 0), ("65536", 65536), ("64K", 1 << 16), ("64k", 1 << 16), ("3MiB", 3 << 20), ("1gi", 1 << 30)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for (power, suffix) in (1..).zip(["K", "M", "G", "T", "P", "E"]) {
            assert_eq!(parse(&format!("2{suffix}")), Ok(2 << (10 * power)));
        }
    }

    #[test]
    fn what_is_no_size_or_overflows_is_refused() {
        for text in ["", "K", "-1", "1.5G", "1KB", "1 K", "0x10", "ib", "1ib", "16E", "18446744073709551616"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("18446744073709551615"), Ok(u64::MAX));
    }
}
