/* Options that no call can mean. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(MIB, KIB);
    const checkmap_bitmap *sources[] = {bitmap};
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    for (uint32_t threads = 0; threads < 5; threads++) {
        opts.threads = threads;
        EQUAL(checkmap_bitmap_union_with(bitmap, sources, 1, &opts), 0);
    }
    opts.threads = UINT32_MAX;
    INVALID(checkmap_bitmap_union_with(bitmap, sources, 1, &opts));
    opts.threads = 0;
    opts.flags = 0x80000000u;
    INVALID(checkmap_bitmap_union_with(bitmap, sources, 1, &opts));
    opts.flags = 0;
    opts.model = CHECKMAP_MODEL_UNKNOWN;
    INVALID(checkmap_bitmap_union_with(bitmap, sources, 1, &opts));
    checkmap_bitmap_free(bitmap);
    return 0;
}
