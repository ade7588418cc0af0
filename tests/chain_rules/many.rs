#![forbid(unsafe_code)]
//! Owns the tables of the deletion of several checkpoints in one step, and of the words that pick them.

use super::*;

fn many(chain: &Chain, names: &[&str]) -> Result<Plan> {
    chain.plan_delete_many(names, false)
}

fn picked(chain: &Chain, words: &[&str]) -> Result<Vec<String>> {
    chain.select(words).map(|picked| names(&picked))
}

const SIX: [&str; 6] = ["1 -", "1->2 -", "2->3 -", "3->4 -", "4->5 -", "5->6 r"];

#[test]
fn a_run_is_absorbed_in_one_merge() {
    let plan = steps(
        many(&read(&SIX), &["4", "3"]),
        &["merge '2->3', '3->4' into '1->2'", "remove '2->3'", "remove '3->4'", "rename '4->5' to '2->5'"],
    );
    assert_eq!(names(plan.takes_part()), ["3", "4"]);
    assert!(plan.warnings().is_empty());
    steps(
        many(&read(&SIX), &["6", "1", "2", "4"]),
        &[
            "remove '1'",
            "remove '1->2'",
            "merge '3->4' into '2->3'",
            "remove '3->4'",
            "merge '5->6' into '4->5'",
            "start recording in '4->5'",
            "remove '5->6'",
            "rename '2->3' to '3'",
            "rename '4->5' to '3->5'",
        ],
    );
}

#[test]
fn all_of_them_end_the_tracking() {
    let removed = ["remove '1'", "remove '1->2'", "remove '2->3'", "remove '3->4'"];
    let plan = steps(many(&read(&FOUR), &["1", "2", "3", "4"]), &removed);
    warned(&plan, "tracking ends, and the next backup must be full");
    steps(many(&read(&FOUR), &[]), &[]);
}

#[test]
fn a_name_given_twice_counts_once_and_an_unknown_one_refuses_all() {
    steps(many(&read(&FOUR), &["1", "1"]), &["remove '1'", "rename '1->2' to '2'"]);
    refused(many(&read(&FOUR), &["1", "5", "6"]), ErrorKind::NotFound, "no checkpoint is named '5'");
    refused(many(&read(&FOUR), &["1", "1->2"]), ErrorKind::NotFound, "its checkpoint is '2'");
    refused(many(&read(&["x -", "y -"]), &["x", "y"]), ErrorKind::Model, "may be one chain");
}

#[test]
fn gaps_stay_visible() {
    let gap = ["1 -", "1->2 -", "3->4 -", "4->5 r"];
    let plan = steps(
        many(&read(&gap), &["2", "4"]),
        &["merge '1->2' into '1'", "remove '1->2'", "remove '3->4'", "rename '4->5' to '3->5'"],
    );
    assert_eq!(names(plan.takes_part()), ["2", "4"]);
    steps(many(&read(&gap), &["1", "2"]), &["remove '1'", "remove '1->2'"]);
}

#[test]
fn what_one_of_them_may_not_all_may_not() {
    let odd = read(&["1 -", "1->2 r", "2->3 -", "3->4 r"]);
    refused(many(&odd, &["2", "3"]), ErrorKind::Recording, "'1->2' of a past interval still records");
    steps(many(&odd, &["1", "2"]), &["remove '1'", "remove '1->2'", "rename '2->3' to '3'"]);
    refused(many(&read(&["1 -", "1->2 u", "2->3 r"]), &["1", "2"]), ErrorKind::Unsupported, "'1->2'");
    refused(many(&read(&["1 -", "1->2 i", "2->3 r"]), &["1", "3"]), ErrorKind::Inconsistent, "each such checkpoint");
    refused(many(&read(&["a r", "b ri"]), &["a", "b"]), ErrorKind::Inconsistent, "'b'");
    steps(many(&read(&["a r", "b r", "c r"]), &["c", "a"]), &["remove 'a'", "remove 'c'"]);
    warned(&many(&read(&["1 m", "1->2 -", "2->3 r"]), &["2", "3"]).unwrap(), "'1' absorbs '2->3'");
    let stopped = ["1 -", "1->2 -", "2->3 -"];
    warned(&many(&read(&stopped), &["2", "3"]).unwrap(), "'2->3' did not record, so '1' does not record either");
}

#[test]
fn force_takes_the_older_ones_of_each_that_needs_it_and_deletes_the_others_as_ever() {
    let chain = read(&["1 -", "1->2 i", "2->3 -", "3->4 -", "4->5 r"]);
    let plan = steps(
        chain.plan_delete_many(&["2", "4"], true),
        &[
            "remove '1'",
            "remove '1->2'",
            "rename '2->3' to '3'",
            "merge '3->4' into '3'",
            "remove '3->4'",
            "rename '4->5' to '3->5'",
        ],
    );
    warned(&plan, "every diff since '1', '2' is lost: an incremental backup can begin at '3' or later only");
    assert_eq!(names(plan.takes_part()), ["4"]);
    // What would become the root goes too.
    let plan = steps(
        chain.plan_delete_many(&["3", "2"], true),
        &["remove '1'", "remove '1->2'", "rename '2->3' to '3'", "remove '3'", "rename '3->4' to '4'"],
    );
    warned(&plan, "can begin at '4' or later only");
    let plan = chain.plan_delete_many(&["2", "3", "4", "5"], true).unwrap();
    warned(&plan, "every diff since '1', '2' is lost");
    warned(&plan, "no checkpoint is left");
    // Without need, force loses nothing.
    steps(
        chain.plan_delete_many(&["4"], true),
        &["merge '3->4' into '2->3'", "remove '3->4'", "rename '4->5' to '3->5'"],
    );
}

#[test]
fn two_dots_pick_all_from_one_to_another() {
    let chain = read(&SIX);
    assert_eq!(picked(&chain, &["2..4"]).unwrap(), ["2", "3", "4"]);
    assert_eq!(picked(&chain, &["6", "3..3", "2..3"]).unwrap(), ["2", "3", "6"]);
    assert_eq!(picked(&chain, &[]).unwrap(), Vec::<String>::new());
    refused(chain.select(&["4..2"]), ErrorKind::Order, "'4' is younger than '2'");
    refused(chain.select(&["2..9"]), ErrorKind::NotFound, "no checkpoint is named '9'");
    refused(chain.select(&["9..2"]), ErrorKind::NotFound, "no checkpoint is named '9'");
    for word in ["2..", "..2", "..", "8..9"] {
        refused(chain.select(&[word]), ErrorKind::NotFound, &format!("no checkpoint is named '{word}'"));
    }
    refused(read(&["a r", "b r"]).select(&["a..b"]), ErrorKind::Model, "no place in a chain");
    assert_eq!(picked(&read(&["a r", "b r"]), &["b", "a"]).unwrap(), ["a", "b"]);
    refused(read(&["x -", "y -"]).select(&["x..y"]), ErrorKind::Model, "may be one chain");
}

#[test]
fn a_checkpoint_of_exactly_that_name_wins() {
    let chain = read(&["1 -", "1->1..3 -", "1..3->2 -", "2->3 r"]);
    assert_eq!(picked(&chain, &["1..3"]).unwrap(), ["1..3"]);
    assert_eq!(picked(&chain, &["1..2"]).unwrap(), ["1", "1..3", "2"]);
    assert_eq!(picked(&chain, &["1..3..2"]).unwrap(), ["1..3", "2"]);
    let dots = read(&["a -", "a->a. -", "a.->.b -", ".b->b r"]);
    refused(dots.select(&["a...b"]), ErrorKind::InvalidArgument, "several ranges");
    assert_eq!(picked(&dots, &["a..b"]).unwrap(), ["a", "a.", ".b", "b"]);
}

#[test]
fn a_range_goes_over_a_gap_where_the_order_is_known() {
    let one = read(&["1 -", "1->2 -", "3->4 -", "4->5 r"]);
    assert_eq!(picked(&one, &["2..4"]).unwrap(), ["2", "4"]);
    let two = read(&["1 -", "x->y -", "v->w -", "4->5 r"]);
    assert_eq!(picked(&two, &["1..5"]).unwrap(), ["1", "w", "y", "5"]);
    refused(two.select(&["1..y"]), ErrorKind::BrokenChain, "what lies between '1' and 'y'");
    refused(two.select(&["w..y"]), ErrorKind::BrokenChain, "several gaps");
}
