/* Structs that can grow: too small, larger with nothing in it, larger with something unknown. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(MIB, KIB);
    const checkmap_bitmap *sources[] = {bitmap};
    union {
        struct checkmap_opts opts;
        struct checkmap_segment_info info;
        uint8_t bytes[256];
    } large;
    memset(&large, 0, sizeof large);
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    EQUAL(checkmap_bitmap_union_with(bitmap, sources, 1, &opts), 0);
    EQUAL(checkmap_bitmap_union_with(bitmap, sources, 1, NULL), 0);
    for (uint32_t size = 0; size < sizeof opts; size++) {
        opts.size = size;
        INVALID(checkmap_bitmap_union_with(bitmap, sources, 1, &opts));
    }
    large.opts.size = sizeof large;
    EQUAL(checkmap_bitmap_union_with(bitmap, sources, 1, &large.opts), 0);
    large.bytes[255] = 1;
    FAILS(checkmap_bitmap_union_with(bitmap, sources, 1, &large.opts), E2BIG, CHECKMAP_ERROR_UNSUPPORTED);
    opts.size = UINT32_MAX;
    FAILS(checkmap_bitmap_union_with(bitmap, sources, 1, &opts), E2BIG, CHECKMAP_ERROR_UNSUPPORTED);
    /* Facts: what this library does not know is zeroed. */
    memset(&large, 0xff, sizeof large);
    large.info.size = sizeof large;
    EQUAL(checkmap_segment_write(bitmap, TEXT("segment"), &large.info), 0);
    EQUAL(large.info.size, sizeof large);
    EQUAL(large.info.disk_size, MIB);
    EQUAL(large.bytes[255], 0);
    large.info.size = 4;
    INVALID(checkmap_segment_write(bitmap, TEXT("segment"), &large.info));
    checkmap_bitmap_free(bitmap);
    return 0;
}
