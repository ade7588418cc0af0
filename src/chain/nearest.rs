#![forbid(unsafe_code)]
//! Owns suggestions for a name that does not exist: the names that the user may have meant. Knows nothing of what the
//! names stand for.

use super::Name;

/// No more names than these are suggested.
const MOST: usize = 5;

/// A name is near if at most one byte in this number differs.
const BYTES_FOR_EACH_EDIT: usize = 3;

/// Names longer than this are compared in their first bytes only.
const MOST_BYTES: usize = 128;

/// The suggestion for a name that is none of these: the near ones, nearest first; else all of a few, or the
/// newest of many. `names` has the oldest first.
pub(super) fn suggestion<'a>(wanted: &Name, names: impl Iterator<Item = &'a Name> + Clone) -> String {
    let total = names.clone().count();
    // The nearest so far, each with its distance; of equally near ones the newest first.
    let mut near: [Option<(usize, &Name)>; MOST] = [None; MOST];
    for name in names.clone() {
        let Some(distance) = nearness(wanted.as_bytes(), name.as_bytes()) else { continue };
        let mut moved = Some((distance, name));
        for place in &mut near {
            if place.is_none_or(|(other, _)| moved.is_some_and(|(own, _)| own <= other)) {
                std::mem::swap(place, &mut moved);
            }
        }
    }
    if near.iter().any(Option::is_some) {
        let shown: Vec<String> = near.iter().flatten().map(|(_, name)| name.to_string()).collect();
        let others = total.saturating_sub(shown.len());
        let more = match others {
            0 => String::new(),
            1 => " There is 1 more".to_owned(),
            others => format!(" There are {others} more"),
        };
        return format!("did you mean {}?{more}", shown.join(", "));
    }
    let shown: Vec<String> = names.skip(total.saturating_sub(MOST)).map(Name::to_string).collect();
    match total.saturating_sub(MOST) {
        0 => format!("there are {}", shown.join(", ")),
        others => format!("the newest are {}, and there are {others} more", shown.join(", ")),
    }
}

/// The distance of `name` from the wanted one; `None` if it is not near. Letters of either case are the same, and a name that
/// begins with the wanted one is near.
fn nearness(wanted: &[u8], name: &[u8]) -> Option<usize> {
    let (wanted, name) = (head(wanted), head(name));
    let limit = wanted.len().max(name.len()) / BYTES_FOR_EACH_EDIT;
    let is_begun =
        wanted.len() > 1 && name.get(..wanted.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(wanted));
    match wanted.len().abs_diff(name.len()) <= limit {
        true => Some(distance(wanted, name)).filter(|distance| *distance <= limit || is_begun),
        false => is_begun.then(|| name.len() - wanted.len()),
    }
}

fn head(bytes: &[u8]) -> &[u8] {
    bytes.get(..MOST_BYTES).unwrap_or(bytes)
}

/// How many bytes have to be added, taken away, replaced or swapped with the next to make one of the other.
fn distance(a: &[u8], b: &[u8]) -> usize {
    // The distances of the first bytes of `a` from every beginning of `b`; the same for one byte less of `a`, and two less.
    let mut row = [0; MOST_BYTES + 1];
    row.iter_mut().zip(0..).for_each(|(cell, len)| *cell = len);
    let (mut above, mut last) = (row, None);
    for (seen, byte) in (1..).zip(a) {
        let before = std::mem::replace(&mut above, row);
        let (mut left, mut other_last) = (seen, None);
        if let Some(first) = row.first_mut() {
            *first = seen;
        }
        for (at, (cell, other)) in row.iter_mut().skip(1).zip(b).enumerate() {
            let of = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX);
            let is_same = byte.eq_ignore_ascii_case(other);
            *cell = (of(&above, at) + usize::from(!is_same)).min(of(&above, at + 1) + 1).min(left + 1);
            if last == Some(other) && other_last == Some(byte) && at > 0 {
                *cell = (*cell).min(of(&before, at - 1) + 1);
            }
            (left, other_last) = (*cell, Some(other));
        }
        last = Some(byte);
    }
    row.get(b.len()).copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Name, distance, suggestion};

    #[test]
    fn the_distance_is_that_of_the_books() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("saturday", "sunday", 3),
            ("Monday", "monday", 0),
            ("ab", "ba", 1),
            ("wde", "wed", 1),
            ("ca", "abc", 3),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
            assert_eq!(distance(b.as_bytes(), a.as_bytes()), expected, "{b} {a}");
        }
        assert_eq!(distance(&[b'x'; 128], &[b'y'; 128]), 128);
    }

    fn said(wanted: &str, names: &[&str]) -> String {
        let names: Vec<Name> = names.iter().map(|name| Name::from(*name)).collect();
        suggestion(&Name::from(wanted), names.iter())
    }

    #[test]
    fn near_names_come_first_and_many_are_not_listed() {
        assert_eq!(said("5", &["1", "22"]), "there are '1', '22'");
        assert_eq!(said("mo", &["mon", "1", "2"]), "did you mean 'mon'? There are 2 more");
        assert_eq!(said("xyz", &["mon", "tue"]), "there are 'mon', 'tue'");
        assert_eq!(said("modnay", &["monday", "tuesday"]), "did you mean 'monday'? There is 1 more");
        assert_eq!(said("MONDAY", &["monday"]), "did you mean 'monday'?");
        assert_eq!(said("mon-", &["mon", "mon->tue"]), "did you mean 'mon', 'mon->tue'?");
        let many: Vec<String> = (1..=148).map(|day| format!("day-{day:03}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let near = said("day-149", &many);
        assert!(near.starts_with("did you mean 'day-148', 'day-147', "), "{near}");
        assert!(near.ends_with("? There are 143 more"), "{near}");
        assert_eq!(
            said("completely different", &many),
            "the newest are 'day-144', 'day-145', 'day-146', 'day-147', 'day-148', and there are 143 more"
        );
    }

    #[test]
    fn of_equally_near_names_the_newest_comes_first() {
        assert_eq!(said("day-3", &["day-1", "day-2"]), "did you mean 'day-2', 'day-1'?");
        assert_eq!(said("day-12", &["day-2", "day-13", "day-1"]), "did you mean 'day-1', 'day-13', 'day-2'?");
    }
}
