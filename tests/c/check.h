/* What every test begins with: checks that say where they failed, and copies of the images the runner made. */
#ifndef CHECK_H
#define CHECK_H

#include <checkmap.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)

#define CHECK(claim)                                                                                        \
    do {                                                                                                    \
        if (!(claim)) {                                                                                     \
            fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #claim,             \
                    checkmap_last_error());                                                                 \
            exit(1);                                                                                        \
        }                                                                                                   \
    } while (0)

#define EQUAL(is, expected)                                                                                 \
    do {                                                                                                    \
        long long is_ = (long long)(is), expected_ = (long long)(expected);                                 \
        if (is_ != expected_) {                                                                             \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld (last error: %s)\n", __FILE__, __LINE__, #is, is_, \
                    expected_, checkmap_last_error());                                                      \
            exit(1);                                                                                        \
        }                                                                                                   \
    } while (0)

/* The call fails with this errno and this kind of error; the message speaks to C programs. */
#define FAILS(call, error, kind)                                  \
    do {                                                          \
        EQUAL(call, -(error));                                    \
        EQUAL(checkmap_last_error_kind(), kind);                  \
        CHECK(checkmap_last_error()[0] != 0);                     \
        CHECK(strstr(checkmap_last_error(), "os error") == NULL); \
        CHECK(strstr(checkmap_last_error(), " --") == NULL);      \
        CHECK(strstr(checkmap_last_error(), "::") == NULL);       \
    } while (0)

#define INVALID(call) FAILS(call, EINVAL, CHECKMAP_ERROR_INVALID_ARGUMENT)

/* A name or path as the library takes it. */
#define TEXT(text) (text), strlen(text)

static inline checkmap_bitmap *bitmap_of(uint64_t size, uint64_t granularity)
{
    checkmap_bitmap *bitmap = NULL;
    EQUAL(checkmap_bitmap_new(size, granularity, &bitmap), 0);
    return bitmap;
}

/* A copy of an image of the runner's in the folder of this test, which is the working directory. */
static inline const char *image_copy(const char *name)
{
    char from[4096], buffer[65536];
    snprintf(from, sizeof from, "%s/%s", getenv("CHECKMAP_TEST_IMAGES"), name);
    int in = open(from, O_RDONLY), out = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(in >= 0 && out >= 0);
    for (ssize_t got; (got = read(in, buffer, sizeof buffer)) > 0;) {
        CHECK(write(out, buffer, (size_t)got) == got);
    }
    close(in);
    close(out);
    return name;
}

static inline checkmap_image *image_open(const char *path, uint32_t flags)
{
    checkmap_image *image = NULL;
    EQUAL(checkmap_image_open(TEXT(path), flags, &image), 0);
    return image;
}

#endif
