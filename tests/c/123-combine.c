/* Intersection, difference, exclusive or, containment. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *a = bitmap_of(MIB, KIB), *b = bitmap_of(MIB, KIB), *out = NULL;
    EQUAL(checkmap_bitmap_set(a, 0, 10 * KIB), 0);
    EQUAL(checkmap_bitmap_set(b, 5 * KIB, 10 * KIB), 0);
    EQUAL(checkmap_bitmap_clone(a, &out), 0);
    EQUAL(checkmap_bitmap_intersect(out, b), 0);
    EQUAL(checkmap_bitmap_count(out), 5);
    EQUAL(checkmap_bitmap_is_subset(out, a), 1);
    EQUAL(checkmap_bitmap_is_subset(a, out), 0);
    EQUAL(checkmap_bitmap_xor(out, a), 0);
    EQUAL(checkmap_bitmap_next_dirty(out, 0, CHECKMAP_TO_END), 0);
    EQUAL(checkmap_bitmap_count(out), 5);
    EQUAL(checkmap_bitmap_subtract(a, b), 0);
    EQUAL(checkmap_bitmap_equal(a, out), 1);
    /* On threads. */
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.threads = 2;
    EQUAL(checkmap_bitmap_xor_with(out, b, &opts), 0);
    EQUAL(checkmap_bitmap_count(out), 15);
    EQUAL(checkmap_bitmap_subtract_with(out, a, &opts), 0);
    EQUAL(checkmap_bitmap_intersect_with(out, b, NULL), 0);
    EQUAL(checkmap_bitmap_equal(out, b), 1);
    /* With itself. */
    EQUAL(checkmap_bitmap_intersect(b, b), 0);
    EQUAL(checkmap_bitmap_count(b), 10);
    EQUAL(checkmap_bitmap_equal(b, b), 1);
    EQUAL(checkmap_bitmap_subtract(b, b), 0);
    EQUAL(checkmap_bitmap_count(b), 0);
    EQUAL(checkmap_bitmap_xor(a, a), 0);
    EQUAL(checkmap_bitmap_count(a), 0);
    checkmap_bitmap_free(a);
    checkmap_bitmap_free(b);
    checkmap_bitmap_free(out);
    return 0;
}
