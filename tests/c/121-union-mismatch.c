/* Disks of different size are refused before anything changes. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *a = bitmap_of(MIB, KIB), *b = bitmap_of(MIB, KIB), *c = bitmap_of(MIB + 1, KIB), *out = a;
    EQUAL(checkmap_bitmap_set(b, 0, 1), 0);
    const checkmap_bitmap *sources[] = {b, c, NULL};
    FAILS(checkmap_bitmap_union(a, sources, 2), EINVAL, CHECKMAP_ERROR_SIZE_MISMATCH);
    EQUAL(checkmap_bitmap_is_empty(a), 1);
    FAILS(checkmap_bitmap_union_new(sources, 2, 0, &out), EINVAL, CHECKMAP_ERROR_SIZE_MISMATCH);
    CHECK(out == NULL);
    FAILS(checkmap_bitmap_intersect(a, c), EINVAL, CHECKMAP_ERROR_SIZE_MISMATCH);
    FAILS(checkmap_bitmap_subtract(a, c), EINVAL, CHECKMAP_ERROR_SIZE_MISMATCH);
    FAILS(checkmap_bitmap_xor(a, c), EINVAL, CHECKMAP_ERROR_SIZE_MISMATCH);
    FAILS(checkmap_bitmap_is_subset(a, c), EINVAL, CHECKMAP_ERROR_SIZE_MISMATCH);
    EQUAL(checkmap_bitmap_equal(a, c), 0);
    sources[1] = NULL;
    INVALID(checkmap_bitmap_union(a, sources, 2));
    EQUAL(checkmap_bitmap_is_empty(a), 1);
    checkmap_bitmap_free(a);
    checkmap_bitmap_free(b);
    checkmap_bitmap_free(c);
    return 0;
}
