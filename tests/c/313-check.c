/* An image is checked, and what is wrong is in the report. */
#include "check.h"

static int stop(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    (void)phase, (void)done, (void)total;
    ++*(unsigned *)user_data;
    return 1;
}

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), 0);
    checkmap_report *report = NULL;
    EQUAL(checkmap_image_check(image, NULL, &report), 0);
    EQUAL(checkmap_report_errors(report), 0);
    EQUAL(checkmap_report_unusable(report), 0);
    EQUAL(checkmap_report_leaked_bytes(report), 0);
    checkmap_report_free(report);
    unsigned calls = 0;
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.progress = stop;
    opts.user_data = &calls;
    FAILS(checkmap_image_check(image, &opts, &report), ECANCELED, CHECKMAP_ERROR_CANCELLED);
    EQUAL(calls, 1);
    CHECK(report == NULL);
    INVALID(checkmap_image_check(image, NULL, NULL));
    checkmap_image_close(image);

    image = image_open(image_copy("inconsistent.qcow2"), 0);
    EQUAL(checkmap_image_check(image, NULL, &report), 0);
    CHECK(checkmap_report_unusable(report) > 0);
    struct checkmap_problem problem;
    EQUAL(checkmap_report_problems(report, 0, &problem, 1), 1);
    CHECK(problem.message[0] != 0);
    checkmap_report_free(report);
    checkmap_image_close(image);
    return 0;
}
