/* Granules that touch a range are counted. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(10 * KIB + 1, KIB);
    EQUAL(checkmap_bitmap_set_all(bitmap), 0);
    EQUAL(checkmap_bitmap_count_range(bitmap, 0, CHECKMAP_TO_END), 11);
    EQUAL(checkmap_bitmap_count_range(bitmap, 1023, 2), 2);
    EQUAL(checkmap_bitmap_count_range(bitmap, 1024, 1024), 1);
    EQUAL(checkmap_bitmap_count_range(bitmap, 10 * KIB, CHECKMAP_TO_END), 1);
    EQUAL(checkmap_bitmap_count_range(bitmap, 10 * KIB + 1, CHECKMAP_TO_END), 0);
    EQUAL(checkmap_bitmap_count_range(bitmap, UINT64_MAX, UINT64_MAX), 0);
    EQUAL(checkmap_bitmap_count_range(bitmap, 0, 0), 0);
    checkmap_bitmap_free(bitmap);
    return 0;
}
