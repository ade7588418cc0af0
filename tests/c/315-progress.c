/* Long calls on an image tell how far they are, and can be stopped before they change anything. */
#include "check.h"

static int progress(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    CHECK(phase[0] != 0 && done <= total);
    ++*(unsigned *)user_data;
    return 0;
}

static int stop(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    (void)phase, (void)done, (void)total;
    ++*(unsigned *)user_data;
    return -1;
}

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
    unsigned calls = 0;
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.progress = stop;
    opts.user_data = &calls;
    checkmap_bitmap *bitmap = NULL;
    FAILS(checkmap_diff_with(image, "a", 1, NULL, 0, 0, CHECKMAP_TO_END, &opts, &bitmap), ECANCELED,
          CHECKMAP_ERROR_CANCELLED);
    CHECK(bitmap == NULL && calls == 1);
    FAILS(checkmap_checkpoint_delete_with(image, TEXT("b"), &opts), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 3);
    opts.progress = progress;
    calls = 0;
    EQUAL(checkmap_diff_with(image, "a", 1, NULL, 0, 0, CHECKMAP_TO_END, &opts, &bitmap), 0);
    CHECK(calls > 0);
    checkmap_bitmap_free(bitmap);
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_checkpoint_delete_with(image, TEXT("b"), &opts), 0);
    EQUAL(checkmap_checkpoint_rename_with(image, TEXT("b"), TEXT("z"), &opts), 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 3);
    opts.flags = 0;
    EQUAL(checkmap_checkpoint_rename_with(image, TEXT("b"), TEXT("z"), &opts), 0);
    EQUAL(checkmap_checkpoint_delete_with(image, TEXT("z"), &opts), 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 2);
    checkmap_image_close(image);
    return 0;
}
