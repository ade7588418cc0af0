//! No file of the host is read that was not named: chains whose headers a guest can have written, and chains that are broken.

use crate::support::{self, run};
use crate::{converted, fails, serve};
use std::path::{Path, PathBuf};

/// A top image with the checkpoint mon over `below`, whose format is recorded where it is given.
fn over(folder: &Path, name: &str, below: &str, format: Option<&str>) -> String {
    let path = folder.join(name);
    let name = path.to_str().expect("UTF-8").to_owned();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &name, "1M"]);
    run("qemu-img", &["bitmap", "--add", &name, "mon"]);
    let format = format.map_or(vec![], |format| vec!["-F", format]);
    run("qemu-img", &[&["rebase", "-u", "-b", below][..], &format, &[&name]].concat());
    name
}

/// Takes the record of the backing file's format away.
fn forget_format(path: &str) {
    let mut bytes = std::fs::read(path).expect("the image");
    let at = bytes.windows(4).position(|four| four == [0xe2, 0x79, 0x2a, 0xca]).expect("a record");
    // Now it is of a kind that nobody knows.
    bytes[at..at + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    std::fs::write(path, &bytes).expect("the image can be written");
}

#[track_caller]
fn serves(image: &str) {
    let raw = support::folder();
    let copy = raw.path().join("copy");
    let output =
        serve(&[image, "--since=mon", "--top-layer-only", "--run", &format!("nbdcopy \"$uri\" {}", copy.display())]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(&copy).expect("the copy") == converted(&[image]));
}

#[track_caller]
fn refuses(image: &str, text: &str) {
    fails(&[image, "--since=mon", "--top-layer-only", "--run=echo it runs"], 3, text);
}

fn file(folder: &Path, name: &str) -> (PathBuf, String) {
    let path = folder.join(name);
    let name = path.to_str().expect("UTF-8").to_owned();
    (path, name)
}

#[test]
fn a_guest_that_writes_a_header_into_its_raw_disk_reads_nothing_of_the_host() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let folder = folder.path();
    let (secret, secret_name) = file(folder, "host-secret");
    std::fs::write(&secret, vec![b's'; 1 << 20]).expect("a file");
    // What a guest wrote into its disk: an image that lies on a file of the host, and one whose data are there.
    let (_, backing) = file(folder, "guest-backing");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &secret_name, "-F", "raw", &backing, "1M"]);
    let (data_path, data) = file(folder, "guest-data");
    let options = format!("data_file={secret_name}.x,data_file_raw=on");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &data, "1M"]);
    let _ = data_path;
    for (number, disk) in [&backing, &data].into_iter().enumerate() {
        // Recorded as raw, it is raw, whatever it holds.
        let raw = over(folder, &format!("raw-{number}"), disk, Some("raw"));
        serves(&raw);
        // Recorded as an image, it is one.
        let image = over(folder, &format!("image-{number}"), disk, Some("qcow2"));
        serves(&image);
        // Recorded as nothing, it names no other file.
        let open = over(folder, &format!("open-{number}"), disk, Some("raw"));
        forget_format(&open);
        refuses(&open, "nobody recorded its format");
    }
    // Without a name of another file there is nothing to be afraid of.
    let (_, plain) = file(folder, "plain");
    run("qemu-img", &["create", "-q", "-f", "qcow2", &plain, "1M"]);
    crate::support::qemu_io(plain.as_ref(), &["write -P 4 0 64k".into()]);
    for disk in [&plain, &secret_name] {
        let open = over(folder, "open", disk, Some("raw"));
        forget_format(&open);
        serves(&open);
    }
    // A text that QEMU takes for the description of a disk of several files.
    let (text, text_name) = file(folder, "text");
    let mut lie =
        format!("# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"{secret_name}\" 0\n");
    lie.push_str(&"#\n".repeat(4096));
    std::fs::write(&text, lie).expect("a file");
    let open = over(folder, "open-text", &text_name, Some("raw"));
    forget_format(&open);
    refuses(&open, "may be another one than raw");
    refuses(&over(folder, "over-vmdk", &text_name, Some("vmdk")), "cannot be told");
}

#[test]
fn chains_that_are_broken_or_leave_the_machine_are_refused() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let folder = folder.path();
    refuses(&over(folder, "missing", "nothing-here", Some("qcow2")), "nothing-here");
    refuses(&over(folder, "missing-raw", "nothing-here", Some("raw")), "nothing-here");
    refuses(&over(folder, "remote", "nbd://example.org/disk", Some("raw")), "nbd");
    refuses(
        &over(
            folder,
            "json",
            "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"x\"}}",
            Some("raw"),
        ),
        "plain",
    );
    // A loop.
    let one = over(folder, "one", "two", Some("qcow2"));
    over(folder, "two", "one", Some("qcow2"));
    refuses(&one, "loop");
    refuses(&over(folder, "itself", "itself", Some("qcow2")), "loop");
    refuses(&over(folder, "itself-raw", "itself-raw", Some("raw")), "loop");
    // Something else than it was recorded as.
    let (lie, lie_name) = file(folder, "lie");
    std::fs::write(&lie, [7; 4096]).expect("a file");
    refuses(&over(folder, "over-lie", &lie_name, Some("qcow2")), "lie");
    // A fifo does not hold it up.
    run("mkfifo", &[folder.join("fifo")]);
    refuses(&over(folder, "over-fifo", "fifo", Some("raw")), "fifo");
    refuses(&over(folder, "over-folder", ".", Some("raw")), "cannot be read");
}
