/* Owns the examples of the manual pages about backups: each stands below the names of the calls that it is for. */
#include <checkmap.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* EXAMPLE checkmap_backups_open checkmap_backups_take checkmap_backups_close checkmap_outcome_error checkmap_outcome_texts checkmap_outcome_free */
/* Backs up one image; the first backup is full, later ones hold what changed. */
static int64_t back_up(const char *directory, const char *image)
{
    struct checkmap_backup_source source;
    struct checkmap_text warnings[8];
    checkmap_backups *backups = NULL;
    checkmap_outcome *outcome = NULL;
    int64_t status, count = 0, at;
    memset(&source, 0, sizeof source);
    source.disk = image;
    source.disk_len = strlen(image);
    status = checkmap_backups_open(directory, strlen(directory), CHECKMAP_BACKUPS_CREATE, &backups);
    if (status == 0) {
        status = checkmap_backups_take(backups, &source, 1, NULL, &outcome);
    }
    if (status > 0) {
        status = checkmap_outcome_error(outcome, 0);
    }
    if (status < 0) {
        fprintf(stderr, "%s\n", checkmap_last_error());
    }
    if (outcome != NULL) {
        count = checkmap_outcome_texts(outcome, 0, CHECKMAP_TEXTS_WARNINGS, warnings, 8);
    }
    for (at = 0; at < count && at < 8; at++) {
        fprintf(stderr, "%.*s\n", (int)warnings[at].len, warnings[at].bytes);
    }
    checkmap_outcome_free(outcome);
    checkmap_backups_close(backups);
    return status;
}

/* EXAMPLE checkmap_backups_take_running checkmap_outcome_rows */
static void say(void *program, const char *sentence, size_t len)
{
    fprintf(stderr, "%s: %.*s\n", (const char *)program, (int)len, sentence);
}

/* Backs up two disks of a running QEMU, as they were at one moment. Returns how many failed. */
static int64_t back_up_running(checkmap_backups *backups, const checkmap_machine *machine, char *program)
{
    static const struct checkmap_backup_source disks[] = {{"vda", 3, NULL, 0}, {"vdb", 3, NULL, 0}};
    struct checkmap_backup_opts opts = CHECKMAP_BACKUP_OPTS_INIT;
    struct checkmap_moment rows[2];
    checkmap_outcome *outcome = NULL;
    int64_t failed;
    size_t at;
    opts.scratch = "/var/tmp";
    opts.scratch_len = 8;
    opts.say = say;
    opts.user_data = program;
    failed = checkmap_backups_take_running(backups, machine, disks, 2, &opts, &outcome);
    if (failed < 0 || checkmap_outcome_rows(outcome, rows, 2) != 2) {
        return failed;
    }
    for (at = 0; at < 2; at++) {
        printf("%.*s: %" PRIu64 " bytes\n", (int)rows[at].disk_len, rows[at].disk, rows[at].data_bytes);
    }
    checkmap_outcome_free(outcome);
    return failed;
}

/* EXAMPLE checkmap_backups_preview */
/* How many bytes the next backup of an image would take at most. */
static int64_t would_take(const char *directory, const char *image)
{
    struct checkmap_backup_source source;
    struct checkmap_moment row;
    checkmap_outcome *outcome = NULL;
    int64_t bytes;
    memset(&source, 0, sizeof source);
    source.disk = image;
    source.disk_len = strlen(image);
    bytes = checkmap_backups_preview(directory, strlen(directory), &source, 1, NULL, &outcome);
    if (bytes == 0 && checkmap_outcome_rows(outcome, &row, 1) == 1) {
        bytes = (int64_t)row.data_bytes;
    }
    checkmap_outcome_free(outcome);
    return bytes;
}

/* EXAMPLE checkmap_backups_list checkmap_backups_restore */
/* Restores the oldest moment in a directory to a new file. */
static int restore_the_oldest(const checkmap_backups *backups, const char *target)
{
    struct checkmap_restore_request request = CHECKMAP_RESTORE_REQUEST_INIT;
    struct checkmap_moment moment;
    int64_t count = checkmap_backups_list(backups, &moment, 1);
    if (count <= 0) {
        return count < 0 ? (int)count : -ENOENT;
    }
    request.disk = moment.disk;
    request.disk_len = moment.disk_len;
    request.checkpoint = moment.checkpoint;
    request.checkpoint_len = moment.checkpoint_len;
    request.target = target;
    request.target_len = strlen(target);
    return checkmap_backups_restore(backups, &request, NULL);
}

/* EXAMPLE checkmap_backups_verify */
/* Reads everything in a directory, and tells each damage. Returns how many files are damaged. */
static int64_t damages(const checkmap_backups *backups)
{
    checkmap_outcome *outcome = NULL;
    int64_t found = checkmap_backups_verify(backups, NULL, &outcome), at;
    if (found >= 0) {
        found = checkmap_outcome_rows(outcome, NULL, 0);
    }
    for (at = 0; at < found; at++) {
        if (checkmap_outcome_error(outcome, (size_t)at) < 0) {
            fprintf(stderr, "%s\n", checkmap_last_error());
        }
    }
    checkmap_outcome_free(outcome);
    return found;
}

/* EXAMPLE checkmap_backups_prune */
/* Keeps the newest seven moments of each disk, and those of the last 30 days. */
static int64_t prune(checkmap_backups *backups)
{
    struct checkmap_keep keep = CHECKMAP_KEEP_INIT;
    checkmap_outcome *outcome = NULL;
    int64_t failed;
    keep.last = 7;
    keep.within_seconds = 30 * 24 * 3600;
    failed = checkmap_backups_prune(backups, &keep, NULL, &outcome);
    checkmap_outcome_free(outcome);
    return failed;
}

/* EXAMPLE checkmap_plan_backup */
/* Tells how much a backup since Monday has to read, and why it is not less. */
static int64_t plan(const checkmap_image *image)
{
    static const char *const tiers[] = {"", "what changed", "what is allocated", "all"};
    struct checkmap_planned planned;
    char reason[512];
    int64_t len = checkmap_plan_backup(image, "monday", 6, NULL, 0, NULL, &planned, reason, sizeof reason);
    if (len >= 0) {
        printf("%s: %.*s\n", tiers[planned.tier], len < 512 ? (int)len : 512, reason);
    }
    return len;
}

/* EXAMPLE checkmap_plan_backup_running */
/* How many bytes changed on a running disk since Monday; -1 where that cannot be told. */
static int64_t changed_since_monday(const checkmap_machine *machine)
{
    struct checkmap_planned planned;
    int64_t len = checkmap_plan_backup_running(machine, "vda", 3, "monday", 6, NULL, &planned, NULL, 0);
    return len < 0 ? len : planned.changed_bytes;
}
