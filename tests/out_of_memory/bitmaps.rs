//! Calls on bitmaps in memory.

use super::{Handle, fail_each, last_error};
use checkmap::capi::bitmap::*;
use checkmap::capi::bits::*;
use checkmap::capi::sets::*;
use checkmap::capi::values::checkmap_extent;
use std::ptr;

/// The bytes of one chunk, at a granularity of 1.
const CHUNK: u64 = 1 << 16;
/// A disk of enough chunks that new ones wait before they enter the list of all.
const SIZE: u64 = 6000 * CHUNK;

/// A bitmap by name, which can be made again.
pub(super) type Shape = (&'static str, fn() -> Handle);

/// Bitmaps of every form.
pub(super) fn shapes() -> Vec<Shape> {
    fn every(step: u64, len: u64, chunks: std::ops::Range<u64>) -> Handle {
        let bitmap = Handle::new(SIZE, 1);
        for chunk in chunks {
            (0..CHUNK / step).for_each(|n| bitmap.set(chunk * CHUNK + n * step, len));
        }
        bitmap
    }
    vec![
        ("empty", || Handle::new(SIZE, 1)),
        ("full", || every(CHUNK, CHUNK, 0..6000)),
        ("lists", || every(100, 1, 1..9)),
        ("long lists", || every(16, 1, 2..6)),
        ("runs", || every(64, 40, 1..7)),
        ("most runs", || every(32, 20, 0..5)),
        ("words", || every(3, 1, 0..7)),
        ("nearly full", || {
            let bitmap = every(CHUNK, CHUNK - 1, 0..9);
            bitmap.set(20 * CHUNK, 100 * CHUNK);
            bitmap
        }),
        ("many", || every(CHUNK, 1, 0..6000)),
        ("waiting", || {
            let bitmap = Handle::new(SIZE, 1);
            (0..3000).for_each(|n| bitmap.set(2 * n * CHUNK, 1));
            (0..20).for_each(|n| bitmap.set((20 * n + 1) * CHUNK, 1));
            bitmap
        }),
        ("packed", || {
            let bitmap = every(3, 1, 0..5);
            (0..CHUNK / 20).for_each(|n| bitmap.set(9 * CHUNK + n * 20, 3));
            (0..CHUNK / 16).for_each(|n| bitmap.set(11 * CHUNK + n * 16, 1));
            // SAFETY: the handle is alive.
            assert_eq!(unsafe { checkmap_bitmap_optimize(bitmap.0) }, 0);
            bitmap
        }),
    ]
}

/// A change of a bitmap, by name.
type Change = (String, Box<dyn Fn(*mut checkmap_bitmap) -> i64>);

fn changes() -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    let chunk = |number: u64, offset: u64| number * CHUNK + offset;
    for (offset, length) in [
        (chunk(3, 50), 1),
        (chunk(3, 0), CHUNK),
        (chunk(1, 7), CHUNK / 2),
        (chunk(1, 7), 3 * CHUNK),
        (chunk(4, 3), 2 * CHUNK - 3),
        (chunk(2, 0), 2 * CHUNK + 5),
        (chunk(4999, 9), 1),
        (chunk(1, 1), 5000 * CHUNK),
        (0, SIZE),
    ] {
        all.push((
            format!("set {offset} {length}"),
            // SAFETY: the handle is alive and of this thread alone.
            Box::new(move |bitmap| unsafe { checkmap_bitmap_set(bitmap, offset, length) }.into()),
        ));
        all.push((
            format!("clear {offset} {length}"),
            // SAFETY: as above.
            Box::new(move |bitmap| unsafe { checkmap_bitmap_clear(bitmap, offset, length) }.into()),
        ));
    }
    // SAFETY: as above.
    all.push(("set_all".into(), Box::new(|bitmap| unsafe { checkmap_bitmap_set_all(bitmap) }.into())));
    // SAFETY: as above.
    all.push(("clear_all".into(), Box::new(|bitmap| unsafe { checkmap_bitmap_clear_all(bitmap) }.into())));
    // SAFETY: as above.
    all.push(("optimize".into(), Box::new(|bitmap| unsafe { checkmap_bitmap_optimize(bitmap) }.into())));
    for size in [SIZE + 5 * CHUNK, 3 * CHUNK + 77, 0] {
        // SAFETY: as above.
        let resize = move |bitmap| unsafe { checkmap_bitmap_resize(bitmap, size) }.into();
        all.push((format!("resize {size}"), Box::new(resize)));
    }
    for (offset, bits) in [
        (8 * 20, vec![0x11; 3000]),
        (chunk(1, 8 * 90), vec![0xf0; 30_000]),
        (chunk(2, 0), vec![0; 8192]),
        (chunk(4, 0), vec![0xff; 8192 * 2]),
        (chunk(3, 8 * 100), vec![0x55; 8192]),
    ] {
        // SAFETY: as above; the bits live as long as the call.
        let replace =
            move |bitmap| unsafe { checkmap_bitmap_from_bits(bitmap, offset, bits.as_ptr(), bits.len()) }.into();
        all.push((format!("from_bits {offset}"), Box::new(replace)));
    }
    all
}

#[test]
fn changes_of_one_bitmap() {
    for (shape, make) in shapes() {
        for (name, change) in changes() {
            let expected = make();
            assert_eq!(change(expected.0), 0, "{}", last_error());
            fail_each(
                &format!("{name} of {shape}"),
                make,
                |bitmap| change(bitmap.0),
                |bitmap, before| bitmap == before && bitmap.is_sound(),
                |bitmap| *bitmap == expected && bitmap.is_sound(),
            );
        }
    }
}

type Combine = unsafe extern "C" fn(*mut checkmap_bitmap, *const checkmap_bitmap) -> i32;

unsafe extern "C" fn union(dst: *mut checkmap_bitmap, src: *const checkmap_bitmap) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { checkmap_bitmap_union(dst, [src].as_ptr(), 1) }
}

#[test]
fn operations_of_two_bitmaps() {
    let operations: [(&str, Combine); 4] = [
        ("union", union),
        ("intersect", checkmap_bitmap_intersect),
        ("subtract", checkmap_bitmap_subtract),
        ("xor", checkmap_bitmap_xor),
    ];
    for (shape, make) in shapes() {
        for (other_shape, make_other) in shapes() {
            let other = make_other();
            for (name, operation) in operations {
                let expected = make();
                // SAFETY: both handles are alive, here and below, and the first of this thread alone.
                assert_eq!(unsafe { operation(expected.0, other.0) }, 0, "{}", last_error());
                fail_each(
                    &format!("{name} of {shape} and {other_shape}"),
                    make,
                    // SAFETY: as above.
                    |bitmap| unsafe { operation(bitmap.0, other.0) }.into(),
                    |bitmap, before| bitmap == before && bitmap.is_sound(),
                    |bitmap| *bitmap == expected && bitmap.is_sound(),
                );
            }
        }
    }
}

/// A place for a new bitmap.
pub(super) struct Place(pub(super) *mut checkmap_bitmap);

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: the handle is alive or NULL.
        unsafe { checkmap_bitmap_free(self.0) }
    }
}

/// A call that makes a new bitmap.
pub(super) fn fail_making(name: &str, make: impl Fn(*mut *mut checkmap_bitmap) -> i32) {
    let mut expected = Place(ptr::null_mut());
    assert_eq!(make(&raw mut expected.0), 0, "{name}: {}", last_error());
    fail_each(
        name,
        || Place(ptr::null_mut()),
        |place| make(&raw mut place.0).into(),
        |place, _| place.0.is_null(),
        // SAFETY: both handles are alive.
        |place| unsafe { checkmap_bitmap_equal(place.0, expected.0) == 1 && checkmap_bitmap_validate(place.0) == 0 },
    );
}

#[test]
fn new_bitmaps() {
    let all: Vec<Handle> = shapes().into_iter().map(|(_, make)| make()).collect();
    let pointers: Vec<*const checkmap_bitmap> = all.iter().map(|bitmap| bitmap.0.cast_const()).collect();
    for granularity in [0, 16, 1 << 20] {
        for sources in [&pointers[2..], &pointers[2..5], &pointers[8..], &[pointers[3]; 200]] {
            let name = format!("union_new of {} at {granularity}", sources.len());
            // SAFETY: the handles are alive, here and below.
            let unite = |out| unsafe { checkmap_bitmap_union_new(sources.as_ptr(), sources.len(), granularity, out) };
            fail_making(&name, unite);
        }
    }
    for ((shape, _), bitmap) in shapes().iter().zip(&all) {
        // SAFETY: as above.
        fail_making(&format!("clone of {shape}"), |out| unsafe { checkmap_bitmap_clone(bitmap.0, out) });
        for granularity in [1, 64, 1 << 16] {
            let name = format!("{shape} to granularity {granularity}");
            // SAFETY: as above.
            fail_making(&name, |out| unsafe { checkmap_bitmap_to_granularity(bitmap.0, granularity, out) });
        }
        let bytes = serialized(bitmap);
        // SAFETY: as above; the bytes live as long as the call.
        let read = |out| unsafe { checkmap_bitmap_deserialize(bytes.as_ptr(), bytes.len(), SIZE, 1, out) };
        fail_making(&format!("deserialize of {shape}"), read);
    }
}

fn serialized(bitmap: &Handle) -> Vec<u8> {
    // SAFETY: the handle is alive, and the buffer as long as is said.
    unsafe {
        let mut bytes = vec![0; checkmap_bitmap_serialize(bitmap.0, ptr::null_mut(), 0).try_into().unwrap()];
        assert_eq!(checkmap_bitmap_serialize(bitmap.0, bytes.as_mut_ptr(), bytes.len()), bytes.len() as i64);
        bytes
    }
}

/// A question: its answer is that of a bitmap that nobody asked before, and the bitmap stays what it is.
fn fail_asking<A: PartialEq>(
    name: &str,
    make: fn() -> Handle,
    ask: impl Fn(*const checkmap_bitmap, &mut A) -> i64,
    nothing: impl Fn() -> A,
) {
    let (mut expected, fresh) = (nothing(), make());
    let status = ask(fresh.0, &mut expected);
    assert!(status >= 0, "{name}: {}", last_error());
    fail_each(
        name,
        || (make(), nothing(), status),
        |(bitmap, answer, status)| {
            let given = ask(bitmap.0, answer);
            if given >= 0 {
                *status = given;
            }
            given
        },
        |(bitmap, ..), (before, ..)| bitmap == before,
        |(bitmap, answer, given)| *bitmap == fresh && *answer == expected && *given == status,
    );
}

#[test]
fn questions() {
    for (shape, make) in shapes() {
        let number = |name: &str, ask: &dyn Fn(*const checkmap_bitmap) -> i64| {
            fail_asking(&format!("{name} of {shape}"), make, |bitmap, ()| ask(bitmap).max(0), || ());
        };
        // SAFETY: the handle is alive, in all of these.
        number("count", &|bitmap| unsafe { checkmap_bitmap_count(bitmap) });
        // SAFETY: as above.
        number("dirty_bytes", &|bitmap| unsafe { checkmap_bitmap_dirty_bytes(bitmap) });
        // SAFETY: as above.
        number("count_extents", &|bitmap| unsafe { checkmap_bitmap_count_extents(bitmap) });
        // SAFETY: as above.
        number("count_range", &|bitmap| unsafe { checkmap_bitmap_count_range(bitmap, 3, SIZE - 9) });
        // SAFETY: as above.
        number("next_clean", &|bitmap| unsafe { checkmap_bitmap_next_clean(bitmap, 0, u64::MAX) });
        // SAFETY: as above.
        number("previous_dirty", &|bitmap| unsafe { checkmap_bitmap_previous_dirty(bitmap, 0, u64::MAX) });
        // SAFETY: as above.
        number("get", &|bitmap| unsafe { checkmap_bitmap_get(bitmap, CHUNK) }.into());
        // SAFETY: as above, and the places are as long as is said.
        let extents = |bitmap, out: &mut Extents| unsafe {
            checkmap_bitmap_extents(bitmap, 0, u64::MAX, out.0.as_mut_ptr(), out.0.len())
        };
        fail_asking(&format!("extents of {shape}"), make, extents, Extents::room);
        // SAFETY: as above.
        let bits = |bitmap, out: &mut Vec<u8>| unsafe {
            checkmap_bitmap_to_bits(bitmap, 0, 30 * CHUNK, out.as_mut_ptr(), out.len())
        };
        fail_asking(&format!("to_bits of {shape}"), make, bits, || vec![0; 8192 * 30]);
        let len = serialized(&make()).len();
        // SAFETY: as above.
        let serialize =
            |bitmap, out: &mut Vec<u8>| unsafe { checkmap_bitmap_serialize(bitmap, out.as_mut_ptr(), out.len()) };
        fail_asking(&format!("serialize of {shape}"), make, serialize, || vec![0; len]);
        for (other_shape, make_other) in shapes() {
            let other = make_other();
            // SAFETY: as above.
            let is_subset = |bitmap, (): &mut ()| unsafe { checkmap_bitmap_is_subset(bitmap, other.0) }.into();
            fail_asking(&format!("is {shape} in {other_shape}"), make, is_subset, || ());
            // SAFETY: as above.
            let is_equal = |bitmap, (): &mut ()| unsafe { checkmap_bitmap_equal(bitmap, other.0) }.into();
            fail_asking(&format!("is {shape} {other_shape}"), make, is_equal, || ());
        }
    }
}

/// Room for extents, which compares by the extents written into it.
pub(super) struct Extents(pub(super) Vec<checkmap_extent>);

impl Extents {
    pub(super) fn room() -> Self {
        Self(vec![checkmap_extent { offset: 0, length: 0, flags: 0, reserved: 0 }; 5000])
    }
}

impl PartialEq for Extents {
    fn eq(&self, other: &Self) -> bool {
        let facts = |extent: &checkmap_extent| (extent.offset, extent.length, extent.flags);
        self.0.iter().map(facts).eq(other.0.iter().map(facts))
    }
}
