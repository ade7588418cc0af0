/* The last dirty or clean byte of a range, the place of a number, and what is clean. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(10 * KIB + 1, KIB);
    EQUAL(checkmap_bitmap_previous_dirty(bitmap, 0, CHECKMAP_TO_END), -1);
    EQUAL(checkmap_bitmap_previous_clean(bitmap, 0, CHECKMAP_TO_END), 10 * KIB);
    EQUAL(checkmap_bitmap_set(bitmap, 4 * KIB, 2 * KIB), 0);
    EQUAL(checkmap_bitmap_previous_dirty(bitmap, 0, CHECKMAP_TO_END), 6 * KIB - 1);
    EQUAL(checkmap_bitmap_previous_dirty(bitmap, 0, 5 * KIB), 5 * KIB - 1);
    EQUAL(checkmap_bitmap_previous_clean(bitmap, 0, 5 * KIB), 4 * KIB - 1);
    EQUAL(checkmap_bitmap_previous_clean(bitmap, 4 * KIB, KIB), -1);
    EQUAL(checkmap_bitmap_previous_dirty(bitmap, 6 * KIB, CHECKMAP_TO_END), -1);
    EQUAL(checkmap_bitmap_previous_dirty(bitmap, UINT64_MAX, 1), -1);

    EQUAL(checkmap_bitmap_rank(bitmap, 5 * KIB), 1);
    EQUAL(checkmap_bitmap_rank(bitmap, UINT64_MAX), 2);
    EQUAL(checkmap_bitmap_select(bitmap, 1), 5 * KIB);
    EQUAL(checkmap_bitmap_select(bitmap, 2), -1);
    EQUAL(checkmap_bitmap_complement(bitmap), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 9);
    EQUAL(checkmap_bitmap_dirty_bytes(bitmap), 8 * KIB + 1);
    checkmap_bitmap_free(bitmap);
    return 0;
}
