/* Checkpoints are listed, oldest first, and the total is returned whatever fits. */
#include "check.h"

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), 0);
    struct checkmap_checkpoint list[5];
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 3);
    EQUAL(checkmap_checkpoint_list(image, list, 5), 3);
    const char *names[] = {"a", "b", "c"};
    const int64_t dirty[] = {64 * 1024, 128 * 1024, 64 * 1024};
    for (int at = 0; at < 3; at++) {
        CHECK(list[at].name_len == 1 && list[at].name[0] == names[at][0]);
        EQUAL(list[at].granularity, 64 * KIB);
        EQUAL(list[at].dirty_bytes, dirty[at]);
        EQUAL(list[at].flags, at == 2 ? CHECKMAP_CHECKPOINT_RECORDING : 0);
        EQUAL(list[at].reserved, 0);
        if (at == 0) {
            CHECK(list[at].parent == NULL && list[at].parent_len == 0);
        } else {
            CHECK(list[at].parent_len == 1 && list[at].parent[0] == names[at - 1][0]);
        }
    }
    struct checkmap_checkpoint one;
    EQUAL(checkmap_checkpoint_list(image, &one, 1), 3);
    /* The same pointers until the next change. */
    CHECK(one.name == list[0].name);
    INVALID(checkmap_checkpoint_list(image, list, 0));
    checkmap_image_close(image);

    image = image_open(image_copy("plain.qcow2"), 0);
    EQUAL(checkmap_checkpoint_list(image, list, 5), 0);
    checkmap_image_close(image);
    return 0;
}
