package main

/*
#cgo pkg-config: libnbd
#include <stdlib.h>
#include <libnbd.h>
*/
import "C"

import (
	"errors"
	"runtime"
	"unsafe"
)

// disk is an image as qemu-nbd serves it, read by libnbd.
type disk struct {
	handle *C.struct_nbd_handle
}

// connect lets libnbd start qemu-nbd for the image, which ends with the connection.
func connect(path string) (disk, error) {
	handle := C.nbd_create()
	if handle == nil {
		return disk{}, failure()
	}
	var argv []*C.char
	for _, word := range []string{"qemu-nbd", "--read-only", "--format=qcow2", "--", path} {
		argv = append(argv, C.CString(word))
	}
	argv = append(argv, nil)
	err := call(func() C.int { return C.nbd_connect_systemd_socket_activation(handle, &argv[0]) })
	for _, word := range argv {
		C.free(unsafe.Pointer(word))
	}
	if err != nil {
		C.nbd_close(handle)
		return disk{}, err
	}
	return disk{handle}, nil
}

// read fills data from the disk.
func (d disk) read(offset uint64, data []byte) error {
	return call(func() C.int {
		return C.nbd_pread(d.handle, unsafe.Pointer(&data[0]), C.size_t(len(data)), C.uint64_t(offset), 0)
	})
}

func (d disk) close() { C.nbd_close(d.handle) }

// call runs a call of libnbd, whose message of an error belongs to the thread.
func call(run func() C.int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if run() == -1 {
		return failure()
	}
	return nil
}

func failure() error { return errors.New(C.GoString(C.nbd_get_error())) }
