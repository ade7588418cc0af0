"""Many disks at once: what changed on each disk of a fleet, as tables and Parquet files, and unions of recordings.

A Manifest says which disks there are and on which hosts. survey() reads what changed on each of them, unite() unites
what several hosts recorded of the same disk. A runner says where the work is done: Loop in this process, Pool in
processes of this host, Ray on the hosts of a cluster. query() has SQL for the tables.

pyarrow, numpy and Ray are wanted when they are used: `pip install 'checkmap[fleet]'` installs them.
"""

from ._manifest import Entry, Manifest, ManifestError
from ._queries import QUERIES, query
from ._ray import LABEL, Ray
from ._runners import Loop, Lost, Pool, Runner
from ._survey import Survey, United, survey, unite
from ._tables import extents_schema, intervals_schema
from ._work import Batch, Result

__all__ = [
    "Batch",
    "Entry",
    "LABEL",
    "Loop",
    "Lost",
    "Manifest",
    "ManifestError",
    "Pool",
    "QUERIES",
    "Ray",
    "Result",
    "Runner",
    "Survey",
    "United",
    "extents_schema",
    "intervals_schema",
    "query",
    "survey",
    "unite",
]
