//! The private qemu-nbd: it ends with us whatever happens to us, and leaves nothing behind.

use crate::support::{self, try_run};
use crate::{Serving, fails, image, kill, wait_until};
use std::fs;
use std::path::{Path, PathBuf};

/// The processes that have `text` among their arguments, but for those of checkmap itself.
fn processes_with(text: &str) -> Vec<u32> {
    let numbers =
        fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let has = |number: &u32| {
        let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(text) && !line.contains("--since")
    };
    numbers.filter(has).collect()
}

/// The folders of private servers in this folder.
fn folders(temporary: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(temporary).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.to_string_lossy().contains("checkmap-nbd-")).collect()
}

#[test]
fn it_ends_with_us_whatever_happens_to_us() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("compression_type=zstd", "1M");
    for signal in ["TERM", "INT", "KILL", "ABRT"] {
        let temporary = support::folder();
        // The folder of the private server is made where TMPDIR says.
        let serving = Serving::start_in(&image.path, temporary.path());
        let served = folders(temporary.path());
        assert_eq!(served.len(), 1);
        let socket = served[0].to_str().expect("UTF-8").to_owned();
        assert!(processes_with(&socket).len() >= 2, "a shell and a server");
        let output = try_run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 7 64k 200k", &serving.uri()]);
        assert!(output.status.success());
        kill(signal, serving.child.id());
        wait_until("all processes are gone", || processes_with(&socket).is_empty());
        wait_until("the folder is gone", || folders(temporary.path()).is_empty());
    }
}

#[test]
fn a_server_that_does_not_start_or_dies_is_an_error() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("compression_type=zstd", "1M");
    let path = image.path.to_str().expect("UTF-8");
    let folder = support::folder();
    let output =
        crate::command(&[path, "--since=mon", "--run=true"]).env("PATH", folder.path()).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("did not start"), "{told}");
    let serving = Serving::start_in(&image.path, folder.path());
    let socket = folders(folder.path())[0].to_str().expect("UTF-8").to_owned();
    for process in processes_with(&socket) {
        if fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|exe| exe.ends_with("qemu-nbd")) {
            kill("KILL", process);
        }
    }
    wait_until("it is told to the client", || {
        let output = try_run("qemu-io", &["-r", "-f", "raw", "-c", "read 64k 4k", &serving.uri()]);
        !output.status.success() || String::from_utf8_lossy(&output.stdout).contains("failed")
    });
    let (status, said) = serving.end("TERM");
    assert!(status.success(), "{said}");
    fails(&[path, "--since=mon", "--run=exit 4"], 4, "compressed by zstd");
}
