/* A deleted checkpoint leaves its changes to the interval before it. */
#include "check.h"

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
    struct checkmap_checkpoint list[3];
    EQUAL(checkmap_checkpoint_delete(image, TEXT("b")), 0);
    EQUAL(checkmap_checkpoint_list(image, list, 3), 2);
    EQUAL(list[0].dirty_bytes, 192 * 1024);
    CHECK(list[1].name[0] == 'c' && list[1].parent[0] == 'a');
    FAILS(checkmap_checkpoint_delete(image, TEXT("b")), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    EQUAL(checkmap_checkpoint_delete(image, TEXT("c")), 0);
    EQUAL(checkmap_checkpoint_list(image, list, 3), 1);
    EQUAL(list[0].dirty_bytes, 256 * 1024);
    EQUAL(list[0].flags, CHECKMAP_CHECKPOINT_RECORDING);
    EQUAL(checkmap_checkpoint_delete(image, TEXT("a")), 0);
    EQUAL(checkmap_checkpoint_list(image, list, 3), 0);
    EQUAL(checkmap_checkpoint_delete_inconsistent(image, NULL), 0);
    checkmap_image_close(image);
    return 0;
}
