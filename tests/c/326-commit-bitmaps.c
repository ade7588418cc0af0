/* A base takes in the checkpoints of the layer above it; again adds nothing. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    image_copy("plain.qcow2");
    EQUAL(system("qemu-img create -q -f qcow2 -b chain.qcow2 -F qcow2 top.qcow2"), 0);
    checkmap_image *top = image_open("top.qcow2", CHECKMAP_OPEN_RDWR);
    EQUAL(checkmap_checkpoint_create(top, TEXT("d"), 0), 0);
    checkmap_image *base = image_open("chain.qcow2", 0), *other = image_open("plain.qcow2", CHECKMAP_OPEN_RDWR);
    INVALID(checkmap_commit_bitmaps(NULL, base, NULL));
    INVALID(checkmap_commit_bitmaps(top, NULL, NULL));
    INVALID(checkmap_commit_bitmaps(top, top, NULL));
    FAILS(checkmap_commit_bitmaps(top, base, NULL), EROFS, CHECKMAP_ERROR_READ_ONLY);
    FAILS(checkmap_commit_bitmaps(top, other, NULL), EPROTO, CHECKMAP_ERROR_BACKING_LAYER);
    checkmap_image_close(other);
    EQUAL(checkmap_image_upgrade(base), 0);
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_commit_bitmaps(top, base, &opts), 0);
    EQUAL(checkmap_checkpoint_list(base, NULL, 0), 3);
    EQUAL(checkmap_commit_bitmaps(top, base, NULL), 0);
    EQUAL(checkmap_checkpoint_list(base, NULL, 0), 4);
    EQUAL(checkmap_commit_bitmaps(top, base, NULL), 0);
    struct checkmap_checkpoint list[4];
    EQUAL(checkmap_checkpoint_list(base, list, 4), 4);
    CHECK(list[3].name_len == 1 && list[3].name[0] == 'd' && (list[3].flags & CHECKMAP_CHECKPOINT_RECORDING) != 0);
    checkmap_image_close(base);
    checkmap_image_close(top);
    return 0;
}
