/* A progress callback is told on the caller's thread, and can stop the call, which then has changed nothing. */
#include "check.h"
#include <pthread.h>

struct told {
    pthread_t thread;
    unsigned calls, stop_at;
    uint64_t done, total;
};

static int progress(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    struct told *told = user_data;
    CHECK(pthread_equal(told->thread, pthread_self()));
    CHECK(phase != NULL && strlen(phase) > 0 && done <= total);
    told->done = done;
    told->total = total;
    return ++told->calls == told->stop_at;
}

int main(void)
{
    checkmap_bitmap *a = bitmap_of(MIB, KIB), *b = bitmap_of(MIB, KIB), *out = a;
    const checkmap_bitmap *sources[] = {b};
    EQUAL(checkmap_bitmap_set(b, 0, 1), 0);
    struct told told = {pthread_self(), 0, 1, 0, 0};
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.progress = progress;
    opts.user_data = &told;
    opts.threads = 2;
    FAILS(checkmap_bitmap_union_with(a, sources, 1, &opts), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    EQUAL(told.calls, 1);
    EQUAL(checkmap_bitmap_is_empty(a), 1);
    told.calls = 0;
    FAILS(checkmap_bitmap_union_new_with(sources, 1, 0, &opts, &out), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    CHECK(out == NULL);
    told.stop_at = 0;
    EQUAL(checkmap_bitmap_union_with(a, sources, 1, &opts), 0);
    CHECK(told.done == told.total && told.total > 0);
    EQUAL(checkmap_bitmap_count(a), 1);
    told.calls = 0;
    told.stop_at = 1;
    FAILS(checkmap_bitmap_intersect_with(a, b, &opts), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    told.calls = 0;
    FAILS(checkmap_bitmap_subtract_with(a, a, &opts), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    told.calls = 0;
    FAILS(checkmap_bitmap_xor_with(a, b, &opts), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    EQUAL(checkmap_bitmap_count(a), 1);
    /* A call that is done is not stopped any more. */
    told.calls = 0;
    told.stop_at = 2;
    EQUAL(checkmap_bitmap_xor_with(a, b, &opts), 0);
    CHECK(told.calls == 2 && told.done == told.total);
    EQUAL(checkmap_bitmap_count(a), 0);
    checkmap_bitmap_free(a);
    checkmap_bitmap_free(b);
    return 0;
}
