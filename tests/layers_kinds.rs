#![forbid(unsafe_code)]
//! Overlays on which nothing recorded, of every kind of cluster that QEMU makes, and layers of different sizes.

mod support;

use checkmap::image::Access;
use checkmap::progress::Unobserved;
use std::path::{Path, PathBuf};
use support::ours::{changed, open};
use support::{TestImage, qemu_io, run};

const MIB: u64 = 1 << 20;

/// A base with the checkpoint mon and one write since.
fn base(size: &str) -> TestImage {
    let base = TestImage::create("", size);
    base.create_checkpoint("mon", None, None);
    base.write(0, 65536);
    base
}

fn overlay(on: &TestImage, below: &str, name: &str, options: &str, size: Option<&str>) -> PathBuf {
    let path = on.folder.path().join(name);
    let mut args = vec!["create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2"];
    let data_file = format!("data_file={}", on.folder.path().join("over.raw").display());
    let options = options.replace("data_file=here", &data_file);
    if !options.is_empty() {
        args.extend(["-o", &options]);
    }
    args.push(path.to_str().expect("UTF-8"));
    args.extend(size);
    run("qemu-img", &args);
    path
}

fn starts(path: &Path) -> Vec<(u64, u64)> {
    let extents = changed(&open(path, Access::Read), "mon", None);
    extents.iter().map(|extent| (extent.offset, extent.len_bytes)).collect()
}

#[test]
fn what_an_overlay_holds_counts_whatever_the_kind_of_its_clusters() {
    if !support::tools_are_here() {
        return;
    }
    for (options, commands, expected) in [
        ("", &["write 1M 64k"][..], &[(0, 65536), (MIB, 65536)][..]),
        ("", &["write 1M 512"], &[(0, 65536), (MIB, 65536)]),
        ("", &["write -z 1M 64k"], &[(0, 65536), (MIB, 65536)]),
        ("", &["write -z -u 1M 64k"], &[(0, 65536), (MIB, 65536)]),
        ("", &["write 1M 64k", "write -z 1M 64k"], &[(0, 65536), (MIB, 65536)]),
        ("", &["discard 1M 64k"], &[(0, 65536), (MIB, 65536)]),
        ("", &["write -c 1M 64k"], &[(0, 65536), (MIB, 65536)]),
        ("", &["read 1M 64k"], &[(0, 65536)]),
        ("cluster_size=512", &["write 1M 512"], &[(0, 65536), (MIB, 65536)]),
        ("cluster_size=2M", &["write 3M 512"], &[(0, 65536), (2 * MIB, 2 * MIB)]),
        ("cluster_size=2M,extended_l2=on", &["write 3M 512"], &[(0, 65536), (3 * MIB, 65536)]),
        ("cluster_size=2M,extended_l2=on", &["write -z 3M 64k"], &[(0, 65536), (3 * MIB, 65536)]),
        ("extended_l2=on", &["write -c 1M 64k"], &[(0, 65536), (MIB, 65536)]),
        ("data_file=here", &["write 0 64k", "write 1M 64k"], &[(0, 65536), (MIB, 65536)]),
        ("refcount_bits=1", &["write 1M 64k"], &[(0, 65536), (MIB, 65536)]),
    ] {
        let base = base("8M");
        let over = overlay(&base, "disk.qcow2", "over.qcow2", options, None);
        assert_eq!(starts(&over), [(0, 65536)], "{options}: an empty overlay adds nothing");
        qemu_io(&over, &commands.iter().map(|command| (*command).to_owned()).collect::<Vec<_>>());
        assert_eq!(starts(&over), expected, "{options} {commands:?}");
        // A bitmap that is made for it holds the same, so that other tools find it there.
        let mut image = open(&over, Access::Write);
        let plan = image.plan_create(b"tue", None, None).expect("a plan");
        image.commit(&plan, &mut Unobserved).expect("it is created");
        let copy = image.read_bitmap(&"mon".into(), 0, u64::MAX).expect("it is there");
        let copy: Vec<(u64, u64)> = copy.extents(0, u64::MAX).map(|extent| (extent.offset, extent.len_bytes)).collect();
        let own = if options == "data_file=here" { expected } else { &expected[1..] };
        assert_eq!(copy, own, "{options} {commands:?}");
        assert_eq!(changed(&image, "tue", None), []);
        drop(image);
        run("qemu-img", &["check", "-q", over.to_str().expect("UTF-8")]);
    }
}

#[test]
fn layers_of_other_sizes_are_cut_and_extended() {
    if !support::tools_are_here() {
        return;
    }
    let large = base("8M");
    large.write(6 * MIB, 65536);
    let small = overlay(&large, "disk.qcow2", "small.qcow2", "", Some("4M"));
    assert_eq!(starts(&small), [(0, 65536)], "bits behind the end are cut");
    // Where the small one ends, the large one's data were hidden, and read as zeros since.
    let top = overlay(&large, "small.qcow2", "top.qcow2", "", Some("16M"));
    qemu_io(&top, &["write 12M 64k".into()]);
    assert_eq!(starts(&top), [(0, 65536), (4 * MIB, 4 * MIB), (12 * MIB, 65536)]);
    let grown = overlay(&large, "disk.qcow2", "grown.qcow2", "", Some("16M"));
    qemu_io(&grown, &["write 1M 64k".into(), "write 9M 64k".into()]);
    assert_eq!(starts(&grown), [(0, 65536), (MIB, 65536), (6 * MIB, 65536), (9 * MIB, 65536)]);

    // The base takes in as much as it has bytes for; the commit of the data makes it larger, and records the rest.
    let mut below = open(&large.path, Access::Write);
    let committed = open(&grown, Access::Read).commit_bitmaps(&mut below, &mut Unobserved).expect("it takes them in");
    drop(below);
    assert!(committed.warnings.iter().any(|warning| warning.contains("larger")), "{committed:?}");
    run("qemu-img", &["commit", "-q", grown.to_str().expect("UTF-8")]);
    assert!(starts(&large.path).contains(&(9 * MIB, 65536)));
    large.assert_sound("the commit");
}
