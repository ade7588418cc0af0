#![forbid(unsafe_code)]
//! Owns how names and amounts look, to people and in JSON. Must never know where they come from.

use checkmap::Control;
use checkmap::chain::Name;

/// `text` on one line, and harmless to a terminal: control characters are escaped.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, char| {
        if char.is_control() {
            line.extend(char.escape_default())
        } else {
            line.push(char)
        }
        line
    })
}

/// An error in the words of the command line.
pub(crate) fn spelled(error: &checkmap::Error) -> String {
    error.spelled(write_control).to_string()
}

fn write_control(control: &Control, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    match control {
        Control::OpenForNames => f.write_str("`checkmap list -U`"),
        Control::NoLock => f.write_str("--no-lock"),
        Control::TopLayerOnly => f.write_str("--top-layer-only"),
        Control::ForceInconsistent => f.write_str("--force-inconsistent"),
        Control::DeleteAllInconsistent => f.write_str("`checkmap delete --all-inconsistent`"),
        Control::DropBitmap => f.write_str("`checkmap drop --bitmap`"),
        Control::DropBitmapNamed(name) => write!(f, "`checkmap drop {}`", option("--bitmap", name)),
        Control::DropBefore(name) => write!(f, "`checkmap drop {}`", option("--before", name)),
        Control::ForeignToo => f.write_str("--yes"),
        Control::DropAll => f.write_str("`checkmap drop --all`"),
        Control::Model(None) => f.write_str("--model"),
        Control::Model(Some(model)) => write!(f, "--model {model}"),
        Control::Until => f.write_str("--until"),
        Control::Create => f.write_str("`checkmap create`"),
        Control::NbdSocket => f.write_str("--nbd-socket"),
        Control::MaxStall => f.write_str("--max-stall"),
        Control::Journal => f.write_str("--journal"),
        Control::Recover => f.write_str("`checkmap recover`"),
        Control::ForgetStep => f.write_str("`checkmap recover --forget`"),
        Control::Check => f.write_str("`checkmap check`"),
        Control::List => f.write_str("`checkmap list`"),
        other => write!(f, "{other}"),
    }
}

/// An option and its value as a shell takes them. Bytes that are not UTF-8 are for bash and its like.
fn option(option: &str, value: &[u8]) -> String {
    let between = if value.starts_with(b"-") { '=' } else { ' ' };
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.,+:@%/=".contains(byte);
    let value = match std::str::from_utf8(value) {
        Ok(text) if !value.is_empty() && value.iter().all(is_plain) => text.to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => format!("$'{}'", value.escape_ascii()),
    };
    format!("{option}{between}{value}")
}

/// Words one after the other: the first ten of them, then how many more.
pub(crate) fn some_of(words: impl IntoIterator<Item = String>, between: &str) -> String {
    let mut words = words.into_iter();
    let shown: Vec<String> = words.by_ref().take(10).collect();
    match words.count() {
        0 => shown.join(between),
        more => format!("{}{between}and {more} more", shown.join(between)),
    }
}

/// A name in JSON: lossy where it is not UTF-8; then [`hex`] has it exactly.
pub(crate) fn text(name: &Name) -> String {
    name.to_string_lossy().into_owned()
}

/// The exact bytes of a name that JSON cannot carry.
pub(crate) fn hex(name: &Name) -> Option<String> {
    (!name.is_utf8()).then(|| name.hex())
}

/// A number of bytes in the largest unit that leaves something before the point: `64 KiB`, `1.5 MiB`.
///
/// A size that is no whole number of units has one digit behind the point, and is rounded up: there is never more than is said, so
/// that nothing reads as 0, and room for what the parts of a sum say is enough for the sum.
pub(crate) fn amount(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut power = (u64::BITS - bytes.max(1).leading_zeros() - 1) / 10;
    let is_whole = bytes.trailing_zeros() >= 10 * power;
    let tenths = |power: u32| (u128::from(bytes) * 10).div_ceil(1 << (10 * power));
    // What would round up to 1024 units is one of the next.
    power += u32::from(tenths(power) > 10239);
    let (unit, tenths) = (UNITS.get(power as usize).unwrap_or(&""), tenths(power));
    match is_whole {
        true if bytes == 1 => "1 byte".to_owned(),
        true => format!("{} {unit}", tenths / 10),
        false => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

/// `1 extent`, `2 extents`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// The state of a bitmap in one word.
pub(crate) fn state(recording: bool, inconsistent: bool, unusable: bool) -> &'static str {
    match (unusable, inconsistent, recording) {
        (true, ..) => "unusable",
        (_, true, _) => "inconsistent",
        (.., true) => "recording",
        _ => "frozen",
    }
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn amounts_are_rounded_up_and_never_reach_the_next_unit() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1025, "1.1 KiB"),
            (1536, "1.5 KiB"),
            (65536, "64 KiB"),
            (65537, "64.1 KiB"),
            (1_048_473, "1023.9 KiB"),
            (1_048_474, "1.0 MiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 20, "1 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (10 << 30, "10 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(amount(bytes), expected, "{bytes}");
        }
    }
}
