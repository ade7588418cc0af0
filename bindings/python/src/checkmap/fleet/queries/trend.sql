-- How much changed in each interval, over all disks that have it. Intervals are in the order of the names they begin with: names that begin
-- with the time, such as 20261126T020000Z, are in the order of time. until is null where the interval goes until now.
SELECT
    since,
    until,
    COUNT(DISTINCT disk) AS disks,
    CAST(SUM(dirty_bytes) AS BIGINT) AS dirty_bytes,
    CAST(SUM(dirty_extents) AS BIGINT) AS dirty_extents
FROM intervals
GROUP BY since, until
ORDER BY since, until
