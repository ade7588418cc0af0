/* The next dirty or clean byte, -1 for none. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(10 * KIB, KIB);
    EQUAL(checkmap_bitmap_next_dirty(bitmap, 0, CHECKMAP_TO_END), -1);
    EQUAL(checkmap_bitmap_set(bitmap, 4 * KIB, 2 * KIB), 0);
    EQUAL(checkmap_bitmap_next_dirty(bitmap, 0, CHECKMAP_TO_END), 4 * KIB);
    EQUAL(checkmap_bitmap_next_dirty(bitmap, 0, 4 * KIB), -1);
    EQUAL(checkmap_bitmap_next_dirty(bitmap, 0, 4 * KIB + 1), 4 * KIB);
    /* A dirty start is returned as given. */
    EQUAL(checkmap_bitmap_next_dirty(bitmap, 4 * KIB + 7, CHECKMAP_TO_END), 4 * KIB + 7);
    EQUAL(checkmap_bitmap_next_dirty(bitmap, 6 * KIB, CHECKMAP_TO_END), -1);
    EQUAL(checkmap_bitmap_next_clean(bitmap, 4 * KIB + 7, CHECKMAP_TO_END), 6 * KIB);
    EQUAL(checkmap_bitmap_next_clean(bitmap, 4 * KIB + 7, KIB), -1);
    EQUAL(checkmap_bitmap_next_clean(bitmap, 3, 5), 3);
    EQUAL(checkmap_bitmap_next_clean(bitmap, 10 * KIB, CHECKMAP_TO_END), -1);
    EQUAL(checkmap_bitmap_next_dirty(bitmap, UINT64_MAX, UINT64_MAX), -1);
    EQUAL(checkmap_bitmap_next_dirty(bitmap, 0, 0), -1);
    checkmap_bitmap_free(bitmap);
    return 0;
}
