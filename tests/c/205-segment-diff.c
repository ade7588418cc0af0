/* Where two segments differ, and which of them is dirty there. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *first = bitmap_of(MIB, KIB), *second = bitmap_of(MIB, 4 * KIB);
    checkmap_segment *a = NULL, *b = NULL;
    EQUAL(checkmap_bitmap_set(first, 0, 6 * KIB), 0);
    EQUAL(checkmap_bitmap_set(second, 4 * KIB, 4 * KIB), 0);
    EQUAL(checkmap_segment_write(first, TEXT("a"), NULL), 0);
    EQUAL(checkmap_segment_write(second, TEXT("b"), NULL), 0);
    EQUAL(checkmap_segment_open(TEXT("a"), &a), 0);
    EQUAL(checkmap_segment_open(TEXT("b"), &b), 0);
    struct checkmap_extent extents[4];
    EQUAL(checkmap_segment_diff(a, b, 0, CHECKMAP_TO_END, extents, 4), 2);
    CHECK(extents[0].offset == 0 && extents[0].length == 4 * KIB);
    EQUAL(extents[0].flags, CHECKMAP_EXTENT_ONLY_IN_FIRST);
    CHECK(extents[1].offset == 6 * KIB && extents[1].length == 2 * KIB);
    EQUAL(extents[1].flags, CHECKMAP_EXTENT_ONLY_IN_SECOND);
    EQUAL(checkmap_segment_diff(a, a, 0, CHECKMAP_TO_END, extents, 4), 0);
    checkmap_segment_close(a);
    checkmap_segment_close(b);
    checkmap_bitmap_free(first);
    checkmap_bitmap_free(second);
    return 0;
}
