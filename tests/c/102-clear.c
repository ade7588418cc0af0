/* Clearing never cleans a byte outside of its range. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(100 * KIB + 1, 4 * KIB);
    EQUAL(checkmap_bitmap_set_all(bitmap), 0);
    EQUAL(checkmap_bitmap_clear(bitmap, 4 * KIB, 8 * KIB), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 24);
    INVALID(checkmap_bitmap_clear(bitmap, 1, 4 * KIB));
    INVALID(checkmap_bitmap_clear(bitmap, 16 * KIB, 1));
    FAILS(checkmap_bitmap_clear(bitmap, 0, 200 * KIB), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    EQUAL(checkmap_bitmap_count(bitmap), 24);
    /* The end of the disk is fine as an end. */
    EQUAL(checkmap_bitmap_clear(bitmap, 96 * KIB, 4 * KIB + 1), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 22);
    EQUAL(checkmap_bitmap_clear(bitmap, 88 * KIB, CHECKMAP_TO_END), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 20);
    EQUAL(checkmap_bitmap_is_empty(bitmap), 0);
    EQUAL(checkmap_bitmap_clear_all(bitmap), 0);
    EQUAL(checkmap_bitmap_is_empty(bitmap), 1);
    checkmap_bitmap_free(bitmap);
    return 0;
}
