/* Bitmaps are united into one of them, which may be among the sources. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *fine = bitmap_of(MIB, KIB), *coarse = bitmap_of(MIB, 64 * KIB);
    EQUAL(checkmap_bitmap_set(fine, 100 * KIB, 1), 0);
    EQUAL(checkmap_bitmap_set(coarse, 0, 1), 0);
    const checkmap_bitmap *sources[] = {fine, coarse, fine};
    EQUAL(checkmap_bitmap_union(coarse, sources, 3), 0);
    EQUAL(checkmap_bitmap_count(coarse), 2);
    EQUAL(checkmap_bitmap_granularity(coarse), 64 * KIB);
    EQUAL(checkmap_bitmap_union(fine, sources + 1, 1), 0);
    EQUAL(checkmap_bitmap_count(fine), 128);
    EQUAL(checkmap_bitmap_granularity(fine), KIB);
    /* With itself alone, and with nothing. */
    EQUAL(checkmap_bitmap_union(fine, sources, 1), 0);
    EQUAL(checkmap_bitmap_union(fine, NULL, 0), 0);
    EQUAL(checkmap_bitmap_count(fine), 128);
    INVALID(checkmap_bitmap_union(fine, sources, SIZE_MAX));
    INVALID(checkmap_bitmap_union(fine, NULL, 1));
    checkmap_bitmap_free(fine);
    checkmap_bitmap_free(coarse);
    return 0;
}
