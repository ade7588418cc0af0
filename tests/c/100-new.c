/* Which disks and granularities can be. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap;
    for (uint64_t granularity = 1; granularity <= (uint64_t)1 << 31; granularity *= 2) {
        bitmap = bitmap_of(granularity * 10 + 1, granularity);
        EQUAL(checkmap_bitmap_granularity(bitmap), granularity);
        EQUAL(checkmap_bitmap_size(bitmap), granularity * 10 + 1);
        EQUAL(checkmap_bitmap_granules(bitmap), granularity == 1 ? 11 : 11);
        checkmap_bitmap_free(bitmap);
    }
    const uint64_t bad[] = {0, 3, 65535, (uint64_t)1 << 32, UINT64_MAX};
    for (int at = 0; at < 5; at++) {
        INVALID(checkmap_bitmap_new(MIB, bad[at], &bitmap));
    }
    bitmap = bitmap_of((uint64_t)1 << 41, 1);
    EQUAL(checkmap_bitmap_granules(bitmap), (int64_t)1 << 41);
    checkmap_bitmap_free(bitmap);
    INVALID(checkmap_bitmap_new(((uint64_t)1 << 41) + 1, 1, &bitmap));
    bitmap = bitmap_of(INT64_MAX, (uint64_t)1 << 31);
    EQUAL(checkmap_bitmap_set_all(bitmap), 0);
    EQUAL(checkmap_bitmap_dirty_bytes(bitmap), INT64_MAX);
    checkmap_bitmap_free(bitmap);
    INVALID(checkmap_bitmap_new((uint64_t)INT64_MAX + 1, (uint64_t)1 << 31, &bitmap));
    bitmap = bitmap_of(0, 65536);
    EQUAL(checkmap_bitmap_set(bitmap, 0, CHECKMAP_TO_END), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 0);
    EQUAL(checkmap_bitmap_next_clean(bitmap, 0, CHECKMAP_TO_END), -1);
    checkmap_bitmap_free(bitmap);
    return 0;
}
