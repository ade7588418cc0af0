//! Owns the proof that whatever a monitor answers, a verb ends: with an error that says the truth about the bitmaps, with nothing of ours
//! left behind, and never with a shorter diff.

use crate::histories::dirty_granules;
use crate::support::qmp_server::{Deed, Mock, MockBitmap, MockNode, State};
use checkmap::ErrorKind;
use checkmap::chain::Plan;
use checkmap::image::{Access, DiffRequest, Group, Image, Layers, OpenOptions};
use checkmap::progress::{Observer, Step, Unobserved};
use checkmap::qemu::{Machine, Monitor, Options};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

const GRANULE: u64 = 65536;

/// The granules of the first disk that changed since the first checkpoint.
const SINCE_MON: [u64; 4] = [0, 1, 3, 5];

/// Two disks with three checkpoints, and two bitmaps of somebody's on the first.
pub(crate) fn two_disks() -> State {
    let mut state = State::default();
    for (name, size_bytes, granule) in [("d0", 4 << 20, GRANULE), ("d1", (1 << 20) + 512, 4096)] {
        let mut node = MockNode::new(size_bytes);
        for (bitmap, recording, dirty) in
            [("mon", false, &[0_u64, 3][..]), ("mon->tue", false, &[1]), ("tue->wed", true, &[5])]
        {
            node.bitmaps.insert(bitmap.into(), MockBitmap::new(granule, recording, dirty.iter().copied()));
        }
        if name == "d0" {
            node.bitmaps.insert("x".into(), MockBitmap::new(granule, false, [7]));
            node.bitmaps.insert("y".into(), MockBitmap::new(granule, false, [8]));
        }
        state.nodes.insert(name.into(), node);
    }
    state
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    List,
    Create,
    Delete,
    Rename,
    Merge,
    Diff,
}

const VERBS: [Verb; 6] = [Verb::List, Verb::Create, Verb::Delete, Verb::Rename, Verb::Merge, Verb::Diff];

pub(crate) fn open(mock: &Mock, observer: &mut dyn Observer) -> checkmap::Result<Vec<Image>> {
    open_within(mock, Duration::from_secs(20), observer)
}

fn open_within(mock: &Mock, timeout: Duration, observer: &mut dyn Observer) -> checkmap::Result<Vec<Image>> {
    let options = Options::default().timeout(timeout);
    let machine = Machine::connect(Monitor::Socket(mock.socket().to_owned()), &options, observer)?;
    let open = |disk| Ok(Image::on(machine.host(&disk)?, Path::new(disk.title()), &OpenOptions::new(Access::Write)));
    machine.disks()?.into_iter().map(open).collect()
}

pub(crate) fn change(
    images: &mut [Image],
    observer: &mut dyn Observer,
    plan: impl FnMut(&Image) -> checkmap::Result<Plan>,
) -> checkmap::Result<()> {
    let mut group = Group::new(images)?;
    let plans = group.plan(plan)?;
    group.commit(&plans, observer).map(drop)
}

impl Verb {
    /// Carries it out on all disks; a diff checks itself.
    fn run(self, mock: &Mock, observer: &mut dyn Observer) -> checkmap::Result<()> {
        self.run_within(mock, Duration::from_secs(20), observer)
    }

    fn run_within(self, mock: &Mock, timeout: Duration, observer: &mut dyn Observer) -> checkmap::Result<()> {
        let mut images = open_within(mock, timeout, observer)?;
        match self {
            Verb::List => images.iter().try_for_each(|image| {
                let names: Vec<String> =
                    image.chain(None)?.checkpoints().iter().map(|one| one.name.to_string()).collect();
                assert_eq!(names.len(), 3, "{names:?}");
                Ok(())
            }),
            Verb::Create => change(&mut images, observer, |image| image.plan_create(b"thu", None, None)),
            Verb::Delete => {
                change(&mut images, observer, |image| image.plan_delete(b"tue", false, Layers::Check, None))
            }
            Verb::Rename => {
                change(&mut images, observer, |image| image.plan_rename(b"tue", b"dienstag", Layers::Check, None))
            }
            Verb::Merge => change(&mut images[..1], observer, |image| image.plan_merge(&[b"x"], b"y")),
            Verb::Diff => {
                let diff = images[0].diff(&DiffRequest::since(b"mon"), observer)?;
                assert_eq!(dirty_granules(&diff.bitmap, GRANULE), BTreeSet::from(SINCE_MON));
                Ok(())
            }
        }
    }

    /// The commands that it sends where all goes well, and the nodes afterwards.
    fn commands(self) -> (Vec<String>, State) {
        let mock = Mock::start(two_disks());
        self.run(&mock, &mut Unobserved).unwrap_or_else(|error| panic!("{self:?}: {error}"));
        mock.assert_tidy("all went well");
        let state = mock.state().clone();
        (state.sent.iter().map(|one| one["execute"].as_str().expect("a name").to_owned()).collect(), state)
    }
}

/// The next verb finds a hypervisor as it should be, and clears it.
pub(crate) fn tidy_afterwards(mock: &Mock, context: &str) {
    mock.behave();
    open(mock, &mut Unobserved).unwrap_or_else(|error| panic!("{context}: {error}"));
    mock.assert_tidy(context);
}

#[test]
fn a_connection_that_breaks_at_any_command_leaves_no_doubt_that_could_be_cleared() {
    for verb in VERBS {
        let (commands, done) = verb.commands();
        let untouched = two_disks().nodes;
        for (at, command) in commands.iter().enumerate() {
            for (carry_out, listen) in [(false, true), (true, true), (false, false), (true, false)] {
                let context = format!("{verb:?}, {at}: {command}, {carry_out}, {listen}");
                let mock = Mock::start(two_disks());
                let breaks = move |_: &str, before| match before == at {
                    true => Deed::Close { carry_out, listen },
                    false => Deed::Answer,
                };
                mock.meddle(breaks);
                let outcome = verb.run(&mock, &mut Unobserved);
                let kind = outcome.as_ref().map_err(checkmap::Error::kind).err();
                let nodes = mock.state().nodes.clone();
                if command == "transaction" {
                    // A merge alone cannot be seen in the names and flags.
                    let is_clear = listen && verb != Verb::Merge;
                    match (is_clear, carry_out) {
                        (true, true) => assert_eq!(kind, None, "{context}"),
                        (true, false) => assert_eq!(kind, Some(ErrorKind::Hypervisor), "{context}"),
                        (false, _) => assert_eq!(kind, Some(ErrorKind::CommitInDoubt), "{context}"),
                    }
                    assert_eq!(nodes, if carry_out { done.nodes.clone() } else { untouched.clone() }, "{context}");
                } else {
                    assert_ne!(kind, Some(ErrorKind::CommitInDoubt), "{context}");
                    let is_done = kind.is_none() && commands.contains(&"transaction".to_owned());
                    assert_eq!(nodes, if is_done { done.nodes.clone() } else { untouched.clone() }, "{context}");
                }
                mock.behave();
                if !listen {
                    mock.listen();
                }
                tidy_afterwards(&mock, &context);
            }
        }
    }
}

#[test]
fn a_monitor_that_hangs_or_only_chatters_can_be_left() {
    for verb in [Verb::Create, Verb::Diff] {
        let (commands, done) = verb.commands();
        // Once it was sent, nobody can take a transaction back: it is waited for.
        for (at, command) in commands.iter().enumerate().filter(|(_, command)| *command != "transaction") {
            let chatters = at % 2 == 0;
            let context = format!("{verb:?}, {at}: {command}, {chatters}");
            let mock = Mock::start(two_disks());
            mock.meddle(move |command, before| match (before == at && command != "greeting", chatters) {
                (true, true) => Deed::Chatter,
                (true, false) => Deed::Hang,
                _ => Deed::Answer,
            });
            let mut observer = |_: Step| match mock.state().sent.len() > at {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            match verb.run_within(&mock, Duration::from_secs(1), &mut observer) {
                Err(error) => {
                    let kinds = [ErrorKind::Cancelled, ErrorKind::InUse];
                    assert!(kinds.contains(&error.kind()), "{context}: {error}");
                    assert_eq!(mock.state().nodes, two_disks().nodes, "{context}");
                }
                Ok(()) => assert_eq!(mock.state().nodes, done.nodes, "{context}"),
            }
            tidy_afterwards(&mock, &context);
        }
    }
}

#[test]
fn a_greeting_that_is_none_of_qmp_is_refused() {
    let deep = format!("{{\"QMP\": {}\n", "[".repeat(100_000));
    let endless = format!("{{\"QMP\": \"{}", "x".repeat(65 << 20));
    for said in [
        "{\"QMP\": {",
        "QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) ",
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        "NBDMAGICIHAVEOPT\0\u{3}",
        "{\"QMP\": 7}\n",
        "[]\n",
        "{}\n",
        "{\"event\": \"STOP\"}\n",
        "{\"QMP\": {\"version\": {}, }}\n",
        &deep,
        &endless,
    ] {
        let mock = Mock::start(two_disks());
        let bytes = said.as_bytes().to_vec();
        mock.meddle(move |command, _| match command {
            "greeting" => Deed::Say(bytes.clone()),
            _ => Deed::Answer,
        });
        let context: String = said.chars().take(60).collect();
        // Half a line is waited for; the longest one takes its time.
        let timeout = if said.ends_with('{') { Duration::from_millis(500) } else { Duration::from_secs(60) };
        let refused = open_within(&mock, timeout, &mut Unobserved).expect_err(&context);
        assert_eq!(refused.kind(), ErrorKind::Damaged, "{context}: {refused}");
        assert!(mock.state().sent.is_empty(), "{context}");
    }
    let mock = Mock::start(two_disks());
    mock.meddle(|_, _| Deed::Hang);
    let silence = open_within(&mock, Duration::from_millis(100), &mut Unobserved);
    assert_eq!(silence.expect_err("silence").kind(), ErrorKind::InUse);
    let mock = Mock::start(two_disks());
    mock.meddle(|_, _| Deed::Close { carry_out: false, listen: true });
    assert_eq!(open(&mock, &mut Unobserved).expect_err("closed").kind(), ErrorKind::Hypervisor);
}

/// QEMU hands what it could not say to a client that was killed to the next one, before it greets.
#[test]
fn answers_to_a_client_that_was_killed_come_before_the_greeting() {
    let greeting = "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 10}}, \"capabilities\": []}}\n";
    for late in [
        "{\"return\": {}, \"id\": 7}\n",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 7}\r\n{\"return\": {}}\r\n",
        "\"name\": \"x\"}], \"id\": 7}\r\n",
        // Where somebody connects while it starts.
        greeting,
    ] {
        let mock = Mock::start(two_disks());
        let said = format!("{late}{greeting}").into_bytes();
        mock.meddle(move |command, _| match command {
            "greeting" => Deed::Say(said.clone()),
            _ => Deed::Answer,
        });
        let images = open(&mock, &mut Unobserved).unwrap_or_else(|error| panic!("{late}: {error}"));
        assert_eq!(images.len(), 2, "{late}");
    }
}

#[test]
fn an_answer_that_breaks_the_protocol_is_no_answer() {
    for verb in [Verb::List, Verb::Create, Verb::Delete, Verb::Diff] {
        let (commands, done) = verb.commands();
        for (at, command) in commands.iter().enumerate() {
            for said in [
                "{\"return\": {}, \"id\": 999}\n",
                "{\"return\": {}}\n",
                "{\"return\": {}, \"id\": \"$ID\"}\n",
                "{\"error\": {}, \"id\": $ID}\n",
                "{\"error\": \"no\", \"id\": $ID}\n",
                "{\"error\": {\"class\": 7, \"desc\": \"no\"}, \"id\": $ID}\n",
                "{\"id\": $ID}\n",
                "7\n",
                "{\"return\": 1e400, \"id\": $ID}\n",
                "{\"return\": \"\\ud800\", \"id\": $ID}\n",
                "{\"return\": {}, \"id\": $ID\n",
            ] {
                // Answers to others can come first, and are waited past.
                let is_of_another =
                    ["\"id\": 999", "{\"return\": {}}", "\"$ID\""].iter().any(|part| said.contains(part));
                if at == 0 && is_of_another {
                    continue;
                }
                let context = format!("{verb:?}, {at}: {command}: {said}");
                let mock = Mock::start(two_disks());
                mock.meddle(move |command, before| match before == at && command != "greeting" {
                    true => Deed::Say(said.into()),
                    false => Deed::Answer,
                });
                match verb.run(&mock, &mut Unobserved) {
                    // The clean-up is finished by the next verb.
                    Ok(()) => assert_eq!(mock.state().nodes, done.nodes, "{context}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Damaged, "{context}: {error}");
                        assert_eq!(mock.state().nodes, two_disks().nodes, "{context}");
                    }
                }
                tidy_afterwards(&mock, &context);
            }
        }
    }
}

#[test]
fn a_hypervisor_that_lies_is_not_believed_to_the_end() {
    for verb in [Verb::Create, Verb::Delete, Verb::Diff] {
        let (commands, done) = verb.commands();
        for (at, command) in commands.iter().enumerate() {
            let context = format!("{verb:?}, {at}: {command}");
            let mock = Mock::start(two_disks());
            mock.meddle(move |_, before| match before == at {
                true => Deed::Say(b"{\"return\": {}, \"id\": $ID}\n".to_vec()),
                false => Deed::Answer,
            });
            match verb.run(&mock, &mut Unobserved) {
                Ok(()) => assert_eq!(mock.state().nodes, done.nodes, "{context}"),
                Err(error) => {
                    assert_eq!(
                        error.kind() == ErrorKind::CommitInDoubt,
                        command == "transaction",
                        "{context}: {error}"
                    );
                    assert_eq!(mock.state().nodes, two_disks().nodes, "{context}");
                }
            }
        }
    }
}

type Edit = fn(&mut Value);

/// Changes of the answer to `query-named-block-nodes`; the disk `d0` comes first.
const NODES: &[(&str, Edit, ErrorKind)] = &[
    ("no list", |nodes| *nodes = json!({}), ErrorKind::Damaged),
    ("null", |nodes| *nodes = Value::Null, ErrorKind::Damaged),
    ("a number", |nodes| nodes[0] = json!(7), ErrorKind::Damaged),
    ("a node twice", |nodes| nodes[1]["node-name"] = json!("d0"), ErrorKind::Damaged),
    ("a size of 2^63", |nodes| nodes[0]["image"]["virtual-size"] = json!(1_u64 << 63), ErrorKind::Damaged),
    ("a size of 2^64 - 1", |nodes| nodes[0]["image"]["virtual-size"] = json!(u64::MAX), ErrorKind::Damaged),
    ("a size below 0", |nodes| nodes[0]["image"]["virtual-size"] = json!(-1), ErrorKind::Damaged),
    ("a size with a fraction", |nodes| nodes[0]["image"]["virtual-size"] = json!(1.5), ErrorKind::Damaged),
    ("a size in words", |nodes| nodes[0]["image"]["virtual-size"] = json!("4194304"), ErrorKind::Damaged),
    ("no size", |nodes| nodes[0]["image"] = json!({}), ErrorKind::Damaged),
    ("no image", |nodes| drop(nodes[0].as_object_mut().expect("a node").remove("image")), ErrorKind::Damaged),
    ("clusters below 0", |nodes| nodes[0]["image"]["cluster-size"] = json!(-4096), ErrorKind::Damaged),
    ("no read-only flag", |nodes| nodes[0]["ro"] = Value::Null, ErrorKind::Damaged),
    ("bitmaps in an object", |nodes| nodes[0]["dirty-bitmaps"] = json!({}), ErrorKind::Damaged),
    ("a name twice", |nodes| nodes[0]["dirty-bitmaps"][1]["name"] = json!("mon"), ErrorKind::Damaged),
    ("a number for a name", |nodes| nodes[0]["dirty-bitmaps"][1]["name"] = json!(7), ErrorKind::Damaged),
    ("an empty name", |nodes| nodes[0]["dirty-bitmaps"][1]["name"] = json!(""), ErrorKind::Damaged),
    ("granules of 0", |nodes| nodes[0]["dirty-bitmaps"][0]["granularity"] = json!(0), ErrorKind::Damaged),
    ("granules of 3", |nodes| nodes[0]["dirty-bitmaps"][0]["granularity"] = json!(3), ErrorKind::Damaged),
    ("granules of 2^40", |nodes| nodes[0]["dirty-bitmaps"][0]["granularity"] = json!(1_u64 << 40), ErrorKind::Damaged),
    ("a count below 0", |nodes| nodes[0]["dirty-bitmaps"][0]["count"] = json!(-1), ErrorKind::Damaged),
    ("a number for recording", |nodes| nodes[0]["dirty-bitmaps"][0]["recording"] = json!(1), ErrorKind::Damaged),
    ("busy or not", |nodes| nodes[0]["dirty-bitmaps"][0]["busy"] = Value::Null, ErrorKind::Damaged),
    ("children in an object", |nodes| nodes[0]["children"] = json!({}), ErrorKind::Damaged),
    ("a child without a name", |nodes| nodes[0]["children"] = json!([{ "child": "file" }]), ErrorKind::Damaged),
    ("a loop", |nodes| nodes[0]["children"] = json!([{ "child": "backing", "node-name": "d0" }]), ErrorKind::Damaged),
    (
        "a layer that is nowhere",
        |nodes| nodes[0]["children"] = json!([{ "child": "backing", "node-name": "gone" }]),
        ErrorKind::Changed,
    ),
    (
        "a filter on nothing",
        |nodes| (nodes[0]["drv"], nodes[0]["children"]) = (json!("throttle"), json!([])),
        ErrorKind::Damaged,
    ),
    (
        "a filter on itself",
        |nodes| {
            nodes[0]["drv"] = json!("mirror_top");
            nodes[0]["children"] = json!([{ "child": "backing", "node-name": "d0" }]);
        },
        ErrorKind::Damaged,
    ),
    ("a disk that is nowhere", |nodes| nodes[0]["node-name"] = json!("other"), ErrorKind::Changed),
    (
        "no children at all",
        |nodes| drop(nodes[0].as_object_mut().expect("a node").remove("children")),
        ErrorKind::Unsupported,
    ),
];

#[test]
fn hostile_block_nodes_are_refused_and_nothing_is_sent() {
    for verb in [Verb::List, Verb::Create, Verb::Diff] {
        // From the first question on, and from one in the middle of the work on.
        let (commands, done) = verb.commands();
        let last = commands.iter().rposition(|command| command == "object-add").unwrap_or_default();
        for from in [0, last] {
            for (what, edit, kind) in NODES {
                let context = format!("{verb:?}, {what}, from {from} on");
                let mock = Mock::start(two_disks());
                mock.meddle(move |command, before| match command == "query-named-block-nodes" && before >= from {
                    true => Deed::Edit(Box::new(move |answer| edit(&mut answer["return"]))),
                    false => Deed::Answer,
                });
                let outcome = verb.run(&mock, &mut Unobserved);
                if from == 0 {
                    let refused = outcome.expect_err(&context);
                    assert_eq!(refused.kind(), *kind, "{context}: {refused}");
                } else if outcome.is_ok() {
                    // What stands below a disk says nothing about its own bitmaps.
                    assert!(["loop", "layer", "filter"].iter().any(|part| what.contains(part)), "{context}");
                    assert_eq!(mock.state().nodes, done.nodes, "{context}");
                    continue;
                }
                {
                    let state = mock.state();
                    assert_eq!(state.nodes, two_disks().nodes, "{context}");
                    assert!(state.sent.iter().all(|sent| sent["execute"] != "transaction"), "{context}");
                }
                tidy_afterwards(&mock, &context);
            }
        }
    }
}

#[test]
fn hostile_devices_are_refused() {
    let cases: [(Edit, ErrorKind); 5] = [
        (|devices| *devices = json!({}), ErrorKind::Damaged),
        (|devices| devices[0]["inserted"] = json!({}), ErrorKind::Damaged),
        (|devices| devices[0]["inserted"]["node-name"] = json!(7), ErrorKind::Damaged),
        (|devices| devices[0]["inserted"]["node-name"] = json!("gone"), ErrorKind::Changed),
        (|devices| devices[0]["inserted"]["node-name"] = json!(""), ErrorKind::Changed),
    ];
    for (edit, kind) in cases {
        let mock = Mock::start(two_disks());
        mock.meddle(move |command, _| match command {
            "query-block" => Deed::Edit(Box::new(move |answer| edit(&mut answer["return"]))),
            _ => Deed::Answer,
        });
        assert_eq!(Verb::Create.run(&mock, &mut Unobserved).expect_err("hostile").kind(), kind);
        assert_eq!(mock.state().nodes, two_disks().nodes);
        tidy_afterwards(&mock, "devices");
    }
}

#[test]
fn a_name_that_qmp_cannot_carry_stops_what_would_need_it() {
    let mut state = two_disks();
    let bitmaps = &mut state.nodes.get_mut("d0").expect("a disk").bitmaps;
    let frozen = bitmaps.remove("mon->tue").expect("a bitmap");
    bitmaps.insert("mon->t\u{fffd}".into(), frozen.clone());
    let before = state.nodes.clone();
    let mock = Mock::start(state);
    for verb in [Verb::Diff, Verb::Delete, Verb::Rename, Verb::Create] {
        let refused = verb.run(&mock, &mut Unobserved).expect_err("a part of the chain is missing");
        assert_ne!(refused.kind(), ErrorKind::CommitInDoubt, "{verb:?}: {refused}");
        assert_eq!(mock.state().nodes, before, "{verb:?}");
    }
    tidy_afterwards(&mock, "a lossy name");
}

#[test]
fn long_names_are_taken_up_to_those_of_qemu() {
    let mock = Mock::start(two_disks());
    let mut images = open(&mock, &mut Unobserved).expect("it opens");
    // Two of them and an arrow fit into the 1,023 bytes of a bitmap's name.
    let (longest, longer) = ("n".repeat(510), "n".repeat(511));
    let refused = change(&mut images, &mut Unobserved, |image| image.plan_create(longer.as_bytes(), None, None));
    assert_eq!(refused.expect_err("too long").kind(), ErrorKind::NameTooLong);
    change(&mut images, &mut Unobserved, |image| image.plan_create(longest.as_bytes(), None, None)).expect("created");
    let after = "m".repeat(510);
    change(&mut images, &mut Unobserved, |image| image.plan_create(after.as_bytes(), None, None)).expect("created");
    assert!(mock.state().nodes["d1"].bitmaps.contains_key(&format!("{longest}->{after}")));
    mock.assert_tidy("long names");
}

#[test]
fn a_read_only_layer_and_a_busy_bitmap_are_not_touched() {
    for read_only in [true, false] {
        let mut state = two_disks();
        let node = state.nodes.get_mut("d1").expect("a disk");
        node.read_only = read_only;
        node.bitmaps.get_mut("tue->wed").expect("a bitmap").busy = !read_only;
        let before = state.nodes.clone();
        let mock = Mock::start(state);
        let refused = Verb::Create.run(&mock, &mut Unobserved).expect_err("it would not last");
        assert_eq!(refused.kind(), if read_only { ErrorKind::ReadOnly } else { ErrorKind::InUse });
        assert_eq!(mock.state().nodes, before);
        mock.assert_tidy("a refusal");
    }
}

#[test]
fn a_server_of_somebody_else_is_never_stopped() {
    let mut state = two_disks();
    state.server = Some(("/nowhere/nbd.sock".into(), std::sync::Arc::default()));
    let mock = Mock::start(state);
    assert_eq!(Verb::Diff.run(&mock, &mut Unobserved).expect_err("one server").kind(), ErrorKind::InUse);
    let state = mock.state();
    assert!(state.server.is_some() && state.mark.is_none() && state.added.is_empty());
    assert!(state.sent.iter().all(|sent| sent["execute"] != "nbd-server-stop"));
}

#[test]
fn a_mark_that_cannot_be_judged_is_left_and_waited_for_no_longer_than_told() {
    for identity in
        ["", "/", "checkmap-x", "/tmp", "/tmp/checkmap-", "/proc/self/fd/checkmap-x/../../..", "/\0/checkmap-x"]
    {
        let mut state = two_disks();
        state.mark = Some(json!({ "identity": identity }));
        let mock = Mock::start(state);
        let timeout = Duration::from_millis(100);
        let refused = Verb::Create.run_within(&mock, timeout, &mut Unobserved).expect_err("somebody may be at work");
        assert_eq!(refused.kind(), ErrorKind::InUse, "{identity}: {refused}");
        assert_eq!(mock.state().nodes, two_disks().nodes);
        assert!(mock.state().mark.is_some(), "{identity}");
    }
    // The mark cannot be made, and is not there.
    let mock = Mock::start(two_disks());
    mock.meddle(|command, _| match command {
        "object-add" => {
            let words = "attempt to add duplicate property 'checkmap-lock' to object (type 'container')";
            let error = json!({ "class": "GenericError", "desc": words });
            Deed::Say(format!("{{\"error\": {error}, \"id\": $ID}}\n").into_bytes())
        }
        _ => Deed::Answer,
    });
    assert_eq!(
        Verb::Create.run_within(&mock, Duration::from_millis(100), &mut Unobserved).expect_err("no mark").kind(),
        ErrorKind::InUse
    );
    tidy_afterwards(&mock, "no mark");
}

#[test]
fn the_mark_of_a_dead_client_leads_to_its_own_folder_only() {
    let elsewhere = tempfile::TempDir::new().expect("a folder");
    let precious = elsewhere.path().join("lock");
    std::fs::write(&precious, "precious").expect("a file");
    let mock = Mock::start(two_disks());
    let link = mock.folder.path().join("checkmap-linked");
    std::os::unix::fs::symlink(elsewhere.path(), &link).expect("a link");
    mock.state().mark = Some(json!({ "identity": link }));
    assert_eq!(
        Verb::Create.run_within(&mock, Duration::from_millis(100), &mut Unobserved).expect_err("a link").kind(),
        ErrorKind::InUse
    );
    assert!(precious.exists());
    // A dead client's exports are those that have its id, and not those of one whose id begins so.
    let dead = mock.folder.path().join("checkmap-dead");
    std::fs::create_dir(&dead).expect("a folder");
    std::fs::write(dead.join("lock"), "").expect("a file");
    std::fs::remove_file(&link).expect("the link");
    {
        let mut state = mock.state();
        state.mark = Some(json!({ "identity": dead }));
        state.exports.insert("checkmap-dead-0".into(), json!({ "node-name": "checkmap-dead-0" }));
        state.exports.insert("checkmap-deadline-0".into(), json!({ "node-name": "d1" }));
        state.added.insert("checkmap-dead-0".into());
    }
    Verb::Create.run(&mock, &mut Unobserved).expect("created");
    let state = mock.state();
    assert!(state.exports.contains_key("checkmap-deadline-0") && state.exports.len() == 1, "{:?}", state.exports);
    assert!(state.added.is_empty() && !dead.exists());
}
