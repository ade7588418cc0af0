/* Two disks of a running QEMU are planned and backed up as they are at one moment, which is told as it goes. */
#include "machine.h"

struct told {
    int sentences, steps;
};

static void say(void *told, const char *sentence, size_t len)
{
    CHECK(len > 0 && memchr(sentence, 0, len) == NULL);
    ((struct told *)told)->sentences++;
}

static int step(void *told, const char *phase, uint64_t done, uint64_t total)
{
    (void)phase, (void)done, (void)total;
    ((struct told *)told)->steps++;
    return 0;
}

/* Starts a QEMU whose guest stands still; its disks are those of machine.h. Returns 0 where there is none. */
static int system_start(const char *here)
{
    char command[4096];
    if (system("command -v qemu-system-x86_64 >/dev/null") != 0) {
        CHECK(getenv("CI") == NULL);
        fprintf(stderr, "SKIPPED, NOT PASSED: qemu-system-x86_64 is missing: install qemu-system-x86\n");
        return 0;
    }
    image_copy("plain.qcow2");
    image_copy("chain.qcow2");
    CHECK(atexit(daemon_kill) == 0);
    /* It changes to another folder. */
    snprintf(command, sizeof command,
             "qemu-system-x86_64 -machine q35 -accel tcg -S -display none -nodefaults -m 32 -daemonize -pidfile %s/pid"
             " -chardev socket,id=m,path=%s/qmp,server=on,wait=off -mon chardev=m,mode=control"
             " -blockdev file,filename=%s/plain.qcow2,node-name=d0-file -blockdev qcow2,file=d0-file,node-name=d0"
             " -blockdev file,filename=%s/chain.qcow2,node-name=d1-file -blockdev qcow2,file=d1-file,node-name=d1"
             " -device virtio-blk-pci,drive=d0,id=v0 -device virtio-blk-pci,drive=d1,id=v1",
             here, here, here, here);
    EQUAL(system(command), 0);
    return 1;
}

int main(void)
{
    static const struct checkmap_backup_source disks[] = {{"d0", 2, NULL, 0}, {"d1", 2, "data", 4}};
    static const struct checkmap_backup_source missing = {"d2", 2, NULL, 0};
    struct checkmap_backup_opts opts = CHECKMAP_BACKUP_OPTS_INIT;
    struct checkmap_moment rows[2];
    struct checkmap_planned planned;
    struct told told = {0, 0};
    checkmap_machine *machine = NULL;
    checkmap_backups *backups = NULL;
    checkmap_outcome *outcome = NULL;
    char reason[300];
    char here[900];
    CHECK(getcwd(here, sizeof here) != NULL);
    if (!system_start(here)) {
        return 0;
    }
    EQUAL(system("qemu-img convert -U -f qcow2 -O raw chain.qcow2 before.raw"), 0);
    EQUAL(checkmap_machine_open(TEXT("qmp"), NULL, &machine), 0);
    EQUAL(checkmap_plan_backup_running(machine, TEXT("d1"), TEXT("a"), NULL, &planned, reason, sizeof reason), 0);
    EQUAL(planned.tier, CHECKMAP_TIER_CHANGED);
    EQUAL(planned.changed_bytes, 256 * KIB);
    CHECK(checkmap_plan_backup_running(machine, TEXT("d0"), TEXT("a"), NULL, &planned, NULL, 0) > 0);
    EQUAL(planned.tier, CHECKMAP_TIER_ALLOCATED);
    FAILS(checkmap_plan_backup_running(machine, TEXT("d2"), TEXT("a"), NULL, &planned, NULL, 0), ENOENT,
          CHECKMAP_ERROR_NOT_FOUND);

    EQUAL(checkmap_backups_open(TEXT("backups"), CHECKMAP_BACKUPS_CREATE, &backups), 0);
    opts.checkpoint = "d";
    opts.checkpoint_len = 1;
    opts.scratch = here;
    opts.scratch_len = strlen(here);
    opts.say = say;
    opts.progress = step;
    opts.user_data = &told;
    FAILS(checkmap_backups_take_running(backups, machine, &missing, 1, &opts, &outcome), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    EQUAL(checkmap_backups_take_running(backups, machine, disks, 2, &opts, &outcome), 0);
    EQUAL(checkmap_outcome_rows(outcome, rows, 2), 2);
    for (int at = 0; at < 2; at++) {
        CHECK((rows[at].flags & CHECKMAP_MOMENT_COMPLETE) != 0 && rows[at].checkpoint_len == 1);
    }
    CHECK(rows[0].disk_len == 11 && memcmp(rows[0].disk, "plain.qcow2", 11) == 0);
    CHECK(rows[1].disk_len == 4 && memcmp(rows[1].disk, "data", 4) == 0);
    CHECK(told.steps > 0 && told.sentences > 0);
    checkmap_outcome_free(outcome);

    struct checkmap_restore_request request = CHECKMAP_RESTORE_REQUEST_INIT;
    request.flags = CHECKMAP_RESTORE_RAW;
    request.disk = "data";
    request.disk_len = 4;
    request.target = "after.raw";
    request.target_len = 9;
    EQUAL(checkmap_backups_restore(backups, &request, NULL), 0);
    EQUAL(system("cmp before.raw after.raw"), 0);
    FAILS(checkmap_backups_take_running(backups, machine, disks, 2, &opts, &outcome), EEXIST, CHECKMAP_ERROR_EXISTS);
    checkmap_backups_close(backups);
    checkmap_machine_close(machine);
    return 0;
}
