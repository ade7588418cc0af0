// Package checkmap tells which blocks of a disk changed between two points in time: dirty bitmaps, the checkpoints of
// disk images, and segments, which are bitmaps in files. It needs the C library, found by pkg-config checkmap.
//
// Offsets and lengths are bytes of the virtual disk, unless a name says otherwise. Queries cut their range at the end
// of the disk; a length of ToEnd is up to there. Names and paths are bytes, and need not be UTF-8.
//
// Errors are of type *Error, for which errors.Is knows the kind and the errno:
//
//	errors.Is(err, checkmap.ErrNotFound)
//	errors.Is(err, syscall.ENOENT)
//
// A Bitmap, an Image and a Segment hold memory of the C library until Close, or until the garbage collector finds
// them. An image holds locks as well, so close it. After Close every call is an error of kind ErrInvalidArgument.
//
// Methods that change nothing may run in many goroutines at once. Those that say that they change something, and
// Close, need the value alone, as with a Go map. The library starts threads only for a call whose options ask for
// them, and none of them lives longer than the call.
package checkmap

/*
#cgo pkg-config: checkmap
#cgo CFLAGS: -std=c11
#include <checkmap.h>
*/
import "C"

import (
	"runtime"
	"syscall"
	"unsafe"
)

// ToEnd, as a length, is up to the end of the disk.
const ToEnd = ^uint64(0)

// Version is the version of the C library in use, such as "0.1.0".
func Version() string { return C.GoString(C.checkmap_version()) }

// ABIVersion is the number of the ABI of the C library in use, and of the header this package was built with. The
// first must not be smaller than the second.
func ABIVersion() (library, header uint32) {
	return uint32(C.checkmap_abi_version()), uint32(C.CHECKMAP_ABI_VERSION)
}

// number runs a call that returns a count or -errno. The message of an error belongs to the thread, so the goroutine
// stays on it until the message is read.
func number(call func() int64) (uint64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := call()
	if n < 0 {
		return 0, lastError(n)
	}
	return uint64(n), nil
}

func status(call func() C.int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := call()
	if n < 0 {
		return lastError(int64(n))
	}
	return nil
}

func truth(call func() C.int) (bool, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := call()
	if n < 0 {
		return false, lastError(int64(n))
	}
	return n != 0, nil
}

// place runs a call that returns an offset, -1 for none, or -errno.
func place(call func() C.int64_t) (offset uint64, found bool, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := call()
	switch {
	case n >= 0:
		return uint64(n), true, nil
	case n == -1:
		return 0, false, nil
	default:
		return 0, false, lastError(int64(n))
	}
}

func lastError(n int64) error {
	return &Error{
		Kind:    Kind(C.checkmap_last_error_kind()),
		Errno:   syscall.Errno(-n),
		Message: spelled(C.GoString(C.checkmap_last_error_marked())),
	}
}

// textOf gives the bytes of a name or path; C keeps no pointer to them.
func textOf(text string) (*C.char, C.size_t) {
	bytes := append([]byte(text), 0)
	return (*C.char)(unsafe.Pointer(&bytes[0])), C.size_t(len(text))
}

// textFrom copies a name that has a length.
func textFrom(text *C.char, length C.size_t) string {
	if text == nil {
		return ""
	}
	return string(unsafe.Slice((*byte)(unsafe.Pointer(text)), int(length)))
}
