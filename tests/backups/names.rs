//! Names with every byte: of disks, and of checkpoints.

use crate::support::{run, tools_are_here};
use crate::{Disk, checkmap, convert, entries, fails, works};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A name of every byte that a file's name can have.
fn every_byte() -> OsString {
    OsString::from_vec((1..=255).filter(|byte| *byte != b'/').collect())
}

#[test]
fn disks_and_checkpoints_of_any_name_are_kept_and_restored() {
    if !tools_are_here() {
        return;
    }
    let folder = crate::support::folder();
    let plain = folder.path().join("plain.qcow2");
    let names = [
        every_byte().into_vec(),
        b"a:b".to_vec(),
        b"..x".to_vec(),
        b"nbd:x\ny".to_vec(),
        b"%41".to_vec(),
        b"-o".to_vec(),
        vec![b'x'; 255],
    ];
    for (at, name) in names.iter().enumerate() {
        let image = folder.path().join(OsStr::from_bytes(name));
        run("qemu-img", &["create", "-q", "-f", "qcow2", plain.to_str().expect("plain"), "1M"]);
        crate::support::qemu_io(&plain, &[format!("write -P {} 0 64k", at + 1)]);
        fs::rename(&plain, &image).expect("any name");
        let directory = folder.path().join(format!("backup-{at}"));
        for checkpoint in [OsStr::new("../x"), OsStr::from_bytes(b"a:b\n\xff"), OsStr::new(".")] {
            let args = ["backup".as_ref(), image.as_os_str(), "-o".as_ref(), directory.as_os_str()];
            works(&[&args[..], &["--checkpoint".as_ref(), checkpoint]].concat());
            fs::rename(&image, &plain).expect("any name");
            crate::support::qemu_io(&plain, &["write -P 77 512k 64k".into()]);
            fs::rename(&plain, &image).expect("any name");
        }
        works(&["verify".as_ref(), directory.as_os_str()]);
        let disks: Vec<_> = entries(&directory).into_iter().filter(|name| name != "backup.json").collect();
        let [disk] = &disks[..] else { panic!("{disks:?}") };
        let plain_bytes = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-%".contains(&byte);
        assert!(disk.bytes().all(plain_bytes) && !disk.starts_with('.') && disk.len() <= 200, "{disk}");
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let at = ["restore".as_ref(), directory.as_os_str(), "--at".as_ref(), OsStr::from_bytes(b"a:b\n\xff")];
        works(&[&at[..], &["--format=raw".as_ref(), "-o".as_ref(), ours.as_os_str()]].concat());
        convert(&directory.join(disk).join("a%3Ab%0A%FF.qcow2"), &theirs);
        assert!(fs::read(&ours).expect("restored") == fs::read(&theirs).expect("restored"));
        assert!(
            directory.join(disk).join("%2E.%2Fx.qcow2").exists() && directory.join(disk).join("%2E.qcow2").exists()
        );
        fs::remove_file(&ours).expect("it was there");
        fs::remove_file(&image).expect("it was there");
    }
    assert!(!folder.path().join("x").exists() && !folder.path().join("x.qcow2").exists());
}

#[test]
fn two_disks_of_one_name_are_refused_until_they_get_names() {
    if !tools_are_here() {
        return;
    }
    let (one, other) = (Disk::create("", "1M"), Disk::create("", "2M"));
    let args =
        ["backup".as_ref(), one.image.as_os_str(), other.image.as_os_str(), "-o".as_ref(), one.directory.as_os_str()];
    fails(&args, 2, "disk.qcow2");
    assert_eq!((one.checkpoints(), other.checkpoints()), (Vec::<String>::new(), Vec::new()));
    let mut named = other.image.as_os_str().to_owned();
    named.push("=../x");
    let with_name = [&args[..], &["--checkpoint=mon".as_ref(), "--disk-name".as_ref(), &*named]].concat();
    works(&with_name);
    assert!(one.directory.join("%2E.%2Fx/mon.qcow2").exists());
    assert_eq!((one.checkpoints(), other.checkpoints()), (vec!["mon".to_owned()], vec!["mon".to_owned()]));
    // All disks into a folder.
    let out = one.folder.path().join("out");
    fs::create_dir(&out).expect("a folder");
    works(&["restore".as_ref(), one.directory.as_os_str(), "-o".as_ref(), out.as_os_str()]);
    let mut restored = entries(&out);
    restored.sort();
    assert_eq!(restored, ["%2E.%2Fx", "disk.qcow2"]);
    fails(
        &["restore".as_ref(), one.directory.as_os_str(), "-o".as_ref(), one.folder.path().join("new").as_os_str()],
        2,
        "several disks",
    );
}

#[test]
fn a_checkpoint_is_named_by_the_clock() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "1M");
    works(&["backup".as_ref(), disk.image.as_os_str(), "-o".as_ref(), disk.directory.as_os_str()]);
    let names = disk.checkpoints();
    let [name] = &names[..] else { panic!("{names:?}") };
    let shape = name.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect::<String>();
    assert_eq!(shape, "00000000T000000Z");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&disk.directory).expect("a folder").permissions());
    assert_eq!(mode & 0o777, 0o700);
    let told = checkmap(&["list".as_ref(), disk.directory.as_os_str()]);
    assert!(String::from_utf8_lossy(&told.stdout).contains(name.as_str()));
}

/// An overlay that somebody put on the image while the machine was off does not make another disk of it.
#[test]
fn an_image_that_got_an_overlay_is_the_same_disk() {
    if !tools_are_here() {
        return;
    }
    let disk = Disk::create("", "4M");
    let image = disk.image.to_str().expect("a plain path");
    disk.io(&["write -P 1 0 2M".into()]);
    disk.backup("mon", &[]);
    disk.io(&["write -P 2 1M 64k".into()]);
    let overlay = disk.folder.path().join("overlay.qcow2");
    let top = overlay.to_str().expect("a plain path");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, top]);
    crate::support::qemu_io(&overlay, &["write -P 3 3M 64k".into(), "write -z 0 64k".into()]);
    let take = |image: &str, checkpoint: &str| {
        let args = ["backup", image, "-o", disk.directory.to_str().expect("a plain path"), "--checkpoint", checkpoint];
        [args.map(String::from).to_vec(), vec!["--disk-name".into(), format!("{image}=disk.qcow2")]].concat()
    };
    let of_overlay = |checkpoint: &str| {
        convert(&overlay, &disk.truth(checkpoint));
        works(&take(top, checkpoint))
    };
    let told = of_overlay("tue");
    assert!(told.contains("what changed"), "{told}");
    crate::support::qemu_io(&overlay, &["write -P 4 2M 64k".into()]);
    assert!(of_overlay("wed").contains("what changed"));
    disk.check("on the overlay");
    // The base takes the overlay in, and is the disk once more.
    run("qemu-img", &["commit", "-q", top]);
    fs::remove_file(&overlay).expect("it was there");
    disk.backup("thu", &[]);
    disk.io(&["write -P 5 0 64k".into()]);
    assert!(disk.backup("fri", &[]).contains("what changed"));
    disk.check("on the base");
    // The overlay of another image is another disk.
    let other = disk.folder.path().join("other.qcow2");
    let stranger = disk.folder.path().join("stranger.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", other.to_str().expect("a plain path"), "4M"]);
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "other.qcow2"];
    run("qemu-img", &[&args[..], &[stranger.to_str().expect("a plain path")]].concat());
    fails(&take(stranger.to_str().expect("a plain path"), "sat"), 3, "this may be another one");
}
