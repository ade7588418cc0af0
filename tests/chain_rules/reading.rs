#![forbid(unsafe_code)]
//! Owns the tables of chains read from bitmaps: names, models, chains and their order.

use super::*;
use checkmap::chain::{Interval, Until, check_checkpoint_name};

#[test]
fn the_names_alone_carry_the_chain_in_any_order() {
    let chain = read(&FOUR);
    assert_eq!(checkpoints(&chain), ["1", "2", "3", "4"]);
    let parents: Vec<Option<&Name>> = chain.checkpoints().iter().map(|checkpoint| checkpoint.parent.as_ref()).collect();
    let [one, two, three] = ["1", "2", "3"].map(Name::from);
    assert_eq!(parents, [None, Some(&one), Some(&two), Some(&three)]);
    let until = Until::Checkpoint("4".into());
    assert_eq!(chain.interval_of(&"2->3".into()), Some(Interval { since: three, until }));
    assert_eq!(chain.interval_of(&"3->4".into()), Some(Interval { since: "4".into(), until: Until::Now }));
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
    refused(create_as(&chain, "c", KnownModel::Cumulative), ErrorKind::Model, "with a model");
    refused(delete(&chain, "a"), ErrorKind::Model, why);
    refused(chain.plan_delete_all_inconsistent(), ErrorKind::Model, why);
    refused(rename(&chain, "a", "c"), ErrorKind::Model, why);
    refused(diff(&chain, "b", None), ErrorKind::Model, why);
    refused(diff(&chain, "nobody", None), ErrorKind::Model, why);
}

#[test]
fn insisting_on_a_model_settles_what_is_unknown_and_nothing_else() {
    let chain = insist(&["a -", "b r"], KnownModel::Interval);
    assert_eq!((checkpoints(&chain), names(chain.foreign())), (vec!["b".into()], vec!["a".to_owned()]));
    steps(create(&chain, "c"), &["stop recording in 'b'", "add 'b->c', recording, granularity 65536"]);

    let chain = insist(&["a -", "b r"], KnownModel::Cumulative);
    assert_eq!(checkpoints(&chain), ["a", "b"]);
    refused(diff(&chain, "a", None), ErrorKind::Recording, "'a' does not record");
    steps(create(&chain, "c"), &["add 'c', recording, granularity 65536"]);

    let lone = insist(&["a -"], KnownModel::Interval);
    refused(create(&lone, "b"), ErrorKind::Recording, "'a' does not record");
    refused(diff(&lone, "a", None), ErrorKind::Recording, "'a'");
    steps(delete(&lone, "a"), &["remove 'a'"]);

    let read = |specs: &[&str], model| Chain::read(&bitmaps(specs), Some(model)).map(drop);
    refused(read(&["a -", "b -"], KnownModel::Interval), ErrorKind::Model, "none of them records");
    refused(read(&["1 -", "1->2 r"], KnownModel::Cumulative), ErrorKind::Model, "'1->2' covers an interval");
    assert!(read(&["1 -", "1->2 r"], KnownModel::Interval).is_ok());
}

#[test]
fn names_that_form_no_chain_are_refused_by_name() {
    for (specs, message) in [
        (vec!["1 -", "1->2 -", "1->3 r"], "checkpoint '1' has two children, '1->2' and '1->3'"),
        (vec!["1 -", "1->2 -", "2->3 r", "2->4 r"], "checkpoint '2' has two children"),
        (vec!["1 -", "2 -", "1->3 -", "2->3 r"], "both '1->3' and '2->3' begin at checkpoint '3'"),
        (vec!["1->1 r"], "'1->1' lies on a cycle"),
        (vec!["1->2 -", "2->1 r"], "lies on a cycle"),
        (vec!["1 -", "1->2 r", "3->4 -", "4->3 -"], "lies on a cycle"),
        (vec!["1->2 -", "2->1 -", "1 -"], "'1->2' follows checkpoint '1', where both '1' and '2->1' begin"),
        (vec!["1->2 -", "2->1 -", "1 r"], "lies on a cycle"),
        (vec!["1 -", "1 -", "1->2 r"], "two bitmaps are named '1'"),
        (vec!["a r", "a r"], "two bitmaps are named 'a'"),
        (vec!["1 -", "1->2 r", "libvirt-tmp-a -", "libvirt-tmp-a -"], "two bitmaps are named 'libvirt-tmp-a'"),
        (vec!["1 -", "1->2->3 r"], "'1->2->3' is no link of a chain"),
        (vec!["1 -", "1-> r"], "'1->' is no link of a chain"),
        (vec!["->1 -", "x->1 r"], "both '->1' and 'x->1' begin at checkpoint '1'"),
        (vec!["1 -", "->1 -", "1->2 r"], "'1->2' follows checkpoint '1', where both '1' and '->1' begin"),
        (vec!["->1->2 r"], "'->1->2' is no link of a chain"),
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
    let plan = delete(&insist(&["a -", "b r"], KnownModel::Interval), "b").unwrap();
    warned(&plan, "afterwards 'a' will read as model unknown: the model interval has to be said");
    warned(
        &create_as(&read(&[]), "1", KnownModel::Cumulative).unwrap(),
        "will read as model interval: the model cumulative",
    );
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
fn a_message_names_five_checkpoints_at_most() {
    let specs: Vec<String> = (10..25).map(|number| format!("{number} r")).collect();
    let chain = read(&specs.iter().map(String::as_str).collect::<Vec<_>>());
    refused(
        delete(&chain, "x"),
        ErrorKind::NotFound,
        "(the newest are '20', '21', '22', '23', '24', and there are 10 more)",
    );
    refused(delete(&chain, "122"), ErrorKind::NotFound, "(did you mean '22', '12'? There are 13 more)");
}
