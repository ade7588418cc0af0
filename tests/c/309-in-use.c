/* Locks exclude a second user, also in one process, and also one that wants no locks of its own. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    checkmap_image *writer = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR), *other = writer;
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_RDWR, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    CHECK(other == NULL);
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), 0, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_NO_LOCK, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    CHECK(strstr(checkmap_last_error(), "this or another process"));
    other = image_open("chain.qcow2", CHECKMAP_OPEN_FORCE_SHARE);
    struct checkmap_checkpoint list[3];
    EQUAL(checkmap_checkpoint_list(other, list, 3), 3);
    EQUAL(list[0].dirty_bytes, -1);
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    EQUAL(checkmap_image_get_info(other, &info), 0);
    EQUAL(info.flags & CHECKMAP_IMAGE_HELD_BY_WRITER, CHECKMAP_IMAGE_HELD_BY_WRITER);
    checkmap_bitmap *bitmap = NULL;
    INVALID(checkmap_diff(other, "a", 1, NULL, 0, &bitmap));
    INVALID(checkmap_image_upgrade(other));
    checkmap_image_close(other);
    checkmap_image_close(writer);
    checkmap_image *readers[] = {image_open("chain.qcow2", 0), image_open("chain.qcow2", 0)};
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_RDWR, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    /* A reader becomes a writer once it is alone, and is locked the whole time. */
    FAILS(checkmap_image_upgrade(readers[0]), EBUSY, CHECKMAP_ERROR_IN_USE);
    FAILS(checkmap_checkpoint_create(readers[0], TEXT("d"), 0), EROFS, CHECKMAP_ERROR_READ_ONLY);
    CHECK(strstr(checkmap_last_error(), "nothing was changed"));
    checkmap_image_close(readers[1]);
    EQUAL(checkmap_image_upgrade(readers[0]), 0);
    EQUAL(checkmap_image_upgrade(readers[0]), 0);
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), 0, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    EQUAL(checkmap_checkpoint_create(readers[0], TEXT("d"), 0), 0);
    checkmap_image_close(readers[0]);
    checkmap_image_close(image_open("chain.qcow2", CHECKMAP_OPEN_RDWR));
    return 0;
}
