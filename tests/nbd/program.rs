//! `checkmap dump` of an NBD server, beside `nbdinfo`, `qemu-img map` and `checkmap dump` of the file.

use crate::real::{BITMAPS, Daemon, SIZE, image};
use crate::support::nbd::Served;
use crate::support::{self, try_run};
use std::ffi::OsStr;
use std::os::unix::net::UnixListener;
use std::process::Output;

fn checkmap<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let args: Vec<&OsStr> =
        ["dump".as_ref(), "--progress=never".as_ref()].into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
    try_run(env!("CARGO_BIN_EXE_checkmap"), &args)
}

#[track_caller]
fn ok(args: &[&str]) -> Vec<u8> {
    let output = checkmap(args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {}: {told}", output.status);
    output.stdout
}

#[track_caller]
fn fails(args: &[&str], status: i32, text: &str) {
    let output = checkmap(args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(status), 0), "{args:?}: {told}");
    assert!(told.contains(text), "{args:?}: {told}");
}

#[test]
fn every_format_is_that_of_the_file() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    let copy = image.folder.path().join("copy.qcow2");
    std::fs::copy(&image.path, &copy).expect("a copy");
    let copy = copy.to_str().expect("a path in UTF-8");
    for tcp in [false, true] {
        let daemon = Daemon::start(&image.path, &BITMAPS.map(|(name, _)| name), tcp);
        for (name, granularity) in BITMAPS {
            let (context, granularity) = (format!("qemu:dirty-bitmap:{name}"), granularity.to_string());
            for window in [&[][..], &["--start", "1M", "--length", "70000001"]] {
                for format in ["json", "table", "csv", "nbdinfo", "qemu-map", "roaring", "raw", "segment"] {
                    let file = ok(&[&[copy, "--bitmap", name, "--format", format], window].concat());
                    let server = [&daemon.uri, "--context", &context, "--format", format];
                    let told = ok(&[&server, window, &["--granularity", &granularity]].concat());
                    // The file tells the interval too.
                    if format == "json" {
                        let value =
                            |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).expect("JSON") };
                        let (file, told) = (value(&file), value(&told));
                        for key in ["virtual_size", "granularity", "bitmap", "dirty_bytes", "extents"] {
                            assert_eq!(told[key], file[key], "{name}: {key}");
                        }
                        assert!(told["since"].is_null() && told["until"].is_null());
                    } else {
                        assert!(told == file, "{name} as {format}");
                    }
                }
            }
            let nbdinfo = ok(&[&daemon.uri, "--context", &context, "--format", "nbdinfo"]);
            assert_eq!(String::from_utf8_lossy(&nbdinfo), daemon.nbdinfo(name), "{name}");
        }
    }
}

#[test]
fn qemu_map_is_what_qemu_img_prints() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    let served = Served::start(&image.path, "fine");
    let ours = ok(&[&served.uri(), "--context", "qemu:dirty-bitmap:fine", "--format", "qemu-map"]);
    let ours = String::from_utf8_lossy(&ours).into_owned();
    let theirs = served.qemu_map();
    // QEMU 7.2 prints no "compressed".
    let ours = if theirs.contains("\"compressed\"") { ours } else { ours.replace(", \"compressed\": false", "") };
    assert_eq!(ours, theirs);
    let summary = ok(&[&served.uri(), "--context", "qemu:dirty-bitmap:fine", "--summary", "--json"]);
    let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
    assert_eq!((&summary["bitmap"], &summary["virtual_size"]), (&"fine".into(), &SIZE.into()));
    let file = image.folder.path().join("answer");
    let to = file.to_str().expect("a path in UTF-8");
    ok(&[&served.uri(), "--context", "qemu:dirty-bitmap:fine", "--format", "csv", "-o", to]);
    assert!(std::fs::read_to_string(&file).expect("the answer").starts_with("start,length\n"));
    fails(&[&served.uri(), "--context", "qemu:dirty-bitmap:sun"], 3, "the server offers");
    fails(&[&served.uri().replace(":///", ":///x"), "--context", "qemu:dirty-bitmap:fine"], 3, "no such export");
    let past = (SIZE + 1).to_string();
    fails(&[&served.uri(), "--context", "qemu:dirty-bitmap:fine", "--start", &past], 2, "past the end");
}

#[test]
fn mixtures_that_make_no_sense_are_errors_of_usage() {
    let uri = "nbd+unix:///?socket=/nowhere/nbd.sock";
    let context = "qemu:dirty-bitmap:mon";
    fails(&[uri, "--bitmap", "mon"], 2, "--context qemu:dirty-bitmap:NAME");
    fails(&["disk.qcow2", "--context", context], 2, "--bitmap NAME");
    fails(&["./nbd://host", "--context", context], 2, "--bitmap NAME");
    fails(&[uri], 2, "--context");
    fails(&[uri, "--context", context, "--bitmap", "mon"], 2, "cannot be used with");
    fails(&["disk.qcow2", "--bitmap", "mon", "--granularity", "4096"], 2, "");
    fails(&["disk.qcow2", "--bitmap", "mon", "--timeout", "1"], 2, "");
    fails(&[uri, "--context", context, "--timeout", "0"], 2, "--timeout");
    fails(&[uri, "--context", context, "--granularity", "1000"], 2, "power of two");
    fails(&[uri, "--context", "base:allocation"], 2, "qemu:dirty-bitmap:NAME");
    fails(&[uri, "--context", "qemu:dirty-bitmap:"], 2, "qemu:dirty-bitmap:NAME");
    fails(&["nbds://host/", "--context", context], 2, "nbds:// is not supported");
    fails(&["nbd+unix:///", "--context", context], 2, "?socket=PATH");
    fails(&[uri, "--context", context], 1, "/nowhere/nbd.sock: cannot connect");
    // A file of such a name is a file.
    fails(&["./nbd://host", "--bitmap", "mon"], 1, "No such file");
}

#[test]
fn a_server_that_says_nothing_ends_the_program() {
    let folder = support::folder();
    let socket = folder.path().join("nbd.sock");
    let _silent = UnixListener::bind(&socket).expect("a socket");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    fails(&[&uri, "--context", "qemu:dirty-bitmap:mon", "--timeout", "1"], 1, "did not answer within 1 s");
}
