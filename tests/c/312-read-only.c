/* An image that cannot be written. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    CHECK(chmod("chain.qcow2", 0444) == 0);
    checkmap_image *image = NULL;
    int status = checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_RDWR, &image);
    EQUAL(status, -EACCES);
    EQUAL(checkmap_last_error_kind(), CHECKMAP_ERROR_READ_ONLY);
    CHECK(image == NULL);
    image = image_open("chain.qcow2", 0);
    FAILS(checkmap_checkpoint_delete(image, TEXT("a")), EROFS, CHECKMAP_ERROR_READ_ONLY);
    FAILS(checkmap_checkpoint_rename(image, TEXT("a"), TEXT("z")), EROFS, CHECKMAP_ERROR_READ_ONLY);
    checkmap_image_close(image);
    return 0;
}
