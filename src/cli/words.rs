#![forbid(unsafe_code)]
//! Owns how names, amounts and tables look, to people and in JSON. Must never know where they come from.

use checkmap::Control;
use checkmap::chain::Name;
use comfy_table::{CellAlignment, Table, presets};

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

/// A name in JSON: lossy where it is not UTF-8; then [`hex`] has it exactly.
pub(crate) fn text(name: &Name) -> String {
    name.to_string_lossy().into_owned()
}

/// The exact bytes of a name that JSON cannot carry.
pub(crate) fn hex(name: &Name) -> Option<String> {
    (!name.is_utf8()).then(|| name.hex())
}

/// A number of bytes in the largest unit that leaves something before the point: `64 KiB`, `1.5 MiB`.
pub(crate) fn amount(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = (u64::BITS - bytes.max(1).leading_zeros() - 1) / 10;
    let unit = UNITS.get(step as usize).unwrap_or(&"");
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    let exact = bytes.trailing_zeros() >= 10 * step;
    if exact { format!("{} {unit}", tenths / 10) } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

/// `1 extent`, `2 extents`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// A table with these headings; those that begin with `>` head a column of numbers.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
        column.set_padding((0, 2));
    }
    table
}

/// The lines of a table, without the blanks that fill its last column.
pub(crate) fn lines(table: &Table) -> impl Iterator<Item = String> {
    table.lines().map(|line| line.trim_end().to_owned())
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
