/* Extents come in batches, cut at the edges of the range. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(MIB + 5, KIB);
    for (uint64_t at = 0; at < MIB; at += 8 * KIB) {
        EQUAL(checkmap_bitmap_set(bitmap, at, 2 * KIB), 0);
    }
    EQUAL(checkmap_bitmap_set(bitmap, MIB, 1), 0);
    EQUAL(checkmap_bitmap_count_extents(bitmap), 129);
    struct checkmap_extent extents[10];
    uint64_t offset = 0, seen = 0, bytes = 0;
    for (;;) {
        memset(extents, 0xee, sizeof extents);
        int64_t got = checkmap_bitmap_extents(bitmap, offset, CHECKMAP_TO_END, extents, 10);
        CHECK(got >= 0 && got <= 10);
        for (int64_t at = 0; at < got; at++) {
            EQUAL(extents[at].flags, CHECKMAP_EXTENT_DIRTY);
            EQUAL(extents[at].reserved, 0);
            CHECK(extents[at].offset >= offset && extents[at].length > 0);
            offset = extents[at].offset + extents[at].length;
            bytes += extents[at].length;
            seen++;
        }
        if (got < 10) {
            break;
        }
    }
    EQUAL(seen, 129);
    EQUAL(bytes, 128 * 2 * KIB + 5);
    EQUAL(bytes, checkmap_bitmap_dirty_bytes(bitmap));
    EQUAL(checkmap_bitmap_extents(bitmap, 1000, 100, extents, 10), 1);
    CHECK(extents[0].offset == 1000 && extents[0].length == 100);
    EQUAL(checkmap_bitmap_extents(bitmap, UINT64_MAX, UINT64_MAX, extents, 10), 0);
    EQUAL(checkmap_bitmap_extents(bitmap, 0, 0, extents, 10), 0);
    INVALID(checkmap_bitmap_extents(bitmap, 0, 1, extents, 0));
    INVALID(checkmap_bitmap_extents(bitmap, 0, 1, NULL, 10));
    INVALID(checkmap_bitmap_extents(bitmap, 0, 1, extents, SIZE_MAX));
    checkmap_bitmap_free(bitmap);
    return 0;
}
