//! Owns requests for memory: calls that return an error where the standard library would abort, a slice behind one
//! pointer, the wish for huge pages. Must never know the use of the memory.
#![allow(unsafe_code, reason = "memory is asked for and given back by hand")]

use crate::error::Error;
use bytemuck::{Pod, Zeroable};
use std::alloc::{self, Layout};
use std::collections::{BTreeMap, BTreeSet, HashMap, TryReserveError};
use std::hash::Hash;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

/// The system refused a request for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// The result of a request for memory.
pub(crate) type Result<T> = std::result::Result<T, OutOfMemory>;

impl OutOfMemory {
    /// Ends the process as the standard library does, for its traits that have no way to fail.
    pub(crate) fn abort(self) -> ! {
        alloc::handle_alloc_error(Layout::new::<Self>())
    }
}

impl From<TryReserveError> for OutOfMemory {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::out_of_memory()
    }
}

impl From<OutOfMemory> for io::Error {
    fn from(_: OutOfMemory) -> Self {
        io::ErrorKind::OutOfMemory.into()
    }
}

/// An empty vector with room for `len` items.
pub(crate) fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(len)?;
    Ok(vector)
}

/// A vector of `len` items, all bytes zero.
pub(crate) fn zeroed<T: Zeroable>(len: usize) -> Result<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| OutOfMemory)
}

/// An item on the heap, all bytes zero.
pub(crate) fn zeroed_box<T: Zeroable>() -> Result<Box<T>> {
    bytemuck::allocation::try_zeroed_box().map_err(|()| OutOfMemory)
}

/// A copy of `items`.
pub(crate) fn copy<T: Copy>(items: &[T]) -> Result<Vec<T>> {
    let mut vector = room(items.len())?;
    vector.extend_from_slice(items);
    Ok(vector)
}

/// A copy of `items` on the heap.
pub(crate) fn copy_box<T: Copy, const N: usize>(items: &[T; N]) -> Result<Box<[T; N]>> {
    // The vector is as long as it has room, so that nothing is moved.
    copy(items)?.into_boxed_slice().try_into().map_err(|_| OutOfMemory)
}

/// All that an iterator gives.
pub(crate) fn gather<T>(items: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    extend(&mut vector, items)?;
    Ok(vector)
}

/// Appends all that an iterator gives.
pub(crate) fn extend<T>(vector: &mut Vec<T>, items: impl IntoIterator<Item = T>) -> Result<()> {
    let items = items.into_iter();
    vector.try_reserve(items.size_hint().0)?;
    for item in items {
        push(vector, item)?;
    }
    Ok(())
}

/// Appends an item.
#[inline(always)]
pub(crate) fn push<T>(vector: &mut Vec<T>, item: T) -> Result<()> {
    if vector.len() == vector.capacity() {
        make_room(vector)?;
    }
    vector.push(item);
    Ok(())
}

#[cold]
fn make_room<T>(vector: &mut Vec<T>) -> Result<()> {
    Ok(vector.try_reserve(1)?)
}

/// Puts a value under a key; returns the value that was there before.
pub(crate) fn insert<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: V) -> Result<Option<V>> {
    map.try_reserve(1)?;
    Ok(map.insert(key, value))
}

/// A map of all that an iterator gives.
pub(crate) fn map<K: Hash + Eq, V>(items: impl IntoIterator<Item = (K, V)>) -> Result<HashMap<K, V>> {
    let items = items.into_iter();
    let mut map = HashMap::new();
    map.try_reserve(items.size_hint().0)?;
    for (key, value) in items {
        insert(&mut map, key, value)?;
    }
    Ok(map)
}

/// A sorted map of all that an iterator gives. Each is inserted by itself: to collect them asks for a list of all first.
pub(crate) fn sorted_map<K: Ord, V>(items: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(items);
    map
}

/// A sorted set of all that an iterator gives, made as [`sorted_map`] makes a map.
pub(crate) fn sorted_set<K: Ord>(items: impl IntoIterator<Item = K>) -> BTreeSet<K> {
    let mut set = BTreeSet::new();
    items.into_iter().for_each(|item| {
        set.insert(item);
    });
    set
}

/// Makes a vector just `len` items long; new ones are zero bytes.
pub(crate) fn resize<T: Zeroable + Clone>(vector: &mut Vec<T>, len: usize) -> Result<()> {
    vector.try_reserve_exact(len.saturating_sub(vector.len()))?;
    vector.resize(len, T::zeroed());
    Ok(())
}

/// Gives the unused room of a vector back to the system, if the system is able to take it.
pub(crate) fn shrink<T>(vector: &mut Vec<T>) {
    if size_of::<T>() == 0 || vector.len() == vector.capacity() {
        return;
    }
    if vector.is_empty() {
        *vector = Vec::new();
        return;
    }
    let mut parts = ManuallyDrop::new(std::mem::take(vector));
    let (start, len, capacity) = (parts.as_mut_ptr(), parts.len(), parts.capacity());
    let held = Layout::array::<T>(capacity).expect("a vector has this layout");
    // SAFETY: the memory is that of a vector, whose layout this is, and the new size is neither 0 nor above the old one.
    let moved = unsafe { alloc::realloc(start.cast(), held, len * size_of::<T>()) };
    *vector = match NonNull::new(moved.cast::<T>()) {
        // SAFETY: the allocator moved the items to a block of just this size, and the vector that had them is forgotten.
        Some(moved) => unsafe { Vec::from_raw_parts(moved.as_ptr(), len, len) },
        // SAFETY: the allocator refused and left all as it was; these are the parts of the vector.
        None => unsafe { Vec::from_raw_parts(start, len, capacity) },
    };
}

/// Items on the heap behind one pointer, which is empty where there are none. Items not yet written are zero bytes.
#[derive(Debug)]
pub(crate) struct ThinSlice<T> {
    /// Where the number of items stands, and behind it the items.
    head: Option<NonNull<usize>>,
    items: PhantomData<T>,
}

// SAFETY: it owns its items, as a box does.
unsafe impl<T: Send> Send for ThinSlice<T> {}

// SAFETY: as above; nothing in it changes through a shared reference.
unsafe impl<T: Sync> Sync for ThinSlice<T> {}

impl<T: Pod> ThinSlice<T> {
    const ALIGNED: () = assert!(align_of::<T>() <= align_of::<usize>(), "items may follow their number");

    /// The bytes that stand before the items.
    const HEAD_BYTES: usize = size_of::<usize>();

    pub(crate) const fn empty() -> Self {
        Self { head: None, items: PhantomData }
    }

    /// `items`, followed by zero items up to `len`, which is at least as many.
    pub(crate) fn copied(items: &[T], len: usize) -> Result<Self> {
        let mut slice = Self::empty();
        if len > 0 {
            slice.grow(len)?;
            slice[..items.len()].copy_from_slice(items);
        }
        Ok(slice)
    }

    fn layout(len: usize) -> Result<Layout> {
        let () = Self::ALIGNED;
        let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(Self::HEAD_BYTES));
        bytes.and_then(|bytes| Layout::from_size_align(bytes, align_of::<usize>()).ok()).ok_or(OutOfMemory)
    }

    /// Adds items until they are `len`, which is more than there are.
    pub(crate) fn grow(&mut self, len: usize) -> Result<()> {
        let before = self.len();
        assert!(len > before, "a slice that grows gets longer");
        let new = Self::layout(len)?;
        let memory = match self.head {
            // SAFETY: the size is not 0, as the number of items is part of it.
            None => unsafe { alloc::alloc(new) },
            // SAFETY: the memory was asked for with the layout of `before` items, and `new` is a larger layout of that kind.
            Some(head) => unsafe { alloc::realloc(head.as_ptr().cast(), Self::layout(before)?, new.size()) },
        };
        let head = NonNull::new(memory.cast::<usize>()).ok_or(OutOfMemory)?;
        // SAFETY: the memory begins with a number, and is aligned for one.
        unsafe { head.write(len) };
        self.head = Some(head);
        // SAFETY: the memory has room for `len` items behind the number, and any bytes may be overwritten.
        unsafe { head.add(1).cast::<T>().add(before).write_bytes(0, len - before) };
        Ok(())
    }

    /// The bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.head.map_or(0, |_| Self::HEAD_BYTES + size_of_val::<[T]>(self))
    }
}

impl<T> Deref for ThinSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self.head {
            // SAFETY: `head` points to the number of items; that number of items follows, each written or zeroed.
            Some(head) => unsafe { slice::from_raw_parts(head.add(1).cast().as_ptr(), head.read()) },
            None => &[],
        }
    }
}

impl<T> DerefMut for ThinSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        match self.head {
            // SAFETY: as above, and the items are this owner's alone.
            Some(head) => unsafe { slice::from_raw_parts_mut(head.add(1).cast().as_ptr(), head.read()) },
            None => &mut [],
        }
    }
}

impl<T> Drop for ThinSlice<T> {
    fn drop(&mut self) {
        if let Some(head) = self.head {
            let bytes = size_of::<usize>() + size_of_val::<[T]>(self);
            // SAFETY: the layout is the one with which the memory was asked for; the items have no destructors, as they are
            // plain bytes.
            unsafe {
                alloc::dealloc(head.as_ptr().cast(), Layout::from_size_align_unchecked(bytes, align_of::<usize>()))
            };
        }
    }
}

/// The size of a huge page on most systems. Memory below two of them is left alone.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Asks for huge pages for the memory of `vector`, whose first use then costs a fifth. A wish: nothing is lost where the
/// system does not grant it.
#[cfg(target_os = "linux")]
pub(crate) fn prefer_huge_pages<T>(vector: &Vec<T>) {
    let start = vector.as_ptr().addr().next_multiple_of(4096);
    let end = (vector.as_ptr().addr() + vector.capacity() * size_of::<T>()) & !4095;
    if end.saturating_sub(start) >= 2 * HUGE {
        let pages = vector.as_ptr().cast_mut().cast::<libc::c_void>().with_addr(start);
        // SAFETY: the whole pages lie inside the vector's own allocation, and the advice changes neither their content nor
        // their access rights.
        unsafe { libc::madvise(pages, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_huge_pages<T>(_: &Vec<T>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thin_slice_keeps_its_items_when_it_grows() {
        let mut slice = ThinSlice::<[u16; 2]>::empty();
        assert_eq!((slice.len(), slice.heap_bytes(), size_of_val(&slice)), (0, 0, size_of::<usize>()));
        for len in [1_usize, 2, 9, 1000] {
            let before: Vec<[u16; 2]> = slice.to_vec();
            slice.grow(len).unwrap();
            assert_eq!((&slice[..before.len()], slice.len()), (&before[..], len));
            assert!(slice[before.len()..].iter().all(|item| *item == [0, 0]));
            slice.iter_mut().zip(0..).for_each(|(item, number)| *item = [number, !number]);
        }
        assert_eq!(slice.heap_bytes(), 8 + 4000);
        let copied = ThinSlice::copied(&[1_u16, 2, 3], 8).unwrap();
        assert_eq!(&*copied, [1, 2, 3, 0, 0, 0, 0, 0]);
        assert!(ThinSlice::<u16>::copied(&[], 0).unwrap().is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri ends where memory does, instead of telling the program")]
    fn what_no_system_has_is_an_error() {
        assert_eq!(room::<u64>(usize::MAX / 16), Err(OutOfMemory));
        assert_eq!(zeroed::<u64>(usize::MAX / 16), Err(OutOfMemory));
        let mut slice = ThinSlice::copied(&[7_u16], 1).unwrap();
        assert_eq!((slice.grow(usize::MAX), slice.grow(usize::MAX / 4)), (Err(OutOfMemory), Err(OutOfMemory)));
        assert_eq!(&*slice, [7]);
    }

    #[test]
    fn a_vector_gives_back_what_it_does_not_need() {
        let mut vector = room::<String>(100).unwrap();
        shrink(&mut vector);
        assert_eq!(vector.capacity(), 0);
        vector = room(100).unwrap();
        vector.extend(["one", "two"].map(String::from));
        shrink(&mut vector);
        assert_eq!((vector.capacity(), &vector[..]), (2, &["one".to_owned(), "two".to_owned()][..]));
        assert_eq!(gather(vector.drain(..)).map(|gathered| gathered.len()), Ok(2));
    }
}
