/* A process that forks while another thread makes its first calls of the library: the child's calls never hang. */
#include "check.h"
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

/* The calls that prepare something when they are first made: kernels, checksums, threads, temporary names, errors. */
static void call_all(unsigned threads)
{
    char name[32];
    snprintf(name, sizeof name, "segment-%d", (int)getpid());
    checkmap_bitmap *bitmap = NULL, *other = NULL, *both = NULL;
    FAILS(checkmap_bitmap_new(1, 3, &bitmap), EINVAL, CHECKMAP_ERROR_INVALID_ARGUMENT);
    EQUAL(checkmap_bitmap_new(GIB, 4 * KIB, &bitmap), 0);
    EQUAL(checkmap_bitmap_new(GIB, 4 * KIB, &other), 0);
    EQUAL(checkmap_bitmap_set(bitmap, MIB, MIB), 0);
    EQUAL(checkmap_bitmap_set(other, 4 * KIB, 1), 0);
    const checkmap_bitmap *sources[] = {bitmap, other};
    EQUAL(checkmap_bitmap_union_new(sources, 2, 0, &both), 0);
    EQUAL(checkmap_bitmap_count(both), 257);
    EQUAL(checkmap_segment_write(both, TEXT(name), NULL), 0);
    checkmap_segment *segment = NULL;
    EQUAL(checkmap_segment_open(TEXT(name), &segment), 0);
    EQUAL(checkmap_segment_count_range(segment, 0, CHECKMAP_TO_END), 257);
    const checkmap_segment *segments[] = {segment, segment};
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.threads = threads;
    EQUAL(checkmap_segment_merge(segments, 2, TEXT(name), &opts, NULL), 0);
    EQUAL(unlink(name), 0);
    checkmap_segment_close(segment);
    checkmap_bitmap_free(bitmap);
    checkmap_bitmap_free(other);
    checkmap_bitmap_free(both);
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (long long)time.tv_sec * 1000000000 + time.tv_nsec;
}

static unsigned threads;
static volatile int begun;

static void *first_calls(void *unused)
{
    (void)unused;
    begun = 1;
    call_all(threads);
    return NULL;
}

/* One fresh process: forks so many nanoseconds after its first call began. What it forks has twenty seconds. */
static int fresh(long long after)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, first_calls, NULL) == 0);
    while (!begun) {
    }
    for (long long from = now(); now() - from < after;) {
    }
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        call_all(threads);
        _exit(0);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && pthread_join(thread, NULL) == 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        return 2;
    }
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int count, char **arguments)
{
    if (count == 3) {
        threads = (unsigned)atoi(arguments[2]);
        return fresh(atoll(arguments[1]));
    }
    const char *wanted = getenv("CHECKMAP_TEST_FORKS");
    int forks = wanted != NULL ? atoi(wanted) : 1000, hung = 0, failed = 0;
    uint64_t random = 1;
    for (int round = 0; round < forks; round++) {
        /* Most moments lie where the first call begins, some anywhere up to the last. */
        random = random * 6364136223846793005u + 1442695040888963407u;
        long long after = (long long)((random >> 33) % (round % 4 < 2 ? 60000 : 3000000));
        char text[32];
        snprintf(text, sizeof text, "%lld", after);
        pid_t child = fork();
        if (child == 0) {
            execl(arguments[0], arguments[0], text, round % 2 ? "0" : "3", (char *)NULL);
            _exit(3);
        }
        int status = 0;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        hung += WIFEXITED(status) && WEXITSTATUS(status) == 2;
        failed += !WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 2);
    }
    if (hung + failed > 0) {
        fprintf(stderr, "of %d forks %d hung and %d failed\n", forks, hung, failed);
    }
    return hung + failed > 0;
}
