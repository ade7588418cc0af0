/* Names of every length, and of other bytes than UTF-8. */
#include "check.h"

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
    char name[1100];
    memset(name, 'n', sizeof name);
    checkmap_bitmap *out = NULL;
    FAILS(checkmap_checkpoint_create(image, name, 0, 0), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    FAILS(checkmap_checkpoint_create(image, name, 511, 0), ENAMETOOLONG, CHECKMAP_ERROR_NAME_TOO_LONG);
    FAILS(checkmap_checkpoint_create(image, name, 1024, 0), ENAMETOOLONG, CHECKMAP_ERROR_NAME_TOO_LONG);
    FAILS(checkmap_checkpoint_create(image, name, SIZE_MAX, 0), ENAMETOOLONG, CHECKMAP_ERROR_NAME_TOO_LONG);
    INVALID(checkmap_checkpoint_create(image, NULL, 5, 0));
    FAILS(checkmap_checkpoint_delete(image, name, 0), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    FAILS(checkmap_checkpoint_delete(image, name, 1023), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    FAILS(checkmap_checkpoint_delete(image, name, 1024), ENAMETOOLONG, CHECKMAP_ERROR_NAME_TOO_LONG);
    FAILS(checkmap_checkpoint_rename(image, TEXT("a"), name, SIZE_MAX), ENAMETOOLONG, CHECKMAP_ERROR_NAME_TOO_LONG);
    FAILS(checkmap_diff(image, name, SIZE_MAX, NULL, 0, &out), ENAMETOOLONG, CHECKMAP_ERROR_NAME_TOO_LONG);
    FAILS(checkmap_checkpoint_create(image, "a\0b", 3, 0), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 3);
    EQUAL(checkmap_checkpoint_create(image, name, 510, 0), 0);
    /* So long a name is warned of. */
    CHECK(checkmap_image_warnings(image) > 0 && checkmap_image_warning(image, 0)[0] != 0);
    EQUAL(checkmap_checkpoint_create(image, "\xff\xfe\x80", 3, 0), 0);
    struct checkmap_checkpoint list[5];
    EQUAL(checkmap_checkpoint_list(image, list, 5), 5);
    EQUAL(list[3].name_len, 510);
    CHECK(list[4].name_len == 3 && memcmp(list[4].name, "\xff\xfe\x80", 3) == 0);
    EQUAL(list[4].parent_len, 510);
    EQUAL(checkmap_checkpoint_delete(image, "\xff\xfe\x80", 3), 0);
    EQUAL(checkmap_checkpoint_delete(image, name, 510), 0);
    checkmap_image_close(image);
    return 0;
}
