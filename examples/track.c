/*
 * A toy block device that keeps track of its writes: every write marks a bitmap, a checkpoint puts a fresh one in its
 * place, and an incremental backup copies what the bitmaps since the last backup say. At the end the backup is compared
 * with the disk: nothing was missed.
 *
 *     cc -pthread track.c -o track $(pkg-config --cflags --libs checkmap)
 *     ./track [WRITES [WRITERS]]
 */
#include <checkmap.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DISK = 16 << 20, GRANULARITY = 4096, BATCH = 256, MOST_INTERVALS = 64 };

static struct {
    uint8_t *disk;
    /* Guards the disk and the bitmap that records. A bitmap has no lock of its own: its owner has one already. */
    pthread_mutex_t lock;
    checkmap_bitmap *recording;
    /* The frozen intervals since the last backup, oldest first. */
    checkmap_bitmap *frozen[MOST_INTERVALS];
    size_t intervals;
    long writes;
} device = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void must(int64_t status, const char *what)
{
    if (status < 0) {
        fprintf(stderr, "track: %s: %s\n", what, checkmap_last_error());
        exit(EXIT_FAILURE);
    }
}

static checkmap_bitmap *fresh_bitmap(void)
{
    checkmap_bitmap *bitmap = NULL;
    must(checkmap_bitmap_new(DISK, GRANULARITY, &bitmap), "a bitmap");
    return bitmap;
}

/* A write of the guest. It is marked before it is done: a mark too many costs a copy, one too few costs the backup. */
static void device_write(uint64_t offset, const void *bytes, size_t length)
{
    pthread_mutex_lock(&device.lock);
    must(checkmap_bitmap_set(device.recording, offset, length), "marking a write");
    memcpy(device.disk + offset, bytes, length);
    pthread_mutex_unlock(&device.lock);
}

/* A checkpoint: what was recorded until now is frozen, and a fresh bitmap records. The bitmap is made before the lock. */
static void device_checkpoint(void)
{
    checkmap_bitmap *fresh = fresh_bitmap();
    pthread_mutex_lock(&device.lock);
    device.frozen[device.intervals++] = device.recording;
    device.recording = fresh;
    pthread_mutex_unlock(&device.lock);
}

/* Copies what changed since the last backup. A real one would read from a snapshot; here the writers wait. */
static uint64_t device_backup(uint8_t *backup)
{
    device_checkpoint();
    pthread_mutex_lock(&device.lock);
    checkmap_bitmap *changed = NULL;
    must(checkmap_bitmap_union_new((const checkmap_bitmap *const *)device.frozen, device.intervals, 0, &changed),
         "uniting the intervals");
    struct checkmap_extent extents[BATCH];
    uint64_t offset = 0, copied = 0;
    int64_t count;
    do {
        count = checkmap_bitmap_extents(changed, offset, CHECKMAP_TO_END, extents, BATCH);
        must(count, "listing what changed");
        for (int64_t at = 0; at < count; at++) {
            memcpy(backup + extents[at].offset, device.disk + extents[at].offset, (size_t)extents[at].length);
            offset = extents[at].offset + extents[at].length;
            copied += extents[at].length;
        }
    } while (count == BATCH);
    /* The backup holds them now: only what comes after it counts for the next one. */
    while (device.intervals > 0) {
        checkmap_bitmap_free(device.frozen[--device.intervals]);
    }
    pthread_mutex_unlock(&device.lock);
    checkmap_bitmap_free(changed);
    return copied;
}

static void *guest(void *seed)
{
    uint64_t random = (uint64_t)(uintptr_t)seed * 0x9e3779b97f4a7c15u + 1;
    uint8_t bytes[3 * GRANULARITY];
    for (long at = 0; at < device.writes; at++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        size_t length = 1 + (size_t)(random % sizeof bytes);
        memset(bytes, (int)(random >> 56), length);
        device_write((random >> 8) % (DISK - sizeof bytes), bytes, length);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    device.writes = argc > 1 ? atol(argv[1]) : 200;
    long writers = argc > 2 ? atol(argv[2]) : 4;
    if (device.writes < 0 || writers < 1 || writers > 64) {
        fprintf(stderr, "usage: track [WRITES [WRITERS]]\n");
        return 2;
    }
    device.disk = calloc(1, DISK);
    uint8_t *backup = calloc(1, DISK);
    pthread_t threads[64];
    if (device.disk == NULL || backup == NULL) {
        return EXIT_FAILURE;
    }
    device.recording = fresh_bitmap();

    for (int day = 1; day <= 3; day++) {
        for (long at = 0; at < writers; at++) {
            if (pthread_create(&threads[at], NULL, guest, (void *)(uintptr_t)(day * 64 + at)) != 0) {
                return EXIT_FAILURE;
            }
        }
        /* Two checkpoints while the guest writes. */
        device_checkpoint();
        device_checkpoint();
        for (long at = 0; at < writers; at++) {
            pthread_join(threads[at], NULL);
        }
        uint64_t copied = device_backup(backup);
        printf("day %d: copied %.1f MiB of %d\n", day, (double)copied / (1 << 20), DISK >> 20);
    }
    int missed = memcmp(device.disk, backup, DISK);
    puts(missed ? "something was missed" : "nothing was missed");
    checkmap_bitmap_free(device.recording);
    free(device.disk);
    free(backup);
    return missed ? EXIT_FAILURE : EXIT_SUCCESS;
}
