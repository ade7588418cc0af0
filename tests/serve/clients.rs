//! Every client that is at hand, and those that behave badly.

use crate::support::nbd::Served as ByQemu;
use crate::support::{self, run, try_run};
use crate::{Serving, image, wait_until};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[test]
fn nbdinfo_nbdcopy_qemu_img_and_qemu_io_work_unchanged() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "20M");
    image.io(&["write -P 1 5M 3M".into(), "write -z 6M 1M".into(), "discard 7M 64k".into()]);
    let (content, folder) = (image.content(), support::folder());
    let serving = Serving::start(&image.path, &[]);
    let uri = serving.uri();
    // The maps, beside those of qemu-nbd.
    let by_qemu = ByQemu::start(&image.path, "mon");
    let map = |uri: &str, context: &str| run("nbdinfo", &[&format!("--map={context}"), "--json", uri]);
    let ours = map(&uri, "qemu:dirty-bitmap:checkmap");
    assert_eq!(ours, by_qemu.nbdinfo());
    assert!(ours.contains("dirty"));
    assert_eq!(map(&uri, "base:allocation"), map(&by_qemu.uri(), "base:allocation"));
    let info: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &uri])).expect("JSON");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 20 << 20);
    assert_eq!((&export["is_read_only"], &export["can_multi_conn"]), (&true.into(), &true.into()));
    let listed = run("nbdinfo", &["--list", "--json", &uri]);
    assert!(listed.contains("qemu:dirty-bitmap:checkmap") && listed.contains("base:allocation"), "{listed}");
    // The bytes, by every program that copies.
    let raw = folder.path().join("raw");
    let raw_name = raw.to_str().expect("UTF-8");
    for args in [
        &["nbdcopy", &uri, raw_name][..],
        &["nbdcopy", "--connections=8", "--requests=64", "--request-size=4194304", &uri, raw_name],
        &["qemu-img", "convert", "-O", "raw", &uri, raw_name],
        &["qemu-img", "convert", "-f", "raw", "-O", "raw", "-m", "16", "-W", &uri, raw_name],
    ] {
        run(args[0], &args[1..]);
        assert!(std::fs::read(&raw).expect("the copy") == content, "{args:?}");
        std::fs::remove_file(&raw).expect("the copy goes");
    }
    for command in ["read -P 7 64k 200k", "read -P 0 6M 1M", "read -P 1 5M 1M", "read -P 1 5242881 3"] {
        let output = try_run("qemu-io", &["-r", "-f", "raw", "-c", command, &uri]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !told.contains("Pattern verification failed"), "{command}: {told}");
    }
    // Nobody writes: neither who asks for it, nor who does it without asking.
    let output = try_run("qemu-io", &["-f", "raw", "-c", "write 0 512", &uri]);
    let told = [output.stdout.clone(), output.stderr.clone()].concat();
    let told = String::from_utf8_lossy(&told).to_lowercase();
    assert!(!output.status.success() && told.contains("permission denied"), "{told}");
    let (status, said) = serving.end("TERM");
    assert!(status.success(), "{said}");
    assert!(said.contains(&format!("reading {}: the image, qcow2", image.path.display())), "{said}");
    assert!(image.content() == content);
}

/// What a backup program asks for that knows libvirt's names.
#[test]
fn the_map_has_the_name_that_a_backup_program_asks_for() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "20M");
    let serving = Serving::start(&image.path, &["--bitmap-name=backup-vda", "--export=vda"]);
    let uri = format!("nbd+unix:///vda?socket={}", serving.socket.display());
    let map = run("nbdinfo", &["--map=qemu:dirty-bitmap:backup-vda", "--json", &uri]);
    let map: serde_json::Value = serde_json::from_str(&map).expect("JSON");
    let dirty = map.as_array().expect("an array").iter().find(|run| run["type"] == 1).expect("something is dirty");
    assert_eq!((&dirty["offset"], &dirty["length"]), (&65536.into(), &262_144.into()));
    assert!(!try_run("nbdinfo", &[serving.uri()]).status.success(), "the default export is another one");
}

#[test]
fn clients_that_vanish_stall_or_talk_nonsense_hold_nobody_up() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "64M");
    image.io(&["write -P 1 0 64M".into()]);
    let serving = Serving::start(&image.path, &[]);
    let greet = |stream: &mut UnixStream| stream.read_exact(&mut [0; 18]).expect("a greeting");
    // The old option needs no answer; requests of 32 MiB follow, of which nobody takes the replies.
    let ask_for_much = |stream: &mut UnixStream| {
        greet(stream);
        let mut bytes = 3_u32.to_be_bytes().to_vec();
        bytes.extend(0x4948_4156_454f_5054_u64.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        for _ in 0..50 {
            bytes.extend(0x2560_9513_u32.to_be_bytes());
            bytes.extend([0; 20]);
            bytes.extend((32_u32 << 20).to_be_bytes());
        }
        stream.write_all(&bytes).expect("the server listens");
    };
    let mut held = Vec::new();
    for number in 0..20 {
        let mut stream = serving.connect();
        match number % 5 {
            0 => {}
            1 => greet(&mut stream),
            2 => {
                greet(&mut stream);
                stream.write_all(&[0xff; 3]).expect("the server listens");
            }
            3 => {
                stream.write_all(&[0xff; 4096]).expect("the server listens");
                drop(stream);
                continue;
            }
            _ => ask_for_much(&mut stream),
        }
        held.push(stream);
    }
    for _ in 0..10 {
        let mut stream = serving.connect();
        ask_for_much(&mut stream);
        drop(stream);
    }
    let raw = image.folder.path().join("raw");
    run("nbdcopy", &[serving.uri(), raw.display().to_string()]);
    assert!(std::fs::read(&raw).expect("the copy") == vec![1; 64 << 20]);
    // Those that stall do not hold up the end either.
    let (status, said) = serving.end("INT");
    assert!(status.success(), "{said}");
    drop(held);
}

#[test]
fn the_number_of_clients_is_bounded_and_places_become_free() {
    if !support::tools_are_here() {
        return;
    }
    let image = image("", "1M");
    let serving = Serving::start(&image.path, &[]);
    let is_served = |stream: &mut UnixStream| {
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
        stream.read_exact(&mut [0; 18]).is_ok()
    };
    let mut held: Vec<UnixStream> = (0..64).map(|_| serving.connect()).collect();
    assert!(held.iter_mut().all(is_served));
    assert!(!is_served(&mut serving.connect()), "one too many");
    drop(held);
    wait_until("a place is free", || is_served(&mut serving.connect()));
    run("nbdinfo", &[serving.uri()]);
}
