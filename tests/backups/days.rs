//! Days in the life of a disk: writes, discards, resizes, backups, prunes and deleted checkpoints at random.

use crate::support::random::Random;
use crate::support::{run, tools_are_here};
use crate::{Disk, entries, works};
use std::ffi::OsStr;
use std::fs;

/// One day's work on the disk.
fn work(disk: &Disk, random: &mut Random, size: u64) {
    let mut commands = Vec::new();
    for _ in 0..random.below(6) {
        let offset = random.below(size / 512) * 512;
        let len = (1 + random.below(600)).min((size - offset) / 512) * 512;
        commands.push(match random.below(5) {
            0 => format!("write -z {offset} {len}"),
            1 => format!("write -z -u {offset} {len}"),
            2 => format!("discard {offset} {len}"),
            _ => format!("write -P {} {offset} {len}", random.below(256)),
        });
    }
    if !commands.is_empty() {
        disk.io(&commands);
    }
}

fn resize(disk: &Disk, size: u64) {
    let image = disk.image.to_str().expect("a plain path");
    run("qemu-img", &["resize", "-q", "--shrink", image, &size.to_string()]);
}

fn days(seed: u64, options: &str, days: u64) {
    if !tools_are_here() {
        return;
    }
    let mut random = Random::seeded(seed);
    let mut size = 4 << 20;
    let disk = Disk::create(options, &size.to_string());
    let mut fulls = 0;
    for day in 0..days {
        work(&disk, &mut random, size);
        if random.chance(4) {
            // Shrunk and grown again in one interval, to any size.
            for _ in 0..1 + random.below(2) {
                size = (1 << 20) + random.below(8192) * 512;
                resize(&disk, size);
                if random.chance(2) {
                    work(&disk, &mut random, size);
                }
            }
        }
        if random.chance(12)
            && let Some(newest) = disk.checkpoints().last()
        {
            works(&["delete".as_ref(), disk.image.as_os_str(), newest.as_ref()]);
        }
        let options: &[&str] = if random.chance(8) { &["--keep-checkpoints=3"] } else { &[] };
        let told = disk.backup(&format!("d{day}"), options);
        fulls += u64::from(told.contains("(full"));
        if random.chance(3) {
            let last = format!("--keep-last={}", 1 + random.below(6));
            let args = ["prune".as_ref(), disk.directory.as_os_str(), last.as_ref()];
            let rewrite: &[&OsStr] = if random.chance(4) { &["--rewrite".as_ref()] } else { &[] };
            works(&[&args[..], rewrite].concat());
        }
        if random.chance(2) || day + 1 == days {
            disk.check(&format!("day {day}"));
        }
    }
    disk.check_files();
    assert!(fulls < days / 2, "{fulls} of {days} backups are full");
    let left: Vec<String> =
        entries(&disk.directory.join("disk.qcow2")).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn every_kept_moment_is_that_of_its_day() {
    days(1, "", 24);
}

#[test]
fn small_clusters_make_no_difference() {
    days(2, "cluster_size=4k", 24);
}

#[test]
fn large_clusters_make_no_difference() {
    days(3, "cluster_size=2M", 16);
}

#[test]
fn what_only_qemu_reads_makes_no_difference() {
    days(4, "extended_l2=on,cluster_size=128k", 10);
}

/// Not only what a prune by count leaves: moments in the middle go as well.
#[test]
fn moments_in_the_middle_can_go() {
    middle(3, &["d0", "small", "d5", "d7"]);
    // The one of a day on which the disk was shorter goes.
    middle(4, &["d0", "d3", "d7"]);
}

fn middle(every: usize, expected: &[&str]) {
    if !tools_are_here() {
        return;
    }
    let mut random = Random::seeded(5);
    let disk = Disk::create("", "4M");
    for day in 0..8 {
        work(&disk, &mut random, 4 << 20);
        if day == 3 {
            resize(&disk, (1 << 20) + 512);
            disk.backup("small", &[]);
            resize(&disk, 4 << 20);
        }
        disk.backup(&format!("d{day}"), &[]);
    }
    // Old and young ones are kept: what lies between them is given up.
    let manifest = disk.directory.join("backup.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let mut document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (at, backup) in document["disks"][0]["backups"].as_array_mut().expect("backups").iter_mut().enumerate() {
        if at % every != 0 {
            backup["time_seconds"] = 1.into();
        }
    }
    fs::write(&manifest, document.to_string()).expect("the manifest can be written");
    works(&["prune".as_ref(), disk.directory.as_os_str(), "--keep-within=1d".as_ref()]);
    assert_eq!(disk.moments(), expected);
    disk.check("after the prune");
    disk.check_files();
    disk.io(&["write -P 9 0 64k".into()]);
    let told = disk.backup("after", &[]);
    assert!(told.contains("what changed"), "{told}");
    disk.check("after another day");
}

/// A guest that trims its disk makes zero clusters without data, once.
#[test]
fn a_trim_does_not_blow_up_an_increment() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "64M");
    disk.io(&["write -P 1 0 32M".into()]);
    disk.backup("mon", &[]);
    disk.io(&["discard 0 32M".into()]);
    disk.backup("tue", &[]);
    let len = fs::metadata(disk.file("tue")).expect("a file").len();
    assert!(len < 1 << 20, "{len}");
    disk.backup("wed", &[]);
    let sums = fs::read_to_string(disk.file("wed").with_extension("sums")).expect("a list");
    assert_eq!(sums.lines().count(), 2, "{sums}");
    disk.check("after the trim");
}
