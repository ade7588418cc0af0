/* A handle that a fault of the library left poisoned refuses every call, and can be freed. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(MIB, KIB), *good = bitmap_of(MIB, KIB), *out = good;
    /* No call has such a fault on purpose: this is the mark that it would leave behind the tag of eight bytes. */
    ((uint8_t *)bitmap)[8] = 1;
    FAILS(checkmap_bitmap_set(bitmap, 0, 1), ENOTRECOVERABLE, CHECKMAP_ERROR_POISONED);
    FAILS(checkmap_bitmap_count(bitmap), ENOTRECOVERABLE, CHECKMAP_ERROR_POISONED);
    FAILS(checkmap_bitmap_clone(bitmap, &out), ENOTRECOVERABLE, CHECKMAP_ERROR_POISONED);
    CHECK(out == NULL);
    const checkmap_bitmap *sources[] = {bitmap};
    FAILS(checkmap_bitmap_union(good, sources, 1), ENOTRECOVERABLE, CHECKMAP_ERROR_POISONED);
    EQUAL(checkmap_bitmap_size(bitmap), 0);
    EQUAL(checkmap_bitmap_count(good), 0);
    checkmap_bitmap_free(bitmap);
    checkmap_bitmap_free(good);
    return 0;
}
