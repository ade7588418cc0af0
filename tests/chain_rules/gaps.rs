#![forbid(unsafe_code)]
//! Owns the tables of chains with gaps: how they are read, plans beside a gap, and drops.

use super::*;
use checkmap::chain::{Until, plan_drop_bitmap};
use checkmap::error::Control;

/// mon, tue, wed and thu without `mon->tue`: what tue was is not known any more.
const WITHOUT_TUE: [&str; 3] = ["tue->wed -", "mon -", "wed->thu r"];

fn drop_before(chain: &Chain, name: &str) -> Result<Plan> {
    chain.plan_drop_before(name.as_bytes())
}

fn drop_bitmap(specs: &[&str], name: &str) -> Result<Plan> {
    plan_drop_bitmap(&bitmaps(specs), name.as_bytes())
}

/// The checkpoints as `name`, after a gap `|name`, and with `?` where the place is not known.
fn shown(specs: &[&str]) -> String {
    let shown = |checkpoint: &checkmap::chain::Checkpoint| {
        assert!(!checkpoint.gap || checkpoint.parent.is_none());
        let (gap, doubt) = (if checkpoint.gap { "|" } else { "" }, if checkpoint.ordered { "" } else { "?" });
        format!("{gap}{}{doubt}", checkpoint.name.to_string_lossy())
    };
    read(specs).checkpoints().iter().map(shown).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_missing_link_is_a_gap_with_usable_checkpoints_on_both_sides() {
    for (specs, expected) in [
        (&WITHOUT_TUE[..], "mon |wed thu"),
        (&["1 -", "3->4 r"], "1 |4"),
        (&["1 -", "1->2 -", "3->4 r"], "1 2 |4"),
        // No root at all.
        (&["1->2 r"], "|2"),
        (&["1->2 -", "2->3 r"], "|2 3"),
        (&["1->2 i", "2->3 ri"], "|2 3"),
        // The recording one is the last, whatever its name; the rest has an order only if it is one stretch.
        (&["x->y -", "a->b r"], "|y |b"),
        (&["a->b -", "x->y r"], "|b |y"),
        (&["r -", "x->y -", "a->b r"], "r |y |b"),
        (&["r -", "m->n -", "x->y -", "a->b r"], "r |n? |y? |b"),
        (&["x->y -", "m->n -", "n->o -", "a->b r"], "|n? o? |y? |b"),
        (&["r -", "r->s -", "x->y -"], "r s |y"),
        (&["x->y -", "a->b -"], "|b? |y?"),
        (&["x->y r", "a->b r"], "|b? |y?"),
        // Two chains: the one that records is the younger one.
        (&["1 -", "1->2 r", "a -", "a->b -"], "a b |1 2"),
        (&["1 -", "1->2 r", "a -", "a->b r"], "1? 2? |a? b?"),
        // The root that nothing follows any more is frozen and the only one that can be it.
        (&["f -", "x->y r", "z r"], "f |y"),
        (&["f -", "g -", "x->y r"], "|y"),
        (&["f r", "x->y r"], "|y"),
        (&["1 -", "1->2 -", "x->y r", "f -"], "1 2 |y"),
    ] {
        assert_eq!(shown(specs), expected, "{specs:?}");
    }
    let chain = read(&WITHOUT_TUE);
    assert_eq!(chain.interval_of(&"mon".into()).unwrap().until, Until::Gap);
    assert_eq!(chain.interval_of(&"tue->wed".into()).unwrap().until, Until::Checkpoint("thu".into()));
    assert_eq!(chain.interval_of(&"wed->thu".into()).unwrap().until, Until::Now);
}

#[test]
fn a_diff_across_a_gap_is_refused_and_one_beside_it_is_not() {
    let chain = read(&WITHOUT_TUE);
    for (since, until) in [("mon", None), ("mon", Some("wed")), ("mon", Some("thu"))] {
        refused(diff(&chain, since, until), ErrorKind::BrokenChain, "a gap follows 'mon'");
    }
    refused(diff(&chain, "wed", Some("mon")), ErrorKind::Order, "'mon' is older than 'wed'");
    refused(diff(&chain, "tue", None), ErrorKind::NotFound, "no checkpoint is named 'tue'");
    let span = |since, until| names(&diff(&chain, since, until).unwrap().bitmaps);
    assert_eq!(span("wed", None), ["tue->wed", "wed->thu"]);
    assert_eq!(span("thu", None), ["wed->thu"]);
    assert_eq!(span("wed", Some("thu")), ["tue->wed"]);
    assert_eq!(span("mon", Some("mon")), [""; 0]);
    let way_out = diff(&chain, "mon", None).unwrap_err().way_out().unwrap().clone();
    assert!(way_out.controls().any(|control| *control == Control::DropBefore(b"wed".to_vec())), "{way_out:?}");

    let past = read(&["1 -", "1->2 -", "2->3 -", "4->5 -", "5->6 r"]);
    assert!(diff(&past, "1", Some("3")).is_ok() && diff(&past, "2", Some("3")).is_ok());
    refused(diff(&past, "3", None), ErrorKind::BrokenChain, "a gap follows '2->3'");
    // Nothing records at all: that is said of the last one.
    refused(diff(&read(&["1->2 -", "2->3 -"]), "2", None), ErrorKind::Recording, "'2->3' does not record");
    // Whichever is older: what records knows all since its checkpoint.
    let both = read(&["x->y r", "a->b r"]);
    assert!(diff(&both, "y", None).is_ok() && diff(&both, "b", None).is_ok());
    refused(diff(&both, "y", Some("b")), ErrorKind::BrokenChain, "a gap follows");
    refused(diff(&both, "b", Some("y")), ErrorKind::BrokenChain, "a gap follows");
}

#[test]
fn create_goes_on_after_a_gap_where_something_records() {
    let steps_of = ["stop recording in 'wed->thu'", "add 'thu->fri', recording, granularity 65536"];
    let plan = steps(create(&read(&WITHOUT_TUE), "fri"), &steps_of);
    assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
    steps(create(&read(&["1->2 r"]), "3"), &["stop recording in '1->2'", "add '2->3', recording, granularity 65536"]);
    refused(create(&read(&["mon -", "tue->wed -"]), "fri"), ErrorKind::Recording, "'tue->wed' does not record");
    refused(create(&read(&["x->y -", "a->b -"]), "fri"), ErrorKind::Recording, "does not record");
    refused(create(&read(&["x->y r", "a->b r"]), "fri"), ErrorKind::BrokenChain, "'a->b' and 'x->y', and both record");
    refused(create(&read(&["mon i", "tue->wed r"]), "fri"), ErrorKind::Inconsistent, "'mon'");
}

#[test]
fn a_name_that_only_a_gap_mentions_is_not_given_again() {
    let chain = read(&WITHOUT_TUE);
    let still = "'tue->wed' still follows a checkpoint 'tue'";
    refused(create(&chain, "tue"), ErrorKind::Exists, still);
    for from in ["mon", "wed", "thu"] {
        refused(rename(&chain, from, "tue"), ErrorKind::Exists, still);
    }
    let way_out = create(&chain, "tue").unwrap_err().way_out().unwrap().clone();
    assert!(way_out.controls().eq([&Control::DropBefore(b"wed".to_vec())]), "{way_out:?}");
    refused(create(&read(&["1->2 r"]), "1"), ErrorKind::Exists, "'1->2' still follows a checkpoint '1'");
}

#[test]
fn delete_beside_a_gap_leaves_it_visible() {
    let chain = read(&["mon -", "mon->tue -", "wed->thu -", "thu->fri -", "fri->sat r"]);
    steps(delete(&chain, "thu"), &["remove 'wed->thu'", "rename 'thu->fri' to 'wed->fri'"]);
    steps(
        delete(&chain, "fri"),
        &["merge 'thu->fri' into 'wed->thu'", "remove 'thu->fri'", "rename 'fri->sat' to 'thu->sat'"],
    );
    steps(delete(&chain, "tue"), &["merge 'mon->tue' into 'mon'", "remove 'mon->tue'"]);
    steps(delete(&chain, "mon"), &["remove 'mon'", "rename 'mon->tue' to 'tue'"]);
    steps(delete(&read(&WITHOUT_TUE), "mon"), &["remove 'mon'"]);
    // The last one, right after a gap: there is no bitmap that could go on.
    let plan = steps(delete(&read(&["mon -", "tue->wed r"]), "wed"), &["remove 'tue->wed'"]);
    warned(&plan, "nothing records any more");
    warned(&delete(&read(&["1->2 r"]), "2").unwrap(), "no checkpoint is left");
}

#[test]
fn rename_beside_a_gap_keeps_the_missing_name() {
    let chain = read(&WITHOUT_TUE);
    steps(rename(&chain, "mon", "m"), &["rename 'mon' to 'm'"]);
    steps(rename(&chain, "wed", "w"), &["rename 'tue->wed' to 'tue->w'", "rename 'wed->thu' to 'w->thu'"]);
    steps(rename(&chain, "thu", "t"), &["rename 'wed->thu' to 'wed->t'"]);
    // Where several gaps leave the order open, a new name may change the place in the list.
    assert!(rename(&read(&["x->y -", "m->n -", "a->b r"]), "n", "z").is_ok());
}

#[test]
fn drop_before_removes_what_is_older_and_makes_a_root() {
    let chain = read(&WITHOUT_TUE);
    let plan = steps(drop_before(&chain, "wed"), &["remove 'mon'", "rename 'tue->wed' to 'wed'"]);
    warned(&plan, "every diff since 'mon' is lost: an incremental backup can begin at 'wed' or later only");
    steps(drop_before(&chain, "thu"), &["remove 'mon'", "remove 'tue->wed'", "rename 'wed->thu' to 'thu'"]);
    steps(drop_before(&chain, "mon"), &[]);
    steps(drop_before(&read(&["1->2 -", "2->3 r"]), "2"), &["rename '1->2' to '2'"]);
    steps(drop_before(&read(&FOUR), "3"), &["remove '1'", "remove '1->2'", "rename '2->3' to '3'"]);
    steps(drop_before(&read(&FOUR), "1"), &[]);
    steps(
        drop_before(&read(&["1 u", "1->2 i", "2->3 ri", "f -"]), "3"),
        &["remove '1'", "remove '1->2'", "rename '2->3' to '->3'"],
    );
    refused(drop_before(&chain, "tue"), ErrorKind::NotFound, "'tue'");
    refused(drop_before(&read(&["a r", "b r"]), "a"), ErrorKind::Model, "cumulative");
    refused(drop_before(&read(&["a -", "b r"]), "a"), ErrorKind::Model, "");
    refused(drop_before(&read(&["1 -", "1->2 u", "2->3 r"]), "2"), ErrorKind::Unsupported, "'1->2'");

    let gaps = read(&["r -", "m->n -", "n->o -", "x->y -", "a->b -", "b->c r"]);
    refused(drop_before(&gaps, "o"), ErrorKind::BrokenChain, "leave it open which checkpoints are older than 'o'");
    let way_out = drop_before(&gaps, "y").unwrap_err().way_out().unwrap().clone();
    assert!(way_out.controls().any(|control| *control == Control::DropBefore(b"b".to_vec())), "{way_out:?}");
    let all = ["remove 'r'", "remove 'm->n'", "remove 'n->o'", "remove 'x->y'", "rename 'a->b' to 'b'"];
    steps(drop_before(&gaps, "b"), &all);
    // A bitmap of somebody else takes the root's name.
    refused(
        drop_before(&read(&["wed -", "x -", "mon->tue -", "tue->wed -", "sun->thu r"]), "wed"),
        ErrorKind::Exists,
        "'wed'",
    );
}

#[test]
fn forcing_with_gaps_takes_all_older_checkpoints_along() {
    let chain = read(&["1 -", "2->3 -", "3->4 i", "4->5 r"]);
    let cut = ["remove '1'", "remove '2->3'", "remove '3->4'", "rename '4->5' to '5'"];
    steps(force(&chain, "4"), &cut);
    steps(chain.plan_delete_all_inconsistent(), &cut);
    // Before the gap: the next younger one becomes the root, which is the first after the gap.
    let before = read(&["1 -", "1->2 i", "3->4 r"]);
    steps(force(&before, "2"), &["remove '1'", "remove '1->2'", "rename '3->4' to '4'"]);
    steps(before.plan_delete_all_inconsistent(), &["remove '1'", "remove '1->2'", "rename '3->4' to '4'"]);
    let crashed = read(&["mon i", "tue->wed i", "wed->thu ri"]);
    steps(crashed.plan_delete_all_inconsistent(), &["remove 'mon'", "remove 'tue->wed'", "remove 'wed->thu'"]);
    steps(read(&WITHOUT_TUE).plan_delete_all_inconsistent(), &[]);
    steps(read(&["1->2 -", "2->3 r"]).plan_delete_all_inconsistent(), &[]);
    // Between gaps: checkpoints known to be older go, the gap stays.
    let between = read(&["r -", "m->n i", "n->o -", "x->y -", "a->b r"]);
    steps(force(&between, "n"), &["remove 'r'", "remove 'm->n'", "rename 'n->o' to 'm->o'"]);
    let two = read(&["r -", "m->n i", "n->o -", "x->y i", "a->b r"]);
    steps(
        two.plan_delete_all_inconsistent(),
        &["remove 'r'", "remove 'm->n'", "remove 'x->y'", "rename 'n->o' to 'm->o'"],
    );
}

#[test]
fn one_bitmap_is_dropped_by_its_own_name_whatever_it_is() {
    let plan = steps(drop_bitmap(&FOUR, "2->3"), &["remove '2->3'"]);
    warned(&plan, "the checkpoint '3' goes, and every diff is lost that needs what was written from then until '4'");
    warned(&drop_bitmap(&FOUR, "3->4").unwrap(), "nothing records any more");
    for foreign in ["f i", "f u", "libvirt-tmp-x -", "backup-vda i"] {
        let name = foreign.split(' ').next().unwrap();
        let plan = steps(drop_bitmap(&["1 -", "1->2 r", foreign], name), &[&format!("remove '{name}'")]);
        assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
    }
    for (specs, name) in [
        (&["1->2 -", "2->1 r"][..], "1->2"),
        (&["1->1 r"], "1->1"),
        (&["1 -", "1->2 -", "1->3 r"], "1->2"),
        (&["1 -", "1->2 -", "2->3 r", "2 -"], "2"),
        (&["1 -", "1->2 r", "a->b->c -"], "a->b->c"),
        (&["1 -", "1->2 u", "2->3 r"], "1->2"),
    ] {
        let left: Vec<BitmapState> = bitmaps(specs).into_iter().filter(|state| state.name != name.into()).collect();
        steps(drop_bitmap(specs, name), &[&format!("remove '{name}'")]);
        assert!(Chain::read(&left, None).is_ok(), "{specs:?} without {name}");
    }
    warned(&drop_bitmap(&["1 -", "1->2 -", "1->3 r"], "1->2").unwrap(), "take a full backup");
    warned(&drop_bitmap(&["1->1 -", "2->2 r"], "1->1").unwrap(), "afterwards the bitmaps form no chain");
    warned(&drop_bitmap(&["a r", "b r"], "a").unwrap(), "libvirt still lists it");
    warned(&drop_bitmap(&["1 -", "1->2 r", "f ri"], "f").unwrap(), "libvirt still lists it");
    refused(drop_bitmap(&FOUR, "3"), ErrorKind::NotFound, "no bitmap is named '3'");
    refused(drop_bitmap(&["a r", "a r"], "a"), ErrorKind::BrokenChain, "two bitmaps");
}

#[test]
fn every_broken_chain_names_what_to_drop() {
    for (specs, named) in [
        (&["1 -", "1->2 -", "1->3 r"][..], &["1->2", "1->3"][..]),
        (&["1->1 r"], &["1->1"]),
        (&["1 -", "2 -", "1->3 -", "2->3 r"], &["1->3", "2->3"]),
        (&["1->2 -", "2->1 -", "1 -"], &["1", "2->1"]),
        (&["1 -", "1->2->3 r"], &["1->2->3"]),
    ] {
        let error = Chain::read(&bitmaps(specs), None).unwrap_err();
        let controls: Vec<Control> = error.way_out().unwrap().controls().cloned().collect();
        let mut expected: Vec<Control> =
            named.iter().map(|name| Control::DropBitmapNamed(name.as_bytes().to_vec())).collect();
        expected.push(Control::DropAll);
        assert_eq!(controls, expected, "{error}");
    }
    let twice = Chain::read(&bitmaps(&["1 -", "1 -", "1->2 r"]), None).unwrap_err();
    assert!(twice.way_out().unwrap().controls().eq([&Control::DropAll]));
}
