/* A disk of petabytes costs no more than what is dirty on it. */
#include "check.h"

int main(void)
{
    const uint64_t disk = 4096 * TIB;
    checkmap_bitmap *bitmap = bitmap_of(disk, 4 * KIB);
    EQUAL(checkmap_bitmap_set_all(bitmap), 0);
    EQUAL(checkmap_bitmap_count(bitmap), disk / (4 * KIB));
    CHECK(checkmap_bitmap_heap_bytes(bitmap) < 4096);
    struct checkmap_extent extents[2];
    EQUAL(checkmap_bitmap_extents(bitmap, 0, CHECKMAP_TO_END, extents, 2), 1);
    CHECK(extents[0].offset == 0 && extents[0].length == disk);
    EQUAL(checkmap_bitmap_clear(bitmap, disk / 2, 4 * KIB), 0);
    EQUAL(checkmap_bitmap_extents(bitmap, 0, CHECKMAP_TO_END, extents, 2), 2);
    EQUAL(checkmap_bitmap_next_clean(bitmap, 0, CHECKMAP_TO_END), disk / 2);
    EQUAL(checkmap_bitmap_previous_clean(bitmap, 0, CHECKMAP_TO_END), disk / 2 + 4 * KIB - 1);
    checkmap_bitmap_free(bitmap);
    return 0;
}
