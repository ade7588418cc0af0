/* A layer below that takes part counts, and one that cannot be read makes an answer short. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    checkmap_image *image = image_open(image_copy("overlay.qcow2"), CHECKMAP_OPEN_RDWR);
    checkmap_bitmap *bitmap = NULL;
    EQUAL(checkmap_diff(image, "a", 1, NULL, 0, &bitmap), 0);
    checkmap_bitmap_free(bitmap);
    /* What one layer alone would change is not changed in silence: a dry run tries all of them. */
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_checkpoint_delete_with(image, TEXT("a"), &opts), 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 1);
    CHECK(chmod("chain.qcow2", 0444) == 0);
    if (getuid() != 0) {
        FAILS(checkmap_checkpoint_delete(image, TEXT("a")), EROFS, CHECKMAP_ERROR_READ_ONLY);
    }
    CHECK(chmod("chain.qcow2", 0644) == 0);
    checkmap_image *used = image_open("chain.qcow2", 0);
    FAILS(checkmap_checkpoint_delete(image, TEXT("a")), EBUSY, CHECKMAP_ERROR_IN_USE);
    FAILS(checkmap_checkpoint_rename(image, TEXT("a"), TEXT("z")), EBUSY, CHECKMAP_ERROR_IN_USE);
    checkmap_image_close(used);
    opts.flags = CHECKMAP_OPT_TOP_LAYER_ONLY;
    EQUAL(checkmap_diff_with(image, "a", 1, NULL, 0, 0, CHECKMAP_TO_END, &opts, &bitmap), 0);
    checkmap_bitmap_free(bitmap);
    CHECK(unlink("chain.qcow2") == 0);
    FAILS(checkmap_diff(image, "a", 1, NULL, 0, &bitmap), EPROTO, CHECKMAP_ERROR_BACKING_LAYER);
    EQUAL(checkmap_checkpoint_delete_with(image, TEXT("a"), &opts), 0);
    checkmap_image_close(image);
    return 0;
}
