#![forbid(unsafe_code)]
//! Owns how spans of time are written on the command line. Must never know what they measure.

use std::time::Duration;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A whole number with `h`, `d`, `w`, `m` or `y`. Months and years have the most days that they can have: so nothing is taken for
/// older than it is.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let units = [("h", HOUR), ("d", DAY), ("w", 7 * DAY), ("m", 31 * DAY), ("y", 366 * DAY)];
    let found = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
    let digits = found.filter(|(digits, _)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    let Some((digits, seconds)) = digits else {
        return Err("a span is a whole number with h, d, w, m or y, such as 12h, 30d, 8w, 6m or 2y".into());
    };
    let whole = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    whole.map(Duration::from_secs).ok_or_else(|| "the span is too long".into())
}

#[cfg(test)]
mod tests {
    use super::{DAY, parse};
    use std::time::Duration;

    #[test]
    fn spans_have_a_unit() {
        for (text, seconds) in
            [("12h", 43200), ("30d", 30 * DAY), ("8w", 56 * DAY), ("6m", 186 * DAY), ("2y", 732 * DAY)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "12", "-1d", "1.5d", "1s", "1D", "99999999999999999999y", "+1d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
