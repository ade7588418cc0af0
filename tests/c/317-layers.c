/* A layer below that takes part counts, and one that cannot be read makes an answer short. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    checkmap_image *image = image_open(image_copy("overlay.qcow2"), CHECKMAP_OPEN_RDWR);
    checkmap_bitmap *bitmap = NULL;
    EQUAL(checkmap_diff(image, "a", 1, NULL, 0, &bitmap), 0);
    checkmap_bitmap_free(bitmap);
    FAILS(checkmap_checkpoint_delete(image, TEXT("a")), EPROTO, CHECKMAP_ERROR_BACKING_LAYER);
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.flags = CHECKMAP_OPT_TOP_LAYER_ONLY;
    EQUAL(checkmap_diff_with(image, "a", 1, NULL, 0, 0, CHECKMAP_TO_END, &opts, &bitmap), 0);
    checkmap_bitmap_free(bitmap);
    CHECK(unlink("chain.qcow2") == 0);
    FAILS(checkmap_diff(image, "a", 1, NULL, 0, &bitmap), EPROTO, CHECKMAP_ERROR_BACKING_LAYER);
    EQUAL(checkmap_checkpoint_delete_with(image, TEXT("a"), &opts), 0);
    checkmap_image_close(image);
    return 0;
}
