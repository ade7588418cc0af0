/* Backups of an image: taken, previewed, listed, restored, verified and pruned, and the plan; bad input changes nothing. */
#include "check.h"

static void write_to(const char *image, const char *what)
{
    char command[256];
    snprintf(command, sizeof command, "qemu-io -f qcow2 -c 'write %s' %s >/dev/null", what, image);
    EQUAL(system(command), 0);
}

static int is_text(const char *bytes, size_t len, const char *expected)
{
    return bytes != NULL && len == strlen(expected) && memcmp(bytes, expected, len) == 0;
}

static checkmap_backups *opened(uint32_t flags)
{
    checkmap_backups *backups = NULL;
    EQUAL(checkmap_backups_open(TEXT("backups"), flags, &backups), 0);
    return backups;
}

static const struct checkmap_backup_source DISK[] = {{"plain.qcow2", 11, "disk", 4}, {"plain.qcow2", 11, "disk", 4}};

static struct checkmap_moment take(const char *checkpoint, uint64_t data_bytes)
{
    struct checkmap_backup_opts opts = CHECKMAP_BACKUP_OPTS_INIT;
    struct checkmap_moment row, after;
    checkmap_outcome *outcome = NULL;
    opts.checkpoint = checkpoint;
    opts.checkpoint_len = strlen(checkpoint);
    opts.keep_checkpoints = 2;
    EQUAL(checkmap_backups_preview(TEXT("backups"), DISK, 1, &opts, &outcome), 0);
    EQUAL(checkmap_outcome_rows(outcome, &row, 1), 1);
    CHECK((row.flags & CHECKMAP_MOMENT_COMPLETE) == 0 && row.data_bytes >= data_bytes);
    checkmap_outcome_free(outcome);
    checkmap_backups *backups = opened(CHECKMAP_BACKUPS_CREATE);
    EQUAL(checkmap_backups_take(backups, DISK, 1, &opts, &outcome), 0);
    EQUAL(checkmap_outcome_rows(outcome, NULL, 0), 1);
    EQUAL(checkmap_outcome_rows(outcome, &row, 1), 1);
    EQUAL(checkmap_outcome_error(outcome, 0), 0);
    CHECK(is_text(row.disk, row.disk_len, "disk") && is_text(row.checkpoint, row.checkpoint_len, checkpoint));
    EQUAL(row.disk_size, 64 * MIB);
    EQUAL(row.data_bytes, data_bytes);
    EQUAL(row.flags & (CHECKMAP_MOMENT_COMPLETE | CHECKMAP_MOMENT_FAILED), CHECKMAP_MOMENT_COMPLETE);
    struct checkmap_text files[2];
    EQUAL(checkmap_outcome_texts(outcome, 0, CHECKMAP_TEXTS_FILES, files, 2), 1);
    CHECK(files[0].len >= 11 && memcmp(files[0].bytes + files[0].len - 11, "plain.qcow2", 11) == 0);
    EQUAL(checkmap_outcome_texts(outcome, 0, CHECKMAP_TEXTS_READER, NULL, 0), 0);
    INVALID(checkmap_outcome_texts(outcome, 0, 9, files, 2));
    INVALID(checkmap_outcome_texts(outcome, 1, CHECKMAP_TEXTS_FILES, files, 2));
    INVALID(checkmap_outcome_error(outcome, 1));
    /* An outcome outlives the directory. */
    checkmap_backups_close(backups);
    EQUAL(checkmap_outcome_rows(outcome, &after, 1), 1);
    EQUAL(after.flags, row.flags);
    row.disk = row.image = row.checkpoint = row.reason = NULL;
    checkmap_outcome_free(outcome);
    return row;
}

static int restored(const checkmap_backups *backups, const char *checkpoint, const char *target, uint32_t flags)
{
    struct checkmap_restore_request request = CHECKMAP_RESTORE_REQUEST_INIT;
    request.flags = flags;
    request.disk = "disk";
    request.disk_len = 4;
    request.checkpoint = checkpoint;
    request.checkpoint_len = checkpoint == NULL ? 0 : strlen(checkpoint);
    request.target = target;
    request.target_len = strlen(target);
    return checkmap_backups_restore(backups, &request, NULL);
}

static int stop(void *counter, const char *phase, uint64_t done, uint64_t total)
{
    (void)phase, (void)done, (void)total;
    ++*(int *)counter;
    return 1;
}

static void prune(void)
{
    struct checkmap_keep keep = CHECKMAP_KEEP_INIT;
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    struct checkmap_text gone[4];
    checkmap_outcome *outcome = NULL;
    checkmap_backups *backups = opened(CHECKMAP_BACKUPS_RDWR);
    INVALID(checkmap_backups_prune(backups, &keep, NULL, &outcome));
    keep.last = 2;
    keep.flags = 2;
    INVALID(checkmap_backups_prune(backups, &keep, NULL, &outcome));
    keep.flags = 0;
    INVALID(checkmap_backups_prune(backups, NULL, NULL, &outcome));
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    for (int64_t left = 3; left > 1; left--, opts.flags = 0) {
        EQUAL(checkmap_backups_prune(backups, &keep, &opts, &outcome), 0);
        EQUAL(checkmap_outcome_texts(outcome, 0, CHECKMAP_TEXTS_CHECKPOINTS, gone, 4), 1);
        CHECK(is_text(gone[0].bytes, gone[0].len, "monday"));
        checkmap_outcome_free(outcome);
        EQUAL(checkmap_backups_list(backups, NULL, 0), left);
    }
    EQUAL(restored(backups, "tuesday", "tuesday-again.raw", CHECKMAP_RESTORE_RAW), 0);
    EQUAL(system("cmp tuesday.raw tuesday-again.raw"), 0);
    FAILS(restored(backups, "monday", "monday-again.raw", CHECKMAP_RESTORE_RAW), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    checkmap_backups_close(backups);
}

/* A damaged file is told with the moments that it costs. */
static void damage(void)
{
    struct checkmap_moment row;
    struct checkmap_text lost[2];
    checkmap_outcome *outcome = NULL;
    checkmap_backups *backups = opened(CHECKMAP_BACKUPS_RDONLY);
    EQUAL(checkmap_backups_verify(backups, NULL, &outcome), 2);
    EQUAL(checkmap_outcome_rows(outcome, NULL, 0), 0);
    checkmap_outcome_free(outcome);
    EQUAL(system("rm backups/disk/wednesday.qcow2"), 0);
    EQUAL(checkmap_backups_verify(backups, NULL, &outcome), 2);
    EQUAL(checkmap_outcome_rows(outcome, &row, 1), 1);
    CHECK(is_text(row.disk, row.disk_len, "disk") && is_text(row.checkpoint, row.checkpoint_len, "wednesday"));
    CHECK((row.flags & CHECKMAP_MOMENT_FAILED) != 0);
    EQUAL(checkmap_outcome_texts(outcome, 0, CHECKMAP_TEXTS_CHECKPOINTS, lost, 2), 1);
    CHECK(is_text(lost[0].bytes, lost[0].len, "wednesday"));
    CHECK(checkmap_outcome_error(outcome, 0) < 0 && strstr(checkmap_last_error(), "wednesday.qcow2") != NULL);
    checkmap_outcome_free(outcome);
    int told = 0;
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.progress = stop;
    opts.user_data = &told;
    FAILS(checkmap_backups_verify(backups, &opts, &outcome), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    CHECK(told > 0 && outcome == NULL);
    checkmap_backups_close(backups);
}

static void plans(void)
{
    struct checkmap_planned planned;
    char reason[300];
    checkmap_image *image = image_open("plain.qcow2", CHECKMAP_OPEN_RDONLY);
    EQUAL(checkmap_plan_backup(image, TEXT("wednesday"), NULL, 0, NULL, &planned, reason, sizeof reason), 0);
    EQUAL(planned.tier, CHECKMAP_TIER_CHANGED);
    EQUAL(planned.changed_bytes, 0);
    EQUAL(planned.disk_size, 64 * MIB);
    int64_t len = checkmap_plan_backup(image, TEXT("never"), NULL, 0, NULL, &planned, reason, sizeof reason);
    CHECK(len > 0 && len < 300 && memmem(reason, (size_t)len, "never", 5) != NULL);
    EQUAL(planned.tier, CHECKMAP_TIER_ALLOCATED);
    EQUAL(planned.changed_bytes, -1);
    CHECK(planned.allocated_bytes > 0);
    /* A reason is cut, or not wanted. */
    memset(reason, 0, sizeof reason);
    EQUAL(checkmap_plan_backup(image, TEXT("never"), NULL, 0, NULL, &planned, reason, 3), len);
    EQUAL(strlen(reason), 3);
    EQUAL(checkmap_plan_backup(image, TEXT("never"), NULL, 0, NULL, &planned, NULL, 0), len);
    FAILS(checkmap_plan_backup(image, "", 0, NULL, 0, NULL, &planned, NULL, 0), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    EQUAL(planned.tier, 0);
    EQUAL(planned.changed_bytes, -1);
    INVALID(checkmap_plan_backup(NULL, TEXT("never"), NULL, 0, NULL, &planned, NULL, 0));
    checkmap_image_close(image);
}

/* All of these are told before anything is done. */
static void refused(void)
{
    struct checkmap_backup_opts opts = CHECKMAP_BACKUP_OPTS_INIT;
    struct checkmap_restore_request request = CHECKMAP_RESTORE_REQUEST_INIT;
    checkmap_outcome *outcome = NULL;
    checkmap_backups *other = NULL, *backups = opened(CHECKMAP_BACKUPS_RDONLY);
    FAILS(checkmap_backups_open(TEXT("backups"), CHECKMAP_BACKUPS_RDWR, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    FAILS(checkmap_backups_open(TEXT("nowhere"), CHECKMAP_BACKUPS_RDONLY, &other), ENOENT, CHECKMAP_ERROR_IO);
    FAILS(checkmap_backups_open(TEXT("."), CHECKMAP_BACKUPS_RDONLY, &other), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    INVALID(checkmap_backups_open(TEXT("backups"), 3, &other));
    INVALID(checkmap_backups_open(TEXT("backups"), 0, NULL));
    CHECK(other == NULL);
    FAILS(checkmap_backups_take(backups, DISK, 1, NULL, &outcome), EROFS, CHECKMAP_ERROR_READ_ONLY);
    struct checkmap_keep keep = CHECKMAP_KEEP_INIT;
    keep.last = 1;
    FAILS(checkmap_backups_prune(backups, &keep, NULL, &outcome), EROFS, CHECKMAP_ERROR_READ_ONLY);
    FAILS(restored(backups, NULL, "monday.raw", 0), EEXIST, CHECKMAP_ERROR_EXISTS);
    INVALID(restored(backups, NULL, "backups/new", 0));
    INVALID(restored(backups, NULL, "new", 4));
    FAILS(restored(backups, "never", "new", 0), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    INVALID(checkmap_backups_restore(backups, NULL, NULL));
    INVALID(checkmap_backups_restore(backups, &request, NULL));
    checkmap_backups_close(backups);
    backups = opened(CHECKMAP_BACKUPS_RDWR);
    INVALID(checkmap_backups_take(backups, DISK, 0, NULL, &outcome));
    INVALID(checkmap_backups_take(backups, DISK, 2, NULL, &outcome));
    opts.flags = 8;
    INVALID(checkmap_backups_take(backups, DISK, 1, &opts, &outcome));
    opts.flags = 0;
    opts.size = 8;
    INVALID(checkmap_backups_take(backups, DISK, 1, &opts, &outcome));
    struct checkmap_backup_source missing = {"missing", 7, NULL, 0};
    FAILS(checkmap_backups_take(backups, &missing, 1, NULL, &outcome), ENOENT, CHECKMAP_ERROR_IO);
    EQUAL(checkmap_backups_list(backups, NULL, 0), 3);
    INVALID(checkmap_backups_take_running(backups, NULL, DISK, 1, NULL, &outcome));
    CHECK(outcome == NULL);
    /* A handle of another type. */
    INVALID(checkmap_outcome_rows((const checkmap_outcome *)backups, NULL, 0));
    checkmap_backups_close(backups);
    INVALID(checkmap_backups_list(NULL, NULL, 0));
    checkmap_backups_close(NULL);
    checkmap_outcome_free(NULL);
}

int main(void)
{
    image_copy("plain.qcow2");
    write_to("plain.qcow2", "-P 1 1M 128k");
    CHECK((take("monday", 128 * KIB).flags & CHECKMAP_MOMENT_FULL) != 0);
    EQUAL(system("qemu-img convert -O raw plain.qcow2 monday.raw"), 0);
    write_to("plain.qcow2", "-P 2 2M 64k");
    CHECK((take("tuesday", 64 * KIB).flags & CHECKMAP_MOMENT_FULL) == 0);
    EQUAL(system("qemu-img convert -O raw plain.qcow2 tuesday.raw"), 0);
    write_to("plain.qcow2", "-P 3 1M 64k");
    take("wednesday", 64 * KIB);

    struct checkmap_moment moments[4];
    checkmap_backups *backups = opened(CHECKMAP_BACKUPS_RDONLY);
    EQUAL(checkmap_backups_list(backups, moments, 4), 3);
    CHECK(is_text(moments[0].checkpoint, moments[0].checkpoint_len, "monday"));
    CHECK(is_text(moments[2].checkpoint, moments[2].checkpoint_len, "wednesday"));
    CHECK(moments[0].time > 0 && moments[0].image_len > 11 && moments[0].image[0] == '/');
    EQUAL(moments[1].flags, CHECKMAP_MOMENT_HAS_CHECKPOINT | CHECKMAP_MOMENT_COMPLETE);
    EQUAL(restored(backups, "monday", "restored.raw", CHECKMAP_RESTORE_RAW), 0);
    EQUAL(system("cmp monday.raw restored.raw"), 0);
    EQUAL(restored(backups, "tuesday", "restored.raw", CHECKMAP_RESTORE_RAW | CHECKMAP_RESTORE_REPLACE), 0);
    EQUAL(system("cmp tuesday.raw restored.raw"), 0);
    EQUAL(restored(backups, NULL, "restored.qcow2", 0), 0);
    EQUAL(system("qemu-img compare -q -f qcow2 -F qcow2 plain.qcow2 restored.qcow2"), 0);
    checkmap_backups_close(backups);

    refused();
    plans();
    prune();
    damage();
    return 0;
}
