/* A thousand forks beside calls of other threads: whatever these were in the middle of, no call of the child hangs, and what
 * it cannot trust it is told at every call. */
#include "check.h"
#include <pthread.h>
#include <sys/wait.h>

#define CHUNK ((uint64_t)65536)

static checkmap_bitmap *changed, *asked;
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static int over;

static int is_over(void)
{
    return __atomic_load_n(&over, __ATOMIC_RELAXED);
}

/* Chunks come and go, forms change, and all is packed anew now and then. */
static void *change(void *unused)
{
    for (uint64_t round = 0; !is_over(); round++) {
        uint64_t chunk = round * 7919 % 12000;
        EQUAL(checkmap_bitmap_set(changed, chunk * CHUNK + round % 60000, 40), 0);
        EQUAL(checkmap_bitmap_set(changed, chunk * CHUNK, 3 * CHUNK + 7), 0);
        EQUAL(checkmap_bitmap_clear(changed, chunk * CHUNK, CHUNK + 50), 0);
        if (round % 500 == 0) {
            EQUAL(checkmap_bitmap_optimize(changed), 0);
        }
    }
    return unused;
}

/* New chunks wait until somebody asks. */
static void *feed(void *unused)
{
    for (uint64_t round = 0; !is_over(); round++) {
        pthread_rwlock_wrlock(&lock);
        for (uint64_t n = 0; n < 20; n++) {
            EQUAL(checkmap_bitmap_set(asked, (round * 20 + n) * 7919 % 6000 * 2 * CHUNK + CHUNK, 1), 0);
        }
        if (round % 100 == 0) {
            EQUAL(checkmap_bitmap_clear_all(asked), 0);
            for (uint64_t n = 0; n < 6000; n++) {
                EQUAL(checkmap_bitmap_set(asked, n * 2 * CHUNK, 1), 0);
            }
        }
        pthread_rwlock_unlock(&lock);
    }
    return unused;
}

static void *ask(void *unused)
{
    struct checkmap_extent extents[64];
    while (!is_over()) {
        pthread_rwlock_rdlock(&lock);
        CHECK(checkmap_bitmap_extents(asked, 0, CHECKMAP_TO_END, extents, 64) >= 0);
        CHECK(checkmap_bitmap_count_range(asked, 5 * CHUNK, 9000 * CHUNK) >= 0);
        pthread_rwlock_unlock(&lock);
    }
    return unused;
}

/* Whether a call was told that a fork tore the bitmap; any other error is none that may be. */
static int was_torn(int64_t status)
{
    if (status < -1) {
        EQUAL(status, -EDEADLK);
        EQUAL(checkmap_last_error_kind(), CHECKMAP_ERROR_TORN_BY_FORK);
    }
    return status < -1;
}

static void use(checkmap_bitmap *bitmap)
{
    static uint8_t bits[8192], bytes[1 << 22];
    struct checkmap_extent extents[64];
    checkmap_bitmap *copy = NULL, *united = NULL, *other = bitmap_of(12000 * CHUNK, 1);
    const checkmap_bitmap *sources[] = {other, bitmap};
    EQUAL(checkmap_bitmap_set(other, 0, 100), 0);
    int torn = was_torn(checkmap_bitmap_get(bitmap, 0));
    int64_t answers[] = {
        checkmap_bitmap_count(bitmap),
        checkmap_bitmap_dirty_bytes(bitmap),
        checkmap_bitmap_is_empty(bitmap),
        checkmap_bitmap_count_range(bitmap, CHUNK, 3000 * CHUNK),
        checkmap_bitmap_count_extents(bitmap),
        checkmap_bitmap_next_clean(bitmap, 0, CHECKMAP_TO_END),
        checkmap_bitmap_extents(bitmap, 0, CHECKMAP_TO_END, extents, 64),
        checkmap_bitmap_to_bits(bitmap, 0, CHUNK, bits, sizeof bits),
        checkmap_bitmap_serialize(bitmap, bytes, sizeof bytes),
        checkmap_bitmap_validate(bitmap),
        checkmap_bitmap_clone(bitmap, &copy),
        checkmap_bitmap_union_new(sources, 2, 0, &united),
        checkmap_bitmap_equal(bitmap, other),
        checkmap_bitmap_intersect(other, bitmap),
        checkmap_bitmap_set(bitmap, 77 * CHUNK, 2 * CHUNK + 1),
        checkmap_bitmap_clear(bitmap, CHUNK, 2 * CHUNK),
        checkmap_bitmap_union(bitmap, sources, 1),
        checkmap_bitmap_optimize(bitmap),
    };
    for (size_t n = 0; n < sizeof answers / sizeof answers[0]; n++) {
        EQUAL(was_torn(answers[n]), torn);
    }
    CHECK((checkmap_bitmap_size(bitmap) == 0) == torn);
    CHECK((copy == NULL) == torn && (united == NULL) == torn);
    checkmap_bitmap_free(copy);
    checkmap_bitmap_free(united);
    checkmap_bitmap_free(other);
    checkmap_bitmap_free(bitmap);
}

int main(void)
{
    const char *wanted = getenv("CHECKMAP_TEST_FORKS");
    int forks = wanted != NULL ? atoi(wanted) : 1000;
    pthread_t threads[4];
    void *(*work[4])(void *) = {change, feed, ask, ask};
    changed = bitmap_of(12003 * CHUNK + 7, 1);
    asked = bitmap_of(12000 * CHUNK, 1);
    for (int n = 0; n < 4; n++) {
        CHECK(pthread_create(&threads[n], NULL, work[n], NULL) == 0);
    }
    for (int n = 0; n < forks; n++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            was_torn(checkmap_bitmap_resize(changed, 12000 * CHUNK));
            use(changed);
            use(asked);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    for (int n = 0; n < 4; n++) {
        pthread_join(threads[n], NULL);
    }
    checkmap_bitmap_free(changed);
    checkmap_bitmap_free(asked);
    return 0;
}
