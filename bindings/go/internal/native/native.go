// Package native does in C what the measurements of the Go package are held against.
package native

/*
#cgo pkg-config: checkmap
#cgo CFLAGS: -std=c11 -O2
#include <stdlib.h>
#include <checkmap.h>

static checkmap_bitmap *made(uint64_t disk, uint64_t granularity, uint64_t step)
{
    checkmap_bitmap *bitmap = NULL;
    if (checkmap_bitmap_new(disk, granularity, &bitmap) == 0) {
        for (uint64_t at = 0; at < disk; at += step) {
            checkmap_bitmap_set(bitmap, at, granularity);
        }
        checkmap_bitmap_optimize(bitmap);
    }
    return bitmap;
}

static uint64_t walk(const checkmap_bitmap *bitmap, struct checkmap_extent *out, size_t max)
{
    uint64_t offset = 0, sum = 0;
    for (;;) {
        int64_t got = checkmap_bitmap_extents(bitmap, offset, CHECKMAP_TO_END, out, max);
        for (int64_t at = 0; at < got; at++) {
            sum += out[at].offset ^ out[at].length;
        }
        if (got < (int64_t)max) {
            return sum;
        }
        offset = out[got - 1].offset + out[got - 1].length;
    }
}

static uint64_t get(const checkmap_bitmap *bitmap, uint64_t step, uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t at = 0; at < n; at++) {
        sum += (uint64_t)checkmap_bitmap_get(bitmap, at * step);
    }
    return sum;
}
*/
import "C"

// Bitmap is one that only C touches.
type Bitmap struct {
	handle *C.struct_checkmap_bitmap
	out    *C.struct_checkmap_extent
	max    C.size_t
}

// New makes a bitmap with a dirty granule at every multiple of step, to be walked in batches.
func New(disk, granularity, step uint64, batch int) *Bitmap {
	out := (*C.struct_checkmap_extent)(C.calloc(C.size_t(batch), C.sizeof_struct_checkmap_extent))
	return &Bitmap{C.made(C.uint64_t(disk), C.uint64_t(granularity), C.uint64_t(step)), out, C.size_t(batch)}
}

// Walk gives the sum over all extents of offset xor length.
func (b *Bitmap) Walk() uint64 { return uint64(C.walk(b.handle, b.out, b.max)) }

// Get asks n bytes, step apart, and counts the dirty ones.
func (b *Bitmap) Get(step, n uint64) uint64 {
	return uint64(C.get(b.handle, C.uint64_t(step), C.uint64_t(n)))
}
