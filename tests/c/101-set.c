/* Marking rounds outward, and refuses what ends past the last granule. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(100 * KIB + 1, 4 * KIB);
    EQUAL(checkmap_bitmap_granules(bitmap), 26);
    EQUAL(checkmap_bitmap_set(bitmap, 4095, 2), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 2);
    EQUAL(checkmap_bitmap_set(bitmap, 50, 0), 0);
    EQUAL(checkmap_bitmap_set(bitmap, UINT64_MAX, 0), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 2);
    /* Past the disk, inside its last granule. */
    EQUAL(checkmap_bitmap_set(bitmap, 100 * KIB + 2, 10), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 3);
    EQUAL(checkmap_bitmap_dirty_bytes(bitmap), 2 * 4096 + 1);
    FAILS(checkmap_bitmap_set(bitmap, 0, 104 * KIB + 1), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    FAILS(checkmap_bitmap_set(bitmap, UINT64_MAX, 1), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    FAILS(checkmap_bitmap_set(bitmap, UINT64_MAX - 1, UINT64_MAX - 1), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    FAILS(checkmap_bitmap_set(bitmap, 200 * KIB, CHECKMAP_TO_END), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    EQUAL(checkmap_bitmap_count(bitmap), 3);
    EQUAL(checkmap_bitmap_set(bitmap, 0, CHECKMAP_TO_END), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 26);
    checkmap_bitmap_free(bitmap);
    return 0;
}
