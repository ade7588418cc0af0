package checkmap

/*
#include <checkmap.h>
*/
import "C"

import (
	"os"
	"runtime"
)

// Segment is a bitmap in a file, which may be larger than memory. Every query reads what it needs, and checks it
// before it believes it: what breaks a rule is ErrDamaged.
type Segment struct {
	handle *C.struct_checkmap_segment
}

// SegmentInfo is what a segment holds, and what it takes.
type SegmentInfo struct {
	DiskSize      uint64 // in bytes
	Granularity   uint64 // bytes that one bit stands for
	DirtyGranules uint64
	Extents       uint64 // dirty extents of the whole disk
	Chunks        uint64 // chunks of 65536 granules that have dirty ones
	Entries       uint64 // of the directory
	FileBytes     uint64
}

func newSegment(handle *C.struct_checkmap_segment) *Segment {
	segment := &Segment{handle}
	runtime.SetFinalizer(segment, (*Segment).Close)
	return segment
}

func emptySegmentInfo() C.struct_checkmap_segment_info {
	return C.struct_checkmap_segment_info{size: C.sizeof_struct_checkmap_segment_info}
}

func segmentInfo(from *C.struct_checkmap_segment_info) SegmentInfo {
	return SegmentInfo{uint64(from.disk_size), uint64(from.granularity), uint64(from.dirty_granules),
		uint64(from.extents), uint64(from.chunks), uint64(from.entries), uint64(from.file_bytes)}
}

// OpenSegment opens the segment in the file at path. No segment, or one of another version, is ErrUnknownFormat or
// ErrUnsupported; one that breaks a rule or was cut short is ErrDamaged.
func OpenSegment(path string) (*Segment, error) {
	bytes, length := textOf(path)
	var out *C.struct_checkmap_segment
	if err := status(func() C.int { return C.checkmap_segment_open(bytes, length, &out) }); err != nil {
		return nil, err
	}
	return newSegment(out), nil
}

// OpenSegmentFile opens the segment in an open file, which stays the caller's and may be closed at once.
func OpenSegmentFile(file *os.File) (*Segment, error) {
	var out *C.struct_checkmap_segment
	err := withDescriptor(file, func(fd C.int) error {
		return status(func() C.int { return C.checkmap_segment_open_fd(fd, &out) })
	})
	if err != nil {
		return nil, err
	}
	return newSegment(out), nil
}

// WriteSegment writes the bitmap as a segment to the file at path, which it replaces in one atomic step, durably; on
// error what was there stays.
func (b *Bitmap) WriteSegment(path string) (SegmentInfo, error) {
	defer runtime.KeepAlive(b)
	bytes, length := textOf(path)
	info := emptySegmentInfo()
	err := status(func() C.int { return C.checkmap_segment_write(b.handle, bytes, length, &info) })
	return segmentInfo(&info), err
}

// WriteSegmentFile writes the bitmap as a segment to an open file, from its position on; a pipe will do. After an
// error what was written is no segment.
func (b *Bitmap) WriteSegmentFile(file *os.File) (SegmentInfo, error) {
	defer runtime.KeepAlive(b)
	info := emptySegmentInfo()
	err := withDescriptor(file, func(fd C.int) error {
		return status(func() C.int { return C.checkmap_segment_write_fd(b.handle, fd, &info) })
	})
	return segmentInfo(&info), err
}

// Close closes the segment. It needs the segment alone, may be called again, and returns nil.
func (s *Segment) Close() error {
	if s.handle != nil {
		runtime.SetFinalizer(s, nil)
		C.checkmap_segment_close(s.handle)
		s.handle = nil
	}
	return nil
}

// pointer is NULL for nil, which C refuses.
func (s *Segment) pointer() *C.struct_checkmap_segment {
	if s == nil {
		return nil
	}
	return s.handle
}

// Info tells what the segment holds.
func (s *Segment) Info() (SegmentInfo, error) {
	defer runtime.KeepAlive(s)
	info := emptySegmentInfo()
	err := status(func() C.int { return C.checkmap_segment_get_info(s.handle, &info) })
	return segmentInfo(&info), err
}

// HeapBytes is the memory of the C library that the segment takes.
func (s *Segment) HeapBytes() (uint64, error) {
	defer runtime.KeepAlive(s)
	return number(func() int64 { return int64(C.checkmap_segment_heap_bytes(s.handle)) })
}

// Count is the number of dirty granules; from memory.
func (s *Segment) Count() (uint64, error) {
	defer runtime.KeepAlive(s)
	return number(func() int64 { return int64(C.checkmap_segment_count(s.handle)) })
}

// DirtyBytes is the number of dirty bytes, never above the size of the disk.
func (s *Segment) DirtyBytes() (uint64, error) {
	defer runtime.KeepAlive(s)
	return number(func() int64 { return int64(C.checkmap_segment_dirty_bytes(s.handle)) })
}

// CountRange is the number of dirty granules that touch the range; at most two pieces of the file are read.
func (s *Segment) CountRange(offset, length uint64) (uint64, error) {
	defer runtime.KeepAlive(s)
	return number(func() int64 {
		return int64(C.checkmap_segment_count_range(s.handle, C.uint64_t(offset), C.uint64_t(length)))
	})
}

// Get tells whether the granule that holds the byte at offset is dirty. Past the last granule it is ErrOutOfRange.
func (s *Segment) Get(offset uint64) (bool, error) {
	defer runtime.KeepAlive(s)
	return truth(func() C.int { return C.checkmap_segment_get(s.handle, C.uint64_t(offset)) })
}

// NextDirty is the first dirty byte of the range.
func (s *Segment) NextDirty(offset, length uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(s)
	return place(func() C.int64_t {
		return C.checkmap_segment_next_dirty(s.handle, C.uint64_t(offset), C.uint64_t(length))
	})
}

// NextClean is the first clean byte of the range.
func (s *Segment) NextClean(offset, length uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(s)
	return place(func() C.int64_t {
		return C.checkmap_segment_next_clean(s.handle, C.uint64_t(offset), C.uint64_t(length))
	})
}

// PreviousDirty is the last dirty byte of the range.
func (s *Segment) PreviousDirty(offset, length uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(s)
	return place(func() C.int64_t {
		return C.checkmap_segment_previous_dirty(s.handle, C.uint64_t(offset), C.uint64_t(length))
	})
}

// PreviousClean is the last clean byte of the range.
func (s *Segment) PreviousClean(offset, length uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(s)
	return place(func() C.int64_t {
		return C.checkmap_segment_previous_clean(s.handle, C.uint64_t(offset), C.uint64_t(length))
	})
}

// Rank is the number of dirty granules before the one that holds the byte at offset; at the end of the disk and past it, all.
func (s *Segment) Rank(offset uint64) (uint64, error) {
	defer runtime.KeepAlive(s)
	return number(func() int64 { return int64(C.checkmap_segment_rank(s.handle, C.uint64_t(offset))) })
}

// Select is where the dirty granule of this number begins, counted from 0.
func (s *Segment) Select(number uint64) (at uint64, found bool, err error) {
	defer runtime.KeepAlive(s)
	return place(func() C.int64_t { return C.checkmap_segment_select(s.handle, C.uint64_t(number)) })
}

// Extents walks the dirty extents of the range, as Bitmap.Extents does.
func (s *Segment) Extents(offset, length uint64) *Extents {
	return newExtents(offset, length, s.FillExtents)
}

// FillExtents fills out with the dirty extents of the range, as Bitmap.FillExtents does; on error none of them is to
// be believed.
func (s *Segment) FillExtents(offset, length uint64, out []Extent) (int, error) {
	defer runtime.KeepAlive(s)
	count, err := number(func() int64 {
		return int64(C.checkmap_segment_extents(s.handle, C.uint64_t(offset), C.uint64_t(length), extentsOf(out),
			C.size_t(len(out))))
	})
	return int(count), err
}

// Diff walks the extents of the range that are dirty in s only or in second only, as their flags say. Disks of
// different size are ErrSizeMismatch.
func (s *Segment) Diff(second *Segment, offset, length uint64) *Extents {
	return newExtents(offset, length, func(offset, length uint64, out []Extent) (int, error) {
		defer runtime.KeepAlive(second)
		defer runtime.KeepAlive(s)
		count, err := number(func() int64 {
			return int64(C.checkmap_segment_diff(s.handle, second.pointer(), C.uint64_t(offset), C.uint64_t(length),
				extentsOf(out), C.size_t(len(out))))
		})
		return int(count), err
	})
}

// Load makes a bitmap of the granules that touch the range; all others are clean in it.
func (s *Segment) Load(offset, length uint64) (*Bitmap, error) {
	defer runtime.KeepAlive(s)
	return made(func(out **C.struct_checkmap_bitmap) C.int {
		return C.checkmap_segment_load(s.handle, C.uint64_t(offset), C.uint64_t(length), out)
	})
}

// Check reads all of the segment and verifies it. What is wrong is in the report, and no error. Options: progress.
func (s *Segment) Check(options *Options) (*Report, error) {
	defer runtime.KeepAlive(s)
	return reported(options, func(opts *C.struct_checkmap_opts, out **C.struct_checkmap_report) C.int {
		return C.checkmap_segment_check(s.handle, opts, out)
	})
}

func segmentHandles(segments []*Segment) []*C.struct_checkmap_segment {
	all := make([]*C.struct_checkmap_segment, len(segments)+1)
	for at, segment := range segments {
		all[at] = segment.pointer()
	}
	return all
}

// MergeSegments unites segments into a new one in the file at path, which it replaces in one atomic step, durably; on
// error what was there stays. The result has the finest granularity of them. Each is read once, in bounded memory.
// None, or memory that cannot suffice, is ErrInvalidArgument; disks of different size are ErrSizeMismatch. Options:
// threads, memory and progress.
func MergeSegments(segments []*Segment, path string, options *Options) (SegmentInfo, error) {
	defer runtime.KeepAlive(segments)
	all := segmentHandles(segments)
	bytes, length := textOf(path)
	info := emptySegmentInfo()
	err := options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_segment_merge(&all[0], C.size_t(len(segments)), bytes, length, opts, &info)
	})
	return segmentInfo(&info), err
}

// MergeSegmentsInfo tells what MergeSegments would make, without making it.
func MergeSegmentsInfo(segments []*Segment, options *Options) (SegmentInfo, error) {
	defer runtime.KeepAlive(segments)
	all := segmentHandles(segments)
	info := emptySegmentInfo()
	err := options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_segment_merge_info(&all[0], C.size_t(len(segments)), opts, &info)
	})
	return segmentInfo(&info), err
}
