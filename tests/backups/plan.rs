//! `checkmap plan`: the changed or the allocated part, and why.

use crate::support::tools_are_here;
use crate::{Disk, checkmap, works};

#[test]
fn what_changed_is_planned_where_it_can_be_told_and_what_is_allocated_else() {
    if !tools_are_here() {
        return;
    }
    let (one, other) = (Disk::create("", "64M"), Disk::create("", "32M"));
    for disk in [&one, &other] {
        disk.io(&["write -P 1 0 1M".into()]);
    }
    works(&["create".as_ref(), one.image.as_os_str(), "a&b".as_ref()]);
    one.io(&["write -P 2 0 128k".into()]);
    let args = ["plan".as_ref(), one.image.as_os_str(), other.image.as_os_str(), "--since=a&b".as_ref()];
    let output = checkmap(&[&args[..], &["--json".as_ref()]].concat());
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let [first, second] = &plan["disks"].as_array().expect("disks")[..] else { panic!("{plan}") };
    assert_eq!((first["tier"].as_str(), first["changed_bytes"].as_u64()), (Some("changed"), Some(128 << 10)));
    assert_eq!((first["allocated_bytes"].as_u64(), first["size_bytes"].as_u64()), (Some(1 << 20), Some(64 << 20)));
    assert_eq!((second["tier"].as_str(), second["changed_bytes"].as_u64()), (Some("allocated"), None));
    assert_eq!(second["allocated_bytes"].as_u64(), Some(1 << 20));
    assert!(second["reason"].as_str().is_some_and(|reason| reason.contains("a&b")), "{second}");
    let output = checkmap(&[&args[..], &["--libvirt-xml".as_ref()]].concat());
    let xml = String::from_utf8_lossy(&output.stdout);
    assert!(
        xml.contains("backupmode='incremental' incremental='a&amp;b'") && xml.contains("backupmode='full'"),
        "{xml}"
    );
    assert_eq!(xml.matches("<disk ").count(), 2);
}
