#!/usr/bin/env python3
"""What changed on every disk of a fleet, read by Ray on the hosts that have the disks.

    examples/fleet_ray.py fleet.json --since monday --out tonight
    examples/fleet_ray.py fleet.json --since monday --out tonight --local

The first one works on the cluster of this host, each node of which was started with its name in the manifest:

    ray start --head --labels checkmap-host=node1
    ray start --address=node1:6379 --labels checkmap-host=node2

The second one begins a cluster of its own on this host, with a node for each host of the manifest, to try it out.

It writes tonight/extents/HOST.parquet and tonight/intervals/HOST.parquet, and prints the disks by the bytes that are due. It exits
with 1 if not all disks are done.
"""

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager

from checkmap import fleet


@contextmanager
def local_cluster(hosts, **head):
    """A cluster on this host, with a node for each of the names; this program is connected to it. head: more about its first node."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    # The sockets in it must have short paths.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    small = {"include_dashboard": False, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": folder, **small, **head})
    try:
        for host in hosts:
            cluster.add_node(num_cpus=1, labels={fleet.LABEL: host}, **small)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
        try:
            yield cluster
        finally:
            ray.shutdown()
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def run(manifest, since, out):
    """A survey on the cluster that this program is connected to; returns the status to exit with."""
    import duckdb

    found = fleet.survey(manifest, fleet.Ray(), since=since, out=out)
    for result in found.not_done:
        print(f"{result.disk}: {result.state}: {result.error}", file=sys.stderr)
    if found.files:
        with duckdb.connect() as database:
            for table in ("extents", "intervals"):
                database.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{out}/{table}/*.parquet')")
            for disk, due_bytes in database.execute(fleet.query("due")).fetchall():
                print(f"{due_bytes:15} {disk}")
    for volume in fleet.unite(manifest, fleet.Ray(), since=since):
        words = volume.error if volume.error is not None else f"{volume.bitmap.dirty_bytes()} bytes changed"
        print(f"volume {volume.volume} on {len(volume.disks)} disks: {words}")
    return 1 if found.not_done else 0


def main():
    arguments = argparse.ArgumentParser(description="What changed on every disk of a fleet, read by Ray.")
    arguments.add_argument("manifest")
    arguments.add_argument("--since", help="the checkpoint to begin with; by default each disk's own")
    arguments.add_argument("--out", required=True, help="a new folder for the Parquet files")
    arguments.add_argument("--local", action="store_true", help="begin a cluster on this host")
    arguments = arguments.parse_args()
    try:
        manifest = fleet.Manifest.read(arguments.manifest)
        if arguments.local:
            with local_cluster(manifest.hosts()):
                return run(manifest, arguments.since, arguments.out)
        import ray

        ray.init(address="auto", log_to_driver=False, logging_level="warning")
        return run(manifest, arguments.since, arguments.out)
    except (ValueError, OSError) as error:
        print(f"fleet_ray.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
