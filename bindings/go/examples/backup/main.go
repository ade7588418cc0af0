// Backup brings a raw backup of a qcow2 image up to date: backup IMAGE CHECKPOINT RAW copies what changed since the
// checkpoint into RAW, which holds the disk as it was then. The image must not be in use. qemu-nbd reads it, by libnbd.
// An interrupt stops it between two steps.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"checkmap"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: backup IMAGE CHECKPOINT RAW")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	copied, err := backup(ctx, os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "backup:", err)
		os.Exit(1)
	}
	fmt.Println(copied, "bytes copied")
}

func backup(ctx context.Context, path, since, raw string) (copied uint64, err error) {
	image, err := checkmap.Open(path, checkmap.ReadOnly) // its lock keeps writers away until the end
	if err != nil {
		return 0, err
	}
	defer image.Close()
	changed, err := image.DiffContext(ctx, since, checkmap.Now, nil)
	if err != nil {
		return 0, err
	}
	defer changed.Close()
	out, err := os.OpenFile(raw, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	if err := out.Truncate(int64(changed.Size())); err != nil {
		return 0, err
	}
	disk, err := connect(path)
	if err != nil {
		return 0, err
	}
	defer disk.close()
	buffer := make([]byte, 1<<20)
	extents := changed.Extents(0, checkmap.ToEnd)
	for extents.Next() {
		for extent := extents.Extent(); extent.Length > 0; {
			if err := ctx.Err(); err != nil {
				return copied, err
			}
			data := buffer[:smaller(extent.Length, uint64(len(buffer)))]
			if err := disk.read(extent.Offset, data); err != nil {
				return copied, err
			}
			if _, err := out.WriteAt(data, int64(extent.Offset)); err != nil {
				return copied, err
			}
			copied += uint64(len(data))
			extent.Offset += uint64(len(data))
			extent.Length -= uint64(len(data))
		}
	}
	if err := extents.Err(); err != nil {
		return copied, err
	}
	return copied, out.Sync()
}

func smaller(a, b uint64) uint64 {
	if a < b {
		return a
	}
	return b
}
