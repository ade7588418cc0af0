package checkmap

/*
#include <checkmap.h>
*/
import "C"

import (
	"errors"
	"regexp"
	"strings"
	"syscall"
)

// Kind is the exact kind of an error. The constants of this type serve errors.Is as targets.
type Kind uint32

// The kinds of errors, each with the errno it has where the system gave none.
const (
	ErrIO              Kind = C.CHECKMAP_ERROR_IO               // The system refused; EIO, or its own errno: ENOENT for a missing file.
	ErrNoSpace         Kind = C.CHECKMAP_ERROR_NO_SPACE         // The disk is full; ENOSPC.
	ErrInvalidArgument Kind = C.CHECKMAP_ERROR_INVALID_ARGUMENT // An argument that cannot be, a closed value; EINVAL.
	ErrOutOfRange      Kind = C.CHECKMAP_ERROR_OUT_OF_RANGE     // A range past the last granule of the disk; ERANGE.
	ErrSizeMismatch    Kind = C.CHECKMAP_ERROR_SIZE_MISMATCH    // Disks of different size; EINVAL.
	ErrInvalidName     Kind = C.CHECKMAP_ERROR_INVALID_NAME     // A name that is empty or cannot be; EINVAL.
	ErrNameTooLong     Kind = C.CHECKMAP_ERROR_NAME_TOO_LONG    // A name above the limit; ENAMETOOLONG.
	ErrNotFound        Kind = C.CHECKMAP_ERROR_NOT_FOUND        // No checkpoint or bitmap has this name; ENOENT, as a missing file.
	ErrExists          Kind = C.CHECKMAP_ERROR_EXISTS           // One of this name is there already; EEXIST.
	ErrUnknownFormat   Kind = C.CHECKMAP_ERROR_UNKNOWN_FORMAT   // No format that checkmap knows; ENOTSUP.
	ErrUnsupported     Kind = C.CHECKMAP_ERROR_UNSUPPORTED      // An unknown version or feature of a format; ENOTSUP.
	ErrDamaged         Kind = C.CHECKMAP_ERROR_DAMAGED          // The bytes break a rule of their format; EBADMSG.
	ErrInUse           Kind = C.CHECKMAP_ERROR_IN_USE           // Another process, or handle, excludes this one; EBUSY.
	ErrNoLocks         Kind = C.CHECKMAP_ERROR_NO_LOCKS         // The file system cannot lock; ENOLCK.
	ErrReadOnly        Kind = C.CHECKMAP_ERROR_READ_ONLY        // The image or the value is read-only; EROFS.
	ErrUnclean         Kind = C.CHECKMAP_ERROR_UNCLEAN          // The image is marked dirty or corrupt; EUCLEAN.
	ErrStale           Kind = C.CHECKMAP_ERROR_STALE            // Every bitmap of the image is out of date; EUCLEAN.
	ErrInconsistent    Kind = C.CHECKMAP_ERROR_INCONSISTENT     // A bitmap was not stored by its writer; EUCLEAN.
	ErrRecording       Kind = C.CHECKMAP_ERROR_RECORDING        // A bitmap records, or does not, against the model; EPROTO.
	ErrBrokenChain     Kind = C.CHECKMAP_ERROR_BROKEN_CHAIN     // The bitmaps form no chain of checkpoints; EPROTO.
	ErrModel           Kind = C.CHECKMAP_ERROR_MODEL            // The model is unknown, or cannot do this; EPROTO.
	ErrOrder           Kind = C.CHECKMAP_ERROR_ORDER            // The checkpoints are in the wrong order; EPROTO.
	ErrBackingLayer    Kind = C.CHECKMAP_ERROR_BACKING_LAYER    // A layer below takes part; EPROTO.
	ErrCancelled       Kind = C.CHECKMAP_ERROR_CANCELLED        // Options.Progress or a context stopped the call; ECANCELED.
	ErrCommitInDoubt   Kind = C.CHECKMAP_ERROR_COMMIT_IN_DOUBT  // The state before or after, whole: look which; EIO.
	ErrChanged         Kind = C.CHECKMAP_ERROR_CHANGED          // The image changed under an image without locks; ESTALE.
	ErrOldVersion      Kind = C.CHECKMAP_ERROR_OLD_VERSION      // This version of the format holds no bitmaps; ENOTSUP.
	ErrCannotStore     Kind = C.CHECKMAP_ERROR_CANNOT_STORE     // The image cannot take what was asked for; ENOTSUP.
	ErrPoisoned        Kind = C.CHECKMAP_ERROR_POISONED         // A fault of the library cut a call short; ENOTRECOVERABLE.
	ErrOutOfMemory     Kind = C.CHECKMAP_ERROR_OUT_OF_MEMORY    // No memory for what the call needs; nothing changed; ENOMEM.
	ErrTornByFork      Kind = C.CHECKMAP_ERROR_TORN_BY_FORK     // A fork caught another thread changing the value; EDEADLK.
	ErrHypervisor      Kind = C.CHECKMAP_ERROR_HYPERVISOR       // A running hypervisor refused, or the connection broke; EREMOTEIO.
)

// Error is the name of the kind in C, such as "CHECKMAP_ERROR_NOT_FOUND".
func (kind Kind) Error() string {
	name := C.checkmap_error_name(C.uint32_t(kind))
	if name == nil {
		return "no kind of error"
	}
	return C.GoString(name)
}

// Errno is the errno that the kind has where the system gave none; 0 for what is no kind.
func (kind Kind) Errno() syscall.Errno {
	return syscall.Errno(C.checkmap_error_errno(C.uint32_t(kind)))
}

// Error is what every call of this package fails with.
type Error struct {
	Kind    Kind
	Errno   syscall.Errno
	Message string // file: structure, offset: what is wrong (advice): cause
	cause   error  // of Options.Progress, or of a context
}

// Error is the message.
func (e *Error) Error() string { return e.Message }

// Is knows the kind, and the error with which Options.Progress stopped the call.
func (e *Error) Is(target error) bool {
	kind, ok := target.(Kind)
	return ok && kind == e.Kind || e.cause != nil && errors.Is(e.cause, target)
}

// Unwrap gives the errno, so that errors.Is(err, syscall.ENOENT) and errors.Is(err, fs.ErrNotExist) work. Both are true
// of a missing file and of a missing checkpoint: ask for ErrNotFound first, which is true of the checkpoint only.
func (e *Error) Unwrap() error { return e.Errno }

// What the library's ways out are called here.
var words = map[string]string{
	"OPEN_FOR_NAMES":      "ForceShare",
	"NO_LOCK":             "NoLock",
	"TOP_LAYER_ONLY":      "TopLayerOnly",
	"FORCE_INCONSISTENT":  "ForceInconsistent",
	"DELETE_INCONSISTENT": "Image.DeleteInconsistent",
	"MODEL":               "Options.Model",
	"MODEL=interval":      "Options.Model of ModelInterval",
	"MODEL=cumulative":    "Options.Model of ModelCumulative",
	"DROP_BEFORE":         "Image.DropBefore",
	"DROP_BITMAP":         "Image.DropStored",
	"DROP_ALL":            "Image.DropAll",
	"FOREIGN_TOO":         "ForeignToo",
	"UNTIL":               "until",
	"CHECK":               "Image.Check",
	"LIST":                "Image.Checkpoints",
	"CREATE":              "Image.Create",
	"NBD_SOCKET":          "MachineOptions.NBDSocket",
	"MAX_STALL":           "MachineOptions.MaxStall",
	"JOURNAL":             "a file as the first image",
	"RECOVER":             "Image.Recover",
	"FORGET_STEP":         "Image.ForgetStep",
}

// A mark: its name, and what C calls it.
var mark = regexp.MustCompile("\x1e([^\x1e\x1f]*)\x1f([^\x1e\x1f]*)\x1e")

// spelled gives a message in the words of this package.
func spelled(marked string) string {
	return mark.ReplaceAllStringFunc(marked, func(text string) string {
		parts := mark.FindStringSubmatch(text)
		if word, known := words[parts[1]]; known {
			return word
		}
		if name, with, found := strings.Cut(parts[1], "="); found && words[name] != "" {
			return words[name] + " of '" + with + "'"
		}
		return parts[2]
	})
}
