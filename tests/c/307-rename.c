/* A renamed checkpoint keeps its changes and its place. */
#include "check.h"

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
    struct checkmap_checkpoint list[3];
    EQUAL(checkmap_checkpoint_rename(image, TEXT("b"), TEXT("monday")), 0);
    EQUAL(checkmap_checkpoint_list(image, list, 3), 3);
    CHECK(list[1].name_len == 6 && memcmp(list[1].name, "monday", 6) == 0);
    CHECK(list[2].parent_len == 6 && memcmp(list[2].parent, "monday", 6) == 0);
    EQUAL(list[1].dirty_bytes, 128 * 1024);
    FAILS(checkmap_checkpoint_rename(image, TEXT("b"), TEXT("x")), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    FAILS(checkmap_checkpoint_rename(image, TEXT("a"), TEXT("c")), EEXIST, CHECKMAP_ERROR_EXISTS);
    FAILS(checkmap_checkpoint_rename(image, TEXT("a"), TEXT("x->y")), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    checkmap_image_close(image);
    return 0;
}
