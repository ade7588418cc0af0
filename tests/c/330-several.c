/* Images in files change in one step, by a journal that is gone afterwards. */
#include "check.h"

#define JOURNAL ".chain.qcow2.checkmap-journal"

int main(void)
{
    const char *paths[] = {image_copy("chain.qcow2"), image_copy("plain.qcow2")};
    checkmap_image *images[] = {image_open(paths[0], CHECKMAP_OPEN_RDWR), image_open(paths[1], CHECKMAP_OPEN_RDWR)};
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, &opts), 0);
    EQUAL(checkmap_checkpoint_list(images[1], NULL, 0), 0);
    /* What one image refuses, none takes. */
    FAILS(checkmap_checkpoint_create_many(images, 2, TEXT("a"), 0, NULL), EEXIST, CHECKMAP_ERROR_EXISTS);
    EQUAL(checkmap_checkpoint_list(images[1], NULL, 0), 0);
    EQUAL(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, NULL), 0);
    EQUAL(checkmap_checkpoint_list(images[0], NULL, 0), 4);
    EQUAL(checkmap_checkpoint_list(images[1], NULL, 0), 1);
    CHECK(access(JOURNAL, F_OK) < 0 && errno == ENOENT);
    /* Nothing was interrupted. */
    for (int at = 0; at < 2; at++) {
        EQUAL(checkmap_image_recover(images[at], NULL), 0);
        EQUAL(checkmap_image_forget_step(images[at]), 0);
    }
    const char *names[] = {"m"};
    const size_t lens[] = {1};
    EQUAL(checkmap_checkpoint_delete_many(images, 2, names, lens, 1, NULL), 0);
    EQUAL(checkmap_checkpoint_list(images[0], NULL, 0), 3);
    EQUAL(checkmap_checkpoint_list(images[1], NULL, 0), 0);
    /* A file that stands in the place of the journal is nobody's to replace. */
    FILE *there = fopen(JOURNAL, "w");
    CHECK(there != NULL && fclose(there) == 0);
    FAILS(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, NULL), EEXIST, CHECKMAP_ERROR_EXISTS);
    CHECK(strstr(checkmap_last_error(), "checkmap_image_recover()") != NULL);
    checkmap_image_close(images[0]);
    images[0] = image_open(paths[0], CHECKMAP_OPEN_RDONLY);
    FAILS(checkmap_image_forget_step(images[0]), EROFS, CHECKMAP_ERROR_READ_ONLY);
    EQUAL(checkmap_image_recover(images[0], NULL), 0);
    checkmap_image_close(images[0]);
    checkmap_image_close(images[1]);
    return 0;
}
