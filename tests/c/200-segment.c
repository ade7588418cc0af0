/* A bitmap goes into a file and answers from there. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(10 * GIB + 1, 4 * KIB), *back = NULL;
    for (uint64_t at = 0; at < 10 * GIB; at += 37 * MIB + 4 * KIB) {
        EQUAL(checkmap_bitmap_set(bitmap, at, 12 * KIB), 0);
    }
    EQUAL(checkmap_bitmap_set(bitmap, 10 * GIB, 1), 0);
    struct checkmap_segment_info info = CHECKMAP_SEGMENT_INFO_INIT, read = CHECKMAP_SEGMENT_INFO_INIT;
    EQUAL(checkmap_segment_write(bitmap, TEXT("segment"), &info), 0);
    EQUAL(info.disk_size, 10 * GIB + 1);
    EQUAL(info.granularity, 4 * KIB);
    EQUAL(info.dirty_granules, checkmap_bitmap_count(bitmap));
    EQUAL(info.extents, checkmap_bitmap_count_extents(bitmap));
    struct stat file;
    CHECK(stat("segment", &file) == 0);
    EQUAL(info.file_bytes, file.st_size);

    checkmap_segment *segment = NULL;
    EQUAL(checkmap_segment_open(TEXT("segment"), &segment), 0);
    EQUAL(checkmap_segment_get_info(segment, &read), 0);
    CHECK(memcmp(&info, &read, sizeof info) == 0);
    EQUAL(checkmap_segment_count(segment), checkmap_bitmap_count(bitmap));
    EQUAL(checkmap_segment_dirty_bytes(segment), checkmap_bitmap_dirty_bytes(bitmap));
    EQUAL(checkmap_segment_get(segment, 10 * GIB), 1);
    FAILS(checkmap_segment_get(segment, UINT64_MAX), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    for (uint64_t at = 0; at < 10 * GIB; at += 777 * MIB) {
        EQUAL(checkmap_segment_next_dirty(segment, at, CHECKMAP_TO_END),
              checkmap_bitmap_next_dirty(bitmap, at, CHECKMAP_TO_END));
        EQUAL(checkmap_segment_next_clean(segment, at, MIB), checkmap_bitmap_next_clean(bitmap, at, MIB));
        EQUAL(checkmap_segment_previous_dirty(segment, 0, at), checkmap_bitmap_previous_dirty(bitmap, 0, at));
        EQUAL(checkmap_segment_previous_clean(segment, 0, at), checkmap_bitmap_previous_clean(bitmap, 0, at));
        EQUAL(checkmap_segment_rank(segment, at), checkmap_bitmap_rank(bitmap, at));
        EQUAL(checkmap_segment_select(segment, at / MIB), checkmap_bitmap_select(bitmap, at / MIB));
        EQUAL(checkmap_segment_count_range(segment, at, GIB), checkmap_bitmap_count_range(bitmap, at, GIB));
    }
    CHECK(checkmap_segment_heap_bytes(segment) > 0);
    struct checkmap_extent ours[8], theirs[8];
    EQUAL(checkmap_segment_extents(segment, GIB, CHECKMAP_TO_END, ours, 8), 8);
    EQUAL(checkmap_bitmap_extents(bitmap, GIB, CHECKMAP_TO_END, theirs, 8), 8);
    CHECK(memcmp(ours, theirs, sizeof ours) == 0);
    INVALID(checkmap_segment_extents(segment, 0, 1, ours, 0));
    EQUAL(checkmap_segment_load(segment, 0, CHECKMAP_TO_END, &back), 0);
    EQUAL(checkmap_bitmap_equal(back, bitmap), 1);
    checkmap_bitmap_free(back);
    EQUAL(checkmap_segment_load(segment, 0, GIB, &back), 0);
    EQUAL(checkmap_bitmap_count(back), checkmap_bitmap_count_range(bitmap, 0, GIB));
    checkmap_bitmap_free(back);
    checkmap_segment_close(segment);
    checkmap_bitmap_free(bitmap);
    return 0;
}
