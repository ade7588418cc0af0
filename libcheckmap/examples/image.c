/* Owns the examples of the manual pages about images, their checkpoints and what a check finds: each stands below the names
 * of the calls that it is for. */
#include <checkmap.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* EXAMPLE checkmap_image_open checkmap_image_close checkmap_diff */
/* What changed since a checkpoint; where there is none yet, a backup must be full. */
static int changed_since(const char *path, const char *checkpoint, checkmap_bitmap **changed)
{
    checkmap_image *image = NULL;
    int status = checkmap_image_open(path, strlen(path), CHECKMAP_OPEN_RDONLY, &image);
    if (status == 0) {
        status = checkmap_diff(image, checkpoint, strlen(checkpoint), NULL, 0, changed);
    }
    if (status == -ENOENT && checkmap_last_error_kind() == CHECKMAP_ERROR_NOT_FOUND) {
        fprintf(stderr, "no such checkpoint: make a full backup\n");
    } else if (status < 0) {
        fprintf(stderr, "%s\n", checkmap_last_error());
    }
    checkmap_image_close(image);
    return status;
}

/* EXAMPLE checkmap_image_open_fd checkmap_image_upgrade checkmap_checkpoint_create */
/* A program that is handed a descriptor: it reads first, and locks for writing only to make the checkpoint. */
static int checkpoint_of(int fd, const char *name)
{
    checkmap_image *image = NULL;
    int status = checkmap_image_open_fd(fd, CHECKMAP_OPEN_RDONLY, &image);
    if (status == 0) {
        status = checkmap_image_upgrade(image);
    }
    if (status == 0) {
        status = checkmap_checkpoint_create(image, name, strlen(name), 0);
    }
    checkmap_image_close(image);
    return status;
}

/* EXAMPLE checkmap_image_get_info checkmap_image_trouble checkmap_image_set_threads */
/* Says what an image is, and whether its bitmaps can be used. */
static int describe(checkmap_image *image)
{
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    int status = checkmap_image_get_info(image, &info);
    if (status == 0) {
        printf("%s, %" PRIu64 " bytes\n", info.format, info.disk_size);
        if (info.backing_file != NULL) {
            printf("above %.*s\n", (int)info.backing_file_len, info.backing_file);
        }
        if (checkmap_image_trouble(image) < 0) {
            printf("no bitmap can be used: %s\n", checkmap_last_error());
        }
        status = checkmap_image_set_threads(image, 2);
    }
    return status;
}

/* EXAMPLE checkmap_image_recover checkmap_image_forget_step */
/* After a crash of the host: ends the change of several images that one of them is in the middle of. */
static int recover(checkmap_image *image, int others_are_lost)
{
    int status = checkmap_image_recover(image, NULL);
    if (status == -EUCLEAN && others_are_lost) {
        status = checkmap_image_forget_step(image);
    }
    if (status == CHECKMAP_STEP_UNDONE) {
        printf("create the checkpoint again\n");
    }
    return status;
}

/* EXAMPLE checkmap_image_warnings checkmap_image_warning */
/* Shows what the user has to know of the last change. */
static void warn(const checkmap_image *image)
{
    int64_t count = checkmap_image_warnings(image), at;
    for (at = 0; at < count; at++) {
        fprintf(stderr, "warning: %s\n", checkmap_image_warning(image, (size_t)at));
    }
}

/* EXAMPLE checkmap_image_check checkmap_report_free checkmap_report_errors checkmap_report_unusable checkmap_report_leaked_bytes checkmap_report_problems */
/* Verifies an image, and shows the first findings. */
static int verify(const checkmap_image *image)
{
    checkmap_report *report = NULL;
    struct checkmap_problem problems[16];
    int64_t count, at;
    int status = checkmap_image_check(image, NULL, &report);
    if (status < 0) {
        return status;
    }
    count = checkmap_report_problems(report, 0, problems, 16);
    for (at = 0; at < count; at++) {
        printf("%s, at %" PRId64 ": %s\n", problems[at].structure, problems[at].offset, problems[at].message);
    }
    printf("%" PRId64 " errors, %" PRId64 " bitmaps cannot be used, %" PRId64 " bytes leaked\n",
           checkmap_report_errors(report), checkmap_report_unusable(report), checkmap_report_leaked_bytes(report));
    status = checkmap_report_errors(report) > 0 ? -EBADMSG : 0;
    checkmap_report_free(report);
    return status;
}

/* EXAMPLE checkmap_checkpoint_create_with */
/* Finds out whether a checkpoint could be made, and makes none. */
static int can_create(checkmap_image *image, const char *name)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    return checkmap_checkpoint_create_with(image, name, strlen(name), 65536, &opts);
}

/* EXAMPLE checkmap_checkpoint_delete_with checkmap_checkpoint_rename_with */
/* Lets a new checkpoint take the name of an old one, where the layers below are known not to matter. */
static int replace(checkmap_image *image, const char *old, const char *new_one)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    int status;
    opts.flags = CHECKMAP_OPT_TOP_LAYER_ONLY;
    status = checkmap_checkpoint_delete_with(image, old, strlen(old), &opts);
    return status < 0 ? status
                      : checkmap_checkpoint_rename_with(image, new_one, strlen(new_one), old, strlen(old), &opts);
}

/* EXAMPLE checkmap_checkpoint_list checkmap_checkpoint_delete checkmap_checkpoint_rename checkmap_checkpoint_drop_before */
/* Deletes the second-oldest checkpoint; names that the library hands out may be handed back to it. */
static int64_t thin_out(checkmap_image *image)
{
    int64_t count = checkmap_checkpoint_list(image, NULL, 0), status = count;
    struct checkmap_checkpoint *points = count < 2 ? NULL : calloc((size_t)count, sizeof *points);
    if (points != NULL) {
        status = checkmap_checkpoint_list(image, points, (size_t)count);
    }
    if (points != NULL && status == count) {
        status = checkmap_checkpoint_delete(image, points[1].name, points[1].name_len);
    }
    free(points);
    return status;
}

/* Calls the last one "newest", and forgets all that is older. */
static int keep_one(checkmap_image *image, const char *last)
{
    int status = checkmap_checkpoint_rename(image, last, strlen(last), "newest", 6);
    return status < 0 ? status : checkmap_checkpoint_drop_before(image, "newest", 6, NULL);
}

/* EXAMPLE checkmap_commit_bitmaps */
/* Before or after `qemu-img commit`: the base goes on with the checkpoints of the snapshot. */
static int take_in(const char *snapshot, const char *base)
{
    checkmap_image *top = NULL, *below = NULL;
    int status = checkmap_image_open(snapshot, strlen(snapshot), 0, &top);
    if (status == 0) {
        status = checkmap_image_open(base, strlen(base), CHECKMAP_OPEN_RDWR, &below);
    }
    if (status == 0) {
        status = checkmap_commit_bitmaps(top, below, NULL);
    }
    checkmap_image_close(below);
    checkmap_image_close(top);
    return status;
}

/* EXAMPLE checkmap_checkpoint_delete_inconsistent */
/* After a crash of the hypervisor: forgets what cannot be trusted, so that the next backup is full. */
static int after_a_crash(checkmap_image *image)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.model = CHECKMAP_MODEL_INTERVAL;
    return checkmap_checkpoint_delete_inconsistent(image, &opts);
}

/* EXAMPLE checkmap_diff_with */
/* What changed in the first 64 MiB of the disk between two checkpoints, in little memory. */
static int changed_at_the_beginning(const checkmap_image *image, checkmap_bitmap **changed)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.memory_bytes = (uint64_t)16 << 20;
    return checkmap_diff_with(image, "monday", 6, "tuesday", 7, 0, (uint64_t)64 << 20, &opts, changed);
}

/* EXAMPLE checkmap_stored_list checkmap_stored_summarize checkmap_stored_read */
/* Shows the bitmaps of an image as they are stored, and reads the first one. */
static int64_t show(const checkmap_image *image, checkmap_bitmap **first)
{
    int64_t count = checkmap_stored_list(image, NULL, 0), at;
    struct checkmap_stored *all = count < 1 ? NULL : calloc((size_t)count, sizeof *all);
    if (all == NULL) {
        return count < 0 ? count : 0;
    }
    count = checkmap_stored_list(image, all, (size_t)count);
    for (at = 0; at < count; at++) {
        struct checkmap_summary sum;
        if (checkmap_stored_summarize(image, all[at].name, all[at].name_len, &sum) == 0) {
            printf("%.*s: %" PRId64 " bytes\n", (int)all[at].name_len, all[at].name, sum.dirty_bytes);
        }
    }
    count = checkmap_stored_read(image, all[0].name, all[0].name_len, 0, CHECKMAP_TO_END, first);
    free(all);
    return count;
}

/* EXAMPLE checkmap_stored_sha256 checkmap_bitmap_sha256 */
/* Whether an image has a bitmap of the bits of this one, without a look at its content where a hypervisor runs it. */
static int is_same(const checkmap_image *image, const checkmap_bitmap *bitmap)
{
    struct checkmap_sha256 theirs, ours;
    int status = checkmap_stored_sha256(image, "monday", 6, &theirs);
    if (status == 0) {
        status = checkmap_bitmap_sha256(bitmap, &ours);
    }
    return status < 0 ? status : memcmp(&theirs, &ours, sizeof ours) == 0;
}

/* EXAMPLE checkmap_stored_merge checkmap_stored_drop checkmap_stored_drop_all */
/* Unites two bitmaps into a third, and drops one of the two; then all others that belong to checkpoints. */
static int tidy(checkmap_image *image)
{
    const char *const names[] = {"job-1", "job-2"};
    const size_t lens[] = {5, 5};
    int status = checkmap_stored_merge(image, names, lens, 2, "job-3", 5, NULL);
    if (status == 0) {
        status = checkmap_stored_drop(image, "job-1", 5, NULL);
    }
    return status < 0 ? status : checkmap_stored_drop_all(image, NULL);
}
