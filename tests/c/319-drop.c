/* A missing bitmap is a gap that no diff crosses; what lies before it is dropped, and single bitmaps, and all. */
#include "check.h"

int main(void)
{
    const char *path = image_copy("chain.qcow2");
    checkmap_image *image = image_open(path, CHECKMAP_OPEN_RDWR);
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    struct checkmap_checkpoint list[3];
    checkmap_bitmap *bitmap = NULL;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_stored_drop(image, TEXT("a->b"), &opts), 0);
    EQUAL(checkmap_stored_list(image, NULL, 0), 3);
    EQUAL(checkmap_stored_drop(image, TEXT("a->b"), NULL), 0);
    CHECK(checkmap_image_warnings(image) > 0);
    EQUAL(checkmap_checkpoint_list(image, list, 3), 2);
    EQUAL(list[0].flags, 0);
    EQUAL(list[1].flags, CHECKMAP_CHECKPOINT_RECORDING | CHECKMAP_CHECKPOINT_GAP);
    CHECK(list[1].parent == NULL && list[1].parent_len == 0);
    FAILS(checkmap_diff(image, TEXT("a"), NULL, 0, &bitmap), EPROTO, CHECKMAP_ERROR_BROKEN_CHAIN);
    CHECK(strstr(checkmap_last_error(), "checkmap_checkpoint_drop_before() of 'c'") != NULL);
    EQUAL(checkmap_diff(image, TEXT("c"), NULL, 0, &bitmap), 0);
    EQUAL(checkmap_bitmap_dirty_bytes(bitmap), 64 * 1024);
    checkmap_bitmap_free(bitmap);
    FAILS(checkmap_checkpoint_create(image, TEXT("b"), 0), EEXIST, CHECKMAP_ERROR_EXISTS);

    FAILS(checkmap_checkpoint_drop_before(image, TEXT("b"), NULL), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    EQUAL(checkmap_checkpoint_drop_before(image, list[1].name, list[1].name_len, NULL), 0);
    EQUAL(checkmap_checkpoint_list(image, list, 3), 1);
    EQUAL(list[0].flags, CHECKMAP_CHECKPOINT_RECORDING);
    FAILS(checkmap_stored_drop(image, TEXT("b->c"), NULL), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    checkmap_image_close(image);

    /* Of an unknown model, each can be somebody's: a frozen bitmap alone. */
    image = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
    EQUAL(checkmap_stored_drop(image, TEXT("a->b"), NULL), 0);
    EQUAL(checkmap_stored_drop(image, TEXT("b->c"), NULL), 0);
    FAILS(checkmap_stored_drop_all(image, NULL), EEXIST, CHECKMAP_ERROR_EXISTS);
    CHECK(strstr(checkmap_last_error(), "CHECKMAP_OPT_FOREIGN_TOO") != NULL);
    opts.flags = CHECKMAP_OPT_FOREIGN_TOO | CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_stored_drop_all(image, &opts), 0);
    EQUAL(checkmap_stored_list(image, NULL, 0), 1);
    opts.flags = CHECKMAP_OPT_FOREIGN_TOO;
    EQUAL(checkmap_stored_drop_all(image, &opts), 0);
    CHECK(checkmap_image_warnings(image) > 0);
    EQUAL(checkmap_stored_list(image, NULL, 0), 0);
    EQUAL(checkmap_stored_drop_all(image, NULL), 0);
    EQUAL(checkmap_checkpoint_create(image, TEXT("b"), 0), 0);
    checkmap_image_close(image);
    INVALID(checkmap_stored_drop_all(NULL, NULL));
    INVALID(checkmap_checkpoint_drop_before(NULL, TEXT("b"), NULL));
    return 0;
}
