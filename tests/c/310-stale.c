/* Without locks, a change by somebody else is noticed by every call. */
#include "check.h"

/* Somebody else makes a checkpoint in the middle of a call. */
static int meddle(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    (void)phase, (void)total;
    if (done == 0 && !*(int *)user_data) {
        *(int *)user_data = 1;
        checkmap_image *theirs = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR);
        EQUAL(checkmap_checkpoint_rename(theirs, TEXT("c"), TEXT("d")), 0);
        EQUAL(checkmap_checkpoint_rename(theirs, TEXT("d"), TEXT("c")), 0);
        checkmap_image_close(theirs);
    }
    return 0;
}

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

    /* After two renames header and directory may be what they were, to the byte. */
    int meddled = 0;
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.progress = meddle;
    opts.user_data = &meddled;
    ours = image_open("chain.qcow2", CHECKMAP_OPEN_NO_LOCK);
    FAILS(checkmap_diff_with(ours, TEXT("a"), NULL, 0, 0, CHECKMAP_TO_END, &opts, &bitmap), ESTALE, CHECKMAP_ERROR_CHANGED);
    CHECK(meddled && bitmap == NULL);
    checkmap_image_close(ours);
    /* Names alone are as of one moment too. */
    ours = image_open("chain.qcow2", CHECKMAP_OPEN_FORCE_SHARE);
    EQUAL(checkmap_checkpoint_list(ours, list, 5), 5);
    theirs = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR);
    EQUAL(checkmap_checkpoint_rename(theirs, TEXT("c"), TEXT("d")), 0);
    checkmap_image_close(theirs);
    FAILS(checkmap_checkpoint_list(ours, list, 5), ESTALE, CHECKMAP_ERROR_CHANGED);
    checkmap_image_close(ours);
    ours = image_open("chain.qcow2", 0);
    EQUAL(checkmap_checkpoint_list(ours, list, 5), 5);
    checkmap_image_close(ours);
    return 0;
}
