package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// connect starts qemu-nbd for the image, and goes through the handshake of the NBD protocol.
func connect(path string) (disk net.Conn, stop func(), err error) {
	folder, err := os.MkdirTemp("", "backup")
	if err != nil {
		return nil, nil, err
	}
	socket := filepath.Join(folder, "nbd")
	server := exec.Command("qemu-nbd", "--read-only", "--format=qcow2", "--socket="+socket, "--", path)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		os.RemoveAll(folder)
		return nil, nil, err
	}
	stop = func() {
		if disk != nil {
			disk.Close()
		}
		server.Process.Kill()
		server.Wait()
		os.RemoveAll(folder)
	}
	for tries := 0; tries < 500; tries++ {
		if disk, err = net.Dial("unix", socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	var hello [18]byte
	if err == nil {
		_, err = io.ReadFull(disk, hello[:])
	}
	if err == nil && string(hello[:16]) != "NBDMAGICIHAVEOPT" {
		err = fmt.Errorf("%s speaks no NBD that we know", socket)
	}
	if err == nil { // fixed newstyle without zeroes, option 1: the export of no name; its size and flags are ten bytes
		_, err = disk.Write([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"))
	}
	if err == nil {
		_, err = io.ReadFull(disk, hello[:10])
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return disk, stop, nil
}

// read fills data from the disk.
func read(disk net.Conn, offset uint64, data []byte) error {
	var request [28]byte
	binary.BigEndian.PutUint32(request[0:], 0x25609513)
	binary.BigEndian.PutUint64(request[16:], offset)
	binary.BigEndian.PutUint32(request[24:], uint32(len(data)))
	if _, err := disk.Write(request[:]); err != nil {
		return err
	}
	var reply [16]byte
	if _, err := io.ReadFull(disk, reply[:]); err != nil {
		return err
	}
	magic, code := binary.BigEndian.Uint32(reply[0:]), binary.BigEndian.Uint32(reply[4:])
	if magic != 0x67446698 || code != 0 {
		return fmt.Errorf("read of %d bytes at %d: error %d", len(data), offset, code)
	}
	_, err := io.ReadFull(disk, data)
	return err
}
