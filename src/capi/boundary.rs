//! Owns the border between C and Rust: no panic crosses it, no pointer is believed before it was looked at, and a handle
//! that a panic left in an unknown state is never used again. Must never know what an object does.

use super::error;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::fork::Torn;
use crate::memory;
use std::cell::Cell;
use std::ffi::c_int;
use std::ops::{Deref, DerefMut};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::{ptr, slice, thread};

/// The value that a call returns to C, and its form of failure.
pub(super) trait Returned {
    /// The value for a failure of this positive errno.
    fn failure(errno: c_int) -> Self;
}

impl Returned for c_int {
    fn failure(errno: c_int) -> Self {
        -errno
    }
}

impl Returned for i64 {
    fn failure(errno: c_int) -> Self {
        -Self::from(errno)
    }
}

impl Returned for u64 {
    fn failure(_: c_int) -> Self {
        0
    }
}

impl<T> Returned for *const T {
    fn failure(_: c_int) -> Self {
        ptr::null()
    }
}

thread_local! {
    /// Whether this thread is inside a call, where a panic is caught and needs no words on standard error.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of a call: a failure becomes `-errno` and the message of this thread, and so does a panic.
pub(super) fn guard<R: Returned>(body: impl FnOnce() -> Result<R>) -> R {
    prepare();
    let outer = INSIDE.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(outer);
    match outcome {
        Ok(Ok(value)) => value,
        Ok(Err(failed)) => R::failure(error::remember(&failed)),
        Err(payload) => {
            let what = payload.downcast_ref::<&str>().copied();
            let what = what.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic");
            let place = fault::take().map(|place| format!("{place}: ")).unwrap_or_default();
            let failed = Error::new(ErrorKind::Poisoned, format!("a fault of checkmap itself: {place}{what}"))
                .advise("free the handle, and report the fault");
            let errno = error::remember(&failed);
            // The payload's own destructor could panic; it is a text in all but the strangest cases.
            let _ = panic::catch_unwind(AssertUnwindSafe(move || drop(payload)));
            R::failure(errno)
        }
    }
}

/// Runs when the library is loaded. The preparation takes locks of Rust's library: a child that is forked while another
/// thread holds one would wait for ever at its first call.
#[cfg(not(target_vendor = "apple"))]
#[used]
// SAFETY: the section is an array of functions that the system calls before any other of this library; the function needs
// nothing of Rust's that has to be begun first.
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn at_load() {
        prepare();
    }
    at_load
};

/// Lets panics be silent that [`guard`] will catch, and prepares what threads share, where that was not done yet. Nobody
/// waits for another thread that does it.
fn prepare() {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if !BEGUN.load(Ordering::Relaxed) && !BEGUN.swap(true, Ordering::Relaxed) {
        silence_panics();
        // State that rayon's threads share lies behind a lock of that kind too, until its first use.
        crossbeam_epoch::default_collector();
    }
}

/// A library prints nothing: of panics that [`guard`] will catch, on the caller's thread or on one of ours, the place is
/// noted. All others go where they went before.
fn silence_panics() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let ours = INSIDE.get() || thread::current().name().is_some_and(|name| name.starts_with("checkmap-"));
        match info.location() {
            Some(location) if ours => fault::note(location),
            None if ours => {}
            _ => others(info),
        }
    }));
}

/// The tag of a handle that was freed.
const FREED: u64 = 0x0064_6565_7266_6d63;

/// The object behind a pointer of C.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Handle<T> {
    tag: u64,
    state: AtomicU8,
    value: T,
}

/// The handle's value can be used.
const SOUND: u8 = 0;
/// A panic left it in an unknown state.
const POISONED: u8 = 1;
/// A call changes it. Another call finds this only where a fork caught a thread in the middle, or where a caller breaks the
/// rule that a change has a handle alone.
const CHANGING: u8 = 2;

/// A type of handle.
///
/// # Safety
///
/// The implementing type is a wrapper of nothing but `Handle<Self::Value>`, so that pointers to one point to the other.
pub(super) unsafe trait Object: Sized {
    /// The value in the object.
    type Value;
    /// Tells the handles of this type from others.
    const TAG: u64;
    /// The object's name in messages.
    const NAME: &'static str;

    /// Whether a fork left behind half of what calls on a `const` handle do.
    fn is_torn(_: &Self::Value) -> bool {
        false
    }
}

/// Names the value in a wrapper, whose struct stands beside it for the header's sake.
macro_rules! object {
    ($name:ident = $value:ty, $tag:literal, $word:literal $(, $is_torn:path)?) => {
        // SAFETY: the only field of the struct is the handle, and it begins where the struct does; asserted below.
        unsafe impl crate::capi::boundary::Object for $name {
            type Value = $value;
            const TAG: u64 = u64::from_le_bytes(*$tag);
            const NAME: &'static str = $word;
            $(fn is_torn(value: &$value) -> bool {
                $is_torn(value)
            })?
        }

        const _: () = assert!(
            size_of::<$name>() == size_of::<crate::capi::boundary::Handle<$value>>()
                && std::mem::offset_of!($name, handle) == 0,
            "a handle and what wraps it are one"
        );
    };
}
pub(super) use object;

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Puts `value` behind a new handle.
pub(super) fn give<O: Object>(value: O::Value) -> *mut O {
    Box::into_raw(Box::new(Handle { tag: O::TAG, state: AtomicU8::new(SOUND), value })).cast()
}

/// Frees a handle; NULL and pointers to other things are left alone.
///
/// # Safety
///
/// As every call, see the head of this room; nobody uses `object` any more.
pub(super) unsafe fn free<O: Object>(object: *mut O) {
    let handle: *mut Handle<O::Value> = object.cast();
    if handle.is_null() || !handle.is_aligned() {
        return;
    }
    guard(|| {
        // SAFETY: not NULL, aligned, and readable by the caller's promise; only the tag is believed so far.
        if unsafe { (*handle).tag } != O::TAG {
            return Err(invalid(format!("this is no {}, or it was freed before", O::NAME)));
        }
        // SAFETY: the tag is that of a live handle, which the caller hands over; volatile, so that a second free of it
        // finds the mark while the memory is still there.
        unsafe { ptr::addr_of_mut!((*handle).tag).write_volatile(FREED) };
        // SAFETY: the tag says that a handle of this type is there; the state is atomic, and what calls on a `const` handle
        // leave behind is looked at as they do.
        let is_torn = unsafe { (*handle).state.load(Ordering::Acquire) == CHANGING || O::is_torn(&(*handle).value) };
        // A value that a fork tore cannot be taken apart: this child leaves it where it is.
        if !is_torn {
            // SAFETY: it was made by `give` from a box of this type, and the tag says that it was not freed since.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(0)
    });
}

/// Looks at a handle before it is used.
///
/// # Safety
///
/// As every call: `object` is NULL or readable.
unsafe fn look<O: Object>(object: *const O) -> Result<*const Handle<O::Value>> {
    let handle: *const Handle<O::Value> = object.cast();
    if handle.is_null() {
        return Err(invalid(format!("the {} is NULL", O::NAME)));
    }
    // SAFETY: not NULL, the alignment is looked at first, and it is readable by the caller's promise.
    if !handle.is_aligned() || unsafe { (*handle).tag } != O::TAG {
        return Err(invalid(format!("this is no {}, or it was freed before", O::NAME)));
    }
    // SAFETY: the tag says that a handle of this type is there; the state is atomic, so that it may be looked at always.
    match unsafe { &(*handle).state }.load(Ordering::Acquire) {
        // SAFETY: nobody changes the handle's value, as its state says.
        SOUND if !O::is_torn(unsafe { &(*handle).value }) => Ok(handle),
        POISONED => {
            let message = format!("an earlier call on this {} was cut short by a fault of checkmap itself", O::NAME);
            Err(Error::new(ErrorKind::Poisoned, message).advise("free it, and take what it held from elsewhere"))
        }
        _ => Err(Torn.into()),
    }
}

/// A handle in use by a call that changes nothing. A panic while it is in use poisons it.
#[derive(Debug)]
pub(super) struct Shared<'a, T> {
    value: &'a T,
    state: &'a AtomicU8,
}

/// A handle in use by a call that has it alone. A panic while it is in use poisons it.
#[derive(Debug)]
pub(super) struct Exclusive<'a, T> {
    value: &'a mut T,
    state: &'a AtomicU8,
}

impl<T> Deref for Shared<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> Deref for Exclusive<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> DerefMut for Exclusive<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value
    }
}

impl<T> Drop for Shared<'_, T> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.state.store(POISONED, Ordering::Release);
        }
    }
}

impl<T> Drop for Exclusive<'_, T> {
    fn drop(&mut self) {
        self.state.store(if thread::panicking() { POISONED } else { SOUND }, Ordering::Release);
    }
}

/// The object behind a `const` handle.
///
/// # Safety
///
/// As every call: `object` is NULL or readable, and while the result lives nobody changes or frees what it points to.
pub(super) unsafe fn shared<'a, O: Object>(object: *const O) -> Result<Shared<'a, O::Value>> {
    // SAFETY: the caller's promise is the same.
    let handle = unsafe { look(object) }?;
    // SAFETY: `look` found a live handle of this type, and the caller promises that nobody changes it meanwhile.
    let Handle { state, value, .. } = unsafe { &*handle };
    Ok(Shared { value, state })
}

/// A call's body that only asks the object behind a `const` handle.
///
/// # Safety
///
/// As of [`shared`], for as long as the call lasts.
pub(super) unsafe fn ask<O: Object, R: Returned>(
    object: *const O,
    ask: impl FnOnce(Shared<'_, O::Value>) -> Result<R>,
) -> R {
    guard(|| {
        // SAFETY: the caller's promise is the same.
        let value = unsafe { shared(object) }?;
        ask(value)
    })
}

/// The object behind a handle that this call has alone.
///
/// # Safety
///
/// As every call: `object` is NULL or readable, and while the result lives nobody else uses what it points to.
pub(super) unsafe fn exclusive<'a, O: Object>(object: *mut O) -> Result<Exclusive<'a, O::Value>> {
    // SAFETY: the caller's promise is the same.
    let handle = unsafe { look(object) }?.cast_mut();
    // SAFETY: `look` found a live handle of this type, which the caller promises to this call alone.
    let Handle { state, value, .. } = unsafe { &mut *handle };
    state.store(CHANGING, Ordering::Relaxed);
    // A child that holds a part of the change holds the state, too.
    fence(Ordering::Release);
    Ok(Exclusive { value, state })
}

/// A place for a result, which holds a value that says "nothing" from the beginning of the call.
#[derive(Debug)]
pub(super) struct Out<'a, T>(&'a mut T);

impl<'a, T> Out<'a, T> {
    /// Looks at `place`, and writes `nothing` there.
    ///
    /// # Safety
    ///
    /// As every call: `place` is NULL or a writable `T` that nobody else uses during the call.
    pub(super) unsafe fn new(place: *mut T, nothing: T) -> Result<Self> {
        if place.is_null() || !place.is_aligned() {
            return Err(invalid("the place for the result is NULL or misaligned".into()));
        }
        // SAFETY: not NULL, aligned, and writable by the caller's promise; the old value is overwritten, not dropped.
        unsafe { place.write(nothing) };
        // SAFETY: it was just initialised, and is this call's alone by the caller's promise.
        Ok(Self(unsafe { &mut *place }))
    }

    /// Writes the result.
    pub(super) fn put(self, value: T) {
        *self.0 = value;
    }
}

/// A place for a new handle; it holds NULL from the beginning of the call.
///
/// # Safety
///
/// As [`Out::new`].
pub(super) unsafe fn handle_out<'a, O>(place: *mut *mut O) -> Result<Out<'a, *mut O>> {
    // SAFETY: the caller's promise is the same.
    unsafe { Out::new(place, ptr::null_mut()) }
}

/// Looks at an array of C before it is used.
fn check_array<T>(array: *const T, len: usize, what: &str) -> Result<()> {
    let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| isize::try_from(bytes).ok());
    if bytes.is_none() {
        return Err(invalid(format!("{what} cannot have {len} elements")));
    }
    if array.is_null() {
        return Err(invalid(format!("{what} is NULL")));
    }
    match array.is_aligned() {
        true => Ok(()),
        false => Err(invalid(format!("{what} is misaligned"))),
    }
}

/// An array that the caller filled; with a length of 0 the pointer may be anything.
///
/// # Safety
///
/// As every call: `array` is NULL or has `len` elements, which nobody changes while the result lives.
pub(super) unsafe fn array<'a, T>(array: *const T, len: usize, what: &str) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check_array(array, len, what)?;
    // SAFETY: neither NULL nor misaligned nor too long, and readable by the caller's promise.
    Ok(unsafe { slice::from_raw_parts(array, len) })
}

/// An array of handles, each of them looked at.
///
/// # Safety
///
/// As [`array`], and as [`shared`] for each handle in it.
pub(super) unsafe fn handles<'a, O: Object>(
    handles: *const *const O,
    len: usize,
    what: &str,
) -> Result<Vec<Shared<'a, O::Value>>> {
    // SAFETY: the caller's promise is the same.
    let handles = unsafe { array(handles, len, what) }?;
    let mut looked_at = memory::room(handles.len())?;
    for handle in handles {
        // SAFETY: the caller's promise is the same for each of them.
        looked_at.push(unsafe { shared(*handle) }?);
    }
    Ok(looked_at)
}

/// An array of different handles that this call has alone, each of them looked at.
///
/// # Safety
///
/// As [`array`], and as [`exclusive`] for each handle in it.
pub(super) unsafe fn exclusives<'a, O: Object>(
    handles: *const *mut O,
    len: usize,
    what: &str,
) -> Result<Vec<Exclusive<'a, O::Value>>> {
    // SAFETY: the caller's promise is the same.
    let handles = unsafe { array(handles, len, what) }?;
    let mut sorted = memory::gather(handles.iter().copied())?;
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(invalid(format!("{what} has the same {} twice", O::NAME)));
    }
    let mut alone = memory::room(handles.len())?;
    for handle in handles {
        // SAFETY: the caller's promise is the same for each of them, and no two are the same.
        alone.push(unsafe { exclusive(*handle) }?);
    }
    Ok(alone)
}

/// A buffer that a call fills from its start; nothing is read from it.
#[derive(Debug)]
pub(super) struct OutBuffer<T> {
    start: *mut T,
    len: usize,
    filled: usize,
}

impl<T> OutBuffer<T> {
    /// Looks at a buffer of `len` elements. One of none is an error: a caller that asks again and again would never end.
    ///
    /// # Safety
    ///
    /// As every call: `start` is NULL or has room for `len` elements, which nobody else uses while the result lives.
    pub(super) unsafe fn new(start: *mut T, len: usize, what: &str) -> Result<Self> {
        check_array(start, len, what)?;
        match len {
            0 => Err(invalid(format!("{what} has no room"))),
            len => Ok(Self { start, len, filled: 0 }),
        }
    }

    /// How many more elements fit.
    pub(super) fn left(&self) -> usize {
        self.len - self.filled
    }

    /// Appends an element; one that does not fit is left out.
    #[inline]
    pub(super) fn push(&mut self, element: T) {
        if self.filled < self.len {
            // SAFETY: `filled` is below `len`, up to which `new` was promised room, aligned as it was found to be.
            unsafe { self.start.add(self.filled).write(element) };
            self.filled += 1;
        }
    }

    /// Appends elements until the iterator ends or nothing more fits.
    #[inline]
    pub(super) fn fill(&mut self, elements: impl Iterator<Item = T>) {
        // A count in `self` would be written back for every element.
        let (mut at, left) = (self.filled, self.left());
        for element in elements.take(left) {
            // SAFETY: `take` lets through no more elements than there is room for, up to `len`, which `new` was promised.
            unsafe { self.start.add(at).write(element) };
            at += 1;
        }
        self.filled = at;
    }

    /// How many elements were appended, as C calls return it.
    pub(super) fn count(&self) -> i64 {
        count(self.filled)
    }
}

impl OutBuffer<u8> {
    /// All of the buffer as zeroed bytes.
    pub(super) fn bytes(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(self.len);
        // SAFETY: `len` bytes are inside the room that `new` was promised.
        unsafe { self.start.write_bytes(0, len) };
        // SAFETY: just initialised, and nobody else uses them by the promise of `new`.
        unsafe { slice::from_raw_parts_mut(self.start, len) }
    }
}

/// A number of things in memory, as C calls return it.
pub(super) fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// A number of granules or bytes, none of which is above 2^63-1, as C calls return it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The error of a buffer that is too short.
pub(super) fn too_short(have: usize, need: u64) -> Error {
    Error::new(ErrorKind::OutOfRange, format!("the buffer has {have} bytes, and {need} are needed"))
}

/// An offset that may be there, as C calls return it: -1 is none.
pub(super) fn offset_or_none(offset: Option<u64>) -> i64 {
    offset.map_or(-1, signed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Pool, map_ordered};
    use std::ffi::CStr;

    /// The answer to C after a fault in `body`.
    fn told(body: impl FnOnce() -> Result<c_int>) -> String {
        assert_eq!(guard(body), -libc::ENOTRECOVERABLE);
        // SAFETY: the buffer is this thread's, ends with NUL, and nothing fails meanwhile.
        let text = unsafe { CStr::from_ptr(error::checkmap_last_error()) };
        text.to_str().expect("UTF-8").to_owned()
    }

    fn fault_at(line: u32, text: &str) -> String {
        format!(
            "a fault of checkmap itself: src/capi/boundary.rs:{line}: {text} (free the handle, and report the fault)"
        )
    }

    #[test]
    fn a_panic_keeps_its_place_and_its_text() {
        assert_eq!(told(|| panic!("fixed")), fault_at(line!(), "fixed"));
        let number = 7;
        assert_eq!(told(|| panic!("number {number}")), fault_at(line!(), "number 7"));
        assert_eq!(told(|| panic::panic_any(7)), fault_at(line!(), "a panic"));
        let nothing: Option<c_int> = (number == 0).then_some(0);
        assert_eq!(told(|| Ok(nothing.expect("something"))), fault_at(line!(), "something"));
        // One without a place of its own does not get that of the last one.
        assert_eq!(
            told(|| panic::resume_unwind(Box::new("carried"))),
            "a fault of checkmap itself: carried (free the handle, and report the fault)"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no masks of signals, with which each thread of ours begins")]
    fn a_panic_on_a_thread_of_ours_keeps_them_too() {
        let work = |item: u32| if item == 5 { panic!("item {item}") } else { item };
        let line = line!() - 1;
        let items = || (0..8).collect::<Vec<u32>>();
        let pool = Pool::new(3);
        assert_eq!(told(|| Ok(c_int::from(pool.map(items(), work)?.is_empty()))), fault_at(line, "item 5"));
        assert_eq!(told(|| Ok(c_int::from(map_ordered(3, items(), work)?.is_empty()))), fault_at(line, "item 5"));
        let parts = vec![4, 5, 6];
        assert_eq!(told(|| Ok(pool.alongside(parts, |part| _ = work(part), || 0))), fault_at(line, "item 5"));
        assert_eq!(
            told(|| Ok(pool.alongside(vec![()], |()| {}, || panic!("the caller")))),
            fault_at(line!() - 1, "the caller")
        );
    }
}
