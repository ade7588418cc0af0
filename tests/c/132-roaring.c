/* Portable Roaring goes out and comes back. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(TIB, 64 * KIB), *back = NULL;
    for (uint64_t at = 0; at < TIB; at += TIB / 777) {
        EQUAL(checkmap_bitmap_set(bitmap, at, at % 16 + 1), 0);
    }
    int64_t len = checkmap_bitmap_serialize(bitmap, NULL, 0);
    CHECK(len > 8);
    uint8_t *bytes = malloc((size_t)len);
    FAILS(checkmap_bitmap_serialize(bitmap, bytes, (size_t)len - 1), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    EQUAL(checkmap_bitmap_serialize(bitmap, bytes, (size_t)len), len);
    EQUAL(checkmap_bitmap_deserialize(bytes, (size_t)len, TIB, 64 * KIB, &back), 0);
    EQUAL(checkmap_bitmap_equal(bitmap, back), 1);
    checkmap_bitmap_free(back);
    /* A value past the disk, bytes missing, bytes left over, noise. */
    FAILS(checkmap_bitmap_deserialize(bytes, (size_t)len, GIB, 64 * KIB, &back), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    FAILS(checkmap_bitmap_deserialize(bytes, (size_t)len - 1, TIB, 64 * KIB, &back), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    FAILS(checkmap_bitmap_deserialize(bytes, 0, TIB, 64 * KIB, &back), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    INVALID(checkmap_bitmap_deserialize(bytes, (size_t)len, TIB, 3, &back));
    INVALID(checkmap_bitmap_deserialize(bytes, SIZE_MAX, TIB, 1024, &back));
    memset(bytes, 0xff, (size_t)len);
    FAILS(checkmap_bitmap_deserialize(bytes, (size_t)len, TIB, 64 * KIB, &back), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    CHECK(back == NULL);
    free(bytes);
    checkmap_bitmap_free(bitmap);
    return 0;
}
