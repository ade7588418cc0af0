/* Many bitmaps make a new one, at the finest or at a given granularity. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmaps[64], *out = NULL;
    for (unsigned at = 0; at < 64; at++) {
        bitmaps[at] = bitmap_of(GIB, at % 2 ? 4 * KIB : 64 * KIB);
        EQUAL(checkmap_bitmap_set(bitmaps[at], at * MIB, 1), 0);
    }
    const checkmap_bitmap *const *sources = (const checkmap_bitmap *const *)bitmaps;
    EQUAL(checkmap_bitmap_union_new(sources, 64, 0, &out), 0);
    EQUAL(checkmap_bitmap_granularity(out), 4 * KIB);
    EQUAL(checkmap_bitmap_dirty_bytes(out), 32 * 4 * KIB + 32 * 64 * KIB);
    EQUAL(checkmap_bitmap_validate(out), 0);
    checkmap_bitmap_free(out);
    EQUAL(checkmap_bitmap_union_new(sources, 64, MIB, &out), 0);
    EQUAL(checkmap_bitmap_count(out), 64);
    EQUAL(checkmap_bitmap_count_extents(out), 1);
    checkmap_bitmap_free(out);
    INVALID(checkmap_bitmap_union_new(sources, 64, 3, &out));
    INVALID(checkmap_bitmap_union_new(sources, 0, 0, &out));
    for (unsigned at = 0; at < 64; at++) {
        checkmap_bitmap_free(bitmaps[at]);
    }
    return 0;
}
