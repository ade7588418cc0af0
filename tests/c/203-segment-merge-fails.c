/* A merge that is stopped or fails leaves what was there, and nothing beside it. */
#include "check.h"
#include <dirent.h>

static int stop(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    (void)user_data, (void)phase, (void)done, (void)total;
    return 1;
}

static unsigned files(void)
{
    unsigned count = 0;
    DIR *folder = opendir(".");
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(MIB, KIB), *other = bitmap_of(2 * MIB, KIB);
    checkmap_segment *a = NULL, *b = NULL;
    EQUAL(checkmap_bitmap_set(bitmap, 0, 1), 0);
    EQUAL(checkmap_segment_write(bitmap, TEXT("a"), NULL), 0);
    EQUAL(checkmap_segment_write(other, TEXT("b"), NULL), 0);
    EQUAL(checkmap_segment_open(TEXT("a"), &a), 0);
    EQUAL(checkmap_segment_open(TEXT("b"), &b), 0);
    unsigned before = files();
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.progress = stop;
    const checkmap_segment *sources[] = {a, a, b};
    FAILS(checkmap_segment_merge(sources, 2, TEXT("a"), &opts, NULL), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    FAILS(checkmap_segment_merge(sources, 3, TEXT("a"), NULL, NULL), EINVAL, CHECKMAP_ERROR_SIZE_MISMATCH);
    EQUAL(checkmap_segment_merge(sources, 2, TEXT("no/such/folder"), NULL, NULL), -ENOENT);
    CHECK(checkmap_segment_write(bitmap, TEXT("."), NULL) < 0);
    EQUAL(files(), before);
    checkmap_segment *again = NULL;
    EQUAL(checkmap_segment_open(TEXT("a"), &again), 0);
    EQUAL(checkmap_segment_count(again), 1);
    checkmap_segment_close(again);
    checkmap_segment_close(a);
    checkmap_segment_close(b);
    checkmap_bitmap_free(bitmap);
    checkmap_bitmap_free(other);
    return 0;
}
