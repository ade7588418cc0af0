package checkmap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// noted is an image with the checkpoints aged and young of libvirt's, and a helper that was left; note adds to libvirt's notes.
func noted(t *testing.T) (path, folder string, note func(name, parent, disk string, time int)) {
	path = imageCopy(t, "plain.qcow2")
	folder = filepath.Join(filepath.Dir(path), "notes")
	fine(t, os.Mkdir(folder, 0o755))
	note = func(name, parent, disk string, time int) {
		if parent != "" {
			parent = "<parent><name>" + parent + "</name></parent>"
		}
		document := fmt.Sprintf("<domaincheckpoint><name>%[1]s</name>%[2]s<creationTime>%[3]d</creationTime><disks>"+
			"<disk name='%[4]s' checkpoint='bitmap' bitmap='%[1]s'/></disks></domaincheckpoint>", name, parent, time, disk)
		fine(t, os.WriteFile(filepath.Join(folder, name+".xml"), []byte(document), 0o644))
	}
	for _, name := range []string{"young", "aged", "libvirt-tmp-activewrite"} {
		qemuIn(filepath.Dir(path), "qemu-img", "bitmap", "--add", "plain.qcow2", name)
	}
	note("young", "aged", "vda", 1700000100)
	note("aged", "", "vda", 1700000000)
	return path, folder, note
}

func Test331Notes(t *testing.T) {
	path, folder, note := noted(t)
	notes := ok(ReadNotes(folder))
	defer notes.Close()
	list := ok(notes.Checkpoints())
	check(t, len(list) == 2 && list[0].Name == "aged" && list[0].Parent == "" && list[0].Time.Unix() == 1700000000)
	check(t, list[1].Name == "young" && list[1].Parent == "aged" && list[1].DiskCount == 1)
	image := openImage(t, path, ReadOnly)
	check(t, ok(image.Checkpoints())[0].Flags&Unordered != 0)
	fine(t, image.Follow(notes))
	followed := ok(image.Checkpoints())
	check(t, followed[0].Name == "aged" && followed[1].Parent == "aged" && followed[1].Flags&Unordered == 0)
	fine(t, notes.Close())
	invalid(t, second(notes.Checkpoints()))
	fails(t, second(ReadNotes(filepath.Join(folder, "nowhere"))), ErrIO, syscall.ENOENT)
	hostile := filepath.Join(folder, "hostile.xml")
	fine(t, os.WriteFile(hostile, []byte("<!DOCTYPE a [<!ENTITY b 'c'>]><domaincheckpoint><name>&b;</name></domaincheckpoint>"), 0o644))
	fails(t, second(ReadNotes(folder)), ErrDamaged, syscall.EBADMSG)
	fine(t, os.Remove(hostile))
	note("circle", "circle", "vda", 1)
	fails(t, second(ReadNotes(folder)), ErrBrokenChain, syscall.EPROTO)
}

func Test331Doctor(t *testing.T) {
	path, folder, note := noted(t)
	note("lost", "young", "vda", 1700000200)
	image := openImage(t, path, ReadWrite)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := image.DoctorContext(ctx, "", folder, Repair, nil)
	check(t, errors.Is(err, context.Canceled))
	invalid(t, second(image.Doctor("", folder, 3, nil)))
	for _, options := range []*Options{{Flags: DryRun}, nil} {
		told := ok(image.Doctor("", folder, Repair, options))
		check(t, len(told.Findings) == 2 && told.Findings[0].Kind == "metadata-without-bitmap" && len(told.Left) == 0)
		check(t, told.Findings[0].Name == "lost" && told.Findings[0].Disk == "vda" && told.Findings[1].Mend != "")
		check(t, len(told.Steps) == 2 && told.Steps[0] == "vda: remove 'libvirt-tmp-activewrite'")
	}
	equal(t, len(ok(image.Doctor("", folder, Look, nil)).Findings), 0)
	equal(t, len(ok(image.Doctor("", "", Look, nil)).Findings), 0)
	note("both", "", "vdb", 1)
	fails(t, second(image.Doctor("", folder, Look, nil)), ErrNotFound, syscall.ENOENT)
	fine(t, os.Remove(filepath.Join(folder, "both.xml")))
	told := ok(image.Doctor("vda", folder, ToInterval, nil))
	check(t, told.Steps[0] == "vda: stop recording in 'aged'" && len(told.Remarks) == 1)
	list := ok(image.Checkpoints())
	check(t, len(list) == 2 && list[1].Parent == "aged" && list[0].Flags&Recording == 0)
}
