#include "bridge.h"

#include <stdlib.h>
#include <string.h>

#include "_cgo_export.h"

static int progress(void *user_data, const char *phase, uint64_t done, uint64_t total)
{
    return checkmapGoProgress((uintptr_t)user_data, (char *)phase, done, total);
}

static void say(void *user_data, const char *sentence, size_t len)
{
    checkmapGoSay((uintptr_t)user_data, (char *)sentence, len);
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

struct checkmap_qmp_opts *checkmap_go_qmp_opts(const struct checkmap_opts *opts, uint32_t timeout_ms, uint64_t max_stall_ms,
                                               const char *nbd_socket, size_t nbd_socket_len)
{
    struct checkmap_qmp_opts *own = calloc(1, sizeof *own + nbd_socket_len);
    if (own != NULL) {
        own->size = sizeof *own;
        own->timeout_ms = timeout_ms;
        own->max_stall_ms = max_stall_ms;
        if (nbd_socket_len > 0) {
            own->nbd_socket = memcpy(own + 1, nbd_socket, nbd_socket_len);
            own->nbd_socket_len = nbd_socket_len;
        }
        if (opts != NULL) {
            own->progress = opts->progress;
            own->user_data = opts->user_data;
        }
    }
    return own;
}

struct checkmap_backup_opts *checkmap_go_backup_opts(const struct checkmap_opts *opts, uint32_t flags, uint32_t keep_checkpoints,
                                                     const char *const texts[3], const size_t lens[3],
                                                     uint64_t scratch_max_bytes, int says)
{
    struct checkmap_backup_opts *own = calloc(1, sizeof *own + lens[0] + lens[1] + lens[2]);
    if (own != NULL) {
        char *behind = (char *)(own + 1);
        const char *copies[3] = {NULL, NULL, NULL};
        for (int at = 0; at < 3; at++) {
            if (lens[at] > 0) {
                copies[at] = memcpy(behind, texts[at], lens[at]);
                behind += lens[at];
            }
        }
        own->size = sizeof *own;
        own->threads = opts->threads;
        own->flags = flags;
        own->keep_checkpoints = keep_checkpoints;
        own->checkpoint = copies[0];
        own->checkpoint_len = lens[0];
        own->secret_file = copies[1];
        own->secret_file_len = lens[1];
        own->scratch = copies[2];
        own->scratch_len = lens[2];
        own->scratch_max_bytes = scratch_max_bytes;
        own->say = says ? say : NULL;
        own->progress = opts->progress;
        own->user_data = opts->user_data;
    }
    return own;
}
