/* Owns the examples of the manual pages about bitmaps: each stands below the names of the calls that it is for. */
#include <checkmap.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* EXAMPLE checkmap_bitmap_new checkmap_bitmap_free checkmap_bitmap_set checkmap_bitmap_count */
/* Marks the first sector of a disk of 10 GiB; one bit stands for 64 KiB. */
static int mark_one(void)
{
    checkmap_bitmap *bitmap = NULL;
    int status = checkmap_bitmap_new((uint64_t)10 << 30, 65536, &bitmap);
    if (status == 0) {
        status = checkmap_bitmap_set(bitmap, 0, 512);
    }
    if (status < 0) {
        fprintf(stderr, "%s\n", checkmap_last_error());
    } else {
        printf("%" PRId64 " granule is dirty\n", checkmap_bitmap_count(bitmap));
    }
    checkmap_bitmap_free(bitmap);
    return status;
}

/* EXAMPLE checkmap_bitmap_clone checkmap_bitmap_clear_all checkmap_bitmap_is_empty */
/* Takes what was marked so far, and begins anew. */
static int take(checkmap_bitmap *bitmap, checkmap_bitmap **taken)
{
    int status = checkmap_bitmap_clone(bitmap, taken);
    if (status == 0) {
        status = checkmap_bitmap_clear_all(bitmap);
    }
    return status < 0 ? status : checkmap_bitmap_is_empty(bitmap);
}

/* EXAMPLE checkmap_bitmap_clear checkmap_bitmap_granularity */
/* A range was copied: only whole granules of it are clean now. */
static int copied(checkmap_bitmap *bitmap, uint64_t offset, uint64_t length)
{
    uint64_t granularity = checkmap_bitmap_granularity(bitmap), begin, end;
    if (granularity == 0) {
        return -checkmap_last_error_errno();
    }
    begin = (offset + granularity - 1) / granularity * granularity;
    end = (offset + length) / granularity * granularity;
    return begin < end ? checkmap_bitmap_clear(bitmap, begin, end - begin) : 0;
}

/* EXAMPLE checkmap_bitmap_set_all checkmap_bitmap_resize checkmap_bitmap_size */
/* A disk that grows: what is new was never copied, so all of it is dirty. */
static int grow(checkmap_bitmap *bitmap, uint64_t disk_size)
{
    uint64_t before = checkmap_bitmap_size(bitmap);
    int status = checkmap_bitmap_resize(bitmap, disk_size);
    if (status == 0 && before == 0) {
        status = checkmap_bitmap_set_all(bitmap);
    } else if (status == 0 && disk_size > before) {
        status = checkmap_bitmap_set(bitmap, before, CHECKMAP_TO_END);
    }
    return status;
}

/* EXAMPLE checkmap_bitmap_optimize checkmap_bitmap_heap_bytes */
/* Gives memory back after a long time of marking. */
static int64_t shrink(checkmap_bitmap *bitmap)
{
    int64_t before = checkmap_bitmap_heap_bytes(bitmap);
    if (before < 0 || checkmap_bitmap_optimize(bitmap) < 0) {
        return -checkmap_last_error_errno();
    }
    return before - checkmap_bitmap_heap_bytes(bitmap);
}

/* EXAMPLE checkmap_bitmap_get checkmap_bitmap_validate */
/* Whether a write has to copy the old data first. */
static int must_copy(const checkmap_bitmap *bitmap, uint64_t offset)
{
    int is_dirty = checkmap_bitmap_get(bitmap, offset);
    if (is_dirty < 0) {
        fprintf(stderr, "%s\n", checkmap_last_error());
        return checkmap_bitmap_validate(bitmap) == 0 ? is_dirty : -EBADMSG;
    }
    return !is_dirty;
}

/* EXAMPLE checkmap_bitmap_granules checkmap_bitmap_count_range checkmap_bitmap_dirty_bytes checkmap_bitmap_count_extents */
/* Says how much of a disk is dirty, and how much of its first gigabyte. */
static void report(const checkmap_bitmap *bitmap)
{
    printf("%" PRId64 " bytes in %" PRId64 " extents; %" PRId64 " granules of the first GiB, of %" PRId64 " in all\n",
           checkmap_bitmap_dirty_bytes(bitmap), checkmap_bitmap_count_extents(bitmap),
           checkmap_bitmap_count_range(bitmap, 0, (uint64_t)1 << 30), checkmap_bitmap_granules(bitmap));
}

/* EXAMPLE checkmap_bitmap_next_dirty checkmap_bitmap_next_clean */
/* Goes from dirty range to dirty range. */
static int64_t walk(const checkmap_bitmap *bitmap)
{
    int64_t begin = 0, end = 0;
    while ((begin = checkmap_bitmap_next_dirty(bitmap, (uint64_t)end, CHECKMAP_TO_END)) >= 0) {
        end = checkmap_bitmap_next_clean(bitmap, (uint64_t)begin, CHECKMAP_TO_END);
        if (end == -1) {
            end = (int64_t)checkmap_bitmap_size(bitmap);
        } else if (end < 0) {
            return end;
        }
        printf("%" PRId64 " to %" PRId64 "\n", begin, end);
    }
    return begin == -1 ? 0 : begin;
}

/* EXAMPLE checkmap_bitmap_previous_dirty checkmap_bitmap_previous_clean */
/* Finds the last dirty range: where it begins and ends. */
static int64_t last_range(const checkmap_bitmap *bitmap, int64_t *begin)
{
    int64_t last = checkmap_bitmap_previous_dirty(bitmap, 0, CHECKMAP_TO_END), clean;
    if (last < 0) {
        return last;
    }
    clean = checkmap_bitmap_previous_clean(bitmap, 0, (uint64_t)last);
    if (clean < -1) {
        return clean;
    }
    *begin = clean + 1;
    return last + 1;
}

/* EXAMPLE checkmap_bitmap_rank checkmap_bitmap_select */
/* Cuts the disk where half of what is to be copied comes before. */
static int64_t middle(const checkmap_bitmap *bitmap)
{
    int64_t all = checkmap_bitmap_rank(bitmap, UINT64_MAX);
    return all < 0 ? all : checkmap_bitmap_select(bitmap, (uint64_t)all / 2);
}

/* EXAMPLE checkmap_bitmap_extents */
/* Goes through all dirty extents, some thousand at a time. */
static int64_t copy_all(const checkmap_bitmap *bitmap, int (*copy)(uint64_t offset, uint64_t length))
{
    static const size_t room = 4096;
    struct checkmap_extent *extents = malloc(room * sizeof *extents);
    uint64_t from = 0;
    int64_t count = extents ? (int64_t)room : -ENOMEM, at;
    while (count == (int64_t)room) {
        count = checkmap_bitmap_extents(bitmap, from, CHECKMAP_TO_END, extents, room);
        for (at = 0; at < count; at++) {
            if (copy(extents[at].offset, extents[at].length) < 0) {
                free(extents);
                return -EIO;
            }
            from = extents[at].offset + extents[at].length;
        }
    }
    free(extents);
    return count < 0 ? count : 0;
}

/* EXAMPLE checkmap_bitmap_to_bits checkmap_bitmap_from_bits */
/* Hands the bits of one bitmap to another, as other programs want them. */
static int through_bits(const checkmap_bitmap *from, checkmap_bitmap *to)
{
    int64_t bytes = checkmap_bitmap_to_bits(from, 0, CHECKMAP_TO_END, NULL, 0);
    uint8_t *bits = bytes < 0 ? NULL : malloc((size_t)bytes + 1);
    int status = -ENOMEM;
    if (bits != NULL) {
        bytes = checkmap_bitmap_to_bits(from, 0, CHECKMAP_TO_END, bits, (size_t)bytes);
        status = bytes < 0 ? (int)bytes : checkmap_bitmap_from_bits(to, 0, bits, (size_t)bytes);
    }
    free(bits);
    return status;
}

/* EXAMPLE checkmap_bitmap_serialize checkmap_bitmap_deserialize */
/* Sends a bitmap as Roaring, and takes it in again; size and granularity go beside it. */
static int round_trip(const checkmap_bitmap *bitmap, checkmap_bitmap **out)
{
    int64_t bytes = checkmap_bitmap_serialize(bitmap, NULL, 0);
    uint8_t *buffer = bytes < 0 ? NULL : malloc((size_t)bytes);
    int status = -ENOMEM;
    if (buffer != NULL) {
        bytes = checkmap_bitmap_serialize(bitmap, buffer, (size_t)bytes);
        status = bytes < 0 ? (int)bytes
                           : checkmap_bitmap_deserialize(buffer, (size_t)bytes, checkmap_bitmap_size(bitmap),
                                                         checkmap_bitmap_granularity(bitmap), out);
    }
    free(buffer);
    return status;
}

/* EXAMPLE checkmap_bitmap_union checkmap_bitmap_subtract checkmap_bitmap_intersect */
/* What two days changed together, less what is copied already, as far as the guest's file system uses it. */
static int still_to_copy(checkmap_bitmap *monday, const checkmap_bitmap *tuesday, const checkmap_bitmap *is_copied,
                         const checkmap_bitmap *is_used)
{
    int status = checkmap_bitmap_union(monday, &tuesday, 1);
    if (status == 0) {
        status = checkmap_bitmap_subtract(monday, is_copied);
    }
    return status < 0 ? status : checkmap_bitmap_intersect(monday, is_used);
}

/* EXAMPLE checkmap_bitmap_complement */
/* What is not copied yet, of the granules of the whole disk; the bitmap of what is copied becomes that. */
static int64_t left_to_copy(checkmap_bitmap *is_copied)
{
    int status = checkmap_bitmap_complement(is_copied);
    return status < 0 ? status : checkmap_bitmap_count(is_copied);
}

/* EXAMPLE checkmap_bitmap_xor */
/* In how many granules two bitmaps of one granularity differ; the first one holds the difference then. */
static int64_t difference(checkmap_bitmap *a, const checkmap_bitmap *b)
{
    int status = checkmap_bitmap_xor(a, b);
    return status < 0 ? status : checkmap_bitmap_count(a);
}

/* EXAMPLE checkmap_bitmap_union_with */
/* Stops a union when the user asks for that. */
static int ask(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    fprintf(stderr, "%s: %" PRIu64 " of %" PRIu64 "\n", phase, done, total);
    return *(const int *)user_data;
}

static int unite(checkmap_bitmap *sum, const checkmap_bitmap *const *days, size_t n, int *stop)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.threads = 4;
    opts.progress = ask;
    opts.user_data = stop;
    return checkmap_bitmap_union_with(sum, days, n, &opts);
}

/* EXAMPLE checkmap_bitmap_subtract_with checkmap_bitmap_intersect_with checkmap_bitmap_xor_with */
/* What changed and is in use, but for the blocks that differ between two maps of a large disk, on four threads. */
static int keep(checkmap_bitmap *changed, const checkmap_bitmap *used, checkmap_bitmap *map, const checkmap_bitmap *other)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.threads = 4;
    int status = checkmap_bitmap_intersect_with(changed, used, &opts);
    if (status == 0)
        status = checkmap_bitmap_xor_with(map, other, &opts);
    return status < 0 ? status : checkmap_bitmap_subtract_with(changed, map, &opts);
}

/* EXAMPLE checkmap_bitmap_union_new checkmap_bitmap_union_new_with */
/* Unites bitmaps into a new one, in granules of 64 KiB, and with two threads where there are many. */
static int united(const checkmap_bitmap *const *days, size_t n, checkmap_bitmap **out)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.threads = 2;
    return n < 8 ? checkmap_bitmap_union_new(days, n, 65536, out)
                 : checkmap_bitmap_union_new_with(days, n, 65536, &opts, out);
}

/* EXAMPLE checkmap_bitmap_equal checkmap_bitmap_is_subset checkmap_bitmap_to_granularity */
/* Whether a backup copies all that it must, where the two count in different granules. */
static int covers(const checkmap_bitmap *must, const checkmap_bitmap *copies)
{
    checkmap_bitmap *coarse = NULL;
    int answer = checkmap_bitmap_equal(must, copies);
    if (answer == 0) {
        answer = checkmap_bitmap_to_granularity(must, checkmap_bitmap_granularity(copies), &coarse);
    }
    if (coarse != NULL) {
        answer = checkmap_bitmap_is_subset(coarse, copies);
    }
    checkmap_bitmap_free(coarse);
    return answer;
}

/* EXAMPLE checkmap_version checkmap_abi_version */
/* Whether the library that was found at run time knows all that this program was compiled with. */
static int is_new_enough(void)
{
    printf("checkmap %s\n", checkmap_version());
    return checkmap_abi_version() >= CHECKMAP_ABI_VERSION;
}

/* EXAMPLE checkmap_last_error checkmap_last_error_kind checkmap_last_error_errno checkmap_error_name checkmap_error_errno checkmap_last_error_marked */
/* Says what went wrong, with the name of its kind; the errno is the system's own where that gave one. */
static void complain(void)
{
    uint32_t kind = checkmap_last_error_kind();
    const char *name = checkmap_error_name(kind);
    fprintf(stderr, "%s [%s]", checkmap_last_error(), name ? name : "no kind");
    if (checkmap_last_error_errno() != checkmap_error_errno(kind)) {
        fprintf(stderr, " %s", strerror(checkmap_last_error_errno()));
    }
    /* In the marked message \036 and \037 stand around what each language calls by its own name. */
    if (strchr(checkmap_last_error_marked(), '\036') != NULL) {
        fputs(" (there is a way out)", stderr);
    }
    fputc('\n', stderr);
}
