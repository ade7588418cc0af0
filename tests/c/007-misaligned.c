/* Misaligned pointers are errors, never used. */
#include "check.h"

int main(void)
{
    union {
        uint64_t words[64];
        char bytes[512];
    } room;
    memset(&room, 0, sizeof room);
    void *odd = room.bytes + 1;
    checkmap_bitmap *bitmap = bitmap_of(MIB, KIB);
    EQUAL(checkmap_bitmap_set_all(bitmap), 0);
    INVALID(checkmap_bitmap_extents(bitmap, 0, MIB, odd, 1));
    INVALID(checkmap_bitmap_new(MIB, KIB, odd));
    INVALID(checkmap_bitmap_union(bitmap, odd, 1));
    INVALID(checkmap_bitmap_union_with(bitmap, NULL, 0, odd));
    INVALID(checkmap_bitmap_count(odd));
    checkmap_bitmap_free(odd);
    /* Bytes have no alignment. */
    EQUAL(checkmap_bitmap_to_bits(bitmap, 0, MIB, odd, 128), 128);
    EQUAL(checkmap_bitmap_from_bits(bitmap, 0, odd, 128), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 1024);
    checkmap_bitmap_free(bitmap);
    return 0;
}
