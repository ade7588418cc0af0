/* A single byte is asked for by its offset. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(10 * KIB, KIB);
    EQUAL(checkmap_bitmap_set(bitmap, 5 * KIB, 1), 0);
    EQUAL(checkmap_bitmap_get(bitmap, 5 * KIB - 1), 0);
    EQUAL(checkmap_bitmap_get(bitmap, 5 * KIB), 1);
    EQUAL(checkmap_bitmap_get(bitmap, 6 * KIB - 1), 1);
    EQUAL(checkmap_bitmap_get(bitmap, 6 * KIB), 0);
    FAILS(checkmap_bitmap_get(bitmap, 10 * KIB), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    FAILS(checkmap_bitmap_get(bitmap, UINT64_MAX), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    checkmap_bitmap_free(bitmap);
    return 0;
}
