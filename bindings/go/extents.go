package checkmap

/*
#include <checkmap.h>
*/
import "C"

import (
	"runtime"
	"sync"
	"unsafe"
)

// ExtentFlags say what an extent is.
type ExtentFlags uint32

// The flags of extents.
const (
	Dirty        ExtentFlags = C.CHECKMAP_EXTENT_DIRTY          // Dirty.
	OnlyInFirst  ExtentFlags = C.CHECKMAP_EXTENT_ONLY_IN_FIRST  // Dirty in the first of two, and clean in the second.
	OnlyInSecond ExtentFlags = C.CHECKMAP_EXTENT_ONLY_IN_SECOND // Dirty in the second of two, and clean in the first.
)

// Extent is a range of bytes of the virtual disk. Its length is never 0.
type Extent struct {
	Offset, Length uint64
	Flags          ExtentFlags
	_              uint32
}

// End is the first byte behind the extent.
func (e Extent) End() uint64 { return e.Offset + e.Length }

// C fills slices of Extent, so the two must be laid out alike; else this does not compile.
var (
	_ [unsafe.Sizeof(Extent{})]byte          = [C.sizeof_struct_checkmap_extent]byte{}
	_ [unsafe.Offsetof(Extent{}.Length)]byte = [unsafe.Offsetof(C.struct_checkmap_extent{}.length)]byte{}
	_ [unsafe.Offsetof(Extent{}.Flags)]byte  = [unsafe.Offsetof(C.struct_checkmap_extent{}.flags)]byte{}
)

// extentsOf points to the first of them; nil if there is none, which C refuses.
func extentsOf(out []Extent) *C.struct_checkmap_extent {
	if len(out) == 0 {
		return nil
	}
	return (*C.struct_checkmap_extent)(unsafe.Pointer(&out[0]))
}

// Batch is how many extents an Extents asks C for at once.
const Batch = 4096

// The buffers of walks that ended, each of Batch extents.
var buffers = sync.Pool{New: func() any { return new([Batch]Extent) }}

// Extents walks extents in ascending order, Batch of them for every call into C, into one buffer:
//
//	extents := bitmap.Extents(0, checkmap.ToEnd)
//	for extents.Next() {
//		fmt.Println(extents.Extent().Offset)
//	}
//	if err := extents.Err(); err != nil { ... }
//
// NextBatch in place of Next is faster still. It is for one goroutine. A change of the bitmap meanwhile is seen from the next batch on.
type Extents struct {
	fill        func(offset, length uint64, out []Extent) (int, error)
	offset, end uint64 // what is left to ask for; end is ToEnd where there is no other
	buffer      *[Batch]Extent
	batch       []Extent
	at          int
	last        bool
	err         error
}

func newExtents(offset, length uint64, fill func(offset, length uint64, out []Extent) (int, error)) *Extents {
	end := ToEnd
	if length < ToEnd-offset {
		end = offset + length
	}
	return &Extents{fill: fill, offset: offset, end: end, at: -1}
}

// NextBatch gives the next extents, Batch at most; none at the end and on error. They are good until the next call of
// NextBatch or Next.
func (e *Extents) NextBatch() []Extent {
	e.at = -1
	e.batch = nil
	if e.last || e.err != nil {
		e.release()
		return nil
	}
	if e.buffer == nil {
		e.buffer = buffers.Get().(*[Batch]Extent)
	}
	length := ToEnd
	if e.end != ToEnd {
		length = e.end - e.offset
	}
	count, err := e.fill(e.offset, length, e.buffer[:])
	if err != nil {
		e.err = err
		return e.NextBatch()
	}
	e.last = count < Batch
	if count == 0 {
		return e.NextBatch()
	}
	e.batch = e.buffer[:count:count]
	e.offset = e.batch[count-1].End()
	return e.batch
}

// release gives the buffer to the next walk; there is nothing more to read in it.
func (e *Extents) release() {
	if e.buffer != nil {
		buffers.Put(e.buffer)
		e.buffer, e.batch = nil, nil
	}
}

// Next goes to the next extent, and tells whether there is one.
func (e *Extents) Next() bool {
	e.at++
	return e.at < len(e.batch) || e.more()
}

func (e *Extents) more() bool {
	more := len(e.NextBatch()) > 0
	e.at = 0
	return more
}

// Extent is the one that Next went to.
func (e *Extents) Extent() Extent { return e.batch[e.at] }

// Err is the error that ended the walk; nil at its end.
func (e *Extents) Err() error { return e.err }

// Extents walks the dirty extents of the range, cut at its edges to the byte; two of them never touch.
func (b *Bitmap) Extents(offset, length uint64) *Extents {
	return newExtents(offset, length, b.FillExtents)
}

// FillExtents fills out with the dirty extents of the range, and returns how many; fewer than len(out) is all. To go
// on, ask again from the end of the last one. No room is ErrInvalidArgument.
func (b *Bitmap) FillExtents(offset, length uint64, out []Extent) (int, error) {
	defer runtime.KeepAlive(b)
	count, err := number(func() int64 {
		return int64(C.checkmap_bitmap_extents(b.handle, C.uint64_t(offset), C.uint64_t(length), extentsOf(out),
			C.size_t(len(out))))
	})
	return int(count), err
}
