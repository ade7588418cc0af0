-- The bytes that the next increment of each disk has to read, most first: each dirty byte once, however many intervals it is dirty in.
-- Disks where nothing changed are in it, with 0. Only disks of several intervals need their extents, which takes memory for all of them.
WITH disks AS (
    SELECT disk, COUNT(*) AS intervals, MAX(dirty_bytes) AS dirty_bytes FROM intervals GROUP BY disk
),
ordered AS (
    SELECT
        extents.disk,
        extents.start,
        extents.start + extents.length AS stop,
        MAX(extents.start + extents.length) OVER (
            PARTITION BY extents.disk
            ORDER BY extents.start, extents.length
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS reached
    FROM extents INNER JOIN disks ON extents.disk = disks.disk
    WHERE disks.intervals > 1
),
united AS (
    SELECT
        disk,
        SUM(CASE
            WHEN reached IS NULL OR reached <= start THEN stop - start
            WHEN reached < stop THEN stop - reached
            ELSE 0
        END) AS dirty_bytes
    FROM ordered
    GROUP BY disk
)
SELECT
    disks.disk,
    CAST(CASE WHEN disks.intervals = 1 THEN disks.dirty_bytes ELSE COALESCE(united.dirty_bytes, 0) END AS BIGINT) AS due_bytes
FROM disks LEFT JOIN united ON disks.disk = united.disk
ORDER BY due_bytes DESC, disks.disk
