#![forbid(unsafe_code)]
//! Owns the search in a sorted list from the likely place on. Must never know the meaning of the items.

/// So far from the likely place is looked at first.
const NEAR: usize = 8;

/// How many items of a list are before something, of which all come first: likely about `guess`.
#[inline]
pub(super) fn partition_point_near<T>(list: &[T], guess: usize, is_before: impl Fn(&T) -> bool) -> usize {
    let mut reach = NEAR;
    let (low, high) = if list.get(guess).is_some_and(&is_before) {
        let mut low = guess + 1;
        while list.get(low + reach).is_some_and(&is_before) {
            low += reach + 1;
            reach *= 4;
        }
        (low, list.len().min(low + reach))
    } else {
        let mut high = guess.min(list.len());
        while reach < high && !is_before(&list[high - reach]) {
            high -= reach;
            reach *= 4;
        }
        (high.saturating_sub(reach), high)
    };
    low + list[low..high].partition_point(is_before)
}
