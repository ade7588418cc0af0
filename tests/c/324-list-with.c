/* Intervals, and libvirt's checkpoints beside them: the model says which are listed. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    /* libvirt's bitmap records beside the chain. */
    EQUAL(system("qemu-img bitmap --add chain.qcow2 daily"), 0);
    checkmap_image *image = image_open("chain.qcow2", 0);
    struct checkmap_checkpoint list[4];
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    EQUAL(checkmap_checkpoint_list_with(image, NULL, list, 4), 3);
    opts.model = CHECKMAP_MODEL_CUMULATIVE;
    EQUAL(checkmap_checkpoint_list_with(image, &opts, NULL, 0), 1);
    EQUAL(checkmap_checkpoint_list_with(image, &opts, list + 3, 1), 1);
    CHECK(list[3].name_len == 5 && memcmp(list[3].name, "daily", 5) == 0);
    CHECK(list[3].flags & CHECKMAP_CHECKPOINT_RECORDING);
    /* Both lists are good until a change. */
    CHECK(list[0].name_len == 1 && list[0].name[0] == 'a');
    opts.model = CHECKMAP_MODEL_INTERVAL;
    EQUAL(checkmap_checkpoint_list_with(image, &opts, list, 3), 3);
    opts.model = CHECKMAP_MODEL_UNKNOWN;
    INVALID(checkmap_checkpoint_list_with(image, &opts, list, 3));
    INVALID(checkmap_checkpoint_list_with(NULL, NULL, list, 3));
    checkmap_image_close(image);
    return 0;
}
