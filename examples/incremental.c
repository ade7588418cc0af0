/*
 * Prints what to copy for an incremental backup: the offset and the length of each changed range of an image's disk since
 * a checkpoint, until another one or until now.
 *
 *     cc incremental.c -o incremental $(pkg-config --cflags --libs checkmap)
 *     ./incremental vm.qcow2 monday | while read offset length; do ...; done
 */
#include <checkmap.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 4096 };

static int fail(const char *what)
{
    fprintf(stderr, "incremental: %s: %s\n", what, checkmap_last_error());
    return EXIT_FAILURE;
}

/* Shows on standard error how far a long call has come. */
static int progress(void *is_terminal, const char *phase, uint64_t done, uint64_t total)
{
    if (*(const int *)is_terminal) {
        fprintf(stderr, "\r%s: %" PRIu64 " of %" PRIu64 "%s", phase, done, total, done == total ? "\n" : "");
    }
    return 0;
}

static int print_extents(const checkmap_bitmap *changed)
{
    static struct checkmap_extent extents[BATCH];
    uint64_t offset = 0;
    int64_t count;
    do {
        count = checkmap_bitmap_extents(changed, offset, CHECKMAP_TO_END, extents, BATCH);
        if (count < 0) {
            return fail("cannot list the changes");
        }
        for (int64_t at = 0; at < count; at++) {
            printf("%" PRIu64 " %" PRIu64 "\n", extents[at].offset, extents[at].length);
            offset = extents[at].offset + extents[at].length;
        }
    } while (count == BATCH);
    if (fflush(stdout) != 0) {
        perror("incremental: standard output");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: incremental IMAGE SINCE [UNTIL]\n");
        return 2;
    }
    const char *path = argv[1], *since = argv[2], *until = argc > 3 ? argv[3] : NULL;

    checkmap_image *image = NULL;
    if (checkmap_image_open(path, strlen(path), CHECKMAP_OPEN_RDONLY, &image) < 0) {
        return fail("cannot open the image");
    }
    for (int64_t at = 0; at < checkmap_image_warnings(image); at++) {
        fprintf(stderr, "incremental: %s\n", checkmap_image_warning(image, (size_t)at));
    }

    int is_terminal = getenv("INCREMENTAL_PROGRESS") != NULL;
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.progress = progress;
    opts.user_data = &is_terminal;
    checkmap_bitmap *changed = NULL;
    int status = checkmap_diff_with(image, since, strlen(since), until, until ? strlen(until) : 0, 0, CHECKMAP_TO_END,
                                    &opts, &changed);
    /* Nothing below needs the image, and others may want its locks. */
    checkmap_image_close(image);
    if (status < 0) {
        if (checkmap_last_error_kind() == CHECKMAP_ERROR_NOT_FOUND) {
            fprintf(stderr, "incremental: without that checkpoint the backup must be full\n");
        }
        return fail("cannot tell what changed");
    }
    status = print_extents(changed);
    checkmap_bitmap_free(changed);
    return status;
}
