package checkmap

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func sameFiles(t *testing.T, one, other string) {
	t.Helper()
	check(t, bytes.Equal(ok(os.ReadFile(one)), ok(os.ReadFile(other))))
}

func openBackups(t *testing.T, path string, flags BackupsFlags) *BackupDirectory {
	t.Helper()
	directory, err := OpenBackups(path, flags)
	fine(t, err)
	t.Cleanup(func() { directory.Close() })
	return directory
}

func Test328Backups(t *testing.T) {
	image := imageCopy(t, "plain.qcow2")
	folder := filepath.Dir(image)
	at := func(name string) string { return filepath.Join(folder, name) }
	disks := []BackupSource{{Disk: image, Name: "disk"}}
	take := func(what, checkpoint string, dataBytes uint64) TakenBackup {
		t.Helper()
		qemuIn(folder, "qemu-io", "-f", "qcow2", "-c", "write "+what, "plain.qcow2")
		options := &BackupOptions{Checkpoint: checkpoint, KeepCheckpoints: 2, Threads: 2}
		preview := ok(PreviewBackup(at("backups"), disks, options))
		check(t, len(preview) == 1 && preview[0].Flags&MomentComplete == 0 && preview[0].DataBytes >= dataBytes)
		directory := openBackups(t, at("backups"), BackupsCreate)
		taken := ok(directory.Take(disks, options))
		fine(t, directory.Close())
		check(t, len(taken) == 1 && taken[0].Err == nil && taken[0].Flags&MomentComplete != 0)
		check(t, taken[0].Disk == "disk" && taken[0].Checkpoint == checkpoint && taken[0].ThroughQEMU == "")
		check(t, len(taken[0].Files) == 1 && strings.HasSuffix(taken[0].Files[0], "/plain.qcow2"))
		equal(t, taken[0].DataBytes, dataBytes)
		qemuIn(folder, "qemu-img", "convert", "-O", "raw", "plain.qcow2", checkpoint+".raw")
		return taken[0]
	}
	check(t, take("-P 1 1M 128k", "monday", 128*kib).Flags&MomentFull != 0)
	check(t, take("-P 2 2M 64k", "tuesday", 64*kib).Flags&MomentFull == 0)
	dropped := take("-P 3 1M 64k", "wednesday", 64*kib).Dropped
	check(t, len(dropped) == 1 && dropped[0] == "monday")

	reading := openBackups(t, at("backups"), BackupsReadOnly)
	moments := ok(reading.Moments())
	equal(t, len(moments), 3)
	check(t, moments[0].Checkpoint == "monday" && moments[0].DiskSize == 64*mib && filepath.IsAbs(moments[0].Image))
	check(t, time.Since(moments[2].Time) < time.Hour)
	for _, day := range []string{"monday", "tuesday"} {
		request := RestoreRequest{Disk: "disk", Checkpoint: day, Target: at("restored.raw"), Raw: true, Replace: day != "monday"}
		fine(t, reading.Restore(request, nil))
		sameFiles(t, at("restored.raw"), at(day+".raw"))
	}
	newest := RestoreRequest{Disk: "disk", Target: at("restored.qcow2")}
	fine(t, reading.Restore(newest, nil))
	qemuIn(folder, "qemu-img", "compare", "-q", "plain.qcow2", "restored.qcow2")
	fails(t, reading.Restore(newest, nil), ErrExists, syscall.EEXIST)
	never := RestoreRequest{Disk: "disk", Checkpoint: "never", Target: at("new")}
	fails(t, reading.Restore(never, nil), ErrNotFound, syscall.ENOENT)
	fails(t, second(OpenBackups(at("backups"), BackupsReadWrite)), ErrInUse, syscall.EBUSY)
	fails(t, second(OpenBackups(at("nowhere"), BackupsReadOnly)), ErrIO, syscall.ENOENT)
	fails(t, second(OpenBackups(folder, BackupsReadOnly)), ErrNotFound, syscall.ENOENT)
	fails(t, second(reading.Take(disks, nil)), ErrReadOnly, syscall.EROFS)
	looked, damages, err := reading.Verify(nil)
	check(t, looked == 3 && len(damages) == 0 && err == nil)
	ended, end := context.WithCancel(context.Background())
	end()
	_, _, err = reading.VerifyContext(ended, nil)
	check(t, errors.Is(err, ErrCancelled) && errors.Is(err, context.Canceled))
	stopped := errors.New("stopped")
	_, _, err = reading.Verify(&Options{Progress: func(string, uint64, uint64) error { return stopped }})
	check(t, errors.Is(err, ErrCancelled) && errors.Is(err, stopped))
	fine(t, reading.Close())
	invalid(t, second(reading.Moments()))

	planned := openImage(t, image, ReadOnly)
	plan := ok(planned.PlanBackup("wednesday", "", nil))
	check(t, plan.Tier == TierChanged && plan.Reason == "" && plan.ChangedBytes == 0 && plan.DiskSize == 64*mib)
	plan = ok(planned.PlanBackup("never", "", nil))
	check(t, plan.Tier == TierAllocated && strings.Contains(plan.Reason, "never") && plan.ChangedBytes == -1)
	planned.Close()

	writing := openBackups(t, at("backups"), BackupsReadWrite)
	invalid(t, second(writing.Prune(Keep{}, nil)))
	invalid(t, second(writing.Take(nil, nil)))
	fails(t, second(writing.TakeContext(ended, disks, nil)), ErrCancelled, syscall.ECANCELED)
	while := &BackupOptions{Checkpoint: "stopped", Full: true, Progress: func(phase string, _, _ uint64) error {
		if phase == "copying the disk" {
			return stopped
		}
		return nil
	}}
	cut := ok(writing.Take(disks, while))
	check(t, len(cut) == 1 && cut[0].Flags&MomentFailed != 0 && cut[0].Flags&MomentComplete == 0)
	check(t, errors.Is(cut[0].Err, ErrCancelled) && errors.Is(cut[0].Err, stopped))
	for _, options := range []*Options{{Flags: DryRun}, nil} {
		pruned := ok(writing.Prune(Keep{Last: 2}, options))
		check(t, len(pruned) == 1 && pruned[0].Disk == "disk" && pruned[0].Err == nil)
		check(t, len(pruned[0].Dropped) == 1 && pruned[0].Dropped[0] == "monday")
	}
	again := RestoreRequest{Disk: "disk", Checkpoint: "tuesday", Target: at("again.raw"), Raw: true}
	fine(t, writing.RestoreContext(context.Background(), again, nil))
	sameFiles(t, at("again.raw"), at("tuesday.raw"))
	pruned := ok(writing.PruneContext(context.Background(), Keep{Within: time.Hour}, nil))
	equal(t, len(pruned[0].Dropped), 0)
	fine(t, os.Remove(at("backups/disk/wednesday.qcow2")))
	_, damages, err = writing.Verify(nil)
	fine(t, err)
	check(t, len(damages) == 1 && damages[0].Checkpoint == "wednesday" && len(damages[0].Lost) == 1)
	check(t, damages[0].Err != nil && strings.Contains(damages[0].Err.Error(), "wednesday.qcow2"))
}

func Test329BackupsRunning(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		check(t, os.Getenv("CI") == "")
		t.Skip("qemu-system-x86_64 is missing: install qemu-system-x86")
	}
	folder := filepath.Dir(imageCopy(t, "plain.qcow2", "chain.qcow2"))
	at := func(name string) string { return filepath.Join(folder, name) }
	qemuIn(folder, "qemu-img", "convert", "-O", "raw", "chain.qcow2", "before.raw")
	arguments := strings.Fields("-machine q35 -accel tcg -S -display none -nodefaults -m 32 -daemonize -pidfile " + at("pid") +
		" -chardev socket,id=m,path=" + at("qmp") + ",server=on,wait=off -mon chardev=m,mode=control" +
		" -blockdev file,filename=" + at("plain.qcow2") + ",node-name=d0-file -blockdev qcow2,file=d0-file,node-name=d0" +
		" -blockdev file,filename=" + at("chain.qcow2") + ",node-name=d1-file -blockdev qcow2,file=d1-file,node-name=d1" +
		" -device virtio-blk-pci,drive=d0,id=v0 -device virtio-blk-pci,drive=d1,id=v1")
	qemuIn(folder, "qemu-system-x86_64", arguments...)
	pid := daemonPid(folder)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	machine, err := OpenMachine(at("qmp"), nil)
	fine(t, err)
	defer machine.Close()
	plan := ok(machine.PlanBackup("d1", "a", nil))
	check(t, plan.Tier == TierChanged && plan.ChangedBytes == int64(256*kib))
	equal(t, ok(machine.PlanBackup("d0", "a", nil)).Tier, TierAllocated)

	directory := openBackups(t, at("backups"), BackupsCreate)
	var said, steps int
	options := &BackupOptions{Checkpoint: "d", Scratch: folder, Say: func(string) { said++ },
		Progress: func(string, uint64, uint64) error { steps++; return nil }}
	missing := []BackupSource{{Disk: "d2"}}
	fails(t, second(directory.TakeRunning(machine, missing, options)), ErrNotFound, syscall.ENOENT)
	disks := []BackupSource{{Disk: "d0"}, {Disk: "d1", Name: "data"}}
	taken := ok(directory.TakeRunning(machine, disks, options))
	check(t, len(taken) == 2 && taken[0].Disk == "plain.qcow2" && taken[1].Disk == "data")
	for _, each := range taken {
		check(t, each.Err == nil && each.Flags&MomentComplete != 0 && each.Checkpoint == "d")
	}
	check(t, said > 0 && steps > 0)
	fine(t, directory.Restore(RestoreRequest{Disk: "data", Target: at("after.raw"), Raw: true}, nil))
	sameFiles(t, at("after.raw"), at("before.raw"))
	fails(t, second(directory.TakeRunning(machine, disks, options)), ErrExists, syscall.EEXIST)
	// A panic of a callback goes on behind the call.
	options.Checkpoint, options.Progress, options.Say = "e", nil, func(string) { panic("said") }
	defer func() { check(t, recover() == "said") }()
	_, _ = directory.TakeRunning(machine, disks, options)
}
