#![forbid(unsafe_code)]
//! Owns the memory of a list that is changed item by item: behind one pointer, so that millions of short ones take little.
//! Must never know what its items mean.

use std::ops::{Deref, DerefMut, Range};
use thin_vec::ThinVec;

/// A full list grows by this part of it, and at least by a block.
const GROWTH: usize = 8;

/// The items of a list, in blocks of which the last one may be full only in part.
pub(in crate::bitmap) type Blocks<T, const N: usize> = ThinVec<[T; N]>;

/// The number of `items`, and the blocks that hold them.
pub(super) fn list_of<T: Copy + Default, const N: usize>(items: &[T]) -> (u16, Blocks<T, N>) {
    let (whole, rest) = items.as_chunks::<N>();
    let mut blocks = Blocks::with_capacity(items.len().div_ceil(N));
    blocks.extend(whole.iter().copied());
    if !rest.is_empty() {
        let mut last = [T::default(); N];
        last[..rest.len()].copy_from_slice(rest);
        blocks.push(last);
    }
    (short(items.len()), blocks)
}

pub(super) fn items<T, const N: usize>(len: u16, blocks: &Blocks<T, N>) -> &[T] {
    &blocks.as_flattened()[..usize::from(len)]
}

/// The bytes on the heap, the two numbers among them that stand before the blocks.
pub(super) fn heap_bytes<T, const N: usize>(blocks: &Blocks<T, N>) -> usize {
    match blocks.capacity() {
        0 => 0,
        capacity => 2 * size_of::<usize>() + capacity * size_of::<[T; N]>(),
    }
}

/// A list that is being changed. Whoever owns it keeps its two parts side by side, so that what tells lists from other
/// forms fits beside them.
pub(in crate::bitmap) struct List<'a, T, const N: usize> {
    pub(super) len: &'a mut u16,
    pub(super) blocks: &'a mut Blocks<T, N>,
}

impl<T: Copy + Default, const N: usize> List<'_, T, N> {
    /// Puts `count` items in the place of those of `range`, and gives them out to be filled.
    pub(super) fn replace(&mut self, range: Range<usize>, count: usize) -> &mut [T] {
        let (start, end, len) = (range.start, range.end, self.len());
        let new_len = len - range.len() + count;
        let (held, needed) = (self.blocks.len(), new_len.div_ceil(N));
        if needed > self.blocks.capacity() {
            self.blocks.reserve_exact((needed - held).max(held / GROWTH));
        }
        for _ in held..needed {
            self.blocks.push([T::default(); N]);
        }
        if start + count != end {
            self.blocks.as_flattened_mut().copy_within(end..len, start + count);
        }
        self.blocks.truncate(needed);
        *self.len = short(new_len);
        &mut self.blocks.as_flattened_mut()[start..start + count]
    }

    pub(super) fn insert(&mut self, place: usize, item: T) {
        self.replace(place..place, 1).fill(item);
    }

    pub(super) fn remove(&mut self, range: Range<usize>) {
        self.replace(range, 0);
    }
}

impl<T, const N: usize> Deref for List<'_, T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        items(*self.len, self.blocks)
    }
}

impl<T, const N: usize> DerefMut for List<'_, T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.blocks.as_flattened_mut()[..usize::from(*self.len)]
    }
}

/// The length of a list.
fn short(len: usize) -> u16 {
    u16::try_from(len).expect("a list has less than 65536 items")
}

#[cfg(test)]
mod tests {
    use super::{List, heap_bytes, items, list_of};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_list_is_spliced_as_a_vector(
            start in prop::collection::vec(any::<u16>(), 0..50),
            steps in prop::collection::vec((any::<u16>(), any::<u16>(), prop::collection::vec(any::<u16>(), 0..20)), 0..40),
        ) {
            let ((mut len, mut blocks), mut model) = (list_of::<u16, 8>(&start), start);
            prop_assert_eq!(items(len, &blocks), &model[..]);
            for (first, gone, new) in steps {
                let first = usize::from(first) % (model.len() + 1);
                let end = first + usize::from(gone) % (model.len() - first + 1);
                let mut list = List { len: &mut len, blocks: &mut blocks };
                list.replace(first..end, new.len()).copy_from_slice(&new);
                model.splice(first..end, new);
                prop_assert_eq!(&list[..], &model[..]);
                prop_assert_eq!(items(len, &blocks), &model[..]);
                prop_assert!(heap_bytes(&blocks) >= 2 * model.len());
            }
        }
    }
}
