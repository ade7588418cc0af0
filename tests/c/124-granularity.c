/* Between granularities every doubt rounds outward. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *fine = bitmap_of(MIB, KIB), *coarse = NULL, *back = NULL;
    EQUAL(checkmap_bitmap_set(fine, 5 * KIB, KIB), 0);
    EQUAL(checkmap_bitmap_to_granularity(fine, 4 * KIB, &coarse), 0);
    EQUAL(checkmap_bitmap_count(coarse), 1);
    EQUAL(checkmap_bitmap_to_granularity(coarse, KIB, &back), 0);
    EQUAL(checkmap_bitmap_count(back), 4);
    EQUAL(checkmap_bitmap_is_subset(fine, back), 1);
    /* A coarse granule goes only where all of it is covered, and stays where any of it is wanted. */
    EQUAL(checkmap_bitmap_subtract(coarse, fine), 0);
    EQUAL(checkmap_bitmap_count(coarse), 1);
    EQUAL(checkmap_bitmap_intersect(coarse, fine), 0);
    EQUAL(checkmap_bitmap_count(coarse), 1);
    EQUAL(checkmap_bitmap_subtract(coarse, back), 0);
    EQUAL(checkmap_bitmap_count(coarse), 0);
    FAILS(checkmap_bitmap_xor(coarse, fine), EINVAL, CHECKMAP_ERROR_INVALID_ARGUMENT);
    checkmap_bitmap *out = coarse;
    INVALID(checkmap_bitmap_to_granularity(fine, 0, &out));
    CHECK(out == NULL);
    checkmap_bitmap_free(fine);
    checkmap_bitmap_free(coarse);
    checkmap_bitmap_free(back);
    return 0;
}
