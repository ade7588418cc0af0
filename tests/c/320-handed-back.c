/* Every pointer that the library hands out may be handed back to it: what it points to lives until a change succeeds. */
#include "check.h"

#define MANY 9

static checkmap_image *with_many(void)
{
    checkmap_image *image = image_open(image_copy("plain.qcow2"), CHECKMAP_OPEN_RDWR);
    for (int at = 0; at < MANY; at++) {
        char name[32];
        snprintf(name, sizeof name, "2026-11-%02d", at + 10);
        EQUAL(checkmap_checkpoint_create(image, TEXT(name), 0), 0);
    }
    return image;
}

/* Whether the checkpoint that was at `at` is gone, and it alone. */
static void check_gone(checkmap_image *image, int at)
{
    struct checkmap_checkpoint list[MANY];
    EQUAL(checkmap_checkpoint_list(image, list, MANY), MANY - 1);
    for (int left = 0; left < MANY - 1; left++) {
        char name[32];
        snprintf(name, sizeof name, "2026-11-%02d", left + (left >= at) + 10);
        CHECK(list[left].name_len == strlen(name) && memcmp(list[left].name, name, strlen(name)) == 0);
    }
}

static void names_of_checkpoints(void)
{
    for (int at = 0; at < MANY; at++) {
        checkmap_image *image = with_many();
        struct checkmap_checkpoint list[MANY];
        EQUAL(checkmap_checkpoint_list(image, list, MANY), MANY);
        checkmap_bitmap *diff = NULL;
        EQUAL(checkmap_diff(image, list[at].name, list[at].name_len, NULL, 0, &diff), 0);
        checkmap_bitmap_free(diff);
        /* Calls that fail, or only rehearse, leave them as they are. */
        struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
        opts.flags = CHECKMAP_OPT_DRY_RUN;
        EQUAL(checkmap_checkpoint_delete_with(image, list[at].name, list[at].name_len, &opts), 0);
        FAILS(checkmap_checkpoint_create(image, list[at].name, list[at].name_len, 0), EEXIST, CHECKMAP_ERROR_EXISTS);
        FAILS(checkmap_checkpoint_rename(image, list[at].name, list[at].name_len, list[0].name, list[0].name_len),
              EEXIST, CHECKMAP_ERROR_EXISTS);
        EQUAL(checkmap_checkpoint_delete(image, list[at].name, list[at].name_len), 0);
        check_gone(image, at);
        checkmap_image_close(image);
    }
}

static void names_of_parents(void)
{
    for (int at = 1; at < MANY; at++) {
        checkmap_image *image = with_many();
        struct checkmap_checkpoint list[MANY];
        EQUAL(checkmap_checkpoint_list(image, list, MANY), MANY);
        CHECK(list[0].parent == NULL);
        EQUAL(checkmap_checkpoint_delete(image, list[at].parent, list[at].parent_len), 0);
        check_gone(image, at - 1);
        checkmap_image_close(image);
    }
}

static void both_names_of_a_rename(void)
{
    checkmap_image *image = with_many();
    struct checkmap_checkpoint list[MANY];
    struct checkmap_stored stored[MANY];
    EQUAL(checkmap_checkpoint_list(image, list, MANY), MANY);
    EQUAL(checkmap_stored_list(image, stored, MANY), MANY);
    /* The first nine bytes of a name that was handed out are a new one. */
    EQUAL(checkmap_checkpoint_rename(image, list[4].name, list[4].name_len, stored[0].name, 9), 0);
    EQUAL(checkmap_checkpoint_list(image, list, MANY), MANY);
    CHECK(list[4].name_len == 9 && memcmp(list[4].name, "2026-11-1", 9) == 0);
    checkmap_image_close(image);
}

static void names_of_bitmaps(void)
{
    checkmap_image *image = with_many();
    struct checkmap_stored list[MANY];
    EQUAL(checkmap_stored_list(image, list, MANY), MANY);
    const char *names[] = {list[1].name, list[2].name};
    size_t lens[] = {list[1].name_len, list[2].name_len};
    checkmap_bitmap *bits = NULL;
    struct checkmap_summary summary;
    EQUAL(checkmap_stored_read(image, list[3].name, list[3].name_len, 0, CHECKMAP_TO_END, &bits), 0);
    EQUAL(checkmap_stored_summarize(image, list[3].name, list[3].name_len, &summary), 0);
    EQUAL(checkmap_stored_merge(image, names, lens, 2, list[0].name, list[0].name_len, NULL), 0);
    EQUAL(checkmap_stored_list(image, list, MANY), MANY);
    FAILS(checkmap_checkpoint_delete(image, list[5].name, list[5].name_len), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    EQUAL(checkmap_checkpoint_delete(image, list[0].name, list[0].name_len), 0);
    checkmap_bitmap_free(bits);
    checkmap_image_close(image);
}

static void texts(void)
{
    char name[200];
    memset(name, 'n', sizeof name);
    checkmap_image *image = image_open(image_copy("overlay.qcow2"), CHECKMAP_OPEN_RDWR);
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    EQUAL(checkmap_image_get_info(image, &info), 0);
    CHECK(info.backing_file_len == strlen("chain.qcow2"));
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_checkpoint_create_with(image, name, 150, 0, &opts), 0);
    CHECK(checkmap_image_warnings(image) > 0);
    const char *warning = checkmap_image_warning(image, 0);
    /* Other warnings take its place; the text stays. */
    EQUAL(checkmap_checkpoint_create_with(image, name, 160, 0, &opts), 0);
    CHECK(strcmp(warning, checkmap_image_warning(image, 0)) != 0);
    EQUAL(checkmap_checkpoint_create_with(image, TEXT(warning), 0, &opts), 0);
    /* The same warning over and over is the same text. */
    EQUAL(checkmap_checkpoint_create_with(image, name, 150, 0, &opts), 0);
    CHECK(warning == checkmap_image_warning(image, 0));
    FAILS(checkmap_checkpoint_create(image, warning, 1, UINT64_MAX), EINVAL, CHECKMAP_ERROR_INVALID_ARGUMENT);
    EQUAL(checkmap_checkpoint_create(image, info.backing_file, info.backing_file_len, 0), 0);
    EQUAL(checkmap_image_get_info(image, &info), 0);
    /* A way in which nothing good can lie: but it is read before it is overwritten. */
    opts.flags = CHECKMAP_OPT_TOP_LAYER_ONLY;
    FAILS(checkmap_checkpoint_delete_with(image, TEXT(checkmap_last_error()), &opts), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    checkmap_image *base = NULL;
    EQUAL(checkmap_image_open(TEXT(checkmap_last_error()), 0, &base), -ENOENT);
    image_copy("chain.qcow2");
    EQUAL(checkmap_image_open(info.backing_file, info.backing_file_len, 0, &base), 0);
    checkmap_report *report = NULL;
    EQUAL(checkmap_image_check(base, NULL, &report), 0);
    EQUAL(checkmap_report_errors(report), 0);
    checkmap_report_free(report);
    checkmap_image_close(base);
    checkmap_image_close(image);
}

static int fail_at, failing;

/* Takes the place of the system's: the library's flushes fail one after the other. */
int fdatasync(int fd)
{
    if (fail_at > 0 && --fail_at == 0) {
        failing = 1;
        errno = EIO;
        return -1;
    }
    return fsync(fd);
}

/* A change that fails on the disk, in doubt or not, leaves what was listed before. */
static void names_after_a_failed_flush(void)
{
    int in_doubt = 0, rounds = 0;
    for (int at = 1; at < 20; at++) {
        checkmap_image *image = with_many();
        struct checkmap_checkpoint list[MANY];
        struct checkmap_stored stored[MANY];
        EQUAL(checkmap_checkpoint_list(image, list, MANY), MANY);
        EQUAL(checkmap_stored_list(image, stored, MANY), MANY);
        failing = 0;
        fail_at = at;
        int status = checkmap_checkpoint_create(image, TEXT("new"), 0);
        fail_at = 0;
        if (status == 0) {
            checkmap_image_close(image);
            CHECK(!failing || rounds > 0);
            break;
        }
        rounds++;
        in_doubt += checkmap_last_error_kind() == CHECKMAP_ERROR_COMMIT_IN_DOUBT;
        CHECK(list[3].name_len == 10 && memcmp(list[3].name, "2026-11-13", 10) == 0);
        CHECK(memcmp(stored[1].name, "2026-11-10->2026-11-11", 22) == 0);
        EQUAL(checkmap_checkpoint_delete(image, list[3].name, list[3].name_len), 0);
        struct checkmap_checkpoint now[MANY + 1];
        int64_t count = checkmap_checkpoint_list(image, now, MANY + 1);
        CHECK(count == MANY - 1 || count == MANY);
        for (int64_t left = 0; left < count; left++) {
            CHECK(now[left].name_len != 10 || memcmp(now[left].name, "2026-11-13", 10) != 0);
        }
        checkmap_image_close(image);
    }
    CHECK(rounds > 0 && in_doubt > 0);
}

static int called;

/* What is being done is a name as good as any. */
static int other_image(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    if (called++ == 0) {
        EQUAL(checkmap_checkpoint_create(user_data, TEXT(phase), 0), 0);
    }
    return 0;
}

static void phases(void)
{
    checkmap_image *image = with_many(), *other = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.progress = other_image;
    opts.user_data = other;
    struct checkmap_checkpoint list[MANY];
    EQUAL(checkmap_checkpoint_list(image, list, MANY), MANY);
    EQUAL(checkmap_checkpoint_delete_with(image, list[2].name, list[2].name_len, &opts), 0);
    CHECK(called > 0);
    check_gone(image, 2);
    EQUAL(checkmap_checkpoint_list(other, NULL, 0), 4);
    checkmap_image_close(image);
    checkmap_image_close(other);
}

static void findings(void)
{
    checkmap_image *image = image_open(image_copy("inconsistent.qcow2"), CHECKMAP_OPEN_RDWR);
    checkmap_report *report = NULL;
    EQUAL(checkmap_image_check(image, NULL, &report), 0);
    struct checkmap_problem problem;
    EQUAL(checkmap_report_problems(report, 0, &problem, 1), 1);
    EQUAL(checkmap_checkpoint_delete_inconsistent(image, NULL), 0);
    EQUAL(checkmap_checkpoint_delete(image, TEXT(problem.message)), -ENOENT);
    EQUAL(checkmap_checkpoint_delete(image, TEXT(problem.structure)), -ENOENT);
    checkmap_image_close(image);
    checkmap_report_free(report);
}

int main(void)
{
    names_of_checkpoints();
    names_of_parents();
    both_names_of_a_rename();
    names_of_bitmaps();
    names_after_a_failed_flush();
    texts();
    phases();
    findings();
    return 0;
}
