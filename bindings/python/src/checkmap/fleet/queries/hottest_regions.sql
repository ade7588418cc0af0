-- The 20 regions of 1 GiB with the most changes, most first; region_start is in bytes of the disk.
-- A byte that is dirty in several intervals counts in each of them. An extent of more than 100,000 regions is cut there.
WITH digits AS (SELECT * FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS ten (digit)),
numbers AS (
    SELECT CAST(a.digit + 10 * b.digit + 100 * c.digit + 1000 * d.digit + 10000 * e.digit AS BIGINT) AS number
    FROM digits AS a CROSS JOIN digits AS b CROSS JOIN digits AS c CROSS JOIN digits AS d CROSS JOIN digits AS e
),
placed AS (
    SELECT
        disk,
        start,
        start + length AS stop,
        start - start % 1073741824 AS first_region,
        (start + length - 1) - (start + length - 1) % 1073741824 AS last_region
    FROM extents
),
parts AS (
    SELECT disk, first_region AS region_start, stop - start AS dirty_bytes FROM placed WHERE first_region = last_region
    UNION ALL
    SELECT
        disk,
        first_region + number * 1073741824 AS region_start,
        LEAST(stop, first_region + (number + 1) * 1073741824) - GREATEST(start, first_region + number * 1073741824) AS dirty_bytes
    FROM placed INNER JOIN numbers ON number * 1073741824 <= last_region - first_region
    WHERE first_region < last_region
)
SELECT disk, region_start, CAST(SUM(dirty_bytes) AS BIGINT) AS dirty_bytes
FROM parts
GROUP BY disk, region_start
ORDER BY dirty_bytes DESC, disk, region_start
LIMIT 20
