#![forbid(unsafe_code)]
//! Owns the tables of plans: create, delete, rename, diff and the raw merge.

use super::*;
use checkmap::chain::plan_merge;

#[test]
fn create_freezes_the_newest_and_hangs_the_new_one_on_it() {
    steps(create(&read(&[]), "1"), &["add '1', recording, granularity 4096"]);
    let plan =
        steps(create(&read(&["1 r"]), "2"), &["stop recording in '1'", "add '1->2', recording, granularity 65536"]);
    warned(&plan, "if libvirt has a checkpoint of that name");
    assert_eq!(names(plan.takes_part()), ["2"]);
    let plan =
        steps(create(&read(&FOUR), "5"), &["stop recording in '3->4'", "add '4->5', recording, granularity 65536"]);
    assert_eq!((names(plan.takes_part()), plan.warnings().len()), (vec!["5".to_owned()], 0));
    steps(
        create(&read(&["1 -", "1->2 rm"]), "3"),
        &["stop recording in '1->2'", "add '2->3', recording, granularity 1048576"],
    );
    let mut options = CreateOptions::new(granularity(4096));
    options.granularity = Some(granularity(512));
    steps(
        read(&["1 r"]).plan_create(b"2", options),
        &["stop recording in '1'", "add '1->2', recording, granularity 512"],
    );
    warned(&create(&read(&["1 r"]), &"x".repeat(127)).unwrap(), "QEMU can migrate");
}

#[test]
fn create_in_the_cumulative_model_only_adds() {
    let plan = steps(create_as(&read(&[]), "a", KnownModel::Cumulative), &["add 'a', recording, granularity 4096"]);
    assert_eq!(names(plan.takes_part()), ["a"]);
    steps(create(&insist(&[], KnownModel::Cumulative), "a"), &["add 'a', recording, granularity 4096"]);
    steps(create_as(&read(&["a r"]), "b", KnownModel::Cumulative), &["add 'b', recording, granularity 65536"]);
    steps(create(&insist(&["a r"], KnownModel::Cumulative), "b"), &["add 'b', recording, granularity 65536"]);
    let plan = steps(create(&read(&["a r", "b r"]), "c"), &["add 'c', recording, granularity 65536"]);
    assert!(plan.warnings().is_empty() && names(plan.takes_part()) == ["c"]);
    // Nobody knows which is the newest: the finest is never less exact.
    steps(create(&read(&["a r", "b rm"]), "c"), &["add 'c', recording, granularity 65536"]);
    let mut chain = read(&["a r", "b rm"]);
    chain.order_cumulative(&mut Sets::new(&[("a", &[1, 2]), ("b", &[2])])).unwrap();
    steps(create(&chain, "c"), &["add 'c', recording, granularity 1048576"]);
}

#[test]
fn create_is_refused_where_it_would_hide_a_gap() {
    refused(create(&read(&["1 -", "1->2 -"]), "3"), ErrorKind::Recording, "'1->2' does not record");
    refused(create(&read(&["1 r", "1->2 -"]), "3"), ErrorKind::Recording, "'1->2' does not record");
    refused(create(&read(&["1 ri"]), "2"), ErrorKind::Inconsistent, "'1' is inconsistent");
    refused(create(&read(&["1 i", "1->2 r"]), "3"), ErrorKind::Inconsistent, "plan_delete_all_inconsistent");
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
    refused(create_as(&read(&FOUR), "5", KnownModel::Cumulative), ErrorKind::Model, "are interval, not cumulative");
    refused(
        create_as(&read(&["a r", "b r"]), "c", KnownModel::Interval),
        ErrorKind::Model,
        "are cumulative, not interval",
    );
    assert!(create_as(&read(&FOUR), "5", KnownModel::Interval).is_ok());
}

#[test]
fn delete_lets_the_interval_before_absorb_and_renames_the_child() {
    let chain = read(&FOUR);
    let plan = steps(delete(&chain, "3"), &["merge '2->3' into '1->2'", "remove '2->3'", "rename '3->4' to '2->4'"]);
    assert_eq!(names(plan.takes_part()), ["3"]);
    assert!(plan.warnings().is_empty());
    steps(delete(&chain, "1"), &["remove '1'", "rename '1->2' to '2'"]);
    steps(delete(&chain, "2"), &["merge '1->2' into '1'", "remove '1->2'", "rename '2->3' to '1->3'"]);
    steps(delete(&chain, "4"), &["merge '3->4' into '2->3'", "start recording in '2->3'", "remove '3->4'"]);
    warned(&steps(delete(&read(&["1 r"]), "1"), &["remove '1'"]), "the next backup must be full");
    warned(&delete(&read(&["1 m", "1->2 r"]), "2").unwrap(), "become coarser");
    refused(delete(&chain, "5"), ErrorKind::NotFound, "there are '1', '2', '3', '4'");
    refused(delete(&chain, "2->3"), ErrorKind::NotFound, "its checkpoint is '3'");
    refused(delete(&read(&[]), "1"), ErrorKind::NotFound, "the next backup must be full");
}

/// libvirt commits a snapshot, and the bitmap that recorded when it was made goes on recording beside the newest one.
#[test]
fn create_stops_all_that_record() {
    let plan = create(&read(&["1 -", "1->2 r", "2->3 r"]), "4");
    let stopped = ["stop recording in '2->3'", "stop recording in '1->2'"];
    let plan = steps(plan, &[stopped[0], stopped[1], "add '3->4', recording, granularity 65536"]);
    warned(&plan, "'1->2' of a past interval stops recording only now");
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
    // Dropped bitmaps do not matter, nor do those elsewhere.
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
        refused(delete(&read(&specs), name), ErrorKind::Inconsistent, "force_inconsistent");
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
    assert!(plan.takes_part().is_empty(), "what is left needs nothing that a lower layer could know");
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
    assert_eq!(names(plan.takes_part()), ["2"]);
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
    refused(diff(&read(&["a r", "b r"]), "a", Some("b")), ErrorKind::Model, "leave out until");

    let crashed = read(&["1 -", "1->2 i", "2->3 -", "3->4 r"]);
    refused(diff(&crashed, "1", None), ErrorKind::Inconsistent, "'1->2'");
    refused(diff(&crashed, "2", Some("3")), ErrorKind::Inconsistent, "'1->2'");
    assert!(diff(&crashed, "1", Some("2")).is_ok() && diff(&crashed, "3", None).is_ok());

    let silent = read(&["1 -", "1->2 -", "2->3 -"]);
    refused(diff(&silent, "1", None), ErrorKind::Recording, "'2->3' does not record");
    refused(diff(&silent, "3", None), ErrorKind::Recording, "'2->3' does not record");
    assert!(diff(&silent, "1", Some("3")).is_ok());

    let odd = read(&["1 -", "1->2 r", "2->3 r"]);
    refused(diff(&odd, "2", Some("3")), ErrorKind::Recording, "'1->2' of a past interval still records");
    assert!(diff(&odd, "1", Some("2")).is_ok() && diff(&odd, "3", None).is_ok());
    // Until now all that it holds is of the span.
    assert_eq!(names(&diff(&odd, "1", None).unwrap().bitmaps), ["1", "1->2", "2->3"]);
    refused(diff(&read(&["1 r", "1->2 -"]), "1", None), ErrorKind::Recording, "'1->2' does not record");
    refused(diff(&read(&["a ri", "b r"]), "a", None), ErrorKind::Inconsistent, "'a'");
}

#[test]
fn the_raw_merge_knows_bitmaps_only_and_warns_of_the_chain() {
    let four = bitmaps(&FOUR);
    let plan = steps(plan_merge(&four, &[b"2->3", b"1->2", b"2->3"], b"1"), &["merge '2->3', '1->2' into '1'"]);
    warned(&plan, "'1' will hold more than the writes from '1' until '2'");
    warned(&plan_merge(&four, &[b"1"], b"3->4").unwrap(), "from '4' until now");
    assert!(plan_merge(&bitmaps(&["a -", "b -"]), &[b"a"], b"b").unwrap().warnings().is_empty());
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
fn as_many_bitmaps_as_an_image_can_hold_can_be_planned() {
    let states = |link: fn(usize) -> String| -> Vec<BitmapState> {
        bitmaps(&(0..65535).map(link).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>())
    };
    let chain = states(|at| if at == 0 { "0 i".to_owned() } else { format!("{}->{at} i", at - 1) });
    let chain = Chain::read(&chain, None).unwrap();
    assert_eq!(chain.plan_delete_all_inconsistent().unwrap().actions().len(), 65535);
    assert_eq!(force(&chain, "65533").unwrap().actions().len(), 65535);
    let cumulative = Chain::read(&states(|at| format!("{at} ri")), None).unwrap();
    assert_eq!(cumulative.plan_delete_all_inconsistent().unwrap().actions().len(), 65535);
}
