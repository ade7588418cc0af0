#![forbid(unsafe_code)]
//! Owns the tables: what each plan does to the bitmaps step by step, and which operation is refused with which kind.
//! Must never compute an expectation; every one is written down.

use checkmap::chain::{BitmapState, Chain, CreateOptions, Model, Name, Plan, Span, check_checkpoint_name, plan_merge};
use checkmap::{ErrorKind, Granularity, Result};

/// Bitmaps written as `name`, a space and flags: `r` records, `i` inconsistent, `u` unusable, `m` granularity 1 MiB.
fn bitmaps(specs: &[&str]) -> Vec<BitmapState> {
    specs
        .iter()
        .map(|spec| {
            let (name, flags) = spec.rsplit_once(' ').unwrap();
            BitmapState {
                name: Name::new(name),
                granularity: granularity(if flags.contains('m') { 1 << 20 } else { 65536 }),
                recording: flags.contains('r'),
                inconsistent: flags.contains('i'),
                unusable: flags.contains('u'),
            }
        })
        .collect()
}

fn granularity(bytes: u64) -> Granularity {
    Granularity::from_bytes(bytes).unwrap()
}

fn read(specs: &[&str]) -> Chain {
    Chain::read(&bitmaps(specs), None).unwrap()
}

fn insist(specs: &[&str], model: Model) -> Chain {
    Chain::read(&bitmaps(specs), Some(model)).unwrap()
}

fn create(chain: &Chain, name: &str) -> Result<Plan> {
    let default_granularity = granularity(4096);
    chain.plan_create(name.as_bytes(), CreateOptions { granularity: None, default_granularity, model: None })
}

fn create_as(chain: &Chain, name: &str, model: Model) -> Result<Plan> {
    let options = CreateOptions { granularity: None, default_granularity: granularity(4096), model: Some(model) };
    chain.plan_create(name.as_bytes(), options)
}

fn delete(chain: &Chain, name: &str) -> Result<Plan> {
    chain.plan_delete(name.as_bytes(), false)
}

fn force(chain: &Chain, name: &str) -> Result<Plan> {
    chain.plan_delete(name.as_bytes(), true)
}

fn rename(chain: &Chain, from: &str, to: &str) -> Result<Plan> {
    chain.plan_rename(from.as_bytes(), to.as_bytes())
}

fn diff(chain: &Chain, since: &str, until: Option<&str>) -> Result<Span> {
    chain.plan_diff(since.as_bytes(), until.map(str::as_bytes))
}

#[track_caller]
fn steps(plan: Result<Plan>, expected: &[&str]) -> Plan {
    let plan = plan.unwrap();
    let steps: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
    assert_eq!(steps, expected);
    plan
}

#[track_caller]
fn warned(plan: &Plan, of: &str) {
    assert!(plan.warnings.iter().any(|warning| warning.contains(of)), "{:?}", plan.warnings);
}

/// Refused with this kind, a message that holds this, and a way out.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    let says_all = matches!(kind, ErrorKind::InvalidName | ErrorKind::NameTooLong | ErrorKind::InvalidArgument);
    assert!(error.advice().is_some() || says_all, "no way out: {error}");
}

fn names(names: &[Name]) -> Vec<String> {
    names.iter().map(|name| name.to_string_lossy().into_owned()).collect()
}

fn checkpoints(chain: &Chain) -> Vec<String> {
    chain.checkpoints().iter().map(|checkpoint| checkpoint.name.to_string_lossy().into_owned()).collect()
}

const FOUR: [&str; 4] = ["3->4 r", "1->2 -", "1 -", "2->3 -"];

#[test]
fn the_names_alone_carry_the_chain_in_any_order() {
    let chain = read(&FOUR);
    assert_eq!(checkpoints(&chain), ["1", "2", "3", "4"]);
    let parents: Vec<Option<&Name>> = chain.checkpoints().iter().map(|checkpoint| checkpoint.parent.as_ref()).collect();
    let [one, two, three] = ["1", "2", "3"].map(Name::from);
    assert_eq!(parents, [None, Some(&one), Some(&two), Some(&three)]);
    assert_eq!(chain.interval_of(&"2->3".into()), Some((three, Some("4".into()))));
    assert_eq!(chain.interval_of(&"3->4".into()), Some(("4".into(), None)));
    assert_eq!(chain.interval_of(&"4".into()), None);
    assert!(chain.is_ordered());
    assert_eq!(chain.checkpoint(b"2").unwrap().bitmap, "1->2".into());
}

#[test]
fn the_model_is_told_by_names_and_by_what_records() {
    for (specs, model) in [
        (vec![], Model::None),
        (vec!["libvirt-tmp-activewrite r", "backup-vda -"], Model::None),
        (vec!["1 r"], Model::Interval),
        (vec!["1 ri"], Model::Interval),
        (vec!["1 ru"], Model::Interval),
        (vec!["1 r", "libvirt-tmp-size-xml -"], Model::Interval),
        (vec!["1->2 -"], Model::Interval),
        (vec!["a->b->c r"], Model::Interval),
        (vec!["a r", "b r", "1->2 -"], Model::Interval),
        (vec!["a r", "b r"], Model::Cumulative),
        (vec!["a ri", "b ri", "c ri"], Model::Cumulative),
        (vec!["a r", "b r", "backup-sdb -"], Model::Cumulative),
        (vec!["a -"], Model::Unknown),
        (vec!["a i"], Model::Unknown),
        (vec!["a -", "b r"], Model::Unknown),
        (vec!["a -", "b -"], Model::Unknown),
        (vec!["a r", "a r"], Model::Unknown),
    ] {
        assert_eq!(Chain::model_of(&bitmaps(&specs)), model, "{specs:?}");
    }
    assert_eq!(Model::Cumulative.to_string(), "cumulative");
}

#[test]
fn an_unknown_model_refuses_whatever_needs_the_chain_and_says_why() {
    let chain = read(&["a -", "b r"]);
    assert_eq!((chain.model(), chain.checkpoints()), (Model::Unknown, &[][..]));
    let why = "'a', 'b' may be one chain of intervals or cumulative checkpoints: 'a' does not record";
    refused(create(&chain, "c"), ErrorKind::Model, why);
    refused(create_as(&chain, "c", Model::Cumulative), ErrorKind::Model, "--model");
    refused(delete(&chain, "a"), ErrorKind::Model, why);
    refused(chain.plan_delete_all_inconsistent(), ErrorKind::Model, why);
    refused(rename(&chain, "a", "c"), ErrorKind::Model, why);
    refused(diff(&chain, "b", None), ErrorKind::Model, why);
    refused(diff(&chain, "nobody", None), ErrorKind::Model, why);
}

#[test]
fn insisting_on_a_model_settles_what_is_unknown_and_nothing_else() {
    let chain = insist(&["a -", "b r"], Model::Interval);
    assert_eq!((checkpoints(&chain), names(chain.foreign())), (vec!["b".into()], vec!["a".to_owned()]));
    steps(create(&chain, "c"), &["stop recording in 'b'", "add 'b->c', recording, granularity 65536"]);

    let chain = insist(&["a -", "b r"], Model::Cumulative);
    assert_eq!(checkpoints(&chain), ["a", "b"]);
    refused(diff(&chain, "a", None), ErrorKind::Recording, "'a' does not record");
    steps(create(&chain, "c"), &["add 'c', recording, granularity 65536"]);

    let lone = insist(&["a -"], Model::Interval);
    refused(create(&lone, "b"), ErrorKind::Recording, "'a' does not record");
    refused(diff(&lone, "a", None), ErrorKind::Recording, "'a'");
    steps(delete(&lone, "a"), &["remove 'a'"]);

    let read = |specs: &[&str], model| Chain::read(&bitmaps(specs), Some(model)).map(drop);
    refused(read(&["a r", "b r"], Model::Interval), ErrorKind::Model, "any of 'a', 'b' could be the first");
    refused(read(&["a -", "b -"], Model::Interval), ErrorKind::Model, "none of them records");
    refused(read(&["1 -", "1->2 r"], Model::Cumulative), ErrorKind::Model, "'1->2' covers an interval");
    refused(read(&["1 r"], Model::Unknown), ErrorKind::InvalidArgument, "unknown");
    assert!(read(&["1 -", "1->2 r"], Model::Interval).is_ok());
}

#[test]
fn names_that_form_no_chain_are_refused_by_name() {
    for (specs, message) in [
        (vec!["1 -", "3->4 r"], "'3->4' follows checkpoint '3', which has no bitmap"),
        (vec!["1->2 r"], "'1->2' follows checkpoint '1', which has no bitmap"),
        (vec!["1 -", "1->2 -", "1->3 r"], "checkpoint '1' has two children, '1->2' and '1->3'"),
        (vec!["1 -", "1->2 -", "2->3 r", "2->4 r"], "checkpoint '2' has two children"),
        (vec!["1 -", "2 -", "1->3 -", "2->3 r"], "both '1->3' and '2->3' begin at checkpoint '3'"),
        (vec!["1->1 r"], "'1->1' lies on a cycle"),
        (vec!["1->2 -", "2->1 r"], "lies on a cycle"),
        (vec!["1 -", "1->2 r", "3->4 -", "4->3 -"], "lies on a cycle"),
        (vec!["1->2 -", "2->1 -", "1 r"], "'1->2' follows checkpoint '1', where both '1' and '2->1' begin"),
        (vec!["1 -", "1->2 r", "a -", "a->b r"], "there are two chains, from '1' and from 'a'"),
        (vec!["1 -", "1 -", "1->2 r"], "two bitmaps are named '1'"),
        (vec!["a r", "a r"], "two bitmaps are named 'a'"),
        (vec!["1 -", "1->2 r", "libvirt-tmp-a -", "libvirt-tmp-a -"], "two bitmaps are named 'libvirt-tmp-a'"),
        (vec!["1 -", "1->2->3 r"], "'1->2->3' is no link of a chain"),
        (vec!["1 -", "1-> r"], "'1->' is no link of a chain"),
        (vec!["1 -", "->1 r"], "'->1' is no link of a chain"),
        (vec!["-> r"], "'->' is no link of a chain"),
        (vec!["backup-vda -", "backup-vda->1 r"], "libvirt reserves it"),
        (vec!["1 -", "1->libvirt-tmp-x r"], "libvirt reserves it"),
    ] {
        refused(Chain::read(&bitmaps(&specs), None), ErrorKind::BrokenChain, message);
    }
    let long = format!("1->{} r", "x".repeat(511));
    refused(Chain::read(&bitmaps(&["1 -", &long]), None), ErrorKind::BrokenChain, "at most 510 bytes");
}

#[test]
fn names_made_of_dashes_and_angles_split_in_one_way_only() {
    let chain = read(&["a- -", "a-->>b -", ">b->> r"]);
    assert_eq!(checkpoints(&chain), ["a-", ">b", ">"]);
    assert_eq!(checkpoints(&read(&["- -", "-->x r"])), ["-", "x"]);
}

#[test]
fn foreign_bitmaps_and_helpers_are_listed_and_left_alone() {
    let chain = read(&["1 -", "1->2 r", "z r", "mine -", "crashed i", "libvirt-tmp-activewrite r", "backup-vdb i"]);
    assert_eq!(checkpoints(&chain), ["1", "2"]);
    assert_eq!(names(chain.foreign()), ["crashed", "mine", "z"]);
    assert_eq!(names(chain.helpers()), ["backup-vdb", "libvirt-tmp-activewrite"]);
    assert_eq!(chain.interval_of(&"mine".into()), None);
    steps(chain.plan_delete_all_inconsistent(), &[]);
    steps(create(&chain, "3"), &["stop recording in '1->2'", "add '2->3', recording, granularity 65536"]);
    refused(delete(&chain, "mine"), ErrorKind::NotFound, "'mine' is a bitmap of its own, not a checkpoint");
    refused(delete(&chain, "backup-vdb"), ErrorKind::NotFound, "there are '1', '2'");
}

#[test]
fn what_is_left_beside_foreign_bitmaps_is_named_when_its_model_would_change() {
    let plan = steps(
        delete(&read(&["1 -", "1->2 r", "f r"]), "2"),
        &["merge '1->2' into '1'", "start recording in '1'", "remove '1->2'"],
    );
    warned(&plan, "afterwards '1', 'f' will read as model cumulative: --model interval says otherwise");
    warned(&delete(&read(&["1 -", "1->2 r", "f -"]), "2").unwrap(), "will read as model unknown");
    warned(&create_as(&read(&[]), "1", Model::Cumulative).unwrap(), "will read as model interval: --model cumulative");
}

#[test]
fn libvirt_reserves_the_names_of_its_helpers() {
    for (name, helper) in [
        ("libvirt-tmp-activewrite", true),
        ("libvirt-tmp-", true),
        ("backup-vda", true),
        ("backup-sdaa", true),
        ("backup-xvdb1", true),
        ("backup-hdc", true),
        ("backup-", false),
        ("backup-vd", false),
        ("backup-monday", false),
        ("backup-2026-01-01", false),
        ("backup-vda.monday", false),
        ("backup-vda->1", false),
        ("my-backup-vda", false),
        ("libvirt-vda-1", false),
    ] {
        assert_eq!(Name::new(name).is_helper(), helper, "{name}");
    }
}

#[test]
fn the_name_of_a_checkpoint_is_checked() {
    for good in ["1", "tuesday", "-", ">", ">-", "- >", "a\nb", "ü", "backup-monday", &"x".repeat(510)] {
        assert_eq!(check_checkpoint_name(good.as_bytes()).unwrap().as_bytes(), good.as_bytes());
    }
    assert!(check_checkpoint_name(b"\xff\xfe").is_ok(), "QEMU accepts names that are not UTF-8");
    for bad in ["", "a->b", "->", "->a", "a->", "a\0", "libvirt-tmp-x", "backup-vda"] {
        refused(check_checkpoint_name(bad.as_bytes()), ErrorKind::InvalidName, "name");
    }
    refused(check_checkpoint_name(&[b'x'; 511]), ErrorKind::NameTooLong, "at most 510 bytes, not 511");
    assert_eq!(Name::new("x".repeat(126)).warning(), None);
    assert!(Name::new("x".repeat(127)).warning().unwrap().contains("127 bytes"));
}

#[test]
fn names_are_printed_quoted_and_escaped() {
    assert_eq!(Name::new("tuesday").to_string(), "'tuesday'");
    assert_eq!(format!("{:?}", Name::new("a\n\u{1b}[31m")), "'a\\n\\u{1b}[31m'");
    let odd = Name::new(vec![b'a', 0xff]);
    assert_eq!((odd.to_string(), odd.hex(), odd.is_utf8()), ("'a\u{fffd}'".to_owned(), "61ff".to_owned(), false));
    assert_eq!(odd.to_string_lossy(), "a\u{fffd}");
}

#[test]
fn a_message_names_ten_checkpoints_at_most() {
    let specs: Vec<String> = (10..25).map(|number| format!("{number} r")).collect();
    let chain = read(&specs.iter().map(String::as_str).collect::<Vec<_>>());
    refused(delete(&chain, "x"), ErrorKind::NotFound, "'18', '19' and 5 more)");
}

#[test]
fn create_freezes_the_newest_and_hangs_the_new_one_on_it() {
    steps(create(&read(&[]), "1"), &["add '1', recording, granularity 4096"]);
    let plan =
        steps(create(&read(&["1 r"]), "2"), &["stop recording in '1'", "add '1->2', recording, granularity 65536"]);
    warned(&plan, "if libvirt has a checkpoint of that name");
    assert_eq!(names(&plan.takes_part), ["1"]);
    let plan =
        steps(create(&read(&FOUR), "5"), &["stop recording in '3->4'", "add '4->5', recording, granularity 65536"]);
    assert_eq!((names(&plan.takes_part), plan.warnings.len()), (vec!["3->4".to_owned()], 0));
    steps(
        create(&read(&["1 -", "1->2 rm"]), "3"),
        &["stop recording in '1->2'", "add '2->3', recording, granularity 1048576"],
    );
    let options =
        CreateOptions { granularity: Some(granularity(512)), default_granularity: granularity(4096), model: None };
    steps(
        read(&["1 r"]).plan_create(b"2", options),
        &["stop recording in '1'", "add '1->2', recording, granularity 512"],
    );
    warned(&create(&read(&["1 r"]), &"x".repeat(127)).unwrap(), "QEMU can migrate");
}

#[test]
fn create_in_the_cumulative_model_only_adds() {
    let plan = steps(create_as(&read(&[]), "a", Model::Cumulative), &["add 'a', recording, granularity 4096"]);
    assert!(plan.takes_part.is_empty());
    steps(create(&insist(&[], Model::Cumulative), "a"), &["add 'a', recording, granularity 4096"]);
    steps(create_as(&read(&["a r"]), "b", Model::Cumulative), &["add 'b', recording, granularity 65536"]);
    steps(create(&insist(&["a r"], Model::Cumulative), "b"), &["add 'b', recording, granularity 65536"]);
    let plan = steps(create(&read(&["a r", "b r"]), "c"), &["add 'c', recording, granularity 65536"]);
    assert!(plan.warnings.is_empty() && plan.takes_part.is_empty());
    // Nobody knows which is the newest: the finest is never less exact.
    steps(create(&read(&["a r", "b rm"]), "c"), &["add 'c', recording, granularity 65536"]);
    let mut chain = read(&["a r", "b rm"]);
    chain.order_cumulative(&mut |a, _| Ok(Some(a.as_bytes() == b"a"))).unwrap();
    steps(create(&chain, "c"), &["add 'c', recording, granularity 1048576"]);
}

#[test]
fn create_is_refused_where_it_would_hide_a_gap() {
    refused(create(&read(&["1 -", "1->2 -"]), "3"), ErrorKind::Recording, "'1->2' does not record");
    refused(create(&read(&["1 r", "1->2 -"]), "3"), ErrorKind::Recording, "'1->2' does not record");
    refused(create(&read(&["1 ri"]), "2"), ErrorKind::Inconsistent, "'1' is inconsistent");
    refused(create(&read(&["1 i", "1->2 r"]), "3"), ErrorKind::Inconsistent, "--all-inconsistent");
    refused(create(&read(&["a ri", "b r"]), "c"), ErrorKind::Inconsistent, "'a' is inconsistent");
    refused(create(&read(&["1 -", "1->2 ru"]), "3"), ErrorKind::Unsupported, "'1->2'");
    // What belongs to no checkpoint does not matter.
    assert!(create(&read(&["1 -", "1->2 r", "f i", "backup-vda i", "u u"]), "3").is_ok());
}

#[test]
fn create_is_refused_where_a_name_is_taken() {
    let chain = read(&["1 -", "1->2 r", "f -", "libvirt-tmp-x -"]);
    for taken in ["1", "2"] {
        refused(create(&chain, taken), ErrorKind::Exists, "a checkpoint named");
    }
    refused(create(&chain, "f"), ErrorKind::Exists, "a bitmap named 'f' exists already");
    refused(create(&chain, "libvirt-tmp-x"), ErrorKind::InvalidName, "libvirt reserves it");
    refused(create(&chain, "1->2"), ErrorKind::InvalidName, "'->'");
    refused(create(&chain, ""), ErrorKind::InvalidName, "empty");
    refused(create(&read(&["a r", "b r"]), "a"), ErrorKind::Exists, "'a'");
    // A foreign bitmap took the name of the newest checkpoint: its child could hang on either.
    refused(create(&read(&["1 -", "1->2 r", "2 -"]), "3"), ErrorKind::BrokenChain, "where both '2' and '1->2' begin");
    let long = format!("{} r", "x".repeat(600));
    refused(create(&read(&[&long]), "2"), ErrorKind::NameTooLong, "rename that checkpoint first");
}

#[test]
fn create_refuses_a_model_that_contradicts_the_bitmaps() {
    refused(create_as(&read(&FOUR), "5", Model::Cumulative), ErrorKind::Model, "are interval, not cumulative");
    refused(create_as(&read(&["a r", "b r"]), "c", Model::Interval), ErrorKind::Model, "are cumulative, not interval");
    refused(create_as(&read(&[]), "1", Model::None), ErrorKind::InvalidArgument, "none");
    assert!(create_as(&read(&FOUR), "5", Model::Interval).is_ok());
}

#[test]
fn delete_lets_the_interval_before_absorb_and_renames_the_child() {
    let chain = read(&FOUR);
    let plan = steps(delete(&chain, "3"), &["merge '2->3' into '1->2'", "remove '2->3'", "rename '3->4' to '2->4'"]);
    assert_eq!(names(&plan.takes_part), ["2->3", "1->2", "3->4"]);
    assert!(plan.warnings.is_empty());
    steps(delete(&chain, "1"), &["remove '1'", "rename '1->2' to '2'"]);
    steps(delete(&chain, "2"), &["merge '1->2' into '1'", "remove '1->2'", "rename '2->3' to '1->3'"]);
    steps(delete(&chain, "4"), &["merge '3->4' into '2->3'", "start recording in '2->3'", "remove '3->4'"]);
    warned(&steps(delete(&read(&["1 r"]), "1"), &["remove '1'"]), "the next backup must be full");
    warned(&delete(&read(&["1 m", "1->2 r"]), "2").unwrap(), "become coarser");
    refused(delete(&chain, "5"), ErrorKind::NotFound, "there are '1', '2', '3', '4'");
    refused(delete(&chain, "2->3"), ErrorKind::NotFound, "its checkpoint is '3'");
    refused(delete(&read(&[]), "1"), ErrorKind::NotFound, "the next backup must be full");
}

#[test]
fn delete_keeps_a_gap_in_the_recording_visible() {
    let plan = steps(delete(&read(&["1 -", "1->2 -"]), "2"), &["merge '1->2' into '1'", "remove '1->2'"]);
    warned(&plan, "'1' does not record either");
    // The bitmap before records although it should be frozen: absorbing would make the gap look recorded.
    refused(delete(&read(&["1 r", "1->2 -"]), "2"), ErrorKind::Recording, "'1' of a past interval still records");
    refused(delete(&read(&["1 r", "1->2 r"]), "2"), ErrorKind::Recording, "--disable");
    refused(delete(&read(&["1 -", "1->2 r", "2->3 r"]), "2"), ErrorKind::Recording, "'1->2' of a past interval");
    refused(force(&read(&["1 r", "1->2 -"]), "2"), ErrorKind::Recording, "'1'");
    // What is dropped is nobody's concern, and what is elsewhere neither.
    steps(delete(&read(&["1 r", "1->2 -"]), "1"), &["remove '1'", "rename '1->2' to '2'"]);
    steps(
        delete(&read(&["1 r", "1->2 -", "2->3 -", "3->4 r"]), "3"),
        &["merge '2->3' into '1->2'", "remove '2->3'", "rename '3->4' to '2->4'"],
    );
}

#[test]
fn delete_refuses_inconsistent_parts_and_only_those() {
    for (specs, name) in [
        (vec!["1 ri"], "1"),
        (vec!["1 i", "1->2 r"], "1"),
        (vec!["1 i", "1->2 r"], "2"),
        (vec!["1 -", "1->2 ri"], "2"),
        (vec!["1 -", "1->2 i", "2->3 r"], "3"),
        (vec!["a r", "b ri"], "b"),
    ] {
        refused(delete(&read(&specs), name), ErrorKind::Inconsistent, "--force-inconsistent");
    }
    let chain = read(&["1 i", "1->2 -", "2->3 -", "3->4 ri"]);
    steps(delete(&chain, "3"), &["merge '2->3' into '1->2'", "remove '2->3'", "rename '3->4' to '2->4'"]);
    steps(delete(&read(&["a r", "b ri"]), "a"), &["remove 'a'"]);
}

#[test]
fn forcing_takes_all_older_checkpoints_along() {
    let chain = read(&["1 -", "1->2 -", "2->3 i", "3->4 r"]);
    let cut = ["remove '1'", "remove '1->2'", "remove '2->3'", "rename '3->4' to '4'"];
    let plan = steps(force(&chain, "3"), &cut);
    warned(&plan, "every diff since '1', '2', '3' is lost: an incremental backup can begin at '4' or later only");
    assert_eq!(names(&plan.takes_part), ["1", "1->2", "2->3", "3->4"]);
    steps(chain.plan_delete_all_inconsistent(), &cut);
    // The bitmap that would absorb is inconsistent: the same cut, one younger.
    steps(force(&chain, "4"), &["remove '1'", "remove '1->2'", "remove '2->3'", "remove '3->4'"]);
    // Nothing to force: nothing is lost.
    steps(force(&chain, "2"), &["merge '1->2' into '1'", "remove '1->2'", "rename '2->3' to '1->3'"]);

    let crashed = read(&["1 i", "1->2 i", "2->3 ri"]);
    let plan = steps(force(&crashed, "3"), &["remove '1'", "remove '1->2'", "remove '2->3'"]);
    warned(&plan, "every diff since '1', '2', '3' is lost");
    warned(&plan, "tracking ends, and the next backup must be full");
    steps(crashed.plan_delete_all_inconsistent(), &["remove '1'", "remove '1->2'", "remove '2->3'"]);
    steps(force(&crashed, "1"), &["remove '1'", "rename '1->2' to '2'"]);
}

#[test]
fn forcing_in_the_cumulative_model_takes_that_bitmap_only() {
    let chain = read(&["a ri", "b r", "c ri"]);
    warned(&steps(force(&chain, "a"), &["remove 'a'"]), "libvirt still lists it");
    steps(chain.plan_delete_all_inconsistent(), &["remove 'a'", "remove 'c'"]);
    let all = read(&["a ri", "b ri"]).plan_delete_all_inconsistent().unwrap();
    warned(&all, "the next backup must be full");
    steps(read(&["a r", "b r"]).plan_delete_all_inconsistent(), &[]);
    steps(read(&[]).plan_delete_all_inconsistent(), &[]);
}

#[test]
fn an_unusable_bitmap_is_never_touched() {
    for (specs, name) in [
        (vec!["1 -", "1->2 u", "2->3 r"], "1"),
        (vec!["1 -", "1->2 u", "2->3 r"], "2"),
        (vec!["1 -", "1->2 u", "2->3 r"], "3"),
        (vec!["1 u", "1->2 i", "2->3 r"], "2"),
        (vec!["1 ru"], "1"),
        (vec!["a ru", "b r"], "a"),
    ] {
        refused(force(&read(&specs), name), ErrorKind::Unsupported, "has a type or extra data that is not known");
    }
    refused(rename(&read(&["1 u", "1->2 r"]), "1", "x"), ErrorKind::Unsupported, "'1'");
    assert!(rename(&read(&["1 u", "1->2 r"]), "2", "x").is_ok());
    refused(diff(&read(&["1 u", "1->2 r"]), "1", None), ErrorKind::Unsupported, "'1'");
    refused(plan_merge(&bitmaps(&["a ru", "b r"]), &[b"a"], b"b"), ErrorKind::Unsupported, "'a'");
}

#[test]
fn rename_changes_the_bitmap_of_the_checkpoint_and_of_its_child() {
    let chain = read(&FOUR);
    let plan = steps(rename(&chain, "2", "tue"), &["rename '1->2' to '1->tue'", "rename '2->3' to 'tue->3'"]);
    assert_eq!(names(&plan.takes_part), ["1->2", "2->3"]);
    steps(rename(&chain, "1", "mon"), &["rename '1' to 'mon'", "rename '1->2' to 'mon->2'"]);
    steps(rename(&chain, "4", "now"), &["rename '3->4' to '3->now'"]);
    steps(rename(&read(&["1 i", "1->2 ri"]), "1", "x"), &["rename '1' to 'x'", "rename '1->2' to 'x->2'"]);
    warned(&steps(rename(&read(&["a r", "b r"]), "a", "c"), &["rename 'a' to 'c'"]), "a bitmap named 'a'");
    warned(&rename(&chain, "1", &"x".repeat(200)).unwrap(), "QEMU can migrate");
    let long = |letter: &str| letter.repeat(510);
    let chain = read(&[&format!("{} -", long("a")), &format!("{}->{} r", long("a"), long("b"))]);
    assert!(rename(&chain, &long("b"), &long("c")).is_ok());
}

#[test]
fn rename_is_refused_where_a_name_is_taken_or_invalid() {
    let chain = read(&["1 -", "1->2 r", "f -", "backup-vda -"]);
    refused(rename(&chain, "1", "2"), ErrorKind::Exists, "a checkpoint named '2'");
    refused(rename(&chain, "1", "1"), ErrorKind::Exists, "a checkpoint named '1'");
    refused(rename(&chain, "1", "f"), ErrorKind::Exists, "a bitmap named 'f'");
    refused(rename(&chain, "2", "f"), ErrorKind::Exists, "a bitmap named 'f'");
    refused(rename(&chain, "2", "backup-vda"), ErrorKind::InvalidName, "libvirt");
    refused(rename(&chain, "2", "a->b"), ErrorKind::InvalidName, "'->'");
    refused(rename(&chain, "2", &"x".repeat(511)), ErrorKind::NameTooLong, "510");
    refused(rename(&chain, "f", "g"), ErrorKind::NotFound, "not a checkpoint");
    refused(rename(&chain, "3", "g"), ErrorKind::NotFound, "no checkpoint is named '3'");
    refused(rename(&read(&["a r", "b r"]), "a", "b"), ErrorKind::Exists, "'b'");
    // A foreign bitmap has the name of checkpoint 2: without its parent that name would be needed.
    refused(delete(&read(&["1 -", "1->2 r", "2 -"]), "1"), ErrorKind::Exists, "'2'");
}

#[test]
fn diff_is_the_union_of_the_span() {
    let chain = read(&["1 m", "1->2 -", "2->3 -", "3->4 r"]);
    let span = |since, until| names(&diff(&chain, since, until).unwrap().bitmaps);
    assert_eq!(span("2", None), ["1->2", "2->3", "3->4"]);
    assert_eq!(span("1", Some("3")), ["1", "1->2"]);
    assert_eq!(span("4", None), ["3->4"]);
    assert_eq!(span("3", Some("3")), Vec::<String>::new());
    let mixed = diff(&chain, "1", Some("3")).unwrap();
    assert_eq!((mixed.granularity, mixed.since, mixed.until), (granularity(65536), "1".into(), Some("3".into())));
    assert_eq!(diff(&chain, "1", Some("1")).unwrap().granularity, granularity(1 << 20));
    assert_eq!(names(&diff(&read(&["a r", "b r"]), "a", None).unwrap().bitmaps), ["a"]);
}

#[test]
fn diff_is_refused_where_the_answer_would_be_short_or_senseless() {
    let chain = read(&FOUR);
    refused(diff(&chain, "3", Some("2")), ErrorKind::Order, "'2' is older than '3'");
    refused(diff(&chain, "5", None), ErrorKind::NotFound, "'5'");
    refused(diff(&chain, "1", Some("5")), ErrorKind::NotFound, "'5'");
    refused(diff(&read(&[]), "1", None), ErrorKind::NotFound, "there are no checkpoints");
    refused(diff(&read(&["a r", "b r"]), "a", Some("b")), ErrorKind::Model, "--until");

    let crashed = read(&["1 -", "1->2 i", "2->3 -", "3->4 r"]);
    refused(diff(&crashed, "1", None), ErrorKind::Inconsistent, "'1->2'");
    refused(diff(&crashed, "2", Some("3")), ErrorKind::Inconsistent, "'1->2'");
    assert!(diff(&crashed, "1", Some("2")).is_ok() && diff(&crashed, "3", None).is_ok());

    let silent = read(&["1 -", "1->2 -", "2->3 -"]);
    refused(diff(&silent, "1", None), ErrorKind::Recording, "'2->3' does not record");
    refused(diff(&silent, "3", None), ErrorKind::Recording, "'2->3' does not record");
    assert!(diff(&silent, "1", Some("3")).is_ok());

    let odd = read(&["1 -", "1->2 r", "2->3 r"]);
    refused(diff(&odd, "1", None), ErrorKind::Recording, "'1->2' of a past interval still records");
    refused(diff(&odd, "2", Some("3")), ErrorKind::Recording, "'1->2'");
    assert!(diff(&odd, "1", Some("2")).is_ok() && diff(&odd, "3", None).is_ok());
    refused(diff(&read(&["a ri", "b r"]), "a", None), ErrorKind::Inconsistent, "'a'");
}

#[test]
fn the_raw_merge_knows_bitmaps_only_and_warns_of_the_chain() {
    let four = bitmaps(&FOUR);
    let plan = steps(plan_merge(&four, &[b"2->3", b"1->2", b"2->3"], b"1"), &["merge '2->3', '1->2' into '1'"]);
    warned(&plan, "'1' will hold more than the writes from '1' until '2'");
    assert_eq!(names(&plan.takes_part), ["2->3", "1->2", "1"]);
    warned(&plan_merge(&four, &[b"1"], b"3->4").unwrap(), "from '4' until now");
    assert!(plan_merge(&bitmaps(&["a -", "b -"]), &[b"a"], b"b").unwrap().warnings.is_empty());
    warned(&plan_merge(&bitmaps(&["a -", "b m"]), &[b"a"], b"b").unwrap(), "becomes coarser");
    // It works where the names form no chain at all.
    steps(plan_merge(&bitmaps(&["1->2 -", "3->4 r"]), &[b"1->2"], b"3->4"), &["merge '1->2' into '3->4'"]);

    refused(plan_merge(&four, &[b"x"], b"1"), ErrorKind::NotFound, "no bitmap is named 'x'");
    refused(plan_merge(&four, &[b"1"], b"x"), ErrorKind::NotFound, "there are '3->4', '1->2', '1', '2->3'");
    refused(plan_merge(&[], &[b"1"], b"x"), ErrorKind::NotFound, "there are no bitmaps");
    refused(plan_merge(&four, &[b"1", b"1->2"], b"1"), ErrorKind::InvalidArgument, "into itself");
    refused(plan_merge(&four, &[], b"1"), ErrorKind::InvalidArgument, "at least one");
    refused(plan_merge(&bitmaps(&["a i", "b r"]), &[b"a"], b"b"), ErrorKind::Inconsistent, "'a'");
    refused(plan_merge(&bitmaps(&["a r", "b ri"]), &[b"a"], b"b"), ErrorKind::Inconsistent, "'b'");
    refused(plan_merge(&bitmaps(&["a r", "a r"]), &[b"a"], b"a"), ErrorKind::BrokenChain, "two bitmaps");
}

#[test]
fn cumulative_checkpoints_are_ordered_by_containment_then_by_name() {
    let order = |contained: &[(&str, &str)]| {
        let mut chain = read(&["a r", "b r", "c r"]);
        assert!(!chain.is_ordered());
        let mut ask = |one: &Name, two: &Name| {
            let pair = (&*one.to_string_lossy(), &*two.to_string_lossy());
            Ok(Some(contained.contains(&pair)))
        };
        chain.order_cumulative(&mut ask).unwrap();
        let marks: Vec<String> = chain
            .checkpoints()
            .iter()
            .map(|checkpoint| {
                format!("{}{}", checkpoint.name.to_string_lossy(), if checkpoint.ordered { "" } else { "?" })
            })
            .collect();
        marks.join(" ")
    };
    assert_eq!(order(&[("c", "a"), ("c", "b"), ("a", "b")]), "c a b");
    assert_eq!(order(&[]), "a? b? c?");
    assert_eq!(order(&[("c", "a")]), "b? c? a?");
    assert_eq!(order(&[("b", "a"), ("b", "c")]), "b a? c?");
    assert_eq!(order(&[("a", "b"), ("b", "c"), ("c", "a")]), "a? b? c?", "contradictions do not loop");

    let mut failing = read(&["a r", "b r"]);
    let error = || checkmap::Error::new(ErrorKind::Damaged, "a table");
    assert_eq!(failing.order_cumulative(&mut |_, _| Err(error())).unwrap_err().kind(), ErrorKind::Damaged);
    failing.order_cumulative(&mut |_, _| Ok(None)).unwrap();
    assert!(!failing.is_ordered() && checkpoints(&failing) == ["a", "b"]);
    assert!(insist(&["a r"], Model::Cumulative).is_ordered());
    let mut intervals = read(&FOUR);
    intervals.order_cumulative(&mut |_, _| Err(error())).unwrap();
    assert_eq!(checkpoints(&intervals), ["1", "2", "3", "4"]);
}
