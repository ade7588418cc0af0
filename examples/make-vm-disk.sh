#!/bin/sh
# Makes vm-disk.qcow2, the image that the README's first command reads: the disk of a small server over half a week,
# with a checkpoint for each of four mornings. Needs QEMU's own tools only, qemu-img and qemu-io.
set -eu

image=${1:?usage: make-vm-disk.sh IMAGE}
new=$image.new

# What the machine does, one command of qemu-io a line. The patterns stand for content; 512M is where the root file
# system begins.
runs() {
    set --
    while read -r line; do
        set -- "$@" -c "${line%%#*}"
    done
    qemu-io -f qcow2 "$@" "$new" >/dev/null
}

# checkpoint BITMAP [FROZEN]: from now on BITMAP records, and FROZEN no longer.
checkpoint() {
    if [ $# -eq 2 ]; then
        qemu-img bitmap --disable -f qcow2 "$new" "$2"
    fi
    qemu-img bitmap --add -g 64k -f qcow2 "$new" "$1"
}

# Small clusters keep the file small.
qemu-img create -q -f qcow2 -o cluster_size=4k "$new" 10G

# The system is installed, before the first checkpoint.
runs <<END
write -P 0x55 0 512            # boot sector
write -P 0x11 512 16896        # partition table
write -P 0x11 10737401344 16896 # and its copy at the end of the disk
write -P 0x21 1M 12k           # EFI file system
write -P 0x22 3M 16k           # boot loader
write -P 0x31 536871936 1k     # superblock
write -P 0x32 524292k 8k       # group descriptors
write -P 0x33 524352k 16k      # inodes
write -z 560M 2M               # journal
write -P 0x41 700M 24k         # kernel
write -P 0x42 1200M 12k        # libraries
write -P 0x61 2G 20k           # log
write -z 5G 10M                # database, allocated in advance
write -P 0x71 5G 16k
END

checkpoint monday

# Monday: the log grows, the database gets its first rows.
runs <<END
write -P 0x34 524356k 4k       # inodes
write -P 0x51 560M 16k         # journal
write -P 0x62 2097172k 12k     # log
write -P 0x72 5242880k 8k      # database: header
write -P 0x73 5242976k 16k     # rows
write -P 0x74 5251072k 8k      # index
write -P 0x75 6G 12k           # write-ahead log
END

checkpoint 'monday->tuesday' monday

# Tuesday: new packages, a new kernel; the old one's room is given back.
runs <<END
write -P 0x35 524360k 8k       # inodes
write -P 0x32 524292k 4k       # group descriptors
write -P 0x52 573456k 16k      # journal
write -P 0x43 760M 28k         # kernel
discard 700M 24k
write -P 0x44 1200M 12k        # libraries
write -P 0x45 1300M 8k
write -P 0x23 3M 16k           # boot loader
write -P 0x63 2097184k 16k     # log
write -P 0x76 5242992k 8k      # database: rows
END

checkpoint 'tuesday->wednesday' 'monday->tuesday'

# Wednesday: the log is rotated, the database checkpoints its write-ahead log.
runs <<END
write -P 0x36 524356k 4k       # inodes
write -P 0x53 573472k 16k      # journal
write -P 0x64 2148M 8k         # new log
discard 2G 48k                 # old log
write -P 0x77 5242880k 8k      # database: header
write -P 0x78 5243000k 16k     # rows
write -P 0x79 5251080k 4k      # index
write -z 6G 12k                # write-ahead log
END

checkpoint 'wednesday->thursday' 'tuesday->wednesday'

# Thursday, until now.
runs <<END
write -P 0x37 524360k 4k       # inodes
write -P 0x54 573488k 8k       # journal
write -P 0x65 2199560k 8k      # log
write -P 0x7a 5243016k 8k      # database: rows
write -P 0x7b 6G 4k            # write-ahead log
write -P 0x66 8G 8k            # a download
write -P 0x11 10737401344 512  # copy of the partition table
END

mv "$new" "$image"
