/* A disk shrinks and grows. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(10 * KIB + 1, KIB);
    EQUAL(checkmap_bitmap_set_all(bitmap), 0);
    EQUAL(checkmap_bitmap_resize(bitmap, 5 * KIB + 1), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 6);
    EQUAL(checkmap_bitmap_resize(bitmap, 20 * KIB), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 6);
    EQUAL(checkmap_bitmap_dirty_bytes(bitmap), 6 * KIB);
    INVALID(checkmap_bitmap_resize(bitmap, UINT64_MAX));
    INVALID(checkmap_bitmap_resize(bitmap, INT64_MAX));
    EQUAL(checkmap_bitmap_size(bitmap), 20 * KIB);
    EQUAL(checkmap_bitmap_resize(bitmap, 0), 0);
    EQUAL(checkmap_bitmap_is_empty(bitmap), 1);
    EQUAL(checkmap_bitmap_validate(bitmap), 0);
    checkmap_bitmap_free(bitmap);
    return 0;
}
