/*
 * A client of the pull backup: reads what changed since a checkpoint from an NBD server, and brings an older copy of the
 * disk, a raw file, up to date.
 *
 *     cc pull.c -o pull $(pkg-config --cflags --libs checkmap libnbd)
 *     checkmap serve vm.qcow2 --since monday --run './pull "$uri" copy.raw'
 *
 * Every NBD server with a map of changes will do: a third argument is the name of the map, qemu:dirty-bitmap:checkmap
 * without it.
 */
#include <checkmap.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GRANULARITY = 4096, BATCH = 256, PIECE = 1 << 20 };
/* What the server is asked for at once: it answers as much of it as it likes, from the beginning. */
static const uint64_t WINDOW = UINT64_C(1) << 30;
/* The flag of a dirty extent. */
static const uint32_t DIRTY = 1;

struct map {
    const char *context;
    checkmap_bitmap *changed;
    /* Up to which byte of the disk the server has answered. */
    uint64_t reached;
};

static int nbd_failed(const char *what)
{
    fprintf(stderr, "pull: %s: %s\n", what, nbd_get_error());
    return -1;
}

static int failed(const char *what)
{
    fprintf(stderr, "pull: %s: %s\n", what, checkmap_last_error());
    return -1;
}

/* Takes the extents of one answer: a length and flags for each. */
static int mark(void *data, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
    struct map *map = data;
    if (strcmp(context, map->context) != 0) {
        return 0;
    }
    for (size_t at = 0; at + 1 < count; at += 2) {
        uint32_t length = entries[at], flags = entries[at + 1];
        if ((flags & DIRTY) != 0 && checkmap_bitmap_set(map->changed, offset, length) < 0) {
            *error = EIO;
            return failed("cannot mark a change");
        }
        offset += length;
    }
    map->reached = offset;
    return 0;
}

/* Asks for the whole map before any data is read: it takes little memory, and the extents come out whole. */
static int read_map(struct nbd_handle *server, uint64_t size, struct map *map)
{
    /* A last block that the disk ends in is told up to the end of the disk. */
    while (map->reached < size) {
        uint64_t before = map->reached, left = size - before;
        nbd_extent_callback callback = {.callback = mark, .user_data = map};
        if (nbd_block_status(server, left < WINDOW ? left : WINDOW, before, callback, 0) < 0) {
            return nbd_failed("cannot read the map of changes");
        }
        if (map->reached <= before) {
            fprintf(stderr, "pull: the server says nothing of the bytes from %" PRIu64 " on\n", before);
            return -1;
        }
    }
    return 0;
}

static int write_all(int file, const uint8_t *bytes, size_t length, uint64_t offset)
{
    while (length > 0) {
        ssize_t written = pwrite(file, bytes, length, (off_t)offset);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            perror("pull: cannot write the copy");
            return -1;
        }
        bytes += written;
        length -= (size_t)written;
        offset += (uint64_t)written;
    }
    return 0;
}

static int copy(struct nbd_handle *server, struct checkmap_extent extent, int file)
{
    static uint8_t piece[PIECE];
    for (uint64_t done = 0; done < extent.length;) {
        uint64_t left = extent.length - done, offset = extent.offset + done;
        size_t length = left < PIECE ? (size_t)left : PIECE;
        if (nbd_pread(server, piece, length, offset, 0) < 0) {
            return nbd_failed("cannot read the disk");
        }
        if (write_all(file, piece, length, offset) < 0) {
            return -1;
        }
        done += length;
    }
    return 0;
}

static int copy_changed(struct nbd_handle *server, const checkmap_bitmap *changed, int file)
{
    static struct checkmap_extent extents[BATCH];
    uint64_t offset = 0, total = 0;
    int64_t count;
    do {
        count = checkmap_bitmap_extents(changed, offset, CHECKMAP_TO_END, extents, BATCH);
        if (count < 0) {
            return failed("cannot list the changes");
        }
        for (int64_t at = 0; at < count; at++) {
            if (copy(server, extents[at], file) < 0) {
                return -1;
            }
            offset = extents[at].offset + extents[at].length;
            total += extents[at].length;
        }
    } while (count == BATCH);
    if (fsync(file) < 0) {
        perror("pull: cannot make the copy durable");
        return -1;
    }
    printf("copied %" PRIu64 " bytes\n", total);
    return 0;
}

static int pull(struct nbd_handle *server, const char *uri, const char *context, int file)
{
    if (nbd_add_meta_context(server, context) < 0 || nbd_connect_uri(server, uri) < 0) {
        return nbd_failed("cannot connect");
    }
    /* A server without the map would answer nothing, and the copy would stay old. */
    if (nbd_can_meta_context(server, context) != 1) {
        fprintf(stderr, "pull: the server has no map %s\n", context);
        return -1;
    }
    int64_t size = nbd_get_size(server);
    if (size < 0) {
        return nbd_failed("cannot tell the size");
    }
    struct map map = {.context = context};
    if (checkmap_bitmap_new((uint64_t)size, GRANULARITY, &map.changed) < 0) {
        return failed("a bitmap");
    }
    int status = ftruncate(file, (off_t)size);
    if (status < 0) {
        perror("pull: cannot give the copy the size of the disk");
    }
    if (status == 0 && (status = read_map(server, (uint64_t)size, &map)) == 0) {
        status = copy_changed(server, map.changed, file);
    }
    checkmap_bitmap_free(map.changed);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: pull URI COPY [MAP]\n");
        return 2;
    }
    int file = open(argv[2], O_WRONLY | O_CLOEXEC);
    if (file < 0) {
        perror("pull: cannot open the copy");
        return EXIT_FAILURE;
    }
    struct nbd_handle *server = nbd_create();
    if (server == NULL) {
        nbd_failed("no handle");
        return EXIT_FAILURE;
    }
    int status = pull(server, argv[1], argc > 3 ? argv[3] : "qemu:dirty-bitmap:checkmap", file);
    nbd_close(server);
    if (close(file) < 0 && status == 0) {
        perror("pull: cannot close the copy");
        status = -1;
    }
    return status == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
