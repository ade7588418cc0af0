/* NULL handles are errors, and ending one is not. */
#include "check.h"

int main(void)
{
    checkmap_bitmap_free(NULL);
    checkmap_image_close(NULL);
    checkmap_segment_close(NULL);
    checkmap_report_free(NULL);

    struct checkmap_extent extents[1];
    struct checkmap_checkpoint checkpoints[1];
    struct checkmap_stored stored[1];
    struct checkmap_summary summary;
    struct checkmap_sha256 sha256;
    struct checkmap_problem problems[1];
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    struct checkmap_segment_info segment_info = CHECKMAP_SEGMENT_INFO_INIT;
    checkmap_bitmap *bitmap = NULL;
    checkmap_report *report = NULL;
    uint8_t bytes[8] = {0};

    INVALID(checkmap_bitmap_clone(NULL, &bitmap));
    INVALID(checkmap_bitmap_set(NULL, 0, 1));
    INVALID(checkmap_bitmap_clear(NULL, 0, 1));
    INVALID(checkmap_bitmap_set_all(NULL));
    INVALID(checkmap_bitmap_clear_all(NULL));
    INVALID(checkmap_bitmap_get(NULL, 0));
    EQUAL(checkmap_bitmap_size(NULL), 0);
    EQUAL(checkmap_bitmap_granularity(NULL), 0);
    INVALID(checkmap_bitmap_granules(NULL));
    INVALID(checkmap_bitmap_count(NULL));
    INVALID(checkmap_bitmap_count_range(NULL, 0, 1));
    INVALID(checkmap_bitmap_count_extents(NULL));
    INVALID(checkmap_bitmap_dirty_bytes(NULL));
    INVALID(checkmap_bitmap_is_empty(NULL));
    INVALID(checkmap_bitmap_heap_bytes(NULL));
    INVALID(checkmap_bitmap_validate(NULL));
    INVALID(checkmap_bitmap_optimize(NULL));
    INVALID(checkmap_bitmap_next_dirty(NULL, 0, 1));
    INVALID(checkmap_bitmap_next_clean(NULL, 0, 1));
    INVALID(checkmap_bitmap_previous_dirty(NULL, 0, 1));
    INVALID(checkmap_bitmap_previous_clean(NULL, 0, 1));
    INVALID(checkmap_bitmap_rank(NULL, 0));
    INVALID(checkmap_bitmap_select(NULL, 0));
    INVALID(checkmap_bitmap_extents(NULL, 0, 1, extents, 1));
    INVALID(checkmap_bitmap_union(NULL, NULL, 0));
    INVALID(checkmap_bitmap_union_new(NULL, 0, 0, &bitmap));
    INVALID(checkmap_bitmap_intersect(NULL, NULL));
    INVALID(checkmap_bitmap_subtract(NULL, NULL));
    INVALID(checkmap_bitmap_xor(NULL, NULL));
    INVALID(checkmap_bitmap_intersect_with(NULL, NULL, NULL));
    INVALID(checkmap_bitmap_subtract_with(NULL, NULL, NULL));
    INVALID(checkmap_bitmap_xor_with(NULL, NULL, NULL));
    INVALID(checkmap_bitmap_complement(NULL));
    INVALID(checkmap_bitmap_equal(NULL, NULL));
    INVALID(checkmap_bitmap_is_subset(NULL, NULL));
    INVALID(checkmap_bitmap_sha256(NULL, &sha256));
    INVALID(checkmap_bitmap_to_granularity(NULL, 1, &bitmap));
    INVALID(checkmap_bitmap_resize(NULL, 1));
    INVALID(checkmap_bitmap_to_bits(NULL, 0, 1, bytes, 1));
    INVALID(checkmap_bitmap_from_bits(NULL, 0, bytes, 1));
    INVALID(checkmap_bitmap_serialize(NULL, bytes, 1));
    INVALID(checkmap_bitmap_deserialize(NULL, 1, 1, 1, &bitmap));
    INVALID(checkmap_bitmap_deserialize(bytes, 8, 1, 1, NULL));
    INVALID(checkmap_bitmap_new(1, 1, NULL));

    INVALID(checkmap_image_open(NULL, 1, 0, NULL));
    INVALID(checkmap_image_get_info(NULL, &info));
    INVALID(checkmap_image_trouble(NULL));
    INVALID(checkmap_image_warnings(NULL));
    CHECK(checkmap_image_warning(NULL, 0) == NULL);
    INVALID(checkmap_image_check(NULL, NULL, &report));
    INVALID(checkmap_checkpoint_create(NULL, "a", 1, 0));
    INVALID(checkmap_checkpoint_delete(NULL, "a", 1));
    INVALID(checkmap_checkpoint_delete_inconsistent(NULL, NULL));
    INVALID(checkmap_checkpoint_rename(NULL, "a", 1, "b", 1));
    INVALID(checkmap_commit_bitmaps(NULL, NULL, NULL));
    INVALID(checkmap_checkpoint_list(NULL, checkpoints, 1));
    INVALID(checkmap_diff(NULL, "a", 1, NULL, 0, &bitmap));
    INVALID(checkmap_stored_list(NULL, stored, 1));
    INVALID(checkmap_stored_read(NULL, "a", 1, 0, 1, &bitmap));
    INVALID(checkmap_stored_summarize(NULL, "a", 1, &summary));
    INVALID(checkmap_stored_sha256(NULL, "a", 1, &sha256));
    INVALID(checkmap_stored_merge(NULL, NULL, NULL, 0, "a", 1, NULL));

    INVALID(checkmap_segment_get_info(NULL, &segment_info));
    INVALID(checkmap_segment_heap_bytes(NULL));
    INVALID(checkmap_segment_count(NULL));
    INVALID(checkmap_segment_dirty_bytes(NULL));
    INVALID(checkmap_segment_count_range(NULL, 0, 1));
    INVALID(checkmap_segment_get(NULL, 0));
    INVALID(checkmap_segment_next_dirty(NULL, 0, 1));
    INVALID(checkmap_segment_next_clean(NULL, 0, 1));
    INVALID(checkmap_segment_extents(NULL, 0, 1, extents, 1));
    INVALID(checkmap_segment_diff(NULL, NULL, 0, 1, extents, 1));
    INVALID(checkmap_segment_load(NULL, 0, 1, &bitmap));
    INVALID(checkmap_segment_check(NULL, NULL, &report));
    INVALID(checkmap_segment_write(NULL, TEXT("out"), NULL));
    INVALID(checkmap_segment_write_fd(NULL, 1, NULL));
    INVALID(checkmap_segment_merge(NULL, 1, TEXT("out"), NULL, NULL));
    INVALID(checkmap_segment_merge_info(NULL, 1, NULL, &segment_info));

    INVALID(checkmap_report_errors(NULL));
    INVALID(checkmap_report_unusable(NULL));
    INVALID(checkmap_report_leaked_bytes(NULL));
    INVALID(checkmap_report_problems(NULL, 0, problems, 1));
    return 0;
}
