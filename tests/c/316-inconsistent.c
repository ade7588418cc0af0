/* A bitmap that its writer did not store is never believed. */
#include "check.h"

int main(void)
{
    checkmap_image *image = image_open(image_copy("inconsistent.qcow2"), CHECKMAP_OPEN_RDWR);
    struct checkmap_checkpoint list[3];
    EQUAL(checkmap_checkpoint_list(image, list, 3), 3);
    EQUAL(list[2].flags & CHECKMAP_CHECKPOINT_INCONSISTENT, CHECKMAP_CHECKPOINT_INCONSISTENT);
    EQUAL(list[2].dirty_bytes, -1);
    checkmap_bitmap *bitmap = NULL;
    FAILS(checkmap_diff(image, "a", 1, NULL, 0, &bitmap), EUCLEAN, CHECKMAP_ERROR_INCONSISTENT);
    CHECK(bitmap == NULL);
    FAILS(checkmap_checkpoint_create(image, TEXT("d"), 0), EUCLEAN, CHECKMAP_ERROR_INCONSISTENT);
    EQUAL(checkmap_checkpoint_delete_inconsistent(image, NULL), 0);
    CHECK(checkmap_checkpoint_list(image, NULL, 0) < 3);
    checkmap_image_close(image);
    return 0;
}
