//! Every way out that a refusal names exists and works: each situation is made by real tools, refused, and left by the
//! command or the option that the message names, until recording goes on and answers are right.

mod support;

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use support::raw::Raw;
use support::{TestImage, run, tools_are_here};

const CHECKMAP: &str = env!("CARGO_BIN_EXE_checkmap");

/// The control that the message names, and the step that it stands for.
enum Way {
    /// This command in backticks, with these words behind it, and the image where the command takes it.
    Command(&'static str, &'static [&'static str]),
    /// An option with which the refused command is run again.
    Option(&'static str),
    /// Words that only a person can follow.
    Words(&'static str, fn(&TestImage)),
}
use Way::{Command as Named, Option as With, Words};

/// How the refused command ends after the way out.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It works.
    Works,
    /// It has no sense any more: the checkpoint it was about is gone.
    Gone,
}
use Then::{Gone, Works};

struct Case {
    what: &'static str,
    make: fn() -> TestImage,
    /// The command that is refused, without the image, which comes second; and its status.
    refused: &'static [&'static str],
    status: i32,
    way: Way,
    then: Then,
}

fn checkmap(image: &Path, args: &[&str]) -> Output {
    let (verb, rest) = args.split_first().expect("a verb");
    Command::new(CHECKMAP).arg(verb).arg(image).args(rest).output().expect("checkmap runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ok(image: &Path, args: &[&str]) -> String {
    let output = checkmap(image, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command as a shell does, with words behind it.
fn shell(command: &str, behind: &[OsString]) -> Output {
    let command = match command.strip_prefix("checkmap ") {
        Some(rest) => format!("{CHECKMAP} {rest} \"$@\""),
        None => format!("{command} \"$@\""),
    };
    Command::new("sh").args(["-c", &command, "sh"]).args(behind).output().expect("a shell")
}

/// What stands in backticks.
fn commands(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// mon, tue, wed and thu with a write of 64 KiB in each interval, at as many MiB; then these bitmaps are removed.
fn four(without: &[&str]) -> TestImage {
    let image = TestImage::create("", "16M");
    for (at, name) in (1..).zip(["mon", "tue", "wed", "thu"]) {
        ok(&image.path, &["create", name]);
        image.write(at << 20, 65536);
    }
    without.iter().for_each(|bitmap| image.bitmap(&["--remove"], bitmap));
    image
}

/// An image with these bitmaps; `+` records.
fn bitmaps(names: &[&str]) -> TestImage {
    let image = TestImage::create("", "16M");
    for name in names {
        match name.strip_prefix('+') {
            Some(name) => image.bitmap(&["--add"], name),
            None => image.bitmap(&["--add", "--disable"], name),
        }
    }
    image
}

/// Kills a QEMU that has the image open.
fn crash(image: TestImage) -> TestImage {
    let args = ["-c", "write 5M 64k", "-c", "abort"].map(OsStr::new);
    let output = support::try_run("qemu-io", &[args.as_slice(), &[image.path.as_os_str()]].concat());
    assert!(!output.status.success());
    image
}

fn changed(image: TestImage, change: impl FnOnce(&mut Raw)) -> TestImage {
    let mut raw = Raw::read(&image.path);
    change(&mut raw);
    fs::write(&image.path, raw.bytes).expect("the image can be written");
    image
}

/// Puts an overlay with the checkpoint tue on a base that knows it too, under this name.
fn overlay(recorded: &str) -> TestImage {
    let base = bitmaps(&["mon", "+mon->tue"]);
    let path = base.folder.path().join("over.qcow2");
    let args = ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", recorded].map(OsStr::new);
    run("qemu-img", &[args.as_slice(), &[path.as_os_str(), OsStr::new("16M")]].concat());
    let image = TestImage { path, ..base };
    // By somebody who makes it anew after the snapshot: checkmap itself takes no name twice.
    match recorded {
        "disk.qcow2" => image.bitmap(&["--add"], "tue"),
        _ => drop(ok(&image.path, &["create", "tue"])),
    }
    image
}

const CASES: &[Case] = &[
    Case {
        what: "an inconsistent bitmap in the span",
        make: || crash(four(&[])),
        refused: &["diff", "--since", "mon"],
        status: 3,
        way: Named("checkmap delete --all-inconsistent", &[]),
        then: Gone,
    },
    Case {
        what: "a creation while a bitmap is inconsistent",
        make: || crash(four(&[])),
        refused: &["create", "fri"],
        status: 3,
        way: Named("checkmap delete --all-inconsistent", &[]),
        then: Works,
    },
    Case {
        what: "the deletion of an inconsistent checkpoint",
        make: || crash(four(&[])),
        refused: &["delete", "thu"],
        status: 3,
        way: With("--force-inconsistent"),
        then: Gone,
    },
    Case {
        what: "the deletion of several checkpoints of which one is inconsistent",
        make: || crash(four(&[])),
        refused: &["delete", "wed..thu"],
        status: 3,
        way: With("--force-inconsistent"),
        then: Gone,
    },
    Case {
        what: "a range whose ends are swapped",
        make: || four(&[]),
        refused: &["delete", "wed..tue"],
        status: 3,
        way: Words("swap the two", |image| {
            ok(&image.path, &["delete", "tue..wed"]);
        }),
        then: Gone,
    },
    Case {
        what: "a range of cumulative checkpoints",
        make: || bitmaps(&["+mon", "+tue", "+wed"]),
        refused: &["delete", "mon..tue"],
        status: 3,
        way: Words("name each checkpoint by itself", |image| {
            ok(&image.path, &["delete", "mon", "tue"]);
        }),
        then: Gone,
    },
    Case {
        what: "a dump of an inconsistent foreign bitmap",
        make: || changed(bitmaps(&["mon", "+mon->tue", "theirs"]), |raw| raw.put(raw.entry(2) + 15, &[1])),
        refused: &["dump", "--bitmap", "theirs"],
        status: 3,
        way: Named("checkmap drop --bitmap theirs", &[]),
        then: Gone,
    },
    Case {
        what: "a crash beside a gap",
        make: || crash(four(&["mon->tue"])),
        refused: &["create", "fri"],
        status: 3,
        way: Named("checkmap delete --all-inconsistent", &[]),
        then: Works,
    },
    Case {
        what: "a diff across a gap",
        make: || four(&["mon->tue"]),
        refused: &["diff", "--since", "mon"],
        status: 3,
        way: Named("checkmap drop --before wed", &[]),
        then: Gone,
    },
    Case {
        what: "a name that only a gap mentions",
        make: || four(&["mon->tue"]),
        refused: &["create", "tue"],
        status: 3,
        way: Named("checkmap drop --before wed", &[]),
        then: Works,
    },
    Case {
        what: "a new name that only a gap mentions",
        make: || four(&["mon->tue"]),
        refused: &["rename", "thu", "tue"],
        status: 3,
        way: Named("checkmap drop --before wed", &[]),
        then: Works,
    },
    Case {
        what: "a checkpoint between several gaps",
        make: || bitmaps(&["r", "m->n", "x->y", "+a->b c"]),
        refused: &["drop", "--before", "n"],
        status: 3,
        way: Named("checkmap drop --before 'b c'", &[]),
        then: Gone,
    },
    Case {
        what: "two parts of a chain that both record",
        make: || bitmaps(&["+x->y", "+a->b"]),
        refused: &["create", "fri"],
        status: 3,
        way: Named("checkmap drop --bitmap 'x->y'", &[]),
        then: Works,
    },
    Case {
        what: "a cycle",
        make: || bitmaps(&["x->y", "+y->x"]),
        refused: &["create", "fri"],
        status: 3,
        way: Named("checkmap drop --bitmap 'x->y'", &[]),
        then: Works,
    },
    Case {
        what: "a cycle, listed",
        make: || bitmaps(&["+x->x"]),
        refused: &["list"],
        status: 3,
        way: Named("checkmap drop --all", &[]),
        then: Works,
    },
    Case {
        what: "two children of one parent",
        make: || bitmaps(&["mon", "mon->tue", "+mon->wed"]),
        refused: &["delete", "wed"],
        status: 3,
        way: Named("checkmap drop --bitmap 'mon->tue'", &[]),
        then: Works,
    },
    Case {
        what: "two bitmaps of one checkpoint",
        make: || bitmaps(&["mon", "mon->tue", "+tue->wed", "tue"]),
        refused: &["diff", "--since", "mon"],
        status: 3,
        way: Named("checkmap drop --bitmap tue", &[]),
        then: Works,
    },
    Case {
        what: "a name that is no link",
        make: || bitmaps(&["mon", "+mon->tue", "it's->a->mess"]),
        refused: &["rename", "mon", "m"],
        status: 3,
        way: Named(r"checkmap drop --bitmap 'it'\''s->a->mess'", &[]),
        then: Works,
    },
    Case {
        what: "a newest bitmap that does not record",
        make: || bitmaps(&["mon", "mon->tue"]),
        refused: &["create", "wed"],
        status: 3,
        way: Named("checkmap drop --all", &[]),
        then: Works,
    },
    Case {
        what: "a diff until now without a recording",
        make: || bitmaps(&["mon", "mon->tue"]),
        refused: &["diff", "--since", "mon"],
        status: 3,
        way: Named("checkmap drop --all", &[]),
        then: Gone,
    },
    Case {
        what: "a past bitmap that still records",
        make: || bitmaps(&["+mon", "+mon->tue"]),
        refused: &["diff", "--since", "mon", "--until", "tue"],
        status: 3,
        way: Named("qemu-img bitmap --disable", &["mon"]),
        then: Works,
    },
    Case {
        what: "a past bitmap that still records, as libvirt leaves it",
        make: || bitmaps(&["mon", "+mon->tue", "+tue->wed"]),
        refused: &["delete", "tue"],
        status: 3,
        way: Words("make a checkpoint with `checkmap create`", |image| {
            ok(&image.path, &["create", "thu"]);
        }),
        then: Works,
    },
    Case {
        what: "a name that a foreign bitmap has",
        make: || bitmaps(&["mon", "+mon->tue", "theirs"]),
        refused: &["create", "theirs"],
        status: 3,
        way: Named("checkmap drop --bitmap theirs", &[]),
        then: Works,
    },
    Case {
        what: "a foreign bitmap that would be taken for the root",
        make: || bitmaps(&["mon", "mon->tue", "+wed->thu", "theirs"]),
        refused: &["delete", "tue"],
        status: 3,
        way: Named("checkmap drop --bitmap theirs", &[]),
        then: Works,
    },
    Case {
        what: "an unknown model, said",
        make: || bitmaps(&["mon", "+tue"]),
        refused: &["diff", "--since", "tue"],
        status: 3,
        way: With("--model=interval"),
        then: Works,
    },
    Case {
        what: "an unknown model, cleared",
        make: || bitmaps(&["mon", "+tue"]),
        refused: &["create", "wed"],
        status: 3,
        way: Named("checkmap drop --bitmap", &["mon"]),
        then: Works,
    },
    Case {
        what: "a model that contradicts the bitmaps",
        make: || bitmaps(&["+mon", "+tue"]),
        refused: &["diff", "--since", "tue", "--model", "interval"],
        status: 3,
        way: With("--model cumulative"),
        then: Works,
    },
    Case {
        what: "a cumulative checkpoint and what lies before it",
        make: || bitmaps(&["+mon", "+tue"]),
        refused: &["drop", "--before", "tue"],
        status: 3,
        way: Named("checkmap drop --bitmap", &["mon"]),
        then: Works,
    },
    Case {
        what: "an unusable bitmap",
        make: || changed(four(&[]), |raw| raw.put(raw.entry(2) + 16, &[9])),
        refused: &["diff", "--since", "mon"],
        status: 1,
        way: Named("checkmap drop --bitmap 'tue->wed'", &[]),
        then: Gone,
    },
    Case {
        what: "a stale image",
        make: || changed(four(&[]), |raw| raw.put(95, &[0])),
        refused: &["create", "fri"],
        status: 3,
        way: Named("checkmap drop --all", &[]),
        then: Works,
    },
    Case {
        what: "a stale image, read",
        make: || changed(four(&[]), |raw| raw.put(95, &[0])),
        refused: &["diff", "--since", "mon"],
        status: 3,
        way: Named("checkmap drop --all", &[]),
        then: Gone,
    },
    Case {
        what: "an image marked dirty",
        make: || changed(four(&[]), |raw| raw.put(79, &[1])),
        refused: &["create", "fri"],
        status: 3,
        way: Named("qemu-img check -r all", &[]),
        then: Works,
    },
    Case {
        what: "an image marked corrupt",
        make: || changed(four(&[]), |raw| raw.put(79, &[2])),
        refused: &["drop", "--before", "wed"],
        status: 3,
        way: Named("qemu-img check -r all", &[]),
        then: Works,
    },
    Case {
        what: "version 2",
        make: || TestImage::create("compat=0.10", "16M"),
        refused: &["create", "mon"],
        status: 3,
        way: Named("qemu-img amend -f qcow2 -o compat=1.1", &[]),
        then: Works,
    },
    Case {
        what: "a directory that ends within an entry",
        make: || changed(four(&[]), |raw| raw.put(raw.entry(1) + 18, &[0xff])),
        refused: &["create", "fri"],
        status: 1,
        way: Named("checkmap drop --all", &[]),
        then: Works,
    },
    Case {
        what: "a name that stands twice in the directory",
        make: || changed(bitmaps(&["abc", "abd"]), |raw| raw.put(raw.name(1), b"abc")),
        refused: &["diff", "--since", "abc"],
        status: 1,
        way: Named("checkmap drop --all", &[]),
        then: Gone,
    },
    Case {
        what: "foreign bitmaps that would go too",
        make: || bitmaps(&["mon", "+mon->tue", "theirs"]),
        refused: &["drop", "--all"],
        status: 3,
        way: With("--yes"),
        then: Works,
    },
    Case {
        what: "a layer below that knows the checkpoint, and has no bitmap of it",
        make: || {
            let image = overlay("disk.qcow2");
            let base = TestImage { path: image.folder.path().join("disk.qcow2"), folder: image.folder };
            base.bitmap(&["--remove"], "mon->tue");
            base.bitmap(&["--add"], "tue->wed");
            TestImage { path: base.folder.path().join("over.qcow2"), ..base }
        },
        refused: &["rename", "tue", "t"],
        status: 3,
        way: With("--top-layer-only"),
        then: Works,
    },
    Case {
        what: "a layer below that cannot be read",
        make: || overlay("gone.qcow2"),
        refused: &["delete", "tue"],
        status: 3,
        way: Words("insist with --top-layer-only", |image| {
            ok(&image.path, &["delete", "tue", "--top-layer-only"]);
            let args = ["rebase", "-u", "-f", "qcow2", "-b", ""].map(OsStr::new);
            run("qemu-img", &[args.as_slice(), &[image.path.as_os_str()]].concat());
        }),
        then: Gone,
    },
    Case {
        what: "a layer below by a name that cannot be known",
        make: || overlay("file:disk.qcow2"),
        refused: &["rename", "tue", "t"],
        status: 3,
        way: Words("`qemu-img rebase -u`", |image| {
            let args = ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "disk.qcow2"].map(OsStr::new);
            run("qemu-img", &[args.as_slice(), &[image.path.as_os_str()]].concat());
        }),
        then: Works,
    },
    Case {
        what: "a root whose name is too long for a checkpoint",
        make: || bitmaps(&[&format!("+{}", "x".repeat(600))]),
        refused: &["create", "tue"],
        status: 2,
        way: Words("rename that checkpoint first", |image| {
            ok(&image.path, &["rename", &"x".repeat(600), "mon"]);
        }),
        then: Works,
    },
    Case {
        what: "a name that cannot be",
        make: || four(&[]),
        refused: &["create", "a->b"],
        status: 2,
        way: Words("'->' stands between the two checkpoints", |_| {}),
        then: Gone,
    },
    Case {
        what: "a name that is taken",
        make: || four(&[]),
        refused: &["create", "mon"],
        status: 3,
        way: Words("delete that checkpoint", |image| {
            ok(&image.path, &["delete", "mon"]);
        }),
        then: Works,
    },
    Case {
        what: "a read-only file",
        make: || {
            let image = four(&[]);
            fs::set_permissions(&image.path, Permissions::from_mode(0o444)).expect("its mode can be changed");
            image
        },
        refused: &["drop", "--bitmap", "mon"],
        status: 3,
        way: Words("make it writable first", |image| {
            fs::set_permissions(&image.path, Permissions::from_mode(0o644)).expect("its mode can be changed");
        }),
        then: Works,
    },
];

#[test]
fn every_way_out_leads_out() {
    if !tools_are_here() {
        return;
    }
    for case in CASES {
        let what = case.what;
        let image = (case.make)();
        let before = fs::read(&image.path).expect("the image can be read");
        let refused = checkmap(&image.path, case.refused);
        let message = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(case.status), "{what}: {message}");
        assert_eq!(fs::read(&image.path).expect("the image can be read"), before, "{what}: nothing is changed");
        let again = match &case.way {
            Named(command, behind) => {
                let named = commands(&message).into_iter().find(|named| named == command);
                let named = named.unwrap_or_else(|| panic!("{what}: {message} does not name {command}"));
                let mut words: Vec<OsString> = behind.iter().map(Into::into).collect();
                let at = if named.starts_with("checkmap") { words.len() } else { 0 };
                words.insert(at, image.path.clone().into_os_string());
                let way = shell(named, &words);
                assert!(way.status.success(), "{what}: {named}: {}", text(&way.stderr));
                reclaim(&image, &way);
                checkmap(&image.path, case.refused)
            }
            With(option) => {
                let (name, _) = option.split_once(['=', ' ']).unwrap_or((option, ""));
                assert!(message.contains(name), "{what}: {message} does not name {option}");
                let kept = case.refused.iter().copied().take_while(|arg| *arg != name);
                let words: Vec<&str> = kept.chain(option.split(' ')).collect();
                let way = checkmap(&image.path, &words);
                assert!(way.status.success(), "{what}: {words:?}: {}", text(&way.stderr));
                reclaim(&image, &way);
                way
            }
            Words(words, follow) => {
                assert!(message.contains(words), "{what}: {message} does not say {words}");
                follow(&image);
                checkmap(&image.path, case.refused)
            }
        };
        if case.then == Works {
            assert!(again.status.success(), "{what}: {:?} again: {}", case.refused, text(&again.stderr));
        }
        recording_goes_on(&image, what);
    }
}

/// Room that stays counted as used comes back by the command that the warning names.
fn reclaim(image: &TestImage, way: &Output) {
    if let Some(command) = commands(&text(&way.stderr)).into_iter().find(|command| command.contains("-r leaks")) {
        let reclaimed = shell(command, &[image.path.clone().into_os_string()]);
        assert!(reclaimed.status.success(), "{}", text(&reclaimed.stderr));
    }
}

/// A new checkpoint can be created, and the diff since then has the writes after it, and nothing else.
fn recording_goes_on(image: &TestImage, when: &str) {
    let path = &image.path;
    let created = checkmap(path, &["create", "last"]);
    if !created.status.success() {
        // An unknown model has to be said each time.
        assert!(text(&created.stderr).contains("--model"), "{when}: {}", text(&created.stderr));
        ok(path, &["create", "last", "--model", "interval"]);
    }
    image.write(9 << 20, 65536);
    let csv = ok(path, &["diff", "--since", "last", "--format", "csv"]);
    assert_eq!(csv, "start,length\n9437184,65536\n", "{when}");
    image.assert_clean(when);
}
