/* A child of a fork in the middle of a change is told so at once by every call, and can free what it holds; one of a fork in
 * the middle of a question goes on. The calls are caught where they read or write memory of ours. */
#include "check.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

static checkmap_bitmap *bitmap;
static uint8_t *page;
static volatile sig_atomic_t forks, is_torn;

static void in_the_child(void)
{
    checkmap_bitmap *out = NULL;
    const checkmap_bitmap *source = bitmap;
    struct checkmap_extent extent;
    alarm(60);
    if (!is_torn) {
        EQUAL(checkmap_bitmap_count(bitmap), 256);
        EQUAL(checkmap_bitmap_set(bitmap, 8 * MIB, 4 * KIB), 0);
        EQUAL(checkmap_bitmap_count(bitmap), 257);
        checkmap_bitmap_free(bitmap);
        return;
    }
#define TORN(call) FAILS(call, EDEADLK, CHECKMAP_ERROR_TORN_BY_FORK)
    TORN(checkmap_bitmap_set(bitmap, 0, 1));
    TORN(checkmap_bitmap_clear_all(bitmap));
    TORN(checkmap_bitmap_resize(bitmap, MIB));
    TORN(checkmap_bitmap_optimize(bitmap));
    TORN(checkmap_bitmap_get(bitmap, 0));
    TORN(checkmap_bitmap_count(bitmap));
    TORN(checkmap_bitmap_count_range(bitmap, 0, MIB));
    TORN(checkmap_bitmap_is_empty(bitmap));
    TORN(checkmap_bitmap_next_dirty(bitmap, 0, MIB));
    TORN(checkmap_bitmap_extents(bitmap, 0, MIB, &extent, 1));
    TORN(checkmap_bitmap_to_bits(bitmap, 0, MIB, NULL, 0));
    TORN(checkmap_bitmap_serialize(bitmap, NULL, 0));
    TORN(checkmap_bitmap_clone(bitmap, &out));
    TORN(checkmap_bitmap_union_new(&source, 1, 0, &out));
    TORN(checkmap_bitmap_union(bitmap, &source, 1));
    TORN(checkmap_bitmap_equal(bitmap, bitmap));
    CHECK(checkmap_bitmap_size(bitmap) == 0 && checkmap_last_error_errno() == EDEADLK);
    CHECK(out == NULL);
    checkmap_bitmap_free(bitmap);
    bitmap = bitmap_of(GIB, 4 * KIB);
    EQUAL(checkmap_bitmap_set(bitmap, 0, 1), 0);
    checkmap_bitmap_free(bitmap);
}

static void at_the_page(int number)
{
    (void)number;
    forks++;
    pid_t child = fork();
    if (child == 0) {
        in_the_child();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(mprotect(page, 4 * KIB, PROT_READ | PROT_WRITE) == 0);
}

int main(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = at_the_page;
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    page = mmap(NULL, 4 * KIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    bitmap = bitmap_of(GIB, 4 * KIB);
    EQUAL(checkmap_bitmap_set(bitmap, 0, MIB), 0);

    EQUAL(checkmap_bitmap_to_bits(bitmap, 0, MIB, page, 4 * KIB), 32);
    EQUAL(forks, 1);
    CHECK(page[0] == 0xff && page[31] == 0xff);

    is_torn = 1;
    page[0] = 1;
    CHECK(mprotect(page, 4 * KIB, PROT_NONE) == 0);
    EQUAL(checkmap_bitmap_from_bits(bitmap, 0, page, 4 * KIB), 0);
    EQUAL(forks, 2);
    EQUAL(checkmap_bitmap_count(bitmap), 249);
    checkmap_bitmap_free(bitmap);
    return 0;
}
