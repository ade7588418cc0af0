/*
 * The tables of docs/embedding.md, row by row: what a call of QEMU's does to a naive array of granules, the call that the
 * row names does to a bitmap of ours. `tests/capi.rs` holds the rows, and the functions that they call, against the
 * document.
 */
#include "check.h"

#define GRANULES 1000
#define GRANULARITY ((uint64_t)4096)
/* The last granule is cut by the end of the disk. */
#define SIZE ((GRANULES - 1) * GRANULARITY + 512)

static void (*rows[100])(void);
static size_t row_count;

#define ROW(name)                                                              \
    static void name(void);                                                    \
    __attribute__((constructor)) static void add_##name(void)                  \
    {                                                                          \
        rows[row_count++] = name;                                              \
    }                                                                          \
    static void name(void)

typedef unsigned char naive[GRANULES];

static uint64_t at(uint64_t granule) { return granule * GRANULARITY; }

static unsigned random_number(unsigned below)
{
    static unsigned long long state = 1;
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(state >> 33) % below;
}

/* Dirties runs of granules in both. */
static checkmap_bitmap *some(naive bits)
{
    checkmap_bitmap *bitmap = bitmap_of(SIZE, GRANULARITY);
    memset(bits, 0, GRANULES);
    for (int run = 0; run < 40; run++) {
        unsigned first = random_number(GRANULES), len = 1 + random_number(12);
        for (unsigned n = first; n < first + len && n < GRANULES; n++) {
            bits[n] = 1;
            EQUAL(checkmap_bitmap_set(bitmap, at(n), 1), 0);
        }
    }
    return bitmap;
}

static void same(const checkmap_bitmap *bitmap, const naive bits)
{
    for (unsigned n = 0; n < GRANULES; n++) {
        EQUAL(checkmap_bitmap_get(bitmap, at(n)), bits[n]);
    }
}

static unsigned count(const naive bits)
{
    unsigned dirty = 0;
    for (unsigned n = 0; n < GRANULES; n++) {
        dirty += bits[n];
    }
    return dirty;
}

/* The first granule from `n` on that is as wanted; GRANULES if none is. */
static unsigned next(const naive bits, unsigned n, unsigned wanted)
{
    while (n < GRANULES && bits[n] != wanted) {
        n++;
    }
    return n;
}

static void pack(const naive bits, unsigned char *packed, size_t bytes)
{
    memset(packed, 0, bytes);
    for (unsigned n = 0; n < GRANULES; n++) {
        packed[n / 8] |= (unsigned char)(bits[n] << n % 8);
    }
}

static void sets(void (*change)(checkmap_bitmap *, unsigned, unsigned), unsigned value)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    for (int time = 0; time < 50; time++) {
        unsigned first = random_number(GRANULES), len = 1 + random_number(GRANULES - first);
        change(bitmap, first, len);
        memset(bits + first, (int)value, len);
        same(bitmap, bits);
    }
    checkmap_bitmap_free(bitmap);
}

static void set(checkmap_bitmap *bitmap, unsigned first, unsigned len)
{
    /* QEMU rounds outward to granules, and so do we. */
    EQUAL(checkmap_bitmap_set(bitmap, at(first) + 511, at(len) - 1022 > SIZE - at(first) - 511
                              ? SIZE - at(first) - 511 : at(len) - 1022), 0);
}

static void reset(checkmap_bitmap *bitmap, unsigned first, unsigned len)
{
    uint64_t end = at(first + len) > SIZE ? SIZE : at(first + len);
    EQUAL(checkmap_bitmap_clear(bitmap, at(first), end - at(first)), 0);
}

static void news(void)
{
    checkmap_bitmap *bitmap = NULL;
    EQUAL(checkmap_bitmap_new(SIZE, GRANULARITY, &bitmap), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 0);
    EQUAL(checkmap_bitmap_size(bitmap), SIZE);
    checkmap_bitmap_free(bitmap);
    INVALID(checkmap_bitmap_new(SIZE, 3, &bitmap));
}

static void truncates(void)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    EQUAL(checkmap_bitmap_set(bitmap, at(499), 1), 0);
    EQUAL(checkmap_bitmap_resize(bitmap, at(499) + 1), 0);
    EQUAL(checkmap_bitmap_resize(bitmap, SIZE), 0);
    bits[499] = 1;
    memset(bits + 500, 0, GRANULES - 500);
    same(bitmap, bits);
    checkmap_bitmap_free(bitmap);
}

static void merges(void)
{
    naive one, two;
    checkmap_bitmap *target = some(one), *source = some(two);
    EQUAL(checkmap_bitmap_union(target, (const checkmap_bitmap *[]){source, target}, 2), 0);
    for (unsigned n = 0; n < GRANULES; n++) {
        one[n] |= two[n];
    }
    same(target, one);
    same(source, two);
    checkmap_bitmap *other = bitmap_of(SIZE + GRANULARITY, GRANULARITY);
    FAILS(checkmap_bitmap_union(target, (const checkmap_bitmap *[]){other}, 1), EINVAL, CHECKMAP_ERROR_SIZE_MISMATCH);
    checkmap_bitmap_free(other);
    checkmap_bitmap_free(source);
    checkmap_bitmap_free(target);
}

static void serializes(void)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits), *copy = bitmap_of(SIZE, GRANULARITY);
    unsigned char whole[(GRANULES + 7) / 8], part[sizeof whole];
    pack(bits, whole, sizeof whole);
    EQUAL(checkmap_bitmap_to_bits(bitmap, 0, CHECKMAP_TO_END, NULL, 0), sizeof whole);
    for (unsigned first = 0; first < GRANULES; first += 64) {
        unsigned len = first + 64 > GRANULES ? GRANULES - first : 64;
        EQUAL(checkmap_bitmap_to_bits(bitmap, at(first), at(len), part, sizeof part), (len + 7) / 8);
        CHECK(memcmp(part, whole + first / 8, (len + 7) / 8) == 0);
        EQUAL(checkmap_bitmap_from_bits(copy, at(first), part, (len + 7) / 8), 0);
    }
    EQUAL(checkmap_bitmap_equal(bitmap, copy), 1);
    checkmap_bitmap_free(copy);
    checkmap_bitmap_free(bitmap);
}

static void counts(void)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    EQUAL(checkmap_bitmap_count(bitmap), count(bits));
    EQUAL(checkmap_bitmap_granularity(bitmap), GRANULARITY);
    checkmap_bitmap_free(bitmap);
}

static void gets(void)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    same(bitmap, bits);
    EQUAL(checkmap_bitmap_get(bitmap, SIZE - 1), bits[GRANULES - 1]);
    checkmap_bitmap_free(bitmap);
}

static void next_ones(unsigned wanted)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    for (unsigned n = 0; n < GRANULES; n++) {
        unsigned there = next(bits, n, wanted);
        /* A start that is as wanted is returned as given. */
        uint64_t from = at(n) + 5, expected = there == n ? from : at(there);
        int64_t found = wanted ? checkmap_bitmap_next_dirty(bitmap, from, CHECKMAP_TO_END)
                               : checkmap_bitmap_next_clean(bitmap, from, CHECKMAP_TO_END);
        EQUAL(found, there < GRANULES ? (int64_t)expected : -1);
    }
    checkmap_bitmap_free(bitmap);
}

static void areas(void)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    struct checkmap_extent area;
    for (unsigned n = 0; n < GRANULES; n++) {
        unsigned first = next(bits, n, 1), end = next(bits, first, 0);
        int64_t found = checkmap_bitmap_extents(bitmap, at(n), CHECKMAP_TO_END, &area, 1);
        EQUAL(found, first < GRANULES);
        if (found) {
            EQUAL(area.offset, at(first));
            EQUAL(area.offset + area.length, end == GRANULES ? SIZE : at(end));
        }
    }
    checkmap_bitmap_free(bitmap);
}

/* All dirty granules in batches, with changes behind the place that was reached. */
static void iterates(void)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    struct checkmap_extent batch[3];
    unsigned seen = 0;
    uint64_t offset = 0;
    for (int64_t got = 3; got == 3;) {
        got = checkmap_bitmap_extents(bitmap, offset, CHECKMAP_TO_END, batch, 3);
        for (int64_t n = 0; n < got; n++) {
            offset = batch[n].offset + batch[n].length;
            seen += (unsigned)((batch[n].length + GRANULARITY - 1) / GRANULARITY);
        }
        EQUAL(checkmap_bitmap_set(bitmap, 0, 1), 0);
    }
    EQUAL(seen, count(bits));
    checkmap_bitmap_free(bitmap);
}

static void states(void)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    for (unsigned n = 0; n < GRANULES; n++) {
        unsigned end = next(bits, n, !bits[n]);
        int64_t found = checkmap_bitmap_get(bitmap, at(n)) ? checkmap_bitmap_next_clean(bitmap, at(n), CHECKMAP_TO_END)
                                                           : checkmap_bitmap_next_dirty(bitmap, at(n), CHECKMAP_TO_END);
        EQUAL(found, end < GRANULES ? (int64_t)at(end) : -1);
    }
    checkmap_bitmap_free(bitmap);
}

/* What changed since a moment: a clone of then against now. */
static void metas(void)
{
    naive bits, then;
    checkmap_bitmap *bitmap = some(bits), *meta = NULL;
    memcpy(then, bits, sizeof then);
    EQUAL(checkmap_bitmap_clone(bitmap, &meta), 0);
    for (unsigned n = 100; n < 300; n++) {
        bits[n] = 1;
    }
    EQUAL(checkmap_bitmap_set(bitmap, at(100), at(200)), 0);
    EQUAL(checkmap_bitmap_xor(meta, bitmap), 0);
    for (unsigned n = 0; n < GRANULES; n++) {
        then[n] ^= bits[n];
    }
    same(meta, then);
    checkmap_bitmap_free(meta);
    checkmap_bitmap_free(bitmap);
}

/* `x-debug-block-dirty-bitmap-sha256` of QEMU 10.0.2, of a disk of 64 MiB at 64 KiB whose 8 MiB at 8 MiB are dirty. */
static const char QEMU_SAYS[] = "f80428e7b0b68ee3fad2eb22b26eee69f0f6612678857bca5cc27d54b30f2198";

static void is_what_qemu_says(const struct checkmap_sha256 *hash)
{
    char text[65] = "";
    for (unsigned n = 0; n < 32; n++) {
        snprintf(text + 2 * n, 3, "%02x", hash->bytes[n]);
    }
    CHECK(strcmp(text, QEMU_SAYS) == 0);
}

static void hashes_as_qemu(void)
{
    checkmap_bitmap *bitmap = bitmap_of(64 * MIB, 64 * KIB);
    EQUAL(checkmap_bitmap_set(bitmap, 8 * MIB, 8 * MIB), 0);
    struct checkmap_sha256 hash;
    EQUAL(checkmap_bitmap_sha256(bitmap, &hash), 0);
    is_what_qemu_says(&hash);
    checkmap_bitmap_free(bitmap);
}

static checkmap_image *chain(void)
{
    return image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
}

ROW(hbitmap_alloc) { news(); }

ROW(hbitmap_free)
{
    checkmap_bitmap_free(bitmap_of(SIZE, GRANULARITY));
    checkmap_bitmap_free(NULL);
}

ROW(hbitmap_truncate) { truncates(); }
ROW(hbitmap_merge) { merges(); }

ROW(hbitmap_empty)
{
    checkmap_bitmap *bitmap = bitmap_of(SIZE, GRANULARITY);
    EQUAL(checkmap_bitmap_is_empty(bitmap), 1);
    EQUAL(checkmap_bitmap_set(bitmap, SIZE - 1, 1), 0);
    EQUAL(checkmap_bitmap_is_empty(bitmap), 0);
    checkmap_bitmap_free(bitmap);
}

ROW(hbitmap_granularity) { counts(); }
ROW(hbitmap_count) { counts(); }
ROW(hbitmap_set) { sets(set, 1); }
ROW(hbitmap_reset) { sets(reset, 0); }

ROW(hbitmap_reset_all)
{
    naive bits;
    checkmap_bitmap *bitmap = some(bits);
    EQUAL(checkmap_bitmap_clear_all(bitmap), 0);
    EQUAL(checkmap_bitmap_count(bitmap), 0);
    checkmap_bitmap_free(bitmap);
}

ROW(hbitmap_get) { gets(); }
ROW(hbitmap_serialization_size) { serializes(); }
ROW(hbitmap_serialize_part) { serializes(); }
ROW(hbitmap_deserialize_part) { serializes(); }
ROW(hbitmap_deserialize_zeroes) { sets(reset, 0); }
ROW(hbitmap_deserialize_ones) { sets(set, 1); }
ROW(hbitmap_sha256) { hashes_as_qemu(); }
ROW(hbitmap_iter_init) { iterates(); }
ROW(hbitmap_iter_next_word) { serializes(); }
ROW(hbitmap_next_dirty) { next_ones(1); }
ROW(hbitmap_next_zero) { next_ones(0); }
ROW(hbitmap_next_dirty_area) { areas(); }
ROW(hbitmap_status) { states(); }
ROW(hbitmap_create_meta) { metas(); }

ROW(none)
{
    naive one, two;
    checkmap_bitmap *first = some(one), *second = some(two), *both = NULL, *rest = NULL, *coarse = NULL;
    EQUAL(checkmap_bitmap_clone(first, &both), 0);
    EQUAL(checkmap_bitmap_clone(first, &rest), 0);
    EQUAL(checkmap_bitmap_intersect(both, second), 0);
    EQUAL(checkmap_bitmap_subtract(rest, second), 0);
    EQUAL(checkmap_bitmap_is_subset(both, first), 1);
    EQUAL(checkmap_bitmap_is_subset(first, rest), 0);
    EQUAL(checkmap_bitmap_to_granularity(first, 2 * GRANULARITY, &coarse), 0);
    for (unsigned n = 0; n < GRANULES; n++) {
        EQUAL(checkmap_bitmap_get(both, at(n)), one[n] && two[n]);
        EQUAL(checkmap_bitmap_get(rest, at(n)), one[n] && !two[n]);
        EQUAL(checkmap_bitmap_get(coarse, at(n)), one[n & ~1U] || ((n | 1U) < GRANULES && one[n | 1U]));
    }
    for (unsigned end = 1; end < GRANULES; end++) {
        unsigned dirty = end, clean = end;
        while (dirty && !one[dirty - 1]) {
            dirty--;
        }
        while (clean && one[clean - 1]) {
            clean--;
        }
        EQUAL(checkmap_bitmap_previous_dirty(first, 0, at(end)), dirty ? (int64_t)at(dirty) - 1 : -1);
        EQUAL(checkmap_bitmap_previous_clean(first, 0, at(end)), clean ? (int64_t)at(clean) - 1 : -1);
    }
    checkmap_bitmap_free(coarse);
    checkmap_bitmap_free(rest);
    checkmap_bitmap_free(both);
    checkmap_bitmap_free(second);
    checkmap_bitmap_free(first);
}

ROW(bdrv_create_dirty_bitmap) { news(); }
ROW(bdrv_release_dirty_bitmap) { news(); }
ROW(bdrv_query_dirty_bitmaps) { counts(); }

ROW(bdrv_get_default_bitmap_granularity)
{
    checkmap_image *image = chain();
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    EQUAL(checkmap_image_get_info(image, &info), 0);
    EQUAL(info.default_granularity, 64 * KIB);
    checkmap_image_close(image);
}

ROW(bdrv_dirty_bitmap_granularity) { counts(); }
ROW(bdrv_dirty_bitmap_size) { news(); }
ROW(bdrv_get_dirty_count) { counts(); }
ROW(bdrv_set_dirty_bitmap) { sets(set, 1); }
ROW(bdrv_set_dirty) { sets(set, 1); }
ROW(bdrv_reset_dirty_bitmap) { sets(reset, 0); }

ROW(bdrv_clear_dirty_bitmap)
{
    naive bits;
    checkmap_bitmap *backup = some(bits), *now = NULL;
    EQUAL(checkmap_bitmap_new(checkmap_bitmap_size(backup), checkmap_bitmap_granularity(backup), &now), 0);
    EQUAL(checkmap_bitmap_count(now), 0);
    same(backup, bits);
    checkmap_bitmap_free(now);
    checkmap_bitmap_free(backup);
}

ROW(bdrv_dirty_bitmap_get) { gets(); }
ROW(bdrv_dirty_bitmap_next_dirty) { next_ones(1); }
ROW(bdrv_dirty_bitmap_next_zero) { next_ones(0); }
ROW(bdrv_dirty_bitmap_next_dirty_area) { areas(); }
ROW(bdrv_dirty_bitmap_status) { states(); }
ROW(bdrv_dirty_iter_new) { iterates(); }
ROW(bdrv_merge_dirty_bitmap) { merges(); }
ROW(bdrv_dirty_bitmap_create_successor) { news(); }
ROW(bdrv_dirty_bitmap_abdicate) { news(); }

ROW(bdrv_reclaim_dirty_bitmap)
{
    naive frozen, recorded;
    checkmap_bitmap *parent = some(frozen), *successor = some(recorded);
    EQUAL(checkmap_bitmap_union(parent, (const checkmap_bitmap *[]){successor}, 1), 0);
    checkmap_bitmap_free(successor);
    for (unsigned n = 0; n < GRANULES; n++) {
        frozen[n] |= recorded[n];
    }
    same(parent, frozen);
    checkmap_bitmap_free(parent);
}

ROW(bdrv_dirty_bitmap_truncate) { truncates(); }
ROW(bdrv_dirty_bitmap_serialization_size) { serializes(); }
ROW(bdrv_dirty_bitmap_serialize_part) { serializes(); }
ROW(bdrv_dirty_bitmap_deserialize_part) { serializes(); }

ROW(bdrv_dirty_bitmap_deserialize_zeroes)
{
    sets(reset, 0);
    sets(set, 1);
}

ROW(bdrv_dirty_bitmap_sha256) { hashes_as_qemu(); }
ROW(bdrv_create_meta_dirty_bitmap) { metas(); }

static void deletes(void)
{
    checkmap_image *image = chain();
    EQUAL(checkmap_checkpoint_delete(image, TEXT("b")), 0);
    checkmap_bitmap *changed = NULL;
    EQUAL(checkmap_diff(image, TEXT("a"), NULL, 0, &changed), 0);
    EQUAL(checkmap_bitmap_dirty_bytes(changed), 256 * KIB);
    checkmap_bitmap_free(changed);
    checkmap_image_close(image);
}

ROW(bdrv_remove_persistent_dirty_bitmap) { deletes(); }

ROW(block_dirty_bitmap_add)
{
    checkmap_image *image = chain();
    EQUAL(checkmap_checkpoint_create(image, TEXT("d"), 0), 0);
    checkmap_image_close(image);
    CHECK(system("qemu-img info chain.qcow2 | grep -q 'c->d'") == 0);
    CHECK(system("qemu-img check -q chain.qcow2") == 0);
}

ROW(block_dirty_bitmap_remove)
{
    deletes();
    CHECK(system("qemu-img info chain.qcow2 | grep -q 'a->c'") == 0);
    checkmap_image *image = image_open(image_copy("inconsistent.qcow2"), CHECKMAP_OPEN_RDWR);
    EQUAL(checkmap_checkpoint_delete_inconsistent(image, NULL), 0);
    checkmap_image_close(image);
    CHECK(system("qemu-img check -q inconsistent.qcow2") == 0);
}

ROW(block_dirty_bitmap_merge)
{
    checkmap_image *image = chain();
    const char *names[] = {"a", "b->c"};
    size_t lens[] = {1, 4};
    EQUAL(checkmap_stored_merge(image, names, lens, 2, TEXT("a->b"), NULL), 0);
    struct checkmap_summary summary;
    EQUAL(checkmap_stored_summarize(image, TEXT("a->b"), &summary), 0);
    EQUAL(summary.dirty_bytes, 256 * KIB);
    checkmap_image_close(image);
}

ROW(query_named_block_nodes)
{
    checkmap_image *image = chain();
    struct checkmap_stored stored[3];
    EQUAL(checkmap_stored_list(image, stored, 3), 3);
    int64_t dirty = 0;
    for (int n = 0; n < 3; n++) {
        struct checkmap_summary summary;
        EQUAL(checkmap_stored_summarize(image, stored[n].name, stored[n].name_len, &summary), 0);
        dirty += summary.dirty_bytes;
    }
    EQUAL(dirty, 256 * KIB);
    checkmap_image_close(image);
}

ROW(x_debug_block_dirty_bitmap_sha256)
{
    CHECK(system("qemu-img create -q -f qcow2 h.qcow2 64M && qemu-img bitmap --add h.qcow2 h && "
                 "qemu-io -c 'write 8M 8M' h.qcow2 >/dev/null") == 0);
    checkmap_image *image = image_open("h.qcow2", CHECKMAP_OPEN_RDONLY);
    struct checkmap_sha256 hash;
    EQUAL(checkmap_stored_sha256(image, TEXT("h"), &hash), 0);
    is_what_qemu_says(&hash);
    checkmap_image_close(image);
}

int main(void)
{
    for (size_t row = 0; row < row_count; row++) {
        rows[row]();
    }
    return row_count > 50 ? 0 : 1;
}
