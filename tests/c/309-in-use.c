/* Locks exclude a second user, also in one process, unless it asks for none. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    checkmap_image *writer = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR), *other = writer;
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_RDWR, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    CHECK(other == NULL);
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), 0, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    other = image_open("chain.qcow2", CHECKMAP_OPEN_NO_LOCK);
    checkmap_image_close(other);
    other = image_open("chain.qcow2", CHECKMAP_OPEN_FORCE_SHARE);
    struct checkmap_checkpoint list[3];
    EQUAL(checkmap_checkpoint_list(other, list, 3), 3);
    EQUAL(list[0].dirty_bytes, -1);
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    EQUAL(checkmap_image_get_info(other, &info), 0);
    EQUAL(info.flags & CHECKMAP_IMAGE_HELD_BY_WRITER, CHECKMAP_IMAGE_HELD_BY_WRITER);
    checkmap_bitmap *bitmap = NULL;
    INVALID(checkmap_diff(other, "a", 1, NULL, 0, &bitmap));
    checkmap_image_close(other);
    checkmap_image_close(writer);
    checkmap_image *readers[] = {image_open("chain.qcow2", 0), image_open("chain.qcow2", 0)};
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_RDWR, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    checkmap_image_close(readers[0]);
    checkmap_image_close(readers[1]);
    checkmap_image_close(image_open("chain.qcow2", CHECKMAP_OPEN_RDWR));
    return 0;
}
