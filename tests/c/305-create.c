/* A checkpoint is created: the last bitmap is frozen, a new one records. */
#include "check.h"

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
    EQUAL(checkmap_checkpoint_create(image, TEXT("d"), 0), 0);
    struct checkmap_checkpoint list[4];
    EQUAL(checkmap_checkpoint_list(image, list, 4), 4);
    EQUAL(list[2].flags, 0);
    EQUAL(list[3].flags, CHECKMAP_CHECKPOINT_RECORDING);
    EQUAL(list[3].dirty_bytes, 0);
    FAILS(checkmap_checkpoint_create(image, TEXT("d"), 0), EEXIST, CHECKMAP_ERROR_EXISTS);
    INVALID(checkmap_checkpoint_create(image, TEXT("e"), 3));
    INVALID(checkmap_checkpoint_create(image, TEXT("e"), 1));
    /* A dry run changes nothing. */
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_checkpoint_create_with(image, TEXT("e"), 4096, &opts), 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 4);
    EQUAL(checkmap_checkpoint_create(image, TEXT("e"), 4096), 0);
    checkmap_image_close(image);
    image = image_open("chain.qcow2", 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 5);
    FAILS(checkmap_checkpoint_create(image, TEXT("f"), 0), EROFS, CHECKMAP_ERROR_READ_ONLY);
    checkmap_image_close(image);

    image = image_open(image_copy("plain.qcow2"), CHECKMAP_OPEN_RDWR);
    EQUAL(checkmap_checkpoint_create(image, TEXT("first"), 0), 0);
    EQUAL(checkmap_checkpoint_list(image, list, 4), 1);
    EQUAL(list[0].granularity, 64 * KIB);
    checkmap_image_close(image);
    return 0;
}
