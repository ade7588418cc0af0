package checkmap

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startDaemon runs a qemu-storage-daemon with the disks d0, an empty image, and d1, one with the checkpoints a, b and c: its
// monitor is the socket qmp of the folder, and the NBD server that the test writes through is writer.
func startDaemon(t *testing.T) (folder string) {
	folder = filepath.Dir(imageCopy(t, "plain.qcow2", "chain.qcow2"))
	qemuIn(folder, "qemu-storage-daemon", "--daemonize", "--pidfile", "pid",
		"--chardev", "socket,id=m,path=qmp,server=on,wait=off", "--monitor", "m",
		"--blockdev", "file,filename=plain.qcow2,node-name=d0-file", "--blockdev", "qcow2,file=d0-file,node-name=d0",
		"--blockdev", "file,filename=chain.qcow2,node-name=d1-file", "--blockdev", "qcow2,file=d1-file,node-name=d1",
		"--nbd-server", "addr.type=unix,addr.path=writer",
		"--export", "nbd,id=w0,node-name=d0,name=d0,writable=on",
		"--export", "nbd,id=w1,node-name=d1,name=d1,writable=on")
	pid := daemonPid(folder)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return folder
}

func daemonPid(folder string) int {
	return ok(strconv.Atoi(strings.TrimSpace(string(ok(os.ReadFile(filepath.Join(folder, "pid")))))))
}

// daemonWrite writes as a guest does.
func daemonWrite(folder, disk, what string) {
	qemuIn(folder, "qemu-io", "-f", "raw", "-c", "write "+what, "nbd+unix:///"+disk+"?socket=writer")
}

// quitDaemon ends it as an operator does; its images can be opened afterwards.
func quitDaemon(t *testing.T, folder string) {
	fine(t, syscall.Kill(daemonPid(folder), syscall.SIGTERM))
	for tries := 0; ; tries++ {
		one, err := Open(filepath.Join(folder, "plain.qcow2"), ReadWrite)
		other, second := Open(filepath.Join(folder, "chain.qcow2"), ReadWrite)
		if err == nil {
			one.Close()
		}
		if second == nil {
			other.Close()
		}
		if err == nil && second == nil {
			return
		}
		check(t, tries < 6000)
		time.Sleep(10 * time.Millisecond)
	}
}

func openMachine(t *testing.T, folder string) *Machine {
	options := &MachineOptions{NBDSocket: filepath.Join(folder, "writer")}
	machine, err := OpenMachine(filepath.Join(folder, "qmp"), options)
	fine(t, err)
	t.Cleanup(func() { machine.Close() })
	return machine
}

func machineImage(t *testing.T, machine *Machine, node string) *Image {
	image, err := machine.Image(node)
	fine(t, err)
	t.Cleanup(func() { image.Close() })
	return image
}

func isDirty(t *testing.T, image *Image, since, until string, offset, length uint64) {
	t.Helper()
	diff, err := image.Diff(since, until)
	fine(t, err)
	defer diff.Close()
	extents := diff.Extents(0, ToEnd)
	check(t, extents.Next())
	extent := extents.Extent()
	check(t, extent.Offset == offset && extent.Length == length && !extents.Next())
}

func Test327Libvirt(t *testing.T) {
	folder := startDaemon(t)
	virsh := func(script string) {
		fine(t, os.WriteFile(filepath.Join(folder, "virsh"), []byte(script), 0o755))
	}
	open := func() (*Machine, error) { return OpenLibvirt("qemu:///system", "vm", nil) }
	path := os.Getenv("PATH")
	t.Setenv("PATH", folder)
	fails(t, second(open()), ErrIO, syscall.ENOENT)
	t.Setenv("PATH", folder+":"+path)
	fails(t, second(OpenLibvirt("", "vm", nil)), ErrInvalidArgument, syscall.EINVAL)
	virsh("#!/bin/sh\necho \"error: failed to get domain 'vm'\" >&2\nexit 1\n")
	fails(t, second(open()), ErrNotFound, syscall.ENOENT)
	virsh("#!/bin/sh\necho 'error: failed to connect to the hypervisor' >&2\nexit 1\n")
	fails(t, second(open()), ErrHypervisor, syscall.EREMOTEIO)
	virsh(`#!/usr/bin/python3 -IS
import json, os, socket, sys
assert sys.argv[1:4] == ["-q", "-c", "qemu:///system"] and sys.argv[5] == "vm", sys.argv
if sys.argv[4] == "domblklist":
    sys.exit()
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "qmp"))
lines = monitor.makefile("rw")
lines.readline()
for command in ['{"execute": "qmp_capabilities"}', sys.argv[6]]:
    lines.write(command + "\n")
    lines.flush()
    answer = json.loads(lines.readline())
    while "event" in answer:
        answer = json.loads(lines.readline())
print(json.dumps(answer))
`)
	machine := ok(open())
	equal(t, len(ok(machine.Disks())), 2)
	image := machineImage(t, machine, "d1")
	fine(t, machine.Close())
	fine(t, image.Create("d", 0))
	equal(t, len(ok(image.Checkpoints())), 4)
}

func Test321Machine(t *testing.T) {
	folder := startDaemon(t)
	machine := openMachine(t, folder)
	disks := ok(machine.Disks())
	equal(t, len(disks), 2)
	for _, disk := range disks {
		check(t, strings.HasPrefix(disk.Node, "d") && disk.DiskSize == 64*mib && !disk.Unfit)
	}
	images := []*Image{machineImage(t, machine, "d0"), machineImage(t, machine, "d1")}
	fine(t, machine.Close())
	equal(t, ok(images[1].Info()).Model, ModelInterval)

	fine(t, CreateMany(images, "m", 0, &Options{Flags: DryRun}))
	enough := errors.New("enough")
	stop := &Options{Progress: func(string, uint64, uint64) error { return enough }}
	err := CreateMany(images, "m", 0, stop)
	fails(t, err, ErrCancelled, syscall.ECANCELED)
	check(t, errors.Is(err, enough))
	done, cancel := context.WithCancel(context.Background())
	cancel()
	fails(t, CreateManyContext(done, images, "m", 0, nil), ErrCancelled, syscall.ECANCELED)
	fails(t, DeleteManyContext(done, images, []string{"m"}, nil), ErrCancelled, syscall.ECANCELED)
	err = CreateMany(images, "a", 0, nil)
	fails(t, err, ErrExists, syscall.EEXIST)
	check(t, strings.Contains(err.Error(), "d1"))
	check(t, len(ok(images[0].Checkpoints())) == 0 && len(ok(images[1].Checkpoints())) == 3)

	fine(t, CreateMany(images, "m", 0, nil))
	daemonWrite(folder, "d0", "3M 64k")
	daemonWrite(folder, "d1", "8M 128k")
	fine(t, CreateManyContext(context.Background(), images, "n", 0, nil))
	daemonWrite(folder, "d0", "5M 64k")
	fine(t, CreateMany(images, "o", 0, nil))
	isDirty(t, images[0], "m", "n", 3*mib, 64*kib)
	isDirty(t, images[1], "m", "o", 8*mib, 128*kib)
	fails(t, second(images[0].DiffWith("m", "o", 0, ToEnd, stop)), ErrCancelled, syscall.ECANCELED)
	fine(t, DeleteMany(images, []string{"n"}, nil))
	fails(t, DeleteMany(images, []string{"n"}, nil), ErrNotFound, syscall.ENOENT)
	isDirty(t, images[1], "m", "o", 8*mib, 128*kib)
	fine(t, images[0].Close())
	fine(t, images[1].Close())
	daemonWrite(folder, "d0", "7M 64k")
	quitDaemon(t, folder)
	isDirty(t, openImage(t, filepath.Join(folder, "plain.qcow2"), ReadOnly), "o", Now, 7*mib, 64*kib)
	isDirty(t, openImage(t, filepath.Join(folder, "chain.qcow2"), ReadOnly), "m", Now, 8*mib, 128*kib)
}

func Test322MachineRefused(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	fails(t, second(OpenMachine(nowhere, nil)), ErrIO, syscall.ENOENT)
	fails(t, second(OpenQMP(nowhere, "d0", nil)), ErrIO, syscall.ENOENT)
	invalid(t, second(OpenMachine("", nil)))
	dead := filepath.Join(t.TempDir(), "dead")
	listener := ok(net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"}))
	listener.SetUnlinkOnClose(false)
	listener.Close()
	fails(t, second(OpenMachine(dead, nil)), ErrIO, syscall.ECONNREFUSED)

	folder := startDaemon(t)
	socket := filepath.Join(folder, "qmp")
	machine := openMachine(t, folder)
	fails(t, second(machine.Image("d7")), ErrNotFound, syscall.ENOENT)
	fails(t, second(machine.Image("\xff")), ErrInvalidName, syscall.EINVAL)
	taken := &MachineOptions{Timeout: 200 * time.Millisecond}
	fails(t, second(OpenMachine(socket, taken)), ErrInUse, syscall.EBUSY)
	fails(t, second(OpenQMP(socket, "d0", taken)), ErrInUse, syscall.EBUSY)
	images := []*Image{machineImage(t, machine, "d0"), nil}
	invalid(t, CreateMany(nil, "m", 0, nil))
	invalid(t, CreateMany(images, "m", 0, nil))
	images[1] = images[0]
	invalid(t, CreateMany(images, "m", 0, nil))
	invalid(t, DeleteMany(images[:1], nil, nil))
	path := imageCopy(t, "plain.qcow2")
	images[1] = openImage(t, path, ReadWrite)
	fails(t, CreateMany(images, "m", 0, nil), ErrUnsupported, syscall.ENOTSUP)
	fine(t, CreateMany(images[1:], "m", 0, nil))
	fine(t, machine.Close())
	invalid(t, second(machine.Image("d0")))
	fine(t, images[0].Close())

	image := ok(OpenQMP(socket, "d1", nil))
	fine(t, image.Create("m", 0))
	equal(t, len(ok(image.Checkpoints())), 4)
	fine(t, image.Close())
}

const nodesJSON = `[{"node-name":"d0","drv":"qcow2","ro":false,"file":"/vm/d0.qcow2","encrypted":false,
	"image":{"filename":"/vm/d0.qcow2","format":"qcow2","virtual-size":1073741824,"cluster-size":65536,
	"format-specific":{"type":"qcow2","data":{"compat":"1.1"}}},
	"dirty-bitmaps":[{"name":"a","recording":true,"persistent":true,"busy":false,"granularity":65536,"count":131072}]}]`

func Test323Plan(t *testing.T) {
	chain := []string{"d0"}
	plan := ok(PlanQMP([]byte(nodesJSON), PlanRequest{Verb: PlanCreate, Chain: chain, Name: "b"}))
	equal(t, len(plan.Commands), 1)
	command := string(plan.Commands[0])
	check(t, strings.Contains(command, `"a->b"`) && strings.Contains(command, "block-dirty-bitmap-disable"))
	plan = ok(PlanQMP([]byte(nodesJSON), PlanRequest{Verb: PlanDelete, Chain: chain, Names: []string{"a"}}))
	check(t, strings.Contains(string(plan.Commands[0]), "block-dirty-bitmap-remove"))
	plan = ok(PlanQMP([]byte(nodesJSON), PlanRequest{Verb: PlanDiff, Chain: chain, Name: "a", Export: "backup"}))
	check(t, len(plan.Exports) == 1 && plan.Exports[0].Contexts[0] == "qemu:dirty-bitmap:a")
	equal(t, plan.Granularity, 64*kib)
	fails(t, second(PlanQMP([]byte(nodesJSON), PlanRequest{Verb: PlanCreate, Chain: chain, Name: "a"})), ErrExists, syscall.EEXIST)
	fails(t, second(PlanQMP([]byte("no JSON"), PlanRequest{Verb: PlanCreate, Chain: chain, Name: "b"})), ErrDamaged, syscall.EBADMSG)
	invalid(t, second(PlanQMP([]byte(nodesJSON), PlanRequest{Verb: PlanCreate, Name: "b"})))
	invalid(t, second(PlanQMP([]byte(nodesJSON), PlanRequest{Verb: 99, Chain: chain, Name: "b"})))
	fails(t, second(PlanQMP([]byte(nodesJSON), PlanRequest{Verb: PlanRename, Chain: chain, Name: "x", Other: "z"})), ErrNotFound, syscall.ENOENT)
}

func Test324ListWith(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	qemuIn(filepath.Dir(path), "qemu-img", "bitmap", "--add", "chain.qcow2", "daily")
	image := openImage(t, path, ReadOnly)
	equal(t, len(ok(image.Checkpoints())), 3)
	theirs := ok(image.CheckpointsWith(&Options{Model: ModelCumulative}))
	check(t, len(theirs) == 1 && theirs[0].Name == "daily" && theirs[0].Flags&Recording != 0)
	equal(t, len(ok(image.CheckpointsWith(&Options{Model: ModelInterval}))), 3)
	invalid(t, second(image.CheckpointsWith(&Options{Model: ModelUnknown})))
}

func Test332DoctorRunning(t *testing.T) {
	folder := startDaemon(t)
	machine := openMachine(t, folder)
	fails(t, second(machine.Notes(nil)), ErrUnsupported, syscall.ENOTSUP)
	equal(t, len(ok(machine.Doctor(nil, Look, nil)).Findings), 0)
	invalid(t, second(machine.Doctor([]string{"d1", "d1"}, Look, nil)))
	fails(t, second(machine.Doctor([]string{"dx"}, Look, nil)), ErrNotFound, syscall.ENOENT)
	image := ok(machine.Image("d1"))
	fine(t, image.DropStored("a->b", nil))
	fine(t, image.Close())
	dry := ok(machine.Doctor([]string{"d1"}, Repair, &Options{Flags: DryRun}))
	done := ok(machine.DoctorContext(context.Background(), nil, Repair, nil))
	check(t, len(done.Findings) == 1 && done.Findings[0].Kind == "gap" && len(done.Left) == 0)
	check(t, len(dry.Steps) > 0 && len(dry.Steps) == len(done.Steps))
	image = ok(machine.Image("d1"))
	defer image.Close()
	fine(t, image.Create("d", 0))
}
