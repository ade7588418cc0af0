//! `checkmap serve` as a script sees it: statuses, `$uri`, signals, sockets, locks.

use crate::support::{self, run, try_run};
use crate::{Serving, command, ended, fails, image, kill, serve, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

#[test]
fn a_command_gets_the_address_and_its_status_is_returned() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "1M");
    let path = image.path.to_str().expect("UTF-8");
    let run = |args: &[&str], command: &str| serve(&[&[path, "--since=mon", "--run", command], args].concat());
    let output = run(&[], "nbdinfo --size \"$uri\"; echo \"$uri\"");
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    let uri = told.strip_prefix("1048576\n").expect("the size").trim();
    assert!(output.status.success() && uri.starts_with("nbd+unix:///?socket=/"), "{told}");
    let socket = std::path::Path::new(uri.split_once('=').expect("a socket").1);
    assert!(!socket.exists() && !socket.parent().expect("a folder").exists());
    for (command, status) in
        [("exit 7", 7), ("exit 0", 0), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("false", 1)]
    {
        let output = run(&[], command);
        assert_eq!(output.status.code(), Some(status), "{command}");
    }
    let output = run(&["--quiet"], "exit 3");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(3), 0));
    // A name that a URI cannot have as it is.
    let strange = image.folder.path().join("a b?c%&=é");
    let output = run(&["--export", "x/y ?é", "--socket", strange.to_str().expect("UTF-8")], "nbdinfo --size \"$uri\"");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1048576\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!strange.exists());
}

#[test]
fn the_map_alone_is_served_until_a_checkpoint() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "4M");
    image.create_checkpoint("tue", None, None);
    image.io(&["write -P 8 3M 64k".into()]);
    let path = image.path.to_str().expect("UTF-8");
    let map = "nbdinfo --map=qemu:dirty-bitmap:checkmap --json \"$uri\"";
    let output = serve(&[path, "--since=mon", "--until=tue", "--run", map]);
    let map: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let dirty: Vec<_> = map.as_array().expect("an array").iter().filter(|run| run["type"] == 1).collect();
    assert_eq!((dirty.len(), &dirty[0]["offset"]), (1, &65536.into()));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("the map alone") && !told.contains("reading"), "{told}");
    let read = "nbdcopy \"$uri\" /dev/null";
    let output = serve(&[path, "--since=mon", "--until=tue", "--run", read]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("Operation not permitted"), "{told}");
    fails(&[path, "--since=tue", "--until=mon", "--run", "true"], 3, "mon");
    fails(&[path, "--since=nobody", "--run", "true"], 3, "nobody");
}

#[test]
fn signals_end_it_and_leave_nothing_behind() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "1M");
    for signal in ["INT", "TERM"] {
        let serving = Serving::start(&image.path, &[]);
        let folder = serving.socket.parent().expect("a folder").to_owned();
        let mode = serving.socket.metadata().expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let kept = serving.connect();
        kill(signal, serving.child.id());
        wait_until("the socket is gone", || std::fs::read_dir(&folder).is_ok_and(|mut left| left.next().is_none()));
        let (status, said) = serving.end("0");
        assert_eq!(status.code(), Some(0), "{said}");
        drop(kept);
    }
    // A command is told, and its status counts.
    let mut child = command(&[image.path.as_os_str(), "--since=mon".as_ref(), "--run".as_ref()])
        .arg("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("checkmap runs");
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut ready).expect("the command runs");
    kill("TERM", child.id());
    assert_eq!(ended(&mut child).code(), Some(9));
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else_is() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "1M");
    let path = image.path.to_str().expect("UTF-8");
    let place = image.folder.path().join("place");
    let args = |run| [path, "--since=mon", "--socket", place.to_str().expect("UTF-8"), "--run", run];
    let living = UnixListener::bind(&place).expect("a socket");
    fails(&args("true"), 3, "somebody listens");
    drop(living);
    assert!(place.exists(), "it is stale now");
    let output = serve(&args("nbdinfo --size \"$uri\""));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1048576\n");
    assert!(!place.exists());
    std::fs::write(&place, "precious").expect("a file");
    fails(&args("true"), 3, "is no socket");
    assert_eq!(std::fs::read(&place).expect("it is still there"), b"precious");
    let long = image.folder.path().join("x".repeat(120));
    fails(&[path, "--since=mon", "--socket", long.to_str().expect("UTF-8")], 2, "107 bytes");
    let left = std::fs::read_dir(image.folder.path()).expect("a folder");
    let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_socket_that_is_another_servers_by_now_is_left_alone() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "1M");
    let serving = Serving::start(&image.path, &[]);
    std::fs::remove_file(&serving.socket).expect("somebody removes it");
    let _other = UnixListener::bind(&serving.socket).expect("another server");
    let socket = serving.socket.clone();
    kill("TERM", serving.child.id());
    let mut serving = serving;
    ended(&mut serving.child);
    assert!(socket.exists());
}

#[test]
fn the_image_and_its_layers_are_locked_while_they_are_served() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("data_file=here", "1M");
    let base = image.folder.path().join("disk.raw");
    let overlay = image.folder.path().join("top");
    let names = [image.path.to_str().expect("UTF-8"), overlay.to_str().expect("UTF-8")];
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", names[0], "-F", "qcow2", names[1]]);
    let output = try_run(env!("CARGO_BIN_EXE_checkmap"), &["create", names[1], "tue"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let serving = Serving::start(&overlay, &[]);
    for (path, format) in [(names[0], "qcow2"), (names[1], "qcow2"), (base.to_str().expect("UTF-8"), "raw")] {
        let output = try_run("qemu-io", &["-f", format, "-c", "write 0 512", path]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("lock"), "{path}: {told}");
    }
    // Other readers are welcome.
    run("qemu-io", &["-r", "-c", "read 0 512", names[1]]);
    let (status, said) = serving.end("TERM");
    assert!(status.success(), "{said}");
    assert!(said.contains("a data file, raw") && said.contains("a backing file, qcow2"), "{said}");
    run("qemu-io", &["-c", "write 0 512", names[1]]);
}

#[test]
fn an_image_or_a_layer_that_somebody_writes_to_is_refused() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "1M");
    let overlay = image.folder.path().join("top");
    let names = [image.path.to_str().expect("UTF-8"), overlay.to_str().expect("UTF-8")];
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", names[0], "-F", "qcow2", names[1]]);
    run("qemu-img", &["bitmap", "--add", names[1], "mon"]);
    let socket = image.folder.path().join("s");
    let mut writer = std::process::Command::new("qemu-nbd")
        .args(["-t", "-f", "qcow2", "-k"])
        .args([&socket, &image.path])
        .spawn()
        .expect("qemu-nbd starts");
    wait_until("qemu-nbd listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    for name in names {
        fails(&[name, "--since=mon", "--top-layer-only", "--run=true"], 3, "has it open for writing");
    }
    kill("KILL", writer.id());
    ended(&mut writer);
    assert!(serve(&[names[1], "--since=mon", "--top-layer-only", "--run=true"]).status.success());
}

#[test]
fn what_the_command_line_cannot_mean_is_a_usage_error() {
    let image = if support::tools_are_here() { image("", "1M") } else { return };
    let path = image.path.to_str().expect("UTF-8");
    fails(&[path, "--socket=/x"], 2, "--since");
    fails(&[path, "--since=mon"], 2, "--socket");
    fails(&[path, "--since=mon", "--run=true", "--checkpoint=tue"], 2, "running hypervisor");
    fails(&["--qmp=/nowhere", "--since=mon", "--run=true"], 2, "say with --checkpoint");
    fails(&[path, "--since=mon", "--run=true", "--bitmap-name="], 2, "empty");
    fails(&[path, "--since=mon", "--run=true", &format!("--bitmap-name={}", "x".repeat(4090))], 2, "too long");
    fails(&[path, "--since=mon", "--run=true", &format!("--export={}", "x".repeat(4097))], 2, "4096 bytes");
    fails(&["/nowhere/disk", "--since=mon", "--run=true"], 1, "/nowhere/disk");
}
