/* What does not look like a live handle of the right type is an error, and is not freed either. */
#include "check.h"

int main(void)
{
    uint64_t zeros[32] = {0}, noise[32];
    memset(noise, 0xa5, sizeof noise);
    checkmap_bitmap *none[] = {(void *)zeros, (void *)noise};
    for (int at = 0; at < 2; at++) {
        INVALID(checkmap_bitmap_set(none[at], 0, 1));
        INVALID(checkmap_bitmap_count(none[at]));
        EQUAL(checkmap_bitmap_size(none[at]), 0);
        checkmap_bitmap_free(none[at]);
        checkmap_image_close((void *)none[at]);
        checkmap_segment_close((void *)none[at]);
        checkmap_report_free((void *)none[at]);
    }
    /* A handle of another type. */
    checkmap_bitmap *bitmap = bitmap_of(MIB, KIB);
    INVALID(checkmap_segment_count((void *)bitmap));
    checkmap_image_close((void *)bitmap);
    EQUAL(checkmap_bitmap_count(bitmap), 0);
    const checkmap_bitmap *sources[] = {bitmap, (void *)noise};
    INVALID(checkmap_bitmap_union(bitmap, sources, 2));
    checkmap_bitmap_free(bitmap);
    return 0;
}
