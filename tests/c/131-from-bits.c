/* Bits that come in replace what was there; those past the disk are ignored. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(20 * KIB + 1, KIB);
    const uint8_t bits[] = {0x01, 0x80, 0xff, 0xff};
    EQUAL(checkmap_bitmap_set_all(bitmap), 0);
    EQUAL(checkmap_bitmap_from_bits(bitmap, 0, bits, 2), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 2 + 5);
    EQUAL(checkmap_bitmap_get(bitmap, 0), 1);
    EQUAL(checkmap_bitmap_get(bitmap, KIB), 0);
    EQUAL(checkmap_bitmap_get(bitmap, 15 * KIB), 1);
    EQUAL(checkmap_bitmap_clear_all(bitmap), 0);
    EQUAL(checkmap_bitmap_from_bits(bitmap, 16 * KIB, bits + 2, 2), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 5);
    EQUAL(checkmap_bitmap_validate(bitmap), 0);
    EQUAL(checkmap_bitmap_from_bits(bitmap, 8 * KIB, bits, 1), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 6);
    EQUAL(checkmap_bitmap_from_bits(bitmap, 0, NULL, 0), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 6);
    INVALID(checkmap_bitmap_from_bits(bitmap, 4 * KIB, bits, 1));
    INVALID(checkmap_bitmap_from_bits(bitmap, 0, NULL, 1));
    INVALID(checkmap_bitmap_from_bits(bitmap, 0, bits, SIZE_MAX));
    FAILS(checkmap_bitmap_from_bits(bitmap, 24 * KIB, bits, 1), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    FAILS(checkmap_bitmap_from_bits(bitmap, 24 * KIB, bits, 0), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    EQUAL(checkmap_bitmap_count(bitmap), 6);
    checkmap_bitmap_free(bitmap);
    return 0;
}
