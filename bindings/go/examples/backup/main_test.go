package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
)

// A qcow2 is backed up, written to, and the backup brought up to date; then they are compared.
func TestBackup(t *testing.T) {
	ctx, folder := context.Background(), t.TempDir()
	disk, raw := filepath.Join(folder, "disk.qcow2"), filepath.Join(folder, "disk.raw")
	run := func(tool string, arguments ...string) {
		t.Helper()
		if output, err := exec.Command(tool, arguments...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", tool, arguments, err, output)
		}
	}
	same := func() bool {
		return exec.Command("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", disk, raw).Run() == nil
	}
	run("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
	run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 8M", "-c", "write -P 2 60M 1M", disk)
	run("qemu-img", "bitmap", "--add", disk, "monday")
	run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
	if copied, err := backup(ctx, disk, "monday", raw); err != nil || copied != 0 {
		t.Fatal(copied, err)
	}
	run("qemu-io", "-f", "qcow2", "-c", "write -P 3 3M 64k", "-c", "write -P 4 5M 3M", "-c", "write -z 60M 64k",
		"-c", "discard 1M 64k", "-c", "write -P 5 65472k 64k", disk)
	if same() {
		t.Fatal("nothing was written")
	}
	copied, err := backup(ctx, disk, "monday", raw)
	if err != nil || !same() {
		t.Fatal(copied, err)
	}
	if expected := uint64(3<<20 + 4*64<<10); copied != expected {
		t.Errorf("%d bytes were copied, not %d", copied, expected)
	}
	for _, arguments := range [][3]string{{disk, "tuesday", raw}, {disk, "monday", folder}, {raw, "monday", raw}} {
		if _, err := backup(ctx, arguments[0], arguments[1], arguments[2]); err == nil {
			t.Errorf("%v was no error", arguments)
		}
	}
	ended, end := context.WithCancel(ctx)
	end()
	if _, err := backup(ended, disk, "monday", raw); !errors.Is(err, context.Canceled) {
		t.Error("a backup that was called off goes on:", err)
	}
}
