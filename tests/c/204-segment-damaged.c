/* Damage is told, in queries by an error and in a check by a report. */
#include "check.h"

static void flip(off_t at)
{
    int fd = open("segment", O_RDWR);
    uint8_t byte;
    CHECK(pread(fd, &byte, 1, at) == 1);
    byte ^= 0x40;
    CHECK(pwrite(fd, &byte, 1, at) == 1);
    close(fd);
}

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(GIB, 4 * KIB), *out = bitmap;
    for (uint64_t at = 0; at < GIB; at += 64 * KIB) {
        EQUAL(checkmap_bitmap_set(bitmap, at, at % (12 * KIB) + 1), 0);
    }
    EQUAL(checkmap_segment_write(bitmap, TEXT("segment"), NULL), 0);
    checkmap_segment *segment = NULL;
    checkmap_report *report = NULL;
    EQUAL(checkmap_segment_open(TEXT("segment"), &segment), 0);
    EQUAL(checkmap_segment_check(segment, NULL, &report), 0);
    EQUAL(checkmap_report_errors(report), 0);
    EQUAL(checkmap_report_problems(report, 0, NULL, 0), 0);
    checkmap_report_free(report);

    struct stat file;
    CHECK(stat("segment", &file) == 0);
    uint64_t at = 5000;
    flip((off_t)at);
    EQUAL(checkmap_segment_check(segment, NULL, &report), 0);
    CHECK(checkmap_report_errors(report) > 0);
    EQUAL(checkmap_report_unusable(report), 0);
    EQUAL(checkmap_report_leaked_bytes(report), 0);
    struct checkmap_problem problems[4];
    CHECK(checkmap_report_problems(report, 0, problems, 4) > 0);
    EQUAL(problems[0].severity, CHECKMAP_SEVERITY_ERROR);
    CHECK(problems[0].offset >= 0 && problems[0].message[0] != 0 && problems[0].structure[0] != 0);
    EQUAL(checkmap_report_problems(report, 100, problems, 4), 0);
    INVALID(checkmap_report_problems(report, 0, problems, 0));
    FAILS(checkmap_segment_load(segment, 0, CHECKMAP_TO_END, &out), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    CHECK(out == NULL);
    checkmap_segment_close(segment);
    /* The report outlives what was checked. */
    CHECK(strlen(problems[0].message) > 0);
    checkmap_report_free(report);

    CHECK(truncate("segment", file.st_size / 2) == 0);
    FAILS(checkmap_segment_open(TEXT("segment"), &segment), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    CHECK(segment == NULL);
    FAILS(checkmap_segment_open(TEXT("/dev/null"), &segment), EIO, CHECKMAP_ERROR_IO);
    FAILS(checkmap_segment_open(TEXT("."), &segment), EISDIR, CHECKMAP_ERROR_IO);
    int fd = open("segment", O_WRONLY | O_TRUNC);
    CHECK(write(fd, "this is no segment, and never was one", 37) == 37);
    close(fd);
    FAILS(checkmap_segment_open(TEXT("segment"), &segment), ENOTSUP, CHECKMAP_ERROR_UNKNOWN_FORMAT);
    checkmap_bitmap_free(bitmap);
    return 0;
}
