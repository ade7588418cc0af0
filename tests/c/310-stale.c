/* Without locks, a change by somebody else is noticed by every call. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    checkmap_image *ours = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR | CHECKMAP_OPEN_NO_LOCK);
    struct checkmap_checkpoint list[5];
    EQUAL(checkmap_checkpoint_list(ours, list, 5), 3);
    EQUAL(checkmap_checkpoint_create(ours, TEXT("ours"), 0), 0);
    EQUAL(checkmap_checkpoint_list(ours, list, 5), 4);

    checkmap_image *theirs = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR);
    EQUAL(checkmap_checkpoint_create(theirs, TEXT("theirs"), 0), 0);
    checkmap_image_close(theirs);

    checkmap_bitmap *bitmap = NULL;
    checkmap_report *report = NULL;
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    FAILS(checkmap_checkpoint_list(ours, list, 5), ESTALE, CHECKMAP_ERROR_CHANGED);
    FAILS(checkmap_checkpoint_create(ours, TEXT("x"), 0), ESTALE, CHECKMAP_ERROR_CHANGED);
    FAILS(checkmap_checkpoint_delete(ours, TEXT("a")), ESTALE, CHECKMAP_ERROR_CHANGED);
    FAILS(checkmap_diff(ours, "a", 1, NULL, 0, &bitmap), ESTALE, CHECKMAP_ERROR_CHANGED);
    FAILS(checkmap_image_get_info(ours, &info), ESTALE, CHECKMAP_ERROR_CHANGED);
    FAILS(checkmap_image_check(ours, NULL, &report), ESTALE, CHECKMAP_ERROR_CHANGED);
    checkmap_image_close(ours);
    ours = image_open("chain.qcow2", 0);
    EQUAL(checkmap_checkpoint_list(ours, list, 5), 5);
    checkmap_image_close(ours);
    return 0;
}
