/* Many segments become one, on threads or without, in the memory that was given. */
#include "check.h"

int main(void)
{
    checkmap_segment *segments[8];
    checkmap_bitmap *all = bitmap_of(GIB, 4 * KIB), *back = NULL;
    for (unsigned n = 0; n < 8; n++) {
        checkmap_bitmap *bitmap = bitmap_of(GIB, n % 2 ? 4 * KIB : 64 * KIB);
        for (uint64_t at = n * 4 * KIB; at < GIB; at += (n + 1) * 513 * KIB) {
            EQUAL(checkmap_bitmap_set(bitmap, at, 1), 0);
        }
        const checkmap_bitmap *sources[] = {bitmap};
        EQUAL(checkmap_bitmap_union(all, sources, 1), 0);
        char name[32];
        snprintf(name, sizeof name, "segment%u", n);
        EQUAL(checkmap_segment_write(bitmap, TEXT(name), NULL), 0);
        EQUAL(checkmap_segment_open(TEXT(name), &segments[n]), 0);
        checkmap_bitmap_free(bitmap);
    }
    const checkmap_segment *const *sources = (const checkmap_segment *const *)segments;
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    for (unsigned threads = 0; threads < 4; threads++) {
        struct checkmap_segment_info info = CHECKMAP_SEGMENT_INFO_INIT, counted = CHECKMAP_SEGMENT_INFO_INIT;
        opts.threads = threads;
        EQUAL(checkmap_segment_merge(sources, 8, TEXT("merged"), &opts, &info), 0);
        EQUAL(checkmap_segment_merge_info(sources, 8, &opts, &counted), 0);
        CHECK(memcmp(&info, &counted, sizeof info) == 0);
        EQUAL(info.dirty_granules, checkmap_bitmap_count(all));
        checkmap_segment *merged = NULL;
        EQUAL(checkmap_segment_open(TEXT("merged"), &merged), 0);
        EQUAL(checkmap_segment_load(merged, 0, CHECKMAP_TO_END, &back), 0);
        EQUAL(checkmap_bitmap_equal(back, all), 1);
        checkmap_bitmap_free(back);
        checkmap_segment_close(merged);
    }
    opts.memory_bytes = 1;
    INVALID(checkmap_segment_merge(sources, 8, TEXT("merged"), &opts, NULL));
    INVALID(checkmap_segment_merge(sources, 0, TEXT("merged"), NULL, NULL));
    for (unsigned n = 0; n < 8; n++) {
        checkmap_segment_close(segments[n]);
    }
    checkmap_bitmap_free(all);
    return 0;
}
