package checkmap

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"context"
	"errors"
	"runtime"
	"runtime/cgo"
	"syscall"
	"unsafe"
)

// OptionFlags say how a call that takes Options is done.
type OptionFlags uint32

// The flags of Options; a call ignores those that mean nothing to it.
const (
	TopLayerOnly      OptionFlags = C.CHECKMAP_OPT_TOP_LAYER_ONLY     // Do not look at the layers below the image.
	ForceInconsistent OptionFlags = C.CHECKMAP_OPT_FORCE_INCONSISTENT // Delete even what is inconsistent.
	DryRun            OptionFlags = C.CHECKMAP_OPT_DRY_RUN            // Find out whether it could be done.
	ForeignToo        OptionFlags = C.CHECKMAP_OPT_FOREIGN_TOO        // Drop also what belongs to no checkpoint.
)

// Model says what the bitmaps of an image mean.
type Model uint32

// The models.
const (
	ModelNone       Model = C.CHECKMAP_MODEL_NONE       // In options: the image's own; in facts: no bitmaps.
	ModelInterval   Model = C.CHECKMAP_MODEL_INTERVAL   // From each checkpoint to the next.
	ModelCumulative Model = C.CHECKMAP_MODEL_CUMULATIVE // From each checkpoint until it is deleted.
	ModelUnknown    Model = C.CHECKMAP_MODEL_UNKNOWN    // In facts only.
)

// Options of the calls that can take long; nil stands for the defaults. A call ignores what means nothing to it.
type Options struct {
	// Threads that may be used, 0 to 1024; 0 and 1 mean the caller's alone. Calls on an image do not read it, see
	// Image.SetThreads.
	Threads uint32
	// MemoryBytes is the most memory a merge of segments takes; 0 is 64 MiB.
	MemoryBytes uint64
	// Progress is told how far the call is, on its goroutine; done and total compare only with each other. An error
	// stops the call, which then has changed nothing and fails with ErrCancelled; errors.Is finds that error too. It
	// must not use the values of this call, nor others of the same machine, nor end the goroutine. A backup or a prune that has begun
	// with its disks returns their rows instead. While an image is being committed the answer is ignored.
	Progress func(phase string, done, total uint64) error
	Flags    OptionFlags
	// Model is to insist on where the image's own is unknown, or where libvirt's checkpoints stand beside intervals and
	// both have one of that name: else a name picks the chain that has it.
	Model Model

	ctx context.Context       // see WithContext
	say func(sentence string) // see BackupOptions.Say
}

// told is what a progress callback leaves behind.
type told struct {
	progress func(phase string, done, total uint64) error
	say      func(sentence string)
	stopped  error
	panicked any
}

// A panic must not pass through C: it stops the call, and goes on behind it.
//
//export checkmapGoProgress
func checkmapGoProgress(handle C.uintptr_t, phase *C.char, done, total C.uint64_t) (stop C.int) {
	told := cgo.Handle(handle).Value().(*told)
	defer func() {
		if value := recover(); value != nil {
			told.panicked = value
			stop = 1
		}
	}()
	if told.panicked != nil {
		return 1
	}
	if told.progress == nil {
		return 0
	}
	if err := told.progress(C.GoString(phase), uint64(done), uint64(total)); err != nil {
		told.stopped = err
		return 1
	}
	return 0
}

//export checkmapGoSay
func checkmapGoSay(handle C.uintptr_t, sentence *C.char, length C.size_t) {
	told := cgo.Handle(handle).Value().(*told)
	defer func() {
		if value := recover(); value != nil {
			told.panicked = value
		}
	}()
	if told.panicked == nil {
		told.say(textFrom(sentence, length))
	}
}

// with runs a call that takes options.
func (options *Options) with(call func(opts *C.struct_checkmap_opts) C.int) error {
	_, err := options.asked(call)
	return err
}

// asked is with, and tells the error by which the caller stopped the call.
func (options *Options) asked(call func(opts *C.struct_checkmap_opts) C.int) (stopped, err error) {
	if options == nil {
		return nil, status(func() C.int { return call(nil) })
	}
	if err := options.begun(); err != nil {
		return nil, err
	}
	var handle cgo.Handle
	told := &told{progress: options.progress(), say: options.say}
	if told.progress != nil || told.say != nil {
		handle = cgo.NewHandle(told)
		defer handle.Delete()
	}
	opts := C.checkmap_go_opts(C.uint32_t(options.Threads), C.uint64_t(options.MemoryBytes),
		C.uint32_t(options.Flags), C.uint32_t(options.Model), C.uintptr_t(handle))
	if opts == nil {
		return nil, &Error{Kind: ErrIO, Errno: syscall.ENOMEM, Message: "no memory for options"}
	}
	defer C.free(unsafe.Pointer(opts))
	err = status(func() C.int { return call(opts) })
	runtime.KeepAlive(told)
	if told.panicked != nil {
		panic(told.panicked)
	}
	stoppedBy(err, told.stopped)
	return told.stopped, err
}

// stoppedBy lets errors.Is find the cause in an error of a call that was stopped.
func stoppedBy(err, cause error) {
	var ours *Error
	if errors.As(err, &ours) && ours.Kind == ErrCancelled {
		ours.cause = cause
	}
}
