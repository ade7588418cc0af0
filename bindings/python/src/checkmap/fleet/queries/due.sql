-- The bytes that the next increment of each disk has to read, most first: each dirty byte once, however many intervals it is dirty in.
-- Disks where nothing changed are in it, with 0.
WITH ordered AS (
    SELECT
        disk,
        start,
        start + length AS stop,
        MAX(start + length) OVER (
            PARTITION BY disk ORDER BY start, length ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS reached
    FROM extents
),
dirty AS (
    SELECT
        disk,
        SUM(CASE
            WHEN reached IS NULL OR reached <= start THEN stop - start
            WHEN reached < stop THEN stop - reached
            ELSE 0
        END) AS due_bytes
    FROM ordered
    GROUP BY disk
),
disks AS (SELECT DISTINCT disk FROM intervals)
SELECT disks.disk, CAST(COALESCE(dirty.due_bytes, 0) AS BIGINT) AS due_bytes
FROM disks LEFT JOIN dirty ON disks.disk = dirty.disk
ORDER BY due_bytes DESC, disks.disk
