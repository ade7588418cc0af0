/*
 * Random calls, impossible ones among them, on a few bitmaps and on a naive model of each: one byte for every granule.
 *
 *     fuzz SEED ROUNDS
 *
 * Every answer must be the model's. The seed of a failure is printed, and makes it again.
 */
#include "check.h"

enum { BITMAPS = 3, MOST_GRANULES = 200000 };

/* A bitmap, and what it should hold. */
static struct model {
    checkmap_bitmap *bitmap;
    uint64_t size, granularity, granules;
    uint8_t *dirty;
} models[BITMAPS];

static uint64_t state;

static uint64_t below(uint64_t limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return limit ? (state >> 11) % limit : 0;
}

/* An offset on the disk or a little past it; at times one that is aligned, or impossible. */
static uint64_t any_offset(const struct model *model)
{
    switch (below(12)) {
    case 0: return UINT64_MAX - below(3);
    case 1: return model->size + below(3) - 1;
    case 2: return (uint64_t)1 << below(64);
    case 3: case 4: case 5: return below(model->granules + 2) * model->granularity;
    case 6: return below(model->granules / 8 + 1) * model->granularity * 8;
    default: return below(model->size + 2);
    }
}

static uint64_t any_length(const struct model *model)
{
    switch (below(8)) {
    case 0: return CHECKMAP_TO_END;
    case 1: return 0;
    case 2: return UINT64_MAX - below(5);
    case 3: return below(model->size + 2);
    case 4: return below(100) * model->granularity;
    default: return below(20 * model->granularity) + 1;
    }
}

static uint64_t granules_of(uint64_t size, uint64_t granularity)
{
    return size / granularity + (size % granularity != 0);
}

static void renew(struct model *model, uint64_t size, uint64_t granularity)
{
    checkmap_bitmap_free(model->bitmap);
    free(model->dirty);
    model->bitmap = bitmap_of(size, granularity);
    model->size = size;
    model->granularity = granularity;
    model->granules = granules_of(size, granularity);
    model->dirty = calloc(model->granules + 1, 1);
}

/* The range as set and clear take it: 1, with its end; 0 if it is empty; -ERANGE. */
static int range(const struct model *model, uint64_t offset, uint64_t length, uint64_t *end)
{
    if (length == 0) {
        return 0;
    }
    if (length == CHECKMAP_TO_END) {
        *end = model->size;
        return offset < model->size ? 1 : offset == model->size ? 0 : -ERANGE;
    }
    *end = offset + length;
    return *end > offset && (*end - 1) / model->granularity < model->granules ? 1 : -ERANGE;
}

static uint64_t clipped(const struct model *model, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length < offset ? UINT64_MAX : offset + length;
    return end < model->size ? end : model->size;
}

static int is_dirty(const struct model *model, uint64_t offset)
{
    return model->dirty[offset / model->granularity];
}

static void mark(struct model *model, uint64_t offset, uint64_t length)
{
    uint64_t end = 0;
    int expected = range(model, offset, length, &end);
    EQUAL(checkmap_bitmap_set(model->bitmap, offset, length), expected < 0 ? expected : 0);
    if (expected > 0) {
        for (uint64_t at = offset / model->granularity; at <= (end - 1) / model->granularity; at++) {
            model->dirty[at] = 1;
        }
    }
}

static void wipe(struct model *model, uint64_t offset, uint64_t length)
{
    uint64_t end = 0, granularity = model->granularity;
    int expected = range(model, offset, length, &end);
    if (expected > 0 && (offset % granularity != 0 || (end % granularity != 0 && end != model->size))) {
        expected = -EINVAL;
    }
    EQUAL(checkmap_bitmap_clear(model->bitmap, offset, length), expected < 0 ? expected : 0);
    if (expected > 0) {
        memset(model->dirty + offset / granularity, 0, (size_t)((end - 1) / granularity - offset / granularity + 1));
    }
}

static void ask(const struct model *model, uint64_t offset, uint64_t length)
{
    uint64_t end = clipped(model, offset, length), granularity = model->granularity, count = 0;
    int64_t dirty = -1, clean = -1, last_dirty = -1, last_clean = -1;
    for (uint64_t at = offset; at < end; at = (at / granularity + 1) * granularity) {
        uint64_t stop = (at / granularity + 1) * granularity;
        int64_t last = (int64_t)(stop < end ? stop : end) - 1;
        if (is_dirty(model, at)) {
            dirty = dirty < 0 ? (int64_t)at : dirty;
            last_dirty = last;
            count++;
        } else {
            clean = clean < 0 ? (int64_t)at : clean;
            last_clean = last;
        }
    }
    EQUAL(checkmap_bitmap_count_range(model->bitmap, offset, length), count);
    EQUAL(checkmap_bitmap_next_dirty(model->bitmap, offset, length), dirty);
    EQUAL(checkmap_bitmap_next_clean(model->bitmap, offset, length), clean);
    EQUAL(checkmap_bitmap_previous_dirty(model->bitmap, offset, length), last_dirty);
    EQUAL(checkmap_bitmap_previous_clean(model->bitmap, offset, length), last_clean);
    int expected = offset / granularity < model->granules ? is_dirty(model, offset) : -ERANGE;
    EQUAL(checkmap_bitmap_get(model->bitmap, offset), expected);

    struct checkmap_extent extents[7];
    size_t max = (size_t)below(8);
    int64_t got = checkmap_bitmap_extents(model->bitmap, offset, length, extents, max);
    if (max == 0) {
        EQUAL(got, -EINVAL);
        return;
    }
    CHECK(got >= 0 && got <= (int64_t)max);
    uint64_t at = offset;
    for (int64_t n = 0; n < got; n++) {
        while (at < end && !is_dirty(model, at)) {
            at = (at / granularity + 1) * granularity;
        }
        EQUAL(extents[n].offset, at);
        while (at < end && is_dirty(model, at)) {
            at = (at / granularity + 1) * granularity;
        }
        EQUAL(extents[n].offset + extents[n].length, at < end ? at : end);
    }
    if (got < (int64_t)max) {
        for (; at < end; at = (at / granularity + 1) * granularity) {
            CHECK(!is_dirty(model, at));
        }
    }
}

/* Whether all, or any, of the bytes of a granule of `model` are dirty in `other`. */
static int covered(const struct model *model, uint64_t granule, const struct model *other, int all)
{
    uint64_t at = granule * model->granularity, end = at + model->granularity;
    end = end < model->size ? end : model->size;
    for (; at < end; at = (at / other->granularity + 1) * other->granularity) {
        if (is_dirty(other, at) != all) {
            return !all;
        }
    }
    return all;
}

static void combine(struct model *model, const struct model *other)
{
    const checkmap_bitmap *sources[] = {other->bitmap, model->bitmap};
    uint64_t what = below(4);
    int expected = model->size == other->size ? 0 : -EINVAL, status;
    if (what == 3 && model->granularity != other->granularity) {
        expected = -EINVAL;
    }
    switch (what) {
    case 0: status = checkmap_bitmap_union(model->bitmap, sources, 1 + below(2)); break;
    case 1: status = checkmap_bitmap_intersect(model->bitmap, other->bitmap); break;
    case 2: status = checkmap_bitmap_subtract(model->bitmap, other->bitmap); break;
    default: status = checkmap_bitmap_xor(model->bitmap, other->bitmap); break;
    }
    EQUAL(status, expected);
    if (expected == 0) {
        uint8_t *result = calloc(model->granules + 1, 1);
        for (uint64_t at = 0; at < model->granules; at++) {
            int ours = model->dirty[at];
            switch (what) {
            case 0: result[at] = ours || covered(model, at, other, 0); break;
            case 1: result[at] = ours && covered(model, at, other, 0); break;
            case 2: result[at] = ours && !covered(model, at, other, 1); break;
            default: result[at] = ours != covered(model, at, other, 0); break;
            }
        }
        memcpy(model->dirty, result, (size_t)model->granules);
        free(result);
    }
}

static void resize(struct model *model, uint64_t size)
{
    uint64_t granules = granules_of(size, model->granularity);
    if (size > INT64_MAX || granules > MOST_GRANULES) {
        if (size > INT64_MAX || granules > (uint64_t)1 << 41) {
            INVALID(checkmap_bitmap_resize(model->bitmap, size));
        }
        return;
    }
    EQUAL(checkmap_bitmap_resize(model->bitmap, size), 0);
    uint8_t *dirty = calloc(granules + 1, 1);
    memcpy(dirty, model->dirty, (size_t)(granules < model->granules ? granules : model->granules));
    free(model->dirty);
    model->dirty = dirty;
    model->size = size;
    model->granules = granules;
}

static void bits(struct model *model, uint64_t offset, uint64_t length)
{
    uint64_t granularity = model->granularity, end = clipped(model, offset, length);
    uint64_t first = offset / granularity, count = end > offset ? granules_of(end, granularity) - first : 0;
    int64_t need = checkmap_bitmap_to_bits(model->bitmap, offset, length, NULL, 0);
    if (offset % (granularity * 8) != 0) {
        EQUAL(need, -EINVAL);
        return;
    }
    EQUAL(need, (count + 7) / 8);
    uint8_t *bytes = malloc((size_t)need + 1);
    if (need > 0) {
        EQUAL(checkmap_bitmap_to_bits(model->bitmap, offset, length, bytes, (size_t)need - 1), -ERANGE);
    }
    EQUAL(checkmap_bitmap_to_bits(model->bitmap, offset, length, bytes, (size_t)need), need);
    for (uint64_t at = 0; at < (uint64_t)need * 8; at++) {
        EQUAL(bytes[at / 8] >> (at % 8) & 1, at < count ? model->dirty[first + at] : 0);
    }
    if (offset <= model->size && below(2)) {
        for (int64_t at = 0; at < need; at++) {
            bytes[at] = (uint8_t)below(256) & (uint8_t)below(256);
        }
        EQUAL(checkmap_bitmap_from_bits(model->bitmap, offset, bytes, (size_t)need), 0);
        for (uint64_t at = 0; at < (uint64_t)need * 8 && first + at < model->granules; at++) {
            model->dirty[first + at] = bytes[at / 8] >> (at % 8) & 1;
        }
    }
    free(bytes);
}

static void there_and_back(struct model *model)
{
    int64_t len = checkmap_bitmap_serialize(model->bitmap, NULL, 0);
    CHECK(len >= 8);
    uint8_t *bytes = malloc((size_t)len);
    EQUAL(checkmap_bitmap_serialize(model->bitmap, bytes, (size_t)len), len);
    checkmap_bitmap *back = NULL;
    EQUAL(checkmap_bitmap_deserialize(bytes, (size_t)len, model->size, model->granularity, &back), 0);
    EQUAL(checkmap_bitmap_equal(model->bitmap, back), 1);
    checkmap_bitmap_free(model->bitmap);
    model->bitmap = back;
    /* With a byte changed: some bitmap or an error. */
    bytes[below((uint64_t)len)] ^= (uint8_t)(1 + below(255));
    back = NULL;
    int status = checkmap_bitmap_deserialize(bytes, (size_t)below((uint64_t)len + 1), model->size, model->granularity, &back);
    CHECK((status == 0) == (back != NULL) && status != -ENOTRECOVERABLE);
    CHECK(back == NULL || checkmap_bitmap_validate(back) == 0);
    checkmap_bitmap_free(back);
    free(bytes);
}

static void impossible(struct model *model)
{
    checkmap_bitmap *out = model->bitmap;
    const checkmap_bitmap *sources[] = {model->bitmap, NULL};
    struct checkmap_extent extent;
    switch (below(8)) {
    case 0: INVALID(checkmap_bitmap_new(below(2) ? UINT64_MAX : (uint64_t)1 << 63, 4096, &out)); break;
    case 1: INVALID(checkmap_bitmap_new(below(100000), below(1000) * 2 + 3, &out)); break;
    case 2: INVALID(checkmap_bitmap_union(model->bitmap, sources, 2)); return;
    case 3: INVALID(checkmap_bitmap_union(model->bitmap, sources, SIZE_MAX - (size_t)below(9))); return;
    case 4: INVALID(checkmap_bitmap_extents(model->bitmap, 0, 1, &extent, SIZE_MAX)); return;
    case 5: INVALID(checkmap_bitmap_union_new(sources, below(2) * 2, 0, &out)); break;
    case 6: INVALID(checkmap_bitmap_clone(NULL, &out)); break;
    default: INVALID(checkmap_bitmap_to_granularity(model->bitmap, 3, &out)); break;
    }
    CHECK(out == NULL);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, rounds = argc > 2 ? strtoull(argv[2], NULL, 10) : 100;
    for (uint64_t round = 0; round < rounds; round++) {
        state = (seed + round) * 0x9e3779b97f4a7c15u | 1;
        /* The last lines of a failure say how to come back to it. */
        if (freopen("seed", "w", stdout) != NULL) {
            printf("%llu\n", (unsigned long long)(seed + round));
            fflush(stdout);
        }
        uint64_t granularity = (uint64_t)1 << below(17), granules = 1 + below(below(4) ? 3000 : MOST_GRANULES);
        uint64_t size = granules * granularity - below(granularity);
        for (int at = 0; at < BITMAPS; at++) {
            renew(&models[at], size, granularity << (at == 2 ? below(4) : 0));
        }
        for (int call = 0; call < 150; call++) {
            struct model *model = &models[below(BITMAPS)];
            uint64_t offset = any_offset(model), length = any_length(model);
            switch (below(12)) {
            case 0: case 1: case 2: mark(model, offset, length); break;
            case 3: wipe(model, offset, length); break;
            case 4: case 5: ask(model, offset, length); break;
            case 6: case 7: combine(model, &models[below(BITMAPS)]); break;
            case 8: bits(model, offset, length); break;
            case 9: there_and_back(model); break;
            case 10: impossible(model); break;
            default:
                if (below(8) == 0) {
                    resize(model, below(3) ? below(2 * size) : offset);
                } else if (below(4) == 0) {
                    EQUAL(below(2) ? checkmap_bitmap_optimize(model->bitmap) : 0, 0);
                }
            }
            EQUAL(checkmap_bitmap_size(model->bitmap), model->size);
        }
        for (int at = 0; at < BITMAPS; at++) {
            EQUAL(checkmap_bitmap_validate(models[at].bitmap), 0);
            uint64_t dirty = 0;
            for (uint64_t granule = 0; granule < models[at].granules; granule++) {
                dirty += models[at].dirty[granule];
            }
            EQUAL(checkmap_bitmap_count(models[at].bitmap), dirty);
        }
    }
    for (int at = 0; at < BITMAPS; at++) {
        checkmap_bitmap_free(models[at].bitmap);
        free(models[at].dirty);
    }
    return 0;
}
