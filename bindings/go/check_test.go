package checkmap

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The numbers of the tests are those of tests/c, where the same behaviours are tested in C.

const (
	kib = uint64(1) << 10
	mib = uint64(1) << 20
	gib = uint64(1) << 30
	tib = uint64(1) << 40
)

// The folder of the images that tests copy.
var images string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "checkmap-go")
	if err != nil {
		panic(err)
	}
	images = folder
	makeImages()
	code := m.Run()
	os.RemoveAll(folder)
	os.Exit(code)
}

// makeImages makes, by QEMU's tools: an empty image, one with the checkpoints a, b and c, one whose last bitmap was not
// stored, and one above the second.
func makeImages() {
	qemu("qemu-img", "create", "-q", "-f", "qcow2", "plain.qcow2", "64M")
	qemu("qemu-img", "create", "-q", "-f", "qcow2", "chain.qcow2", "64M")
	qemu("qemu-img", "bitmap", "--add", "chain.qcow2", "a")
	qemu("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", "chain.qcow2")
	qemu("qemu-img", "bitmap", "--disable", "chain.qcow2", "a")
	qemu("qemu-img", "bitmap", "--add", "chain.qcow2", "a->b")
	qemu("qemu-io", "-f", "qcow2", "-c", "write 2M 128k", "chain.qcow2")
	qemu("qemu-img", "bitmap", "--disable", "chain.qcow2", "a->b")
	qemu("qemu-img", "bitmap", "--add", "chain.qcow2", "b->c")
	qemu("qemu-io", "-f", "qcow2", "-c", "write 4M 64k", "chain.qcow2")
	qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", "chain.qcow2", "-F", "qcow2", "overlay.qcow2")
	qemu("qemu-img", "bitmap", "--add", "overlay.qcow2", "a")

	// A writer that is killed while it has the bitmaps in use.
	copyFile(filepath.Join(images, "chain.qcow2"), filepath.Join(images, "inconsistent.qcow2"))
	writer := exec.Command("qemu-io", "-f", "qcow2", "inconsistent.qcow2")
	writer.Dir = images
	commands := ok(writer.StdinPipe())
	if err := writer.Start(); err != nil {
		panic(err)
	}
	ok(io.WriteString(commands, "write -P 0x77 5M 64k\nflush\n"))
	written := bytes.Repeat([]byte{0x77}, 4096)
	for tries := 0; !bytes.Contains(ok(os.ReadFile(filepath.Join(images, "inconsistent.qcow2"))), written); tries++ {
		if tries == 1000 {
			panic("qemu-io does not write")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := writer.Process.Kill(); err != nil {
		panic(err)
	}
	_ = writer.Wait()
}

func qemu(tool string, arguments ...string) {
	qemuIn(images, tool, arguments...)
}

func qemuIn(folder, tool string, arguments ...string) {
	command := exec.Command(tool, arguments...)
	command.Dir = folder
	if output, err := command.CombinedOutput(); err != nil {
		panic(tool + ": " + err.Error() + ": " + string(output))
	}
}

func copyFile(from, to string) {
	if err := os.WriteFile(to, ok(os.ReadFile(from)), 0o644); err != nil {
		panic(err)
	}
}

// imageCopy is the path of a copy in a folder of this test, beside those of the other names.
func imageCopy(t testing.TB, names ...string) string {
	folder := t.TempDir()
	for _, name := range names {
		copyFile(filepath.Join(images, name), filepath.Join(folder, name))
	}
	return filepath.Join(folder, names[0])
}

// ok is the value of a call that must not fail.
func ok[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// at is the place that a call must find.
func at(place uint64, found bool, err error) uint64 {
	if err != nil || !found {
		panic("nothing was found")
	}
	return place
}

// none is whether a call found nothing, and did not fail.
func none(_ uint64, found bool, err error) bool {
	return !found && err == nil
}

func fine(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t testing.TB, is, expected T) {
	t.Helper()
	if is != expected {
		t.Fatalf("%v, not %v", is, expected)
	}
}

func check(t testing.TB, claim bool) {
	t.Helper()
	if !claim {
		t.Fatal("not so")
	}
}

// second is the error of a call that also returns a value.
func second[T any](_ T, err error) error { return err }

func third(_ uint64, _ bool, err error) error { return err }

// fails checks that the error has this kind and this errno.
func fails(t testing.TB, err error, kind Kind, errno syscall.Errno) {
	t.Helper()
	if !errors.Is(err, kind) || !errors.Is(err, errno) {
		t.Fatalf("%#v is not %v, %v", err, kind, errno)
	}
	if err.Error() == "" {
		t.Fatal("no message")
	}
}

func invalid(t testing.TB, err error) {
	t.Helper()
	fails(t, err, ErrInvalidArgument, syscall.EINVAL)
}

func outOfRange(t testing.TB, err error) {
	t.Helper()
	fails(t, err, ErrOutOfRange, syscall.ERANGE)
}

func bitmapOf(t testing.TB, size, granularity uint64) *Bitmap {
	bitmap := ok(NewBitmap(size, granularity))
	t.Cleanup(func() { bitmap.Close() })
	return bitmap
}

func openImage(t testing.TB, path string, flags OpenFlags) *Image {
	t.Helper()
	image, err := Open(path, flags)
	fine(t, err)
	t.Cleanup(func() { image.Close() })
	return image
}
