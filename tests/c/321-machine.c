/* Two disks of a running QEMU change in one step, and are images like others; after a clean end the files say the same. */
#include "machine.h"

/* The diff is this one extent. */
static void is_dirty(const checkmap_image *image, const char *since, const char *until, uint64_t offset, uint64_t length)
{
    checkmap_bitmap *diff = NULL;
    struct checkmap_extent extents[2];
    EQUAL(checkmap_diff(image, TEXT(since), until, until == NULL ? 0 : strlen(until), &diff), 0);
    EQUAL(checkmap_bitmap_extents(diff, 0, CHECKMAP_TO_END, extents, 2), 1);
    EQUAL(extents[0].offset, offset);
    EQUAL(extents[0].length, length);
    checkmap_bitmap_free(diff);
}

static int count(void *counter, const char *phase, uint64_t done, uint64_t total)
{
    (void)phase, (void)done, (void)total;
    ++*(int *)counter;
    return 0;
}

static int stop(void *counter, const char *phase, uint64_t done, uint64_t total)
{
    count(counter, phase, done, total);
    return 1;
}

int main(void)
{
    daemon_start();
    checkmap_machine *machine = machine_open();
    struct checkmap_disk disks[3];
    EQUAL(checkmap_machine_disks(machine, NULL, 0), 2);
    EQUAL(checkmap_machine_disks(machine, disks, 3), 2);
    for (int at = 0; at < 2; at++) {
        CHECK(disks[at].node_len == 2 && disks[at].node[0] == 'd');
        EQUAL(disks[at].disk_size, 64 * MIB);
        EQUAL(disks[at].flags, 0);
    }
    checkmap_image *images[] = {machine_image(machine, "d0"), machine_image(machine, "d1")};
    /* The connection lives on in the images. */
    checkmap_machine_close(machine);
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    EQUAL(checkmap_image_get_info(images[1], &info), 0);
    EQUAL(info.disk_size, 64 * MIB);
    EQUAL(info.model, CHECKMAP_MODEL_INTERVAL);

    /* A dry run, one that is stopped, and one that a single disk refuses change nothing. */
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, &opts), 0);
    int told = 0;
    opts.flags = 0;
    opts.progress = stop;
    opts.user_data = &told;
    FAILS(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, &opts), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    CHECK(told > 0);
    FAILS(checkmap_checkpoint_create_many(images, 2, TEXT("a"), 0, NULL), EEXIST, CHECKMAP_ERROR_EXISTS);
    CHECK(strstr(checkmap_last_error(), "d1") != NULL);
    EQUAL(checkmap_checkpoint_list(images[0], NULL, 0), 0);
    EQUAL(checkmap_checkpoint_list(images[1], NULL, 0), 3);

    EQUAL(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, NULL), 0);
    daemon_write("d0", "3M 64k");
    daemon_write("d1", "8M 128k");
    EQUAL(checkmap_checkpoint_create_many(images, 2, TEXT("n"), 0, NULL), 0);
    daemon_write("d0", "5M 64k");
    EQUAL(checkmap_checkpoint_create_many(images, 2, TEXT("o"), 0, NULL), 0);
    is_dirty(images[0], "m", "n", 3 * MIB, 64 * KIB);
    is_dirty(images[1], "m", "o", 8 * MIB, 128 * KIB);
    is_dirty(images[0], "n", "o", 5 * MIB, 64 * KIB);
    struct checkmap_checkpoint list[6];
    EQUAL(checkmap_checkpoint_list(images[0], list, 6), 3);
    CHECK(list[2].name_len == 1 && list[2].name[0] == 'o' && list[2].flags == CHECKMAP_CHECKPOINT_RECORDING);

    /* A diff tells its progress, and can be stopped. */
    checkmap_bitmap *diff = NULL;
    told = 0;
    FAILS(checkmap_diff_with(images[0], TEXT("m"), TEXT("o"), 0, CHECKMAP_TO_END, &opts, &diff), ECANCELED,
          CHECKMAP_ERROR_CANCELLED);
    CHECK(diff == NULL && told > 0);
    opts.progress = count;
    EQUAL(checkmap_diff_with(images[0], TEXT("m"), TEXT("o"), 0, CHECKMAP_TO_END, &opts, &diff), 0);
    EQUAL(checkmap_bitmap_dirty_bytes(diff), 128 * KIB);
    checkmap_bitmap_free(diff);

    /* What is deleted goes into the interval before, on all disks. */
    const char *const names[] = {"n"};
    const size_t lens[] = {1};
    EQUAL(checkmap_checkpoint_delete_many(images, 2, names, lens, 1, NULL), 0);
    FAILS(checkmap_checkpoint_delete_many(images, 2, names, lens, 1, NULL), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    is_dirty(images[1], "m", "o", 8 * MIB, 128 * KIB);
    /* One disk alone is changed as an image is. */
    EQUAL(checkmap_checkpoint_rename(images[0], TEXT("o"), TEXT("p")), 0);
    EQUAL(checkmap_checkpoint_list(images[0], NULL, 0), 2);
    checkmap_image_close(images[0]);
    checkmap_image_close(images[1]);

    daemon_write("d0", "7M 64k");
    daemon_quit();
    checkmap_image *image = image_open("plain.qcow2", 0);
    EQUAL(checkmap_checkpoint_list(image, list, 6), 2);
    EQUAL(checkmap_diff(image, TEXT("m"), TEXT("p"), &diff), 0);
    EQUAL(checkmap_bitmap_dirty_bytes(diff), 128 * KIB);
    checkmap_bitmap_free(diff);
    is_dirty(image, "p", NULL, 7 * MIB, 64 * KIB);
    checkmap_image_close(image);
    image = image_open("chain.qcow2", 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 5);
    is_dirty(image, "m", NULL, 8 * MIB, 128 * KIB);
    checkmap_image_close(image);
    return 0;
}
