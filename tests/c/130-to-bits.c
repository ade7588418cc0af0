/* Bits go out least significant first, and only those of the range. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(20 * KIB + 1, KIB);
    uint8_t out[4];
    EQUAL(checkmap_bitmap_set_all(bitmap), 0);
    EQUAL(checkmap_bitmap_to_bits(bitmap, 0, CHECKMAP_TO_END, NULL, 0), 3);
    memset(out, 0xee, sizeof out);
    EQUAL(checkmap_bitmap_to_bits(bitmap, 0, CHECKMAP_TO_END, out, 4), 3);
    CHECK(out[0] == 0xff && out[1] == 0xff && out[2] == 0x1f && out[3] == 0xee);
    EQUAL(checkmap_bitmap_to_bits(bitmap, 8 * KIB, KIB + 1, out, 4), 1);
    EQUAL(out[0], 3);
    EQUAL(checkmap_bitmap_to_bits(bitmap, 8 * KIB, 0, out, 0), 0);
    EQUAL(checkmap_bitmap_to_bits(bitmap, 80 * KIB, CHECKMAP_TO_END, out, 4), 0);
    FAILS(checkmap_bitmap_to_bits(bitmap, 0, CHECKMAP_TO_END, out, 2), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    INVALID(checkmap_bitmap_to_bits(bitmap, 4 * KIB, KIB, out, 4));
    INVALID(checkmap_bitmap_to_bits(bitmap, 1, KIB, NULL, 0));
    EQUAL(checkmap_bitmap_clear_all(bitmap), 0);
    EQUAL(checkmap_bitmap_set(bitmap, 9 * KIB, 1), 0);
    EQUAL(checkmap_bitmap_to_bits(bitmap, 0, CHECKMAP_TO_END, out, 4), 3);
    CHECK(out[0] == 0 && out[1] == 2 && out[2] == 0);
    checkmap_bitmap_free(bitmap);
    return 0;
}
