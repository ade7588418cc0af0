/* What cgo cannot say by itself: options whose progress callback is a Go function. */
#ifndef CHECKMAP_GO_BRIDGE_H
#define CHECKMAP_GO_BRIDGE_H

#include <checkmap.h>

/* Options in C memory, to be freed with free(); NULL without memory. handle 0 is no callback. */
struct checkmap_opts *checkmap_go_opts(uint32_t threads, uint64_t memory_bytes, uint32_t flags, uint32_t model,
                                       uintptr_t handle);

#endif
