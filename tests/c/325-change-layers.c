/* A checkpoint is renamed and deleted in every layer that knows it; the layer below has its names afterwards. */
#include "check.h"

static int ends(void *told, const char *phase, uint64_t done, uint64_t total)
{
    (void)phase, (void)done, (void)total;
    ++*(int *)told;
    return 1;
}

/* The checkpoints of a file, each a single letter. */
static void has(const char *path, const char *names)
{
    checkmap_image *image = image_open(path, 0);
    struct checkmap_checkpoint list[8];
    EQUAL(checkmap_checkpoint_list(image, list, 8), strlen(names));
    for (size_t at = 0; names[at] != 0; at++) {
        CHECK(list[at].name_len == 1 && list[at].name[0] == names[at]);
    }
    checkmap_image_close(image);
}

static int64_t dirty(const checkmap_image *image, const char *since)
{
    checkmap_bitmap *diff = NULL;
    EQUAL(checkmap_diff(image, TEXT(since), NULL, 0, &diff), 0);
    int64_t bytes = checkmap_bitmap_dirty_bytes(diff);
    checkmap_bitmap_free(diff);
    return bytes;
}

int main(void)
{
    /* a, a->b and b->c below; above a copy of b->c, as libvirt's snapshot makes it, and d. */
    image_copy("chain.qcow2");
    EQUAL(system("qemu-img create -q -f qcow2 -b chain.qcow2 -F qcow2 top.qcow2"
                 " && qemu-img bitmap --add --disable top.qcow2 'b->c' && qemu-img bitmap --add top.qcow2 'c->d'"
                 " && qemu-io -c 'write 8M 64k' top.qcow2 >/dev/null"),
          0);
    checkmap_image *image = image_open("top.qcow2", CHECKMAP_OPEN_RDWR);
    int64_t since_b = dirty(image, "b"), since_c = dirty(image, "c");
    CHECK(since_b > since_c && since_c > 0);

    /* A call that is stopped has changed no layer. */
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    int told = 0;
    opts.progress = ends;
    opts.user_data = &told;
    FAILS(checkmap_checkpoint_rename_with(image, TEXT("c"), TEXT("x"), &opts), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    CHECK(told > 0);
    has("chain.qcow2", "abc");
    FAILS(checkmap_checkpoint_rename(image, TEXT("c"), TEXT("a")), EEXIST, CHECKMAP_ERROR_EXISTS);
    FAILS(checkmap_checkpoint_rename(image, TEXT("d"), TEXT("a")), EEXIST, CHECKMAP_ERROR_EXISTS);

    EQUAL(checkmap_checkpoint_rename(image, TEXT("c"), TEXT("x")), 0);
    has("chain.qcow2", "abx");
    EQUAL(dirty(image, "x"), since_c);
    /* The handle goes on with what is there now. */
    EQUAL(checkmap_checkpoint_delete(image, TEXT("x")), 0);
    has("chain.qcow2", "ab");
    EQUAL(dirty(image, "b"), since_b);
    FAILS(checkmap_checkpoint_delete(image, TEXT("x")), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    checkmap_image_close(image);
    has("top.qcow2", "bd");
    return 0;
}
