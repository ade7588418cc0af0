#![forbid(unsafe_code)]
//! Owns the tables of images with two chains: libvirt's cumulative checkpoints beside intervals.

use super::*;
use checkmap::Control;
use checkmap::chain::{Owner, foreign_in, interval_of, plan_drop_bitmap, plan_merge};

/// As libvirt and checkmap leave an image that both use.
const BOTH: [&str; 5] = ["v.0 r", "i1->i2 r", "v.1 r", "i1 -", "v.2 r"];

fn beside(specs: &[&str]) -> Option<Vec<String>> {
    Chain::beside(&bitmaps(specs)).unwrap().map(|chain| checkpoints(&chain))
}

fn read_for(specs: &[&str], words: &[&str]) -> Result<Chain> {
    Chain::read_for(&bitmaps(specs), None, words)
}

fn cumulative(specs: &[&str]) -> Chain {
    insist(specs, KnownModel::Cumulative)
}

#[test]
fn both_chains_are_read_from_one_image() {
    let chain = read(&BOTH);
    assert_eq!((checkpoints(&chain), chain.model().owner()), (vec!["i1".into(), "i2".into()], Owner::Checkmap));
    let other = cumulative(&BOTH);
    assert_eq!(
        (checkpoints(&other), other.model()),
        (["v.0", "v.1", "v.2"].map(str::to_owned).into(), Model::Cumulative)
    );
    assert_eq!((other.model().owner().as_str(), Model::Unknown.owner().to_string()), ("libvirt", "unknown".to_owned()));
    assert_eq!(names(other.foreign()), ["i1", "i1->i2"]);
    assert_eq!(names(&diff(&other, "v.1", None).unwrap().bitmaps), ["v.1"]);
    refused(diff(&other, "v.0", Some("v.1")), ErrorKind::Model, "until now");
    refused(other.plan_drop_before(b"v.1"), ErrorKind::Model, "cumulative");
    refused(other.select(&["v.0..v.2"]), ErrorKind::Model, "cumulative");
}

#[test]
fn what_records_without_an_arrow_is_libvirts_unless_an_arrow_leads_to_it() {
    for (specs, expected) in [
        (&["a r", "b r"][..], None),
        (&["i1 -", "i1->i2 r"], None),
        (&["i1 -", "i1->i2 r", "f -", "g i", "libvirt-tmp-x r", "backup-vda r"], None),
        (&["i1 -", "i1->i2 r", "a r"], Some(&["a"][..])),
        (&["i1 -", "i1->i2 r", "b ri", "a ru", "f -"], Some(&["a", "b"])),
        (&["->i1 r", "a r", "b r"], Some(&["a", "b"])),
        // A root that somebody let record again: whose it is, the arrow tells.
        (&["i1 r", "i1->i2 r"], None),
        (&["i1 r", "i1->i2 r", "a r"], Some(&["a"])),
        // The name is in both chains: libvirt's records, and a root is frozen once anything follows it.
        (&["i1 -", "i1->i2 r", "i2 r"], Some(&["i2"])),
        (&["i1 -", "i1->i2 -", "i2->i3 r", "i2 r"], Some(&["i2"])),
        (&["->i1 -", "i1->i2 r", "i1 r"], Some(&["i1"])),
        // Chains of ours that cannot be read.
        (&["i1->i2 -", "i2->i1 r", "a r"], Some(&["a"])),
        (&["i1 -", "i1->i2 -", "i1->i3 r", "a r", "b r"], Some(&["a", "b"])),
        (&["a->b->c -", "b r", "d r"], Some(&["d"])),
    ] {
        let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(beside(specs), expected, "{specs:?}");
    }
    refused(
        Chain::read(&bitmaps(&["i1 -", "i1->i2 r", "f -"]), Some(KnownModel::Cumulative)),
        ErrorKind::Model,
        "'i1->i2' covers an interval",
    );
}

#[test]
fn a_name_picks_the_chain_that_has_it() {
    for (words, model) in [
        (&["i1"][..], Model::Interval),
        (&["v.1"], Model::Cumulative),
        (&["v.1", "v.0", "nobody"], Model::Cumulative),
        (&["v.0..v.1"], Model::Cumulative),
        (&["i1..i2"], Model::Interval),
        (&["nobody"], Model::Interval),
        (&[], Model::Interval),
    ] {
        assert_eq!(read_for(&BOTH, words).unwrap().model(), model, "{words:?}");
    }
    refused(read_for(&BOTH, &["i1", "v.0"]), ErrorKind::Model, "'v.0' is a cumulative one");
    let twins = ["i1 -", "i1->i2 -", "i2->i3 r", "i2 r", "a r"];
    refused(read_for(&twins, &["i2"]), ErrorKind::Model, "both chains of this image have a checkpoint 'i2'");
    refused(read_for(&twins, &["i1", "i2"]), ErrorKind::Model, "say which");
    assert_eq!(read_for(&twins, &["i1..i3"]).unwrap().model(), Model::Interval);
    let pick = |model| Chain::read_for(&bitmaps(&twins), Some(model), &["i2"]).unwrap();
    assert_eq!(names(&diff(&pick(KnownModel::Interval), "i2", None).unwrap().bitmaps), ["i1->i2", "i2->i3"]);
    assert_eq!(names(&diff(&pick(KnownModel::Cumulative), "i2", None).unwrap().bitmaps), ["i2"]);
    assert_eq!(names(&diff(&read(&twins), "i1", None).unwrap().bitmaps), ["i1", "i1->i2", "i2->i3"]);
    // Who insists on one chain is told of the other.
    refused(diff(&read(&BOTH), "v.1", None), ErrorKind::NotFound, "which is cumulative");
    refused(diff(&cumulative(&BOTH), "i2", None), ErrorKind::NotFound, "which is interval");
    refused(diff(&cumulative(&BOTH), "i1", None), ErrorKind::NotFound, "which is interval");
    refused(diff(&insist(&["a r", "b r"], KnownModel::Interval), "a", None), ErrorKind::NotFound, "is cumulative");
}

#[test]
fn changes_of_one_chain_leave_the_other_alone() {
    let chain = read(&BOTH);
    steps(create(&chain, "i3"), &["stop recording in 'i1->i2'", "add 'i2->i3', recording, granularity 65536"]);
    refused(create(&chain, "v.1"), ErrorKind::Exists, "'v.1'");
    steps(rename(&chain, "i2", "x"), &["rename 'i1->i2' to 'i1->x'"]);
    let other = cumulative(&BOTH);
    let plan = steps(create(&other, "v.3"), &["add 'v.3', recording, granularity 65536"]);
    assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
    warned(&steps(delete(&other, "v.1"), &["remove 'v.1'"]), "libvirt still lists it");
    warned(&steps(rename(&other, "v.1", "w"), &["rename 'v.1' to 'w'"]), "libvirt");
    let plan = other.plan_delete_many(&["v.0", "v.1", "v.2"], false).unwrap();
    warned(&plan, "no cumulative checkpoint is left");
    assert!(!plan.warnings().iter().any(|warning| warning.contains("tracking ends")), "{:?}", plan.warnings());
    // A cumulative one cannot get a name that the intervals speak of: of a checkpoint, or of one that only a gap mentions.
    for name in ["i1", "i2"] {
        refused(create(&other, name), ErrorKind::Exists, name);
        refused(rename(&other, "v.1", name), ErrorKind::Exists, name);
    }
    refused(create(&cumulative(&["x->y r", "a r"]), "x"), ErrorKind::Exists, "'x->y', of the chain of intervals");
    refused(rename(&cumulative(&["x->y r", "a r"]), "a", "x"), ErrorKind::Exists, "choose another name");
    // A fault of one keeps nobody from a change of the other.
    let specs = ["i1 -", "i1->i2 ri", "a r", "b ri"];
    refused(create(&read(&specs), "i3"), ErrorKind::Inconsistent, "'i1->i2'");
    refused(create(&cumulative(&specs), "c"), ErrorKind::Inconsistent, "'b'");
    steps(read(&specs).plan_delete_all_inconsistent(), &["remove 'i1'", "remove 'i1->i2'"]);
    steps(cumulative(&specs).plan_delete_all_inconsistent(), &["remove 'b'"]);
}

#[test]
fn a_first_checkpoint_beside_libvirts_is_marked_by_an_arrow() {
    let first = insist(&["v.0 r", "v.1 r"], KnownModel::Interval);
    assert_eq!((first.model(), checkpoints(&first)), (Model::Interval, vec![]));
    steps(create_as(&first, "i1", KnownModel::Interval), &["add '->i1', recording, granularity 4096"]);
    let three = insist(&["v.0 r", "v.1 r", "f -"], KnownModel::Interval);
    steps(create(&three, "i1"), &["add '->i1', recording, granularity 4096"]);

    let chain = read(&["v.0 r", "->i1 r"]);
    assert_eq!((checkpoints(&chain), chain.checkpoint(b"i1").unwrap().gap), (vec!["i1".to_owned()], false));
    assert_eq!(names(&diff(&chain, "i1", None).unwrap().bitmaps), ["->i1"]);
    let plan = steps(create(&chain, "i2"), &["stop recording in '->i1'", "add 'i1->i2', recording, granularity 65536"]);
    assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
    steps(rename(&chain, "i1", "x"), &["rename '->i1' to '->x'"]);
    warned(&steps(delete(&chain, "i1"), &["remove '->i1'"]), "the next backup must be full");

    let chain = read(&["->i1 -", "i1->i2 r", "v.0 r"]);
    assert_eq!(checkpoints(&chain), ["i1", "i2"]);
    assert_eq!(chain.checkpoints()[1].parent, Some("i1".into()));
    steps(delete(&chain, "i1"), &["remove '->i1'", "rename 'i1->i2' to '->i2'"]);
    steps(delete(&chain, "i2"), &["merge 'i1->i2' into '->i1'", "start recording in '->i1'", "remove 'i1->i2'"]);
    steps(rename(&chain, "i1", "x"), &["rename '->i1' to 'x'", "rename 'i1->i2' to 'x->i2'"]);
    steps(chain.plan_drop_before(b"i1"), &[]);
}

#[test]
fn the_last_checkpoint_of_ours_is_marked_where_others_stand_beside_it() {
    for others in [&["v.0 r"][..], &["v.0 r", "v.1 r"], &["f -"], &["f -", "v.0 ri"]] {
        let chain = read(&[&["1 -", "1->2 r"], others].concat());
        steps(delete(&chain, "1"), &["remove '1'", "rename '1->2' to '->2'"]);
        let rest = ["merge '1->2' into '1'", "start recording in '1'", "remove '1->2'", "rename '1' to '->1'"];
        let plan = steps(delete(&chain, "2"), &rest);
        assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
    }
    // Where nobody stands beside, or an arrow is left, it has its plain name.
    steps(delete(&read(&["1 -", "1->2 r", "libvirt-tmp-x r"]), "1"), &["remove '1'", "rename '1->2' to '2'"]);
    steps(delete(&read(&["1 -", "1->2 -", "2->3 r", "v r"]), "1"), &["remove '1'", "rename '1->2' to '2'"]);
    steps(delete(&read(&["->1 -", "1->2 r"]), "1"), &["remove '->1'", "rename '1->2' to '2'"]);
    // What follows names the bitmap as it is called by then.
    let forced = read(&["1 i", "1->2 -", "2->3 -", "3->4 r", "v r"]).plan_delete_many(&["1", "3", "4"], true);
    let merged = ["merge '2->3', '3->4' into '->2'", "start recording in '->2'", "remove '2->3'", "remove '3->4'"];
    steps(forced, &[&["remove '1'", "rename '1->2' to '->2'"][..], &merged].concat());
    // Libvirt has a checkpoint of the name that the root would get.
    let twins = ["1 -", "1->2 -", "2->3 r", "2 r"];
    steps(delete(&read(&twins), "1"), &["remove '1'", "rename '1->2' to '->2'"]);
    steps(read(&twins).plan_drop_before(b"2"), &["remove '1'", "rename '1->2' to '->2'"]);
}

#[test]
fn a_marked_root_is_no_cumulative_checkpoint() {
    let alone = read(&["->1 r"]);
    assert_eq!((alone.model(), checkpoints(&alone)), (Model::Interval, vec!["1".to_owned()]));
    refused(create_as(&alone, "2", KnownModel::Cumulative), ErrorKind::Model, "are interval, not cumulative");
    let gap = read(&["0->1 r"]);
    refused(create_as(&gap, "2", KnownModel::Cumulative), ErrorKind::Model, "are interval, not cumulative");
}

#[test]
fn libvirts_chain_answers_also_where_ours_is_broken() {
    let specs = ["1 -", "1->2 -", "1->3 r", "a r", "b r"];
    let broken = Chain::read_for(&bitmaps(&specs), None, &["a"]).unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::BrokenChain);
    let pick = Control::Model(Some("cumulative"));
    assert!(broken.way_out().unwrap().controls().any(|control| *control == pick), "{broken}");
    let chain = cumulative(&specs);
    assert_eq!(names(&diff(&chain, "a", None).unwrap().bitmaps), ["a"]);
    steps(create(&chain, "c"), &["add 'c', recording, granularity 65536"]);
    steps(delete(&chain, "a"), &["remove 'a'"]);
    assert_eq!(names(&foreign_in(&bitmaps(&specs)).unwrap()), ["a", "b"]);
    assert_eq!(names(&foreign_in(&bitmaps(&BOTH)).unwrap()), ["v.0", "v.1", "v.2"]);
}

#[test]
fn raw_operations_know_whose_a_bitmap_is() {
    let all = bitmaps(&BOTH);
    assert_eq!(interval_of(&all, &"v.1".into()).unwrap().unwrap().since, "v.1".into());
    assert_eq!(interval_of(&all, &"i1->i2".into()).unwrap().unwrap().since, "i2".into());
    assert_eq!(interval_of(&all, &"nobody".into()).unwrap(), None);
    warned(&plan_merge(&all, &[b"i1"], b"v.1").unwrap(), "from 'v.1' until now");
    warned(&plan_drop_bitmap(&all, b"v.1").unwrap(), "libvirt still lists it");
    warned(&plan_drop_bitmap(&all, b"i1").unwrap(), "the checkpoint 'i1' goes");
}
