#![forbid(unsafe_code)]
//! Owns the list that is changed item by item: behind one pointer, so that millions of short ones take little. Must never
//! know what its items mean.

use crate::memory::{Result, ThinSlice};
use bytemuck::Pod;
use std::ops::{Deref, DerefMut, Range};

/// A full list grows by one item for this many that it has, and at least by a block.
const GROW_ONE_IN: usize = 8;

/// The room of a list is a multiple of this size.
const BLOCK_BYTES: usize = 16;

/// The number of `items`, and a slice that begins with them.
pub(super) fn list_of<T: Pod>(items: &[T]) -> Result<(u16, ThinSlice<T>)> {
    Ok((short(items.len()), ThinSlice::copied(items, in_blocks::<T>(items.len()))?))
}

/// The items for which there is room where `len` are needed.
fn in_blocks<T>(len: usize) -> usize {
    len.next_multiple_of(BLOCK_BYTES / size_of::<T>())
}

/// A list that is being changed. Its owner keeps the two parts side by side, so that the tag of the form fits beside them.
pub(in crate::bitmap) struct List<'a, T> {
    pub(super) len: &'a mut u16,
    pub(super) room: &'a mut ThinSlice<T>,
}

impl<T: Pod> List<'_, T> {
    /// Puts `count` items in the place of those of `range`, and gives them out to be filled. Nothing changes where there is
    /// no memory for them; fewer items than before need none.
    pub(super) fn replace(&mut self, range: Range<usize>, count: usize) -> Result<&mut [T]> {
        let (start, end, len) = (range.start, range.end, self.len());
        let new_len = len - range.len() + count;
        if new_len > self.room.len() {
            self.room.grow(in_blocks::<T>(new_len.max(len + len / GROW_ONE_IN)))?;
        }
        if start + count != end {
            self.room.copy_within(end..len, start + count);
        }
        *self.len = short(new_len);
        Ok(&mut self.room[start..start + count])
    }

    pub(super) fn insert(&mut self, place: usize, item: T) -> Result<()> {
        self.replace(place..place, 1)?.fill(item);
        Ok(())
    }

    pub(super) fn remove(&mut self, range: Range<usize>) {
        self.room.copy_within(range.end..usize::from(*self.len), range.start);
        *self.len -= short(range.len());
    }
}

impl<T> Deref for List<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.room[..usize::from(*self.len)]
    }
}

impl<T> DerefMut for List<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.room[..usize::from(*self.len)]
    }
}

/// The length of a list.
fn short(len: usize) -> u16 {
    u16::try_from(len).expect("a list has less than 65536 items")
}

#[cfg(test)]
mod tests {
    use super::{List, list_of};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_list_is_spliced_as_a_vector(
            start in prop::collection::vec(any::<u16>(), 0..50),
            steps in prop::collection::vec((any::<u16>(), any::<u16>(), prop::collection::vec(any::<u16>(), 0..20)), 0..40),
        ) {
            let (mut len, mut room) = list_of(&start).unwrap();
            let mut model = start;
            prop_assert_eq!(&room[..len.into()], &model[..]);
            for (first, gone, new) in steps {
                let first = usize::from(first) % (model.len() + 1);
                let end = first + usize::from(gone) % (model.len() - first + 1);
                let mut list = List { len: &mut len, room: &mut room };
                match new.is_empty() {
                    true => list.remove(first..end),
                    false => list.replace(first..end, new.len()).unwrap().copy_from_slice(&new),
                }
                model.splice(first..end, new);
                prop_assert_eq!(&list[..], &model[..]);
                prop_assert_eq!(&room[..len.into()], &model[..]);
                prop_assert!(room.heap_bytes() >= 2 * model.len() && room.len().is_multiple_of(8));
            }
        }
    }
}
