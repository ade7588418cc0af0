/* Owns the examples of the manual pages about segments: each stands below the names of the calls that it is for. */
#include <checkmap.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* EXAMPLE checkmap_segment_write checkmap_segment_write_fd checkmap_segment_get_info */
/* Keeps a bitmap in a file, or sends it through a pipe where there is no path. */
static int keep(const checkmap_bitmap *bitmap, const char *path, int fd)
{
    struct checkmap_segment_info info = CHECKMAP_SEGMENT_INFO_INIT;
    int status = path ? checkmap_segment_write(bitmap, path, strlen(path), &info)
                      : checkmap_segment_write_fd(bitmap, fd, &info);
    if (status == 0) {
        printf("%" PRIu64 " bytes\n", info.file_bytes);
    }
    return status;
}

/* The same facts of a segment that is open. */
static int facts(const checkmap_segment *segment, struct checkmap_segment_info *info)
{
    info->size = sizeof *info;
    return checkmap_segment_get_info(segment, info);
}

/* EXAMPLE checkmap_segment_open checkmap_segment_close checkmap_segment_open_fd checkmap_segment_count checkmap_segment_dirty_bytes checkmap_segment_heap_bytes */
/* Says how much is dirty in a segment, from a path or from a descriptor that is open. */
static int64_t how_much(const char *path, int fd)
{
    checkmap_segment *segment = NULL;
    int64_t answer = path ? checkmap_segment_open(path, strlen(path), &segment)
                          : checkmap_segment_open_fd(fd, &segment);
    if (answer == 0) {
        printf("%" PRId64 " granules, %" PRId64 " bytes of memory\n", checkmap_segment_count(segment),
               checkmap_segment_heap_bytes(segment));
        answer = checkmap_segment_dirty_bytes(segment);
    }
    checkmap_segment_close(segment);
    return answer;
}

/* EXAMPLE checkmap_segment_get checkmap_segment_count_range checkmap_segment_next_dirty checkmap_segment_next_clean */
/* Where the first dirty range at or behind an offset ends. */
static int64_t end_of_range(const checkmap_segment *segment, uint64_t offset)
{
    int64_t dirty = (int64_t)offset;
    int is_dirty = checkmap_segment_get(segment, offset);
    if (is_dirty < 0) {
        return is_dirty;
    }
    if (is_dirty == 0) {
        dirty = checkmap_segment_next_dirty(segment, offset, CHECKMAP_TO_END);
    }
    if (dirty < 0) {
        return dirty;
    }
    printf("%" PRId64 " granules follow\n", checkmap_segment_count_range(segment, (uint64_t)dirty, CHECKMAP_TO_END));
    return checkmap_segment_next_clean(segment, (uint64_t)dirty, CHECKMAP_TO_END);
}

/* EXAMPLE checkmap_segment_previous_dirty checkmap_segment_previous_clean */
/* Finds the last dirty range: where it begins and ends. */
static int64_t last_range(const checkmap_segment *segment, int64_t *begin)
{
    int64_t last = checkmap_segment_previous_dirty(segment, 0, CHECKMAP_TO_END), clean;
    if (last < 0) {
        return last;
    }
    clean = checkmap_segment_previous_clean(segment, 0, (uint64_t)last);
    if (clean < -1) {
        return clean;
    }
    *begin = clean + 1;
    return last + 1;
}

/* EXAMPLE checkmap_segment_rank checkmap_segment_select */
/* Cuts the disk where half of what is to be copied comes before. */
static int64_t middle(const checkmap_segment *segment)
{
    int64_t all = checkmap_segment_rank(segment, UINT64_MAX);
    return all < 0 ? all : checkmap_segment_select(segment, (uint64_t)all / 2);
}

/* EXAMPLE checkmap_segment_extents checkmap_segment_diff */
/* Shows where two segments differ; with one alone, where it is dirty. */
static int64_t compare(const checkmap_segment *first, const checkmap_segment *second)
{
    struct checkmap_extent extents[256];
    uint64_t from = 0;
    int64_t count = 256, at;
    while (count == 256) {
        count = second ? checkmap_segment_diff(first, second, from, CHECKMAP_TO_END, extents, 256)
                       : checkmap_segment_extents(first, from, CHECKMAP_TO_END, extents, 256);
        for (at = 0; at < count; at++) {
            const char *where = extents[at].flags & CHECKMAP_EXTENT_ONLY_IN_SECOND ? "second" : "first";
            printf("%s: %" PRIu64 " + %" PRIu64 "\n", where, extents[at].offset, extents[at].length);
            from = extents[at].offset + extents[at].length;
        }
    }
    return count;
}

/* EXAMPLE checkmap_segment_load checkmap_segment_check */
/* Takes a part of a segment into memory, after all of the file was verified. */
static int load(const checkmap_segment *segment, checkmap_bitmap **out)
{
    checkmap_report *report = NULL;
    int status = checkmap_segment_check(segment, NULL, &report);
    if (status == 0 && checkmap_report_errors(report) > 0) {
        status = -EBADMSG;
    }
    checkmap_report_free(report);
    return status < 0 ? status : checkmap_segment_load(segment, 0, (uint64_t)1 << 40, out);
}

/* EXAMPLE checkmap_segment_merge checkmap_segment_merge_info */
/* Unites a week of segments into one file, in 32 MiB of memory, if that is no larger than is allowed. */
static int unite(const checkmap_segment *const *days, size_t n, const char *path, uint64_t most)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    struct checkmap_segment_info info = CHECKMAP_SEGMENT_INFO_INIT;
    int status;
    opts.memory_bytes = (uint64_t)32 << 20;
    opts.threads = 2;
    status = checkmap_segment_merge_info(days, n, &opts, &info);
    if (status == 0 && info.file_bytes > most) {
        return -EFBIG;
    }
    return status < 0 ? status : checkmap_segment_merge(days, n, path, strlen(path), &opts, NULL);
}
