/* The calls and structs that other programs were written against, to the type: this file changes never. */
#include "check.h"

#define IS(name, result, ...) \
    do {                                      \
        result (*call)(__VA_ARGS__) = name;   \
        CHECK(call != NULL);                  \
    } while (0)

typedef checkmap_bitmap map;
typedef checkmap_image image;

int main(void)
{
    struct checkmap_extent extent = {.offset = 1, .length = 2, .flags = 1, .reserved = 0};
    struct checkmap_checkpoint point = {.name = "a", .name_len = 1, .parent = NULL, .parent_len = 0, .granularity = 1,
                                        .dirty_bytes = -1, .flags = 1, .reserved = 0, .reserved2 = {0, 0, 0, 0}};
    CHECK(sizeof extent == 24 && sizeof point == 4 * sizeof(void *) + 24 + 32);
    CHECK(CHECKMAP_EXTENT_DIRTY == 1 && CHECKMAP_OPEN_RDONLY == 0 && CHECKMAP_OPEN_RDWR && CHECKMAP_OPEN_NO_LOCK);
    CHECK(CHECKMAP_OPEN_FORCE_SHARE && CHECKMAP_CHECKPOINT_RECORDING && CHECKMAP_CHECKPOINT_INCONSISTENT);

    IS(checkmap_version, const char *, void);
    IS(checkmap_abi_version, uint32_t, void);
    IS(checkmap_last_error, const char *, void);
    IS(checkmap_bitmap_new, int, uint64_t, uint64_t, map **);
    IS(checkmap_bitmap_free, void, map *);
    IS(checkmap_bitmap_clone, int, const map *, map **);
    IS(checkmap_bitmap_set, int, map *, uint64_t, uint64_t);
    IS(checkmap_bitmap_clear, int, map *, uint64_t, uint64_t);
    IS(checkmap_bitmap_clear_all, int, map *);
    IS(checkmap_bitmap_get, int, const map *, uint64_t);
    IS(checkmap_bitmap_size, uint64_t, const map *);
    IS(checkmap_bitmap_granularity, uint64_t, const map *);
    IS(checkmap_bitmap_count, int64_t, const map *);
    IS(checkmap_bitmap_count_range, int64_t, const map *, uint64_t, uint64_t);
    IS(checkmap_bitmap_next_dirty, int64_t, const map *, uint64_t, uint64_t);
    IS(checkmap_bitmap_next_clean, int64_t, const map *, uint64_t, uint64_t);
    IS(checkmap_bitmap_extents, int64_t, const map *, uint64_t, uint64_t, struct checkmap_extent *, size_t);
    IS(checkmap_bitmap_union, int, map *, const map *const *, size_t);
    IS(checkmap_bitmap_union_new, int, const map *const *, size_t, uint64_t, map **);
    IS(checkmap_bitmap_intersect, int, map *, const map *);
    IS(checkmap_bitmap_subtract, int, map *, const map *);
    IS(checkmap_bitmap_resize, int, map *, uint64_t);
    IS(checkmap_bitmap_to_bits, int64_t, const map *, uint64_t, uint64_t, uint8_t *, size_t);
    IS(checkmap_bitmap_from_bits, int, map *, uint64_t, const uint8_t *, size_t);
    IS(checkmap_bitmap_serialize, int64_t, const map *, uint8_t *, size_t);
    IS(checkmap_bitmap_deserialize, int, const uint8_t *, size_t, uint64_t, uint64_t, map **);
    IS(checkmap_image_open, int, const char *, size_t, uint32_t, image **);
    IS(checkmap_image_open_fd, int, int, uint32_t, image **);
    IS(checkmap_image_close, void, image *);
    IS(checkmap_checkpoint_create, int, image *, const char *, size_t, uint64_t);
    IS(checkmap_checkpoint_delete, int, image *, const char *, size_t);
    IS(checkmap_checkpoint_rename, int, image *, const char *, size_t, const char *, size_t);
    IS(checkmap_checkpoint_list, int64_t, const image *, struct checkmap_checkpoint *, size_t);
    IS(checkmap_diff, int, const image *, const char *, size_t, const char *, size_t, map **);
    return 0;
}
