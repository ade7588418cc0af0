/* A call with threads leaves none behind. */
#include "check.h"
#include <dirent.h>

static unsigned threads(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/task");
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    closedir(folder);
    return count;
}

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(GIB, 4 * KIB), *out = NULL;
    checkmap_segment *segment = NULL;
    EQUAL(checkmap_bitmap_set(bitmap, 0, GIB / 2), 0);
    EQUAL(checkmap_segment_write(bitmap, TEXT("segment"), NULL), 0);
    EQUAL(checkmap_segment_open(TEXT("segment"), &segment), 0);
    const checkmap_segment *segments[] = {segment, segment, segment};
    const checkmap_bitmap *bitmaps[] = {bitmap, bitmap, bitmap};
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.threads = 4;
    EQUAL(checkmap_segment_merge(segments, 3, TEXT("merged"), &opts, NULL), 0);
    EQUAL(checkmap_bitmap_union_new_with(bitmaps, 3, 0, &opts, &out), 0);
    checkmap_bitmap_free(out);
    checkmap_segment_close(segment);
    checkmap_bitmap_free(bitmap);
    /* The kernel forgets a thread a little after it was joined. */
    for (int wait = 0; threads() > 1 && wait < 1000; wait++) {
        usleep(1000);
    }
    EQUAL(threads(), 1);
    return 0;
}
