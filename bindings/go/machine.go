package checkmap

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"context"
	"encoding/json"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// Machine is a running QEMU, over its QMP socket: one connection, which all images of its disks share. A monitor of QEMU
// talks to one client at a time, so a second Machine of the same socket is ErrInUse. The connection ends with the machine
// and the last image of it.
type Machine struct {
	handle *C.struct_checkmap_machine
}

// MachineOptions say how a running hypervisor is worked with; nil stands for the defaults.
type MachineOptions struct {
	// Timeout is how long to wait for a monitor that another client has, for each answer of an NBD server, and for another
	// client of checkmap at work; 0 is 30 seconds.
	Timeout time.Duration
	// MaxStall refuses a change, with ErrInUse, that is expected to stop the disks of the machine for longer; 0 is no limit.
	MaxStall time.Duration
	// NBDSocket is the Unix socket of the NBD server that runs in the hypervisor already; without it one is started for as
	// long as a Diff needs it.
	NBDSocket string
	// Progress is told of the opening, as that of Options.
	Progress func(phase string, done, total uint64) error
}

// Disk is a disk of a running hypervisor.
type Disk struct {
	Title    string // the name of its device, or of its node where there is no device
	Node     string // the block node at its top
	File     string // the file of that node, as the hypervisor names it
	DiskSize uint64 // in bytes
	Unfit    bool   // no checkpoint can be made on it
}

// milliseconds as C takes them, where 0 is its own default: less than one is rounded up.
func milliseconds(duration time.Duration, most uint64) uint64 {
	switch ms := uint64(duration / time.Millisecond); {
	case duration <= 0:
		return 0
	case ms == 0:
		return 1
	case ms > most:
		return most
	default:
		return ms
	}
}

// with runs a call that opens a connection.
func (options *MachineOptions) with(ctx context.Context, call func(opts *C.struct_checkmap_qmp_opts) C.int) error {
	if options == nil {
		options = &MachineOptions{}
	}
	nbd, nbdLength := textOf(options.NBDSocket)
	with := (&Options{Progress: options.Progress}).WithContext(ctx)
	return with.with(func(opts *C.struct_checkmap_opts) C.int {
		own := C.checkmap_go_qmp_opts(opts, C.uint32_t(milliseconds(options.Timeout, 1<<32-1)),
			C.uint64_t(milliseconds(options.MaxStall, 1<<63)), nbd, nbdLength)
		if own == nil {
			return -C.int(syscall.ENOMEM)
		}
		defer C.free(unsafe.Pointer(own))
		return call(own)
	})
}

// OpenMachine connects to the QMP monitor of a running QEMU, and removes what clients that were killed left in it. It fails
// with ErrInUse where another client has the monitor, ErrIO with ENOENT or ECONNREFUSED, ErrDamaged, ErrHypervisor.
func OpenMachine(socket string, options *MachineOptions) (*Machine, error) {
	return OpenMachineContext(context.Background(), socket, options)
}

// OpenMachineContext is OpenMachine that stops when ctx is done.
func OpenMachineContext(ctx context.Context, socket string, options *MachineOptions) (*Machine, error) {
	bytes, length := textOf(socket)
	return openedMachine(ctx, options, func(opts *C.struct_checkmap_qmp_opts, out **C.struct_checkmap_machine) C.int {
		return C.checkmap_machine_open(bytes, length, opts, out)
	})
}

// OpenLibvirt connects to a domain of libvirt, by its name, id or UUID; uri is such as "qemu:///system". Each command is one run
// of `virsh qemu-monitor-command`, and libvirt marks the domain as tainted (custom-monitor). It fails with ErrNotFound without
// such a domain, ErrIO with ENOENT without virsh, and as OpenMachine.
func OpenLibvirt(uri, domain string, options *MachineOptions) (*Machine, error) {
	return OpenLibvirtContext(context.Background(), uri, domain, options)
}

// OpenLibvirtContext is OpenLibvirt that stops when ctx is done.
func OpenLibvirtContext(ctx context.Context, uri, domain string, options *MachineOptions) (*Machine, error) {
	bytes, length := textOf(uri)
	domainBytes, domainLength := textOf(domain)
	return openedMachine(ctx, options, func(opts *C.struct_checkmap_qmp_opts, out **C.struct_checkmap_machine) C.int {
		return C.checkmap_machine_open_libvirt(bytes, length, domainBytes, domainLength, opts, out)
	})
}

// openedMachine is the machine that a call connects to.
func openedMachine(ctx context.Context, options *MachineOptions,
	open func(opts *C.struct_checkmap_qmp_opts, out **C.struct_checkmap_machine) C.int) (*Machine, error) {
	var out *C.struct_checkmap_machine
	if err := options.with(ctx, func(opts *C.struct_checkmap_qmp_opts) C.int { return open(opts, &out) }); err != nil {
		return nil, err
	}
	machine := &Machine{out}
	runtime.SetFinalizer(machine, (*Machine).Close)
	return machine, nil
}

// Close ends the machine; its connection ends with the last image of it. It may be called again, and returns nil.
func (m *Machine) Close() error {
	if m.handle != nil {
		runtime.SetFinalizer(m, nil)
		C.checkmap_machine_close(m.handle)
		m.handle = nil
	}
	return nil
}

// Disks are those of the guest's devices as they were at the opening; without devices, all images that nothing stands on.
func (m *Machine) Disks() ([]Disk, error) {
	defer runtime.KeepAlive(m)
	total, err := number(func() int64 { return int64(C.checkmap_machine_disks(m.handle, nil, 0)) })
	if err != nil || total == 0 {
		return nil, err
	}
	list := make([]C.struct_checkmap_disk, total)
	_, err = number(func() int64 { return int64(C.checkmap_machine_disks(m.handle, &list[0], C.size_t(len(list)))) })
	if err != nil {
		return nil, err
	}
	disks := make([]Disk, total)
	for at := range disks {
		from := &list[at]
		disks[at] = Disk{textFrom(from.title, from.title_len), textFrom(from.node, from.node_len),
			textFrom(from.file, from.file_len), uint64(from.disk_size), from.flags&C.CHECKMAP_DISK_UNFIT != 0}
	}
	return disks, nil
}

// Image opens a disk as an image, by the name of a node, of a device or its id, or by the file of an image. Its Diff stops no
// disk of the machine. A checkpoint exists in the hypervisor's memory until the disk is closed there: after a crash of it the
// chain has ended. The image may outlive the machine. ErrNotFound, and ErrExists where two disks are called so.
func (m *Machine) Image(node string) (*Image, error) {
	defer runtime.KeepAlive(m)
	bytes, length := textOf(node)
	var out *C.struct_checkmap_image
	if err := status(func() C.int { return C.checkmap_machine_image(m.handle, bytes, length, &out) }); err != nil {
		return nil, err
	}
	return newImage(out), nil
}

// OpenQMP opens one disk of a running QEMU, with a connection of its own: for programs that need one disk. It fails as
// OpenMachine and Machine.Image do.
func OpenQMP(socket, node string, options *MachineOptions) (*Image, error) {
	return OpenQMPContext(context.Background(), socket, node, options)
}

// OpenQMPContext is OpenQMP that stops when ctx is done.
func OpenQMPContext(ctx context.Context, socket, node string, options *MachineOptions) (*Image, error) {
	bytes, length := textOf(socket)
	nodeBytes, nodeLength := textOf(node)
	var out *C.struct_checkmap_image
	err := options.with(ctx, func(opts *C.struct_checkmap_qmp_opts) C.int {
		return C.checkmap_image_open_qmp(bytes, length, nodeBytes, nodeLength, opts, &out)
	})
	if err != nil {
		return nil, err
	}
	return newImage(out), nil
}

// handlesOf gives the handles of images; C keeps no pointer to the array.
func handlesOf(images []*Image) []*C.struct_checkmap_image {
	handles := make([]*C.struct_checkmap_image, len(images)+1)
	for at, image := range images {
		if image != nil {
			handles[at] = image.handle
		}
	}
	return handles
}

// CreateMany creates a checkpoint of the same moment on several images of one machine, or in files, in one atomic step: on all of them
// or on none. Files that a kill caught in the middle refuse every change until Image.Recover has ended the step. It fails as Image.Create,
// ErrUnsupported where the images cannot change together. Options: progress, model, DryRun. Changes the images.
func CreateMany(images []*Image, name string, granularity uint64, options *Options) error {
	defer runtime.KeepAlive(images)
	handles := handlesOf(images)
	bytes, length := textOf(name)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_checkpoint_create_many(&handles[0], C.size_t(len(images)), bytes, length,
			C.uint64_t(granularity), opts)
	})
}

// CreateManyContext is CreateMany that stops when ctx is done.
func CreateManyContext(ctx context.Context, images []*Image, name string, granularity uint64, options *Options) error {
	return CreateMany(images, name, granularity, options.WithContext(ctx))
}

// DeleteMany deletes checkpoints on several images, as CreateMany creates one: on all of them or on none. In a
// hypervisor the bitmaps are merged inside of it, which stops every disk of the machine, see MachineOptions.MaxStall. It fails as
// Image.Delete. Options: progress, model, TopLayerOnly, ForceInconsistent, DryRun. Changes the images.
func DeleteMany(images []*Image, names []string, options *Options) error {
	defer runtime.KeepAlive(images)
	handles := handlesOf(images)
	pointers, lengths, free := namesInC(names)
	defer free()
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_checkpoint_delete_many(&handles[0], C.size_t(len(images)), &pointers[0], &lengths[0],
			C.size_t(len(names)), opts)
	})
}

// DeleteManyContext is DeleteMany that stops when ctx is done.
func DeleteManyContext(ctx context.Context, images []*Image, names []string, options *Options) error {
	return DeleteMany(images, names, options.WithContext(ctx))
}

// PlanVerb says what to plan.
type PlanVerb uint32

// The verbs of PlanQMP.
const (
	PlanCreate PlanVerb = C.CHECKMAP_PLAN_CREATE // a checkpoint: Name, Granularity, Model
	PlanDelete PlanVerb = C.CHECKMAP_PLAN_DELETE // checkpoints: Names, Model, ForceInconsistent
	PlanRename PlanVerb = C.CHECKMAP_PLAN_RENAME // a checkpoint: Name, Other, Model
	PlanMerge  PlanVerb = C.CHECKMAP_PLAN_MERGE  // stored bitmaps: Names, into Name
	PlanDiff   PlanVerb = C.CHECKMAP_PLAN_DIFF   // since Name until Other or Now, by exports that begin with Export: Model
)

// PlanRequest is what PlanQMP plans.
type PlanRequest struct {
	Verb              PlanVerb
	Chain             []string // the block nodes of the disk, the top one first
	Name, Other       string
	Names             []string
	Export            string
	Granularity       uint64 // of a new bitmap; 0 is the default
	Model             Model
	ForceInconsistent bool
}

// Plan is what an operation comes to.
type Plan struct {
	Commands    []json.RawMessage `json:"commands"` // in their order; without one there is nothing to do
	StallMS     uint64            `json:"stall_ms"` // how long every disk of the machine is expected to stand still
	Warnings    []string          `json:"warnings"`
	Granularity uint64            `json:"granularity"` // of a diff: that of the finest bitmap
	Exports     []PlanExport      `json:"exports"`     // of a diff: the union of all their contexts is the answer
	CutOff      []PlanExtent      `json:"cut_off"`     // of a diff: stretches that changed beside
}

// PlanExport is an export of the hypervisor's NBD server, and the contexts to ask it for.
type PlanExport struct {
	Name     string   `json:"name"`
	Contexts []string `json:"contexts"`
}

// PlanExtent is a stretch of the disk, in bytes.
type PlanExtent struct {
	Start  uint64 `json:"start"`
	Length uint64 `json:"length"`
}

// PlanQMP plans the QMP commands for a change or a diff of a disk, for programs that send them themselves: nothing is sent.
// nodesJSON is the answer to query-named-block-nodes. It fails as the operation on an image does, ErrDamaged for JSON that is
// none of QEMU's, ErrNotFound for a node that is not in it.
func PlanQMP(nodesJSON []byte, request PlanRequest) (*Plan, error) {
	inC := (*C.struct_checkmap_plan_request)(C.calloc(1, C.sizeof_struct_checkmap_plan_request))
	if inC == nil {
		return nil, &Error{Kind: ErrIO, Errno: syscall.ENOMEM, Message: "no memory for a request"}
	}
	defer C.free(unsafe.Pointer(inC))
	nodes, nodeLengths, freeNodes := namesInC(request.Chain)
	defer freeNodes()
	names, nameLengths, freeNames := namesInC(request.Names)
	defer freeNames()
	single, singleLengths, freeSingle := namesInC([]string{request.Name, request.Other, request.Export})
	defer freeSingle()
	arrays, freeArrays := arraysInC(nodes, nodeLengths, names, nameLengths)
	defer freeArrays()
	*inC = C.struct_checkmap_plan_request{
		size: C.sizeof_struct_checkmap_plan_request, verb: C.uint32_t(request.Verb),
		nodes: arrays.nodes, node_lens: arrays.nodeLengths, node_count: C.size_t(len(request.Chain)),
		name: single[0], name_len: singleLengths[0], other: single[1], other_len: singleLengths[1],
		names: arrays.names, name_lens: arrays.nameLengths, name_count: C.size_t(len(request.Names)),
		export_name: single[2], export_name_len: singleLengths[2],
		granularity: C.uint64_t(request.Granularity), model: C.uint32_t(request.Model),
	}
	if request.Other == Now {
		inC.other = nil
	}
	if request.ForceInconsistent {
		inC.flags = C.CHECKMAP_OPT_FORCE_INCONSISTENT
	}
	text, length := textOf(string(nodesJSON))
	need, err := number(func() int64 { return int64(C.checkmap_plan_qmp(text, length, inC, nil, 0)) })
	if err != nil {
		return nil, err
	}
	out := make([]byte, need)
	_, err = number(func() int64 {
		return int64(C.checkmap_plan_qmp(text, length, inC, (*C.char)(unsafe.Pointer(&out[0])), C.size_t(need)))
	})
	if err != nil {
		return nil, err
	}
	plan := new(Plan)
	return plan, json.Unmarshal(out, plan)
}

// requestArrays are arrays of names in C memory.
type requestArrays struct {
	nodes, names             **C.char
	nodeLengths, nameLengths *C.size_t
}

// arraysInC copies arrays of pointers into C memory, as a struct of C may point to nothing of Go's.
func arraysInC(nodes []*C.char, nodeLengths []C.size_t, names []*C.char, nameLengths []C.size_t) (requestArrays, func()) {
	var all []unsafe.Pointer
	copied := func(from unsafe.Pointer, size uintptr) unsafe.Pointer {
		to := C.malloc(C.size_t(size))
		copy(unsafe.Slice((*byte)(to), size), unsafe.Slice((*byte)(from), size))
		all = append(all, to)
		return to
	}
	pointers := func(from []*C.char) **C.char {
		return (**C.char)(copied(unsafe.Pointer(&from[0]), uintptr(len(from))*unsafe.Sizeof(from[0])))
	}
	lengths := func(from []C.size_t) *C.size_t {
		return (*C.size_t)(copied(unsafe.Pointer(&from[0]), uintptr(len(from))*unsafe.Sizeof(from[0])))
	}
	arrays := requestArrays{pointers(nodes), pointers(names), lengths(nodeLengths), lengths(nameLengths)}
	return arrays, func() {
		for _, each := range all {
			C.free(each)
		}
	}
}
