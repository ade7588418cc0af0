package checkmap

/*
#include <checkmap.h>
*/
import "C"

import (
	"runtime"
	"unsafe"
)

// Bitmap says which granules of a disk are dirty: one bit for each.
type Bitmap struct {
	handle *C.struct_checkmap_bitmap
}

func newBitmap(handle *C.struct_checkmap_bitmap) *Bitmap {
	bitmap := &Bitmap{handle}
	runtime.SetFinalizer(bitmap, (*Bitmap).Close)
	return bitmap
}

// pointer is NULL for nil, which C refuses.
func (b *Bitmap) pointer() *C.struct_checkmap_bitmap {
	if b == nil {
		return nil
	}
	return b.handle
}

// made runs a call that makes a bitmap.
func made(call func(out **C.struct_checkmap_bitmap) C.int) (*Bitmap, error) {
	var out *C.struct_checkmap_bitmap
	if err := status(func() C.int { return call(&out) }); err != nil {
		return nil, err
	}
	return newBitmap(out), nil
}

// NewBitmap makes a bitmap of a disk of diskSize bytes, all clean. granularity, the bytes that one bit stands for, is
// a power of two from 1 to 2^31; diskSize is 0 to 2^63-1, and at most 2^41 granules: else ErrInvalidArgument.
func NewBitmap(diskSize, granularity uint64) (*Bitmap, error) {
	return made(func(out **C.struct_checkmap_bitmap) C.int {
		return C.checkmap_bitmap_new(C.uint64_t(diskSize), C.uint64_t(granularity), out)
	})
}

// Deserialize reads portable 64-bit Roaring, from wherever it comes, as a bitmap of a disk of this size and
// granularity. Damage, bytes left over and granules past the disk are ErrDamaged.
func Deserialize(data []byte, diskSize, granularity uint64) (*Bitmap, error) {
	return made(func(out **C.struct_checkmap_bitmap) C.int {
		return C.checkmap_bitmap_deserialize(bytesOf(data), C.size_t(len(data)), C.uint64_t(diskSize),
			C.uint64_t(granularity), out)
	})
}

// bytesOf points to the bytes, or to one that is not looked at.
func bytesOf(data []byte) *C.uint8_t {
	if len(data) == 0 {
		data = make([]byte, 1)
	}
	return (*C.uint8_t)(unsafe.Pointer(&data[0]))
}

// Close frees the bitmap. It needs the bitmap alone, may be called again, and returns nil.
func (b *Bitmap) Close() error {
	if b.handle != nil {
		runtime.SetFinalizer(b, nil)
		C.checkmap_bitmap_free(b.handle)
		b.handle = nil
	}
	return nil
}

// Clone makes a copy.
func (b *Bitmap) Clone() (*Bitmap, error) {
	defer runtime.KeepAlive(b)
	return made(func(out **C.struct_checkmap_bitmap) C.int { return C.checkmap_bitmap_clone(b.handle, out) })
}

// Set marks every granule that the range touches: it rounds outward. A range that ends past the last granule is
// ErrOutOfRange, and nothing is marked. Changes the bitmap.
func (b *Bitmap) Set(offset, length uint64) error {
	defer runtime.KeepAlive(b)
	return status(func() C.int { return C.checkmap_bitmap_set(b.handle, C.uint64_t(offset), C.uint64_t(length)) })
}

// Clear makes the range clean, and never a byte outside of it: offset must be a multiple of the granularity, and the
// end too unless it is that of the disk, else ErrInvalidArgument. A range that ends past the last granule is
// ErrOutOfRange. On error nothing is cleaned. Changes the bitmap.
func (b *Bitmap) Clear(offset, length uint64) error {
	defer runtime.KeepAlive(b)
	return status(func() C.int { return C.checkmap_bitmap_clear(b.handle, C.uint64_t(offset), C.uint64_t(length)) })
}

// SetAll marks the whole disk. Changes the bitmap.
func (b *Bitmap) SetAll() error {
	defer runtime.KeepAlive(b)
	return status(func() C.int { return C.checkmap_bitmap_set_all(b.handle) })
}

// ClearAll makes the whole disk clean. Changes the bitmap.
func (b *Bitmap) ClearAll() error {
	defer runtime.KeepAlive(b)
	return status(func() C.int { return C.checkmap_bitmap_clear_all(b.handle) })
}

// Resize changes the size of the disk in bytes, as QEMU's truncate does: what lies past the new end is dropped, what
// is new is clean. A size that NewBitmap would refuse is ErrInvalidArgument. Changes the bitmap.
func (b *Bitmap) Resize(diskSize uint64) error {
	defer runtime.KeepAlive(b)
	return status(func() C.int { return C.checkmap_bitmap_resize(b.handle, C.uint64_t(diskSize)) })
}

// Optimize takes the smallest form for every part of the bitmap. Changes its memory, so it needs the bitmap alone.
func (b *Bitmap) Optimize() error {
	defer runtime.KeepAlive(b)
	return status(func() C.int { return C.checkmap_bitmap_optimize(b.handle) })
}

// Validate checks every rule inside of the bitmap, for tests; one that does not hold is ErrDamaged.
func (b *Bitmap) Validate() error {
	defer runtime.KeepAlive(b)
	return status(func() C.int { return C.checkmap_bitmap_validate(b.handle) })
}

// Get tells whether the granule that holds the byte at offset is dirty. Past the last granule it is ErrOutOfRange.
func (b *Bitmap) Get(offset uint64) (bool, error) {
	defer runtime.KeepAlive(b)
	return truth(func() C.int { return C.checkmap_bitmap_get(b.handle, C.uint64_t(offset)) })
}

// Size is the size of the disk in bytes; 0 after Close.
func (b *Bitmap) Size() uint64 {
	defer runtime.KeepAlive(b)
	return uint64(C.checkmap_bitmap_size(b.handle))
}

// Granularity is the bytes that one bit stands for; 0 after Close.
func (b *Bitmap) Granularity() uint64 {
	defer runtime.KeepAlive(b)
	return uint64(C.checkmap_bitmap_granularity(b.handle))
}

// Granules is the number of granules of the disk, 0 to 2^41.
func (b *Bitmap) Granules() (uint64, error) {
	defer runtime.KeepAlive(b)
	return number(func() int64 { return int64(C.checkmap_bitmap_granules(b.handle)) })
}

// Count is the number of dirty granules.
func (b *Bitmap) Count() (uint64, error) {
	defer runtime.KeepAlive(b)
	return number(func() int64 { return int64(C.checkmap_bitmap_count(b.handle)) })
}

// CountRange is the number of dirty granules that touch the range.
func (b *Bitmap) CountRange(offset, length uint64) (uint64, error) {
	defer runtime.KeepAlive(b)
	return number(func() int64 {
		return int64(C.checkmap_bitmap_count_range(b.handle, C.uint64_t(offset), C.uint64_t(length)))
	})
}

// DirtyBytes is the number of dirty bytes, never above the size of the disk.
func (b *Bitmap) DirtyBytes() (uint64, error) {
	defer runtime.KeepAlive(b)
	return number(func() int64 { return int64(C.checkmap_bitmap_dirty_bytes(b.handle)) })
}

// CountExtents is the number of dirty extents of the whole disk; counted, not walked.
func (b *Bitmap) CountExtents() (uint64, error) {
	defer runtime.KeepAlive(b)
	return number(func() int64 { return int64(C.checkmap_bitmap_count_extents(b.handle)) })
}

// HeapBytes is the memory of the C library that the bitmap takes.
func (b *Bitmap) HeapBytes() (uint64, error) {
	defer runtime.KeepAlive(b)
	return number(func() int64 { return int64(C.checkmap_bitmap_heap_bytes(b.handle)) })
}

// IsEmpty tells whether no granule is dirty.
func (b *Bitmap) IsEmpty() (bool, error) {
	defer runtime.KeepAlive(b)
	return truth(func() C.int { return C.checkmap_bitmap_is_empty(b.handle) })
}

// NextDirty is the first dirty byte of the range, offset itself if that is dirty.
func (b *Bitmap) NextDirty(offset, length uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(b)
	return place(func() C.int64_t {
		return C.checkmap_bitmap_next_dirty(b.handle, C.uint64_t(offset), C.uint64_t(length))
	})
}

// NextClean is the first clean byte of the range.
func (b *Bitmap) NextClean(offset, length uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(b)
	return place(func() C.int64_t {
		return C.checkmap_bitmap_next_clean(b.handle, C.uint64_t(offset), C.uint64_t(length))
	})
}

// PreviousDirty is the last dirty byte of the range.
func (b *Bitmap) PreviousDirty(offset, length uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(b)
	return place(func() C.int64_t {
		return C.checkmap_bitmap_previous_dirty(b.handle, C.uint64_t(offset), C.uint64_t(length))
	})
}

// PreviousClean is the last clean byte of the range.
func (b *Bitmap) PreviousClean(offset, length uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(b)
	return place(func() C.int64_t {
		return C.checkmap_bitmap_previous_clean(b.handle, C.uint64_t(offset), C.uint64_t(length))
	})
}

// Rank is the number of dirty granules before the one that holds the byte at offset; at the end of the disk and past it, all.
func (b *Bitmap) Rank(offset uint64) (uint64, error) {
	defer runtime.KeepAlive(b)
	return number(func() int64 { return int64(C.checkmap_bitmap_rank(b.handle, C.uint64_t(offset))) })
}

// Select is where the dirty granule of this number begins, counted from 0.
func (b *Bitmap) Select(number uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(b)
	return place(func() C.int64_t { return C.checkmap_bitmap_select(b.handle, C.uint64_t(number)) })
}

// handles gives C pointers in Go memory, which C does not keep.
func handles(bitmaps []*Bitmap) []*C.struct_checkmap_bitmap {
	all := make([]*C.struct_checkmap_bitmap, len(bitmaps)+1)
	for at, bitmap := range bitmaps {
		all[at] = bitmap.pointer()
	}
	return all
}

// Union makes b the union of itself and others, at its own granularity, rounded outward; b may be among them. Disks
// of different size are ErrSizeMismatch, and nothing changes. Changes the bitmap.
func (b *Bitmap) Union(others ...*Bitmap) error { return b.UnionWith(others, nil) }

// UnionWith is Union with options: threads and progress.
func (b *Bitmap) UnionWith(others []*Bitmap, options *Options) error {
	defer runtime.KeepAlive(others)
	defer runtime.KeepAlive(b)
	all := handles(others)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_bitmap_union_with(b.handle, &all[0], C.size_t(len(others)), opts)
	})
}

// UnionOf makes a new bitmap of what is dirty in any of them, at this granularity, rounded outward; 0 is the finest of
// theirs. None, or a granularity that cannot be, is ErrInvalidArgument; disks of different size are ErrSizeMismatch.
// Options: threads and progress.
func UnionOf(bitmaps []*Bitmap, granularity uint64, options *Options) (*Bitmap, error) {
	defer runtime.KeepAlive(bitmaps)
	all := handles(bitmaps)
	var out *C.struct_checkmap_bitmap
	err := options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_bitmap_union_new_with(&all[0], C.size_t(len(bitmaps)), C.uint64_t(granularity), opts, &out)
	})
	if err != nil {
		return nil, err
	}
	return newBitmap(out), nil
}

// Intersect keeps what is dirty in other too, rounded outward. Disks of different size are ErrSizeMismatch. Changes b.
func (b *Bitmap) Intersect(other *Bitmap) error { return b.IntersectWith(other, nil) }

// IntersectWith is Intersect with options: threads and progress.
func (b *Bitmap) IntersectWith(other *Bitmap, options *Options) error {
	defer runtime.KeepAlive(other)
	defer runtime.KeepAlive(b)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_bitmap_intersect_with(b.handle, other.pointer(), opts)
	})
}

// Subtract removes what is dirty in other; a granule goes only where other covers all of it. Disks of different size
// are ErrSizeMismatch. Changes b.
func (b *Bitmap) Subtract(other *Bitmap) error { return b.SubtractWith(other, nil) }

// SubtractWith is Subtract with options: threads and progress.
func (b *Bitmap) SubtractWith(other *Bitmap, options *Options) error {
	defer runtime.KeepAlive(other)
	defer runtime.KeepAlive(b)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_bitmap_subtract_with(b.handle, other.pointer(), opts)
	})
}

// Complement makes the clean granules of the disk dirty, and the dirty ones clean. Changes the bitmap.
func (b *Bitmap) Complement() error {
	defer runtime.KeepAlive(b)
	return status(func() C.int { return C.checkmap_bitmap_complement(b.handle) })
}

// Xor leaves what is dirty in one of the two only. Disks of different size are ErrSizeMismatch, different
// granularities ErrInvalidArgument. Changes b.
func (b *Bitmap) Xor(other *Bitmap) error { return b.XorWith(other, nil) }

// XorWith is Xor with options: threads and progress.
func (b *Bitmap) XorWith(other *Bitmap, options *Options) error {
	defer runtime.KeepAlive(other)
	defer runtime.KeepAlive(b)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_bitmap_xor_with(b.handle, other.pointer(), opts)
	})
}

// Equal tells whether both have the same size, granularity and dirty granules.
func (b *Bitmap) Equal(other *Bitmap) (bool, error) {
	defer runtime.KeepAlive(other)
	defer runtime.KeepAlive(b)
	return truth(func() C.int { return C.checkmap_bitmap_equal(b.handle, other.pointer()) })
}

// IsSubset tells whether every dirty byte of b is dirty in other. Disks of different size are ErrSizeMismatch.
func (b *Bitmap) IsSubset(other *Bitmap) (bool, error) {
	defer runtime.KeepAlive(other)
	defer runtime.KeepAlive(b)
	return truth(func() C.int { return C.checkmap_bitmap_is_subset(b.handle, other.pointer()) })
}

// SHA256 is that of the bits, as QEMU's x-debug-block-dirty-bitmap-sha256 computes it; size and granularity are not part of
// it.
func (b *Bitmap) SHA256() ([32]byte, error) {
	defer runtime.KeepAlive(b)
	return hashed(func(out *C.struct_checkmap_sha256) C.int { return C.checkmap_bitmap_sha256(b.handle, out) })
}

func hashed(call func(out *C.struct_checkmap_sha256) C.int) ([32]byte, error) {
	var out C.struct_checkmap_sha256
	err := status(func() C.int { return call(&out) })
	return *(*[32]byte)(unsafe.Pointer(&out.bytes[0])), err
}

// ToGranularity makes a bitmap of another granularity, rounded outward: every dirty byte stays dirty.
func (b *Bitmap) ToGranularity(granularity uint64) (*Bitmap, error) {
	defer runtime.KeepAlive(b)
	return made(func(out **C.struct_checkmap_bitmap) C.int {
		return C.checkmap_bitmap_to_granularity(b.handle, C.uint64_t(granularity), out)
	})
}

// ToBits gives one bit for each granule that the range touches: bit n, in byte n/8, counted from the least
// significant bit, is granule n after offset, which must be a multiple of 8 granules, else ErrInvalidArgument.
func (b *Bitmap) ToBits(offset, length uint64) ([]byte, error) {
	return filled(b, func(out *C.uint8_t, room C.size_t) C.int64_t {
		return C.checkmap_bitmap_to_bits(b.handle, C.uint64_t(offset), C.uint64_t(length), out, room)
	})
}

// FromBits replaces the granules from offset on, as many as there are bits, in the order of ToBits; those past the
// disk are ignored. An offset that is no multiple of 8 granules is ErrInvalidArgument, one past the disk
// ErrOutOfRange. Changes the bitmap.
func (b *Bitmap) FromBits(offset uint64, bits []byte) error {
	defer runtime.KeepAlive(b)
	return status(func() C.int {
		return C.checkmap_bitmap_from_bits(b.handle, C.uint64_t(offset), bytesOf(bits), C.size_t(len(bits)))
	})
}

// Serialize gives the bitmap as portable 64-bit Roaring, its values being granules; the size of the disk and the
// granularity are not part of it.
func (b *Bitmap) Serialize() ([]byte, error) {
	return filled(b, func(out *C.uint8_t, room C.size_t) C.int64_t {
		return C.checkmap_bitmap_serialize(b.handle, out, room)
	})
}

// filled asks for the size, then for the bytes.
func filled(b *Bitmap, call func(out *C.uint8_t, room C.size_t) C.int64_t) ([]byte, error) {
	defer runtime.KeepAlive(b)
	size, err := number(func() int64 { return int64(call(nil, 0)) })
	if err != nil || size == 0 {
		return nil, err
	}
	data := make([]byte, size)
	size, err = number(func() int64 { return int64(call(bytesOf(data), C.size_t(len(data)))) })
	if err != nil {
		return nil, err
	}
	return data[:size], nil
}
