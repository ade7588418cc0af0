/* What cgo cannot say by itself: options whose progress callback is a Go function. */
#ifndef CHECKMAP_GO_BRIDGE_H
#define CHECKMAP_GO_BRIDGE_H

#include <checkmap.h>

/* Options in C memory, to be freed with free(); NULL without memory. handle 0 is no callback. */
struct checkmap_opts *checkmap_go_opts(uint32_t threads, uint64_t memory_bytes, uint32_t flags, uint32_t model,
                                       uintptr_t handle);

/* Options of a machine in C memory, with a copy of the path behind them; NULL without memory. The progress is that of opts. */
struct checkmap_qmp_opts *checkmap_go_qmp_opts(const struct checkmap_opts *opts, uint32_t timeout_ms, uint64_t max_stall_ms,
                                               const char *nbd_socket, size_t nbd_socket_len);

/* Options of a backup in C memory, with copies of the texts behind them; NULL without memory. The progress is that of opts, whose
 * handle is told what is said if says is not 0. */
struct checkmap_backup_opts *checkmap_go_backup_opts(const struct checkmap_opts *opts, uint32_t flags, uint32_t keep_checkpoints,
                                                     const char *const texts[3], const size_t lens[3],
                                                     uint64_t scratch_max_bytes, int says);

#endif
