-- The 20 disks with the most changes, most first. A byte that is dirty in several intervals counts in each of them.
-- dirty_share is the part of the disk that is dirty in an interval, on average: 0 to 1.
SELECT
    disk,
    COUNT(*) AS intervals,
    CAST(SUM(dirty_bytes) AS BIGINT) AS dirty_bytes,
    CAST(SUM(dirty_extents) AS BIGINT) AS dirty_extents,
    SUM(dirty_bytes * 1.0e0) / NULLIF(SUM(virtual_size * 1.0e0), 0) AS dirty_share
FROM intervals
GROUP BY disk
ORDER BY dirty_bytes DESC, disk
LIMIT 20
