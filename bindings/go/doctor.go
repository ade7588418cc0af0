package checkmap

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"context"
	"runtime"
	"time"
)

// Notes are libvirt's notes of the checkpoints of one domain.
type Notes struct {
	handle *C.struct_checkmap_notes
}

// NotedCheckpoint is a checkpoint as libvirt notes it.
type NotedCheckpoint struct {
	Name      string
	Parent    string    // the checkpoint before it; empty where there is none
	Time      time.Time // when it was made; zero where nobody noted it
	DiskCount uint64    // on how many disks of the domain it has a bitmap
}

// ReadNotes reads libvirt's documents of checkpoints in a folder, such as /var/lib/libvirt/qemu/checkpoint/DOMAIN. It fails with
// ErrDamaged where a file is no document of a checkpoint, with ErrBrokenChain where two tell of one checkpoint or their parents go
// round in a circle, or with what the system says.
func ReadNotes(folder string) (*Notes, error) {
	bytes, length := textOf(folder)
	var out *C.struct_checkmap_notes
	if err := status(func() C.int { return C.checkmap_notes_read(bytes, length, &out) }); err != nil {
		return nil, err
	}
	return newNotes(out), nil
}

// Notes asks libvirt for its notes of the domain; ErrUnsupported for a machine that was not reached through libvirt. Options:
// progress.
func (m *Machine) Notes(options *Options) (*Notes, error) {
	defer runtime.KeepAlive(m)
	var out *C.struct_checkmap_notes
	err := options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_notes_of_machine(m.handle, opts, &out)
	})
	if err != nil {
		return nil, err
	}
	return newNotes(out), nil
}

// NotesContext is Notes that stops when ctx is done.
func (m *Machine) NotesContext(ctx context.Context, options *Options) (*Notes, error) {
	return m.Notes(options.WithContext(ctx))
}

func newNotes(handle *C.struct_checkmap_notes) *Notes {
	notes := &Notes{handle}
	runtime.SetFinalizer(notes, (*Notes).Close)
	return notes
}

// Close frees the notes. It may be called again, and returns nil.
func (n *Notes) Close() error {
	if n.handle != nil {
		runtime.SetFinalizer(n, nil)
		C.checkmap_notes_free(n.handle)
		n.handle = nil
	}
	return nil
}

// Checkpoints are those that libvirt notes, oldest first.
func (n *Notes) Checkpoints() ([]NotedCheckpoint, error) {
	defer runtime.KeepAlive(n)
	total, err := number(func() int64 { return int64(C.checkmap_notes_list(n.handle, nil, 0)) })
	if err != nil || total == 0 {
		return nil, err
	}
	list := make([]C.struct_checkmap_noted, total)
	_, err = number(func() int64 { return int64(C.checkmap_notes_list(n.handle, &list[0], C.size_t(total))) })
	if err != nil {
		return nil, err
	}
	noted := make([]NotedCheckpoint, total)
	for at := range noted {
		from := &list[at]
		noted[at] = NotedCheckpoint{Name: textFrom(from.name, from.name_len),
			Parent: textFrom(from.parent, from.parent_len), DiskCount: uint64(from.disk_count)}
		if from.time >= 0 {
			noted[at].Time = time.Unix(int64(from.time), 0)
		}
	}
	return noted, nil
}

// Follow lets the image list its cumulative checkpoints in the order of libvirt's notes, with the parents that they tell; a bitmap of
// a checkpoint of libvirt's is taken for no other. Nothing is changed in the image. Changes the handle.
func (i *Image) Follow(notes *Notes) error {
	defer runtime.KeepAlive(i)
	defer runtime.KeepAlive(notes)
	return status(func() C.int { return C.checkmap_image_follow(i.handle, notes.handle) })
}

// Aim says what a doctor does.
type Aim uint32

// The aims of a doctor.
const (
	Look       Aim = C.CHECKMAP_DOCTOR_LOOK        // It changes nothing.
	Repair     Aim = C.CHECKMAP_DOCTOR_REPAIR      // It mends the findings: bitmaps first, then libvirt's notes.
	ToInterval Aim = C.CHECKMAP_DOCTOR_TO_INTERVAL // It turns cumulative checkpoints into a chain of intervals.
)

// Finding is a disagreement.
type Finding struct {
	Kind    string // in lower-case words with hyphens, such as "bitmap-without-metadata"
	Disk    string // empty where it is of no single one
	Name    string // the bitmap or checkpoint; empty where it is of no single one
	Message string // the fault, in a sentence
	Cost    string // of leaving it so
	Mend    string // that is among the steps; empty where a person has to decide
}

// Diagnosis is what a doctor found and did.
type Diagnosis struct {
	Findings []Finding // disk by disk
	Left     []Finding // after a repair
	Steps    []string  // of the mend in their order, done or not
	Remarks  []string  // for the user beside the findings
	Warnings []string  // of the change
}

// Doctor finds where the bitmaps of an image, their chain and libvirt's documents in a folder disagree, and does what aim says. The
// folder is empty where libvirt has nothing to do with the image; target is the disk's name in the domain, such as "vda", empty where
// the documents tell it. It fails with ErrNotFound where they do not, ErrDamaged and ErrBrokenChain for documents that cannot be
// believed, and as Create. Options: progress, model, DryRun, with which the steps are listed. Changes the image.
func (i *Image) Doctor(target, folder string, aim Aim, options *Options) (*Diagnosis, error) {
	defer runtime.KeepAlive(i)
	disk, diskLength := textOf(target)
	if target == "" {
		disk = nil
	}
	path, pathLength := textOf(folder)
	if folder == "" {
		path = nil
	}
	return diagnosed(options, func(opts *C.struct_checkmap_opts, out **C.struct_checkmap_diagnosis) C.int64_t {
		return C.checkmap_doctor(i.handle, disk, diskLength, path, pathLength, C.uint32_t(aim), opts, out)
	})
}

// DoctorContext is Doctor that stops when ctx is done.
func (i *Image) DoctorContext(ctx context.Context, target, folder string, aim Aim, options *Options) (*Diagnosis, error) {
	return i.Doctor(target, folder, aim, options.WithContext(ctx))
}

// Doctor finds where the bitmaps of disks, their chains and libvirt's notes disagree, and does what aim says. nodes name the disks as
// for Machine.Image; without one all take part. Of a domain of libvirt's, libvirt is asked for its notes and told of their changes.
// Images of these disks that are open are not good for changes after one. It fails and takes options as Image.Doctor does.
func (m *Machine) Doctor(nodes []string, aim Aim, options *Options) (*Diagnosis, error) {
	defer runtime.KeepAlive(m)
	pointers, lengths, free := namesInC(nodes)
	defer free()
	return diagnosed(options, func(opts *C.struct_checkmap_opts, out **C.struct_checkmap_diagnosis) C.int64_t {
		return C.checkmap_doctor_running(m.handle, &pointers[0], &lengths[0], C.size_t(len(nodes)), C.uint32_t(aim), opts, out)
	})
}

// DoctorContext is Doctor that stops when ctx is done.
func (m *Machine) DoctorContext(ctx context.Context, nodes []string, aim Aim, options *Options) (*Diagnosis, error) {
	return m.Doctor(nodes, aim, options.WithContext(ctx))
}

// diagnosed runs a doctor, and copies what it found.
func diagnosed(options *Options,
	call func(*C.struct_checkmap_opts, **C.struct_checkmap_diagnosis) C.int64_t) (*Diagnosis, error) {
	var out *C.struct_checkmap_diagnosis
	defer func() { C.checkmap_diagnosis_free(out) }()
	err := options.with(func(opts *C.struct_checkmap_opts) C.int { return negative(call(opts, &out)) })
	if err != nil {
		return nil, err
	}
	diagnosis := new(Diagnosis)
	total, err := number(func() int64 { return int64(C.checkmap_diagnosis_findings(out, nil, 0)) })
	if err == nil && total > 0 {
		list := make([]C.struct_checkmap_finding, total)
		_, err = number(func() int64 { return int64(C.checkmap_diagnosis_findings(out, &list[0], C.size_t(total))) })
		for _, from := range list {
			found := Finding{textFrom(from.kind, from.kind_len), textFrom(from.disk, from.disk_len),
				textFrom(from.name, from.name_len), textFrom(from.message, from.message_len),
				textFrom(from.cost, from.cost_len), textFrom(from.mend, from.mend_len)}
			if from.flags&C.CHECKMAP_FINDING_LEFT != 0 {
				diagnosis.Left = append(diagnosis.Left, found)
			} else {
				diagnosis.Findings = append(diagnosis.Findings, found)
			}
		}
	}
	for kind, into := range map[C.uint32_t]*[]string{C.CHECKMAP_DIAGNOSIS_STEPS: &diagnosis.Steps,
		C.CHECKMAP_DIAGNOSIS_REMARKS: &diagnosis.Remarks, C.CHECKMAP_DIAGNOSIS_WARNINGS: &diagnosis.Warnings} {
		if err != nil {
			break
		}
		*into, err = texts(func(list *C.struct_checkmap_text, max C.size_t) C.int64_t {
			return C.checkmap_diagnosis_texts(out, kind, list, max)
		})
	}
	return diagnosis, err
}
