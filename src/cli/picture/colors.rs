#![forbid(unsafe_code)]
//! Owns what stands for a dirty share: the levels of the scale, their colours on a light and on a dark ground, and their characters.
//! Must never know a medium.
//!
//! The colours go from level to level by equal steps of lightness (in OKLab), from yellow over red and purple to blue, so that people who
//! see fewer colours, and prints without any, have the same order. Clean cells are grey.

use crate::words::amount;

/// A colour of sRGB, as 0xRRGGBB.
pub(super) type Rgb = u32;

/// The dirty share of a cell, in the steps of the scale: 0 is clean, 6 is dirty throughout.
pub(super) type Level = usize;

/// The number of levels.
pub(super) const LEVELS: usize = 7;

/// The upper bounds of the levels between clean and full, each as the divisor of a whole, and in words.
const BOUNDS: [(u64, &str); 5] = [(1000, "0.1 %"), (100, "1 %"), (10, "10 %"), (2, "50 %"), (1, "100 %")];

/// On a light ground: the more is dirty, the darker.
pub(super) const LIGHT: [Rgb; LEVELS] = [0xeff0f2, 0xe6c540, 0xe78b2e, 0xce5950, 0xa0366b, 0x651f76, 0x280a6d];

/// On a dark ground, and in terminals, which are painted dark: the more is dirty, the lighter.
pub(super) const DARK: [Rgb; LEVELS] = [0x26292e, 0x4b3d9d, 0x92499f, 0xce5d8a, 0xf78168, 0xffb761, 0xf7ed6c];

/// Where there are no colours: the fuller, the more is dirty.
pub(super) const CHARACTERS: [char; LEVELS] = ['·', '▁', '▂', '▃', '▅', '▇', '█'];

/// The level of a cell: clean only where nothing is dirty, full only where all is.
pub(super) fn level(dirty_bytes: u64, len_bytes: u64) -> Level {
    if dirty_bytes == 0 {
        return 0;
    }
    let is_below = |(divisor, _): &(u64, &str)| u128::from(dirty_bytes) * u128::from(*divisor) < u128::from(len_bytes);
    1 + BOUNDS.iter().position(is_below).unwrap_or(BOUNDS.len())
}

/// Whether a cell can be of a level, where cells have about `cell_bytes` bytes, and granules `granule`.
pub(super) fn is_possible(level: Level, cell_bytes: u64, granule: u64) -> bool {
    let bound = level.checked_sub(1).and_then(|at| BOUNDS.get(at));
    bound.is_none_or(|(divisor, _)| u128::from(granule) * u128::from(*divisor) < u128::from(cell_bytes))
}

/// The words for a level where cells have about `cell_bytes` bytes.
pub(super) fn words(level: Level, cell_bytes: u64) -> String {
    match (level, level.checked_sub(1).and_then(|at| BOUNDS.get(at))) {
        (0, _) => "clean".to_owned(),
        (_, Some((divisor, share))) => format!("< {share} ({})", amount(cell_bytes.div_ceil(*divisor))),
        (_, None) => "all".to_owned(),
    }
}

/// One byte of a colour: 0 is red, 1 green, 2 blue.
pub(super) fn channel(color: Rgb, which: u32) -> u8 {
    (color >> (16 - 8 * which) & 0xff) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lightness of a colour in OKLab, from 0 to 1.
    fn lightness(color: Rgb) -> f64 {
        let linear = |which| {
            let value = f64::from(channel(color, which)) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let (red, green, blue) = (linear(0), linear(1), linear(2));
        0.210_454 * (0.412_221 * red + 0.536_333 * green + 0.051_446 * blue).cbrt()
            + 0.793_618 * (0.211_903 * red + 0.680_700 * green + 0.107_397 * blue).cbrt()
            - 0.004_072 * (0.088_302 * red + 0.281_719 * green + 0.629_979 * blue).cbrt()
    }

    #[test]
    fn colours_go_by_equal_steps_of_lightness_away_from_the_ground() {
        for (colors, sign) in [(LIGHT, -1.0), (DARK, 1.0)] {
            let all = colors.iter().map(|color| lightness(*color));
            let mut steps: Vec<f64> = all.clone().skip(1).zip(all).map(|(next, own)| (next - own) * sign).collect();
            // Every dirty cell stands out against clean ones.
            let first = steps.remove(0);
            let least = steps.iter().copied().fold(f64::INFINITY, f64::min);
            let most = steps.iter().copied().fold(0.0, f64::max);
            assert!(first > 0.12 && least > 0.09 && most - least < 0.01, "{first} {steps:?}");
        }
    }

    #[test]
    fn levels_are_clean_and_full_only_where_it_is_so() {
        let whole = 1 << 62;
        for (dirty, expected) in [
            (0, 0),
            (1, 1),
            (whole / 1000, 1),
            (whole / 1000 + 1, 2),
            (whole / 100 + 1, 3),
            (whole / 10 + 1, 4),
            (whole / 2 - 1, 4),
            (whole / 2, 5),
            (whole - 1, 5),
            (whole, 6),
        ] {
            assert_eq!(level(dirty, whole), expected, "{dirty}");
        }
        let of_sixteen: Vec<Level> = (0..LEVELS).filter(|level| is_possible(*level, 16 << 16, 1 << 16)).collect();
        assert_eq!(of_sixteen, [0, 3, 4, 5, 6]);
        assert_eq!((0..LEVELS).filter(|level| is_possible(*level, 1, 1)).count(), 2);
        assert_eq!((level(1, 1), level(u64::MAX, u64::MAX)), (6, 6));
        assert_eq!((words(0, 1 << 20), words(6, 1 << 20)), ("clean".into(), "all".into()));
        assert_eq!(words(2, 100 << 20), "< 1 % (1 MiB)");
    }
}
