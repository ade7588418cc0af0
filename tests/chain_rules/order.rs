#![forbid(unsafe_code)]
//! Owns the order of cumulative checkpoints: against the definition by all pairs, and by how many comparisons.

use super::{FOUR, Sets, checkpoints, insist, read};
use checkmap::ErrorKind;
use checkmap::chain::{BitmapState, Chain, KnownModel, Name};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The order by the definition: what every pair says, and the smallest name wherever that leaves a choice.
fn by_all_pairs(sets: &BTreeMap<Name, Option<BTreeSet<u32>>>) -> Vec<(Name, bool)> {
    let is_older = |a: &Name, b: &Name| match (&sets[a], &sets[b]) {
        (Some(one), Some(two)) => one != two && two.is_subset(one),
        _ => false,
    };
    let is_ordered =
        |name: &Name| sets.keys().all(|other| other == name || is_older(name, other) || is_older(other, name));
    let (mut left, mut order): (BTreeSet<&Name>, Vec<(Name, bool)>) = (sets.keys().collect(), Vec::new());
    while let Some(&next) = left.iter().find(|name| !left.iter().any(|other| is_older(other, name))) {
        left.remove(next);
        order.push((next.clone(), is_ordered(next)));
    }
    order
}

/// The order that the chain finds, and after how many comparisons.
fn ordered(sets: &BTreeMap<Name, Option<BTreeSet<u32>>>) -> (Vec<(Name, bool)>, usize) {
    let granularity = super::granularity(65536);
    let states: Vec<BitmapState> =
        sets.keys().rev().map(|name| BitmapState::new(name.clone(), granularity, true)).collect();
    let mut chain = Chain::read(&states, Some(KnownModel::Cumulative)).unwrap();
    let known = sets.iter().filter_map(|(name, set)| Some((name.clone(), set.clone()?)));
    let mut contents = Sets { of: known.collect(), ..Sets::default() };
    chain.order_cumulative(&mut contents).unwrap();
    for checkpoint in chain.checkpoints() {
        let interval = chain.interval_of(&checkpoint.bitmap);
        assert_eq!(interval.map(|interval| interval.since), Some(checkpoint.name.clone()), "found where it stands now");
    }
    let order = chain.checkpoints().iter().map(|checkpoint| (checkpoint.name.clone(), checkpoint.ordered));
    (order.collect(), contents.comparisons)
}

fn named(sets: impl IntoIterator<Item = Option<BTreeSet<u32>>>) -> BTreeMap<Name, Option<BTreeSet<u32>>> {
    sets.into_iter()
        .enumerate()
        .map(|(number, set)| (Name::new(format!("{:05}", number * 7919 % 65537)), set))
        .collect()
}

/// Sets of which many contain each other, and some are equal or not known.
fn sets() -> impl Strategy<Value = Vec<Option<BTreeSet<u32>>>> {
    let one = prop_oneof![
        12 => (0..10_u32, 0..10_u32).prop_map(|(from, to)| Some((from..to).collect())),
        6 => (0..8_u32).prop_map(|to| Some((0..to).collect())),
        3 => prop::collection::btree_set(0..5_u32, 0..5).prop_map(Some),
        1 => Just(None),
    ];
    prop::collection::vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_is_the_one_of_all_pairs(sets in sets()) {
        let sets = named(sets);
        prop_assert_eq!(ordered(&sets).0, by_all_pairs(&sets));
    }
}

#[test]
fn checkpoints_are_ordered_by_containment_then_by_name() {
    let order = |sets: &[(&str, &[u32])]| {
        let mut chain = read(&["a r", "b r", "c r"]);
        assert!(!chain.is_ordered());
        chain.order_cumulative(&mut Sets::new(sets)).unwrap();
        let marks = chain.checkpoints().iter().map(|checkpoint| {
            format!("{}{}", checkpoint.name.to_string_lossy(), if checkpoint.ordered { "" } else { "?" })
        });
        marks.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order(&[("c", &[1, 2, 3]), ("a", &[1, 2]), ("b", &[2])]), "c a b");
    assert_eq!(order(&[("a", &[1]), ("b", &[2, 3]), ("c", &[4, 5, 6])]), "a? b? c?");
    assert_eq!(order(&[("c", &[1, 2]), ("a", &[1]), ("b", &[3])]), "b? c? a?");
    assert_eq!(order(&[("b", &[1, 2, 3]), ("a", &[1]), ("c", &[2, 3])]), "b a? c?");
    assert_eq!(order(&[("c", &[1, 2]), ("b", &[1]), ("a", &[1])]), "c a? b?", "equal ones are not told apart");
    assert_eq!(order(&[("c", &[]), ("b", &[]), ("a", &[])]), "a? b? c?");
    assert_eq!(order(&[("c", &[1, 2]), ("b", &[1])]), "a? c? b?", "one that is not known hides every place");
    assert_eq!(order(&[]), "a? b? c?");
}

#[test]
fn errors_pass_and_other_models_are_not_asked() {
    let mut failing = Sets { fails: true, ..Sets::default() };
    let mut cumulative = read(&["a r", "b r"]);
    assert_eq!(cumulative.order_cumulative(&mut failing).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(checkpoints(&cumulative), ["a", "b"]);
    assert!(insist(&["a r"], KnownModel::Cumulative).is_ordered());
    let mut intervals = read(&FOUR);
    intervals.order_cumulative(&mut failing).unwrap();
    assert_eq!(checkpoints(&intervals), ["1", "2", "3", "4"]);
}

#[test]
fn a_chain_takes_one_comparison_for_each_and_equal_ones_one_too() {
    let chain = named((0..3000).map(|number| Some((number..3000).collect())));
    let (order, comparisons) = ordered(&chain);
    assert!(order.iter().all(|(_, ordered)| *ordered));
    assert_eq!(comparisons, 2999);

    let weeks = named((0..3000).map(|day| Some((day / 7..500).collect())));
    let (order, comparisons) = ordered(&weeks);
    assert!(order.iter().filter(|(_, ordered)| *ordered).count() < 7, "days without writes are not told apart");
    assert_eq!(comparisons, 2999);

    let equal = named((0..3000).map(|_| Some((0..5).collect())));
    assert_eq!(ordered(&equal).1, 2999);
}

#[test]
fn work_stays_in_proportion_to_the_number_of_checkpoints() {
    // Each has one number of its own and all of another size, so none lies in another.
    let apart = |count: u32| named((0..count).map(|own| Some((count..count + own % 97).chain([own]).collect())));
    let (order, comparisons) = ordered(&apart(2000));
    assert_eq!(order, by_all_pairs(&apart(2000)));
    assert!(comparisons <= 2000 * (256 * 2 + 16), "{comparisons}");
    let (_, more) = ordered(&apart(4000));
    assert!(more < comparisons * 3, "{more} comparisons for twice as many as {comparisons}");

    // Many side by side under one that holds them all and above one that all of them hold.
    let mut sets: Vec<Option<BTreeSet<u32>>> = (1..255).map(|own| Some([0, own].into())).collect();
    sets.extend([Some((0..300).collect()), Some([0].into())]);
    let sets = named(sets);
    let (order, _) = ordered(&sets);
    assert_eq!(order, by_all_pairs(&sets));
    assert_eq!(order.iter().filter(|(_, ordered)| *ordered).count(), 2);
}
