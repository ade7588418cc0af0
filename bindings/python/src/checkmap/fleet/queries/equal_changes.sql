-- Disks of the same size that changed in exactly the same places, such as clones that had the same update: candidates for deduplication.
-- A bitmap says where a disk changed, and not what was written there: equal places are not equal content. Compare the content
-- of these disks before anything is done about it.
SELECT
    MIN(disk) AS one_of_them,
    COUNT(DISTINCT disk) AS disks,
    virtual_size,
    granularity,
    dirty_bytes,
    CAST((COUNT(DISTINCT disk) - 1) * dirty_bytes AS BIGINT) AS most_saved_bytes
FROM intervals
WHERE dirty_bytes > 0
GROUP BY virtual_size, granularity, dirty_bytes, dirty_extents, roaring
HAVING COUNT(DISTINCT disk) > 1
ORDER BY most_saved_bytes DESC, one_of_them
