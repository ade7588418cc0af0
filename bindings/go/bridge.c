#include "bridge.h"

#include <stdlib.h>

#include "_cgo_export.h"

static int progress(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    return checkmapGoProgress((uintptr_t)user_data, (char *)phase, done, total);
}

struct checkmap_opts *checkmap_go_opts(uint32_t threads, uint64_t memory_bytes, uint32_t flags, uint32_t model,
                                       uintptr_t handle)
{
    struct checkmap_opts *opts = calloc(1, sizeof *opts);
    if (opts != NULL) {
        opts->size = sizeof *opts;
        opts->threads = threads;
        opts->memory_bytes = memory_bytes;
        opts->flags = flags;
        opts->model = model;
        opts->progress = handle != 0 ? progress : NULL;
        opts->user_data = (void *)handle;
    }
    return opts;
}
