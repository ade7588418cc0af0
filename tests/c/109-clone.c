/* A copy lives by itself. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(GIB, 4 * KIB), *copy = NULL;
    EQUAL(checkmap_bitmap_set(bitmap, 12345, 99999), 0);
    EQUAL(checkmap_bitmap_clone(bitmap, &copy), 0);
    EQUAL(checkmap_bitmap_equal(bitmap, copy), 1);
    EQUAL(checkmap_bitmap_set(bitmap, GIB - 1, 1), 0);
    EQUAL(checkmap_bitmap_equal(bitmap, copy), 0);
    EQUAL(checkmap_bitmap_get(copy, GIB - 1), 0);
    checkmap_bitmap_free(bitmap);
    EQUAL(checkmap_bitmap_validate(copy), 0);
    EQUAL(checkmap_bitmap_optimize(copy), 0);
    CHECK(checkmap_bitmap_heap_bytes(copy) > 0);
    checkmap_bitmap_free(copy);
    return 0;
}
