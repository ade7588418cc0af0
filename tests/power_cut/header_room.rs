//! Header clusters in which the bitmaps extension has to find its room, or to leave it in front of others: at every cut
//! the header opens in QEMU, and what nobody here knows is still there.

use super::{Bitmaps, Found, Scenario, bitmaps_of, create, delete, open, plain, play_all, qemu_image, scenario};
use crate::support::power::Recorder;
use crate::support::raw::Raw;
use crate::support::tools_are_here;
use checkmap::Image;
use checkmap::chain::Plan;
use checkmap::progress::Unobserved;
use std::sync::Arc;

const FEATURES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const UNKNOWN: u32 = 0x1234_5678;
const OTHER: u32 = 0x8765_4321;

/// A table of as many feature names.
fn features(count: usize) -> (u32, Vec<u8>) {
    let name = |number: usize| {
        let mut entry = vec![b'f'; 48];
        entry[..2].copy_from_slice(&[2, u8::try_from(number + 2).expect("few")]);
        entry[40..].fill(0);
        entry
    };
    (FEATURES, (0..count).flat_map(name).collect())
}

fn unknown(len: usize) -> (u32, Vec<u8>) {
    (UNKNOWN, vec![b'u'; len])
}

/// A disk without bitmaps whose header has these extensions, and a backing name where one is given.
fn without_bitmaps(options: &str, extensions: &[(u32, Vec<u8>)], name: Option<(usize, usize)>) -> Vec<u8> {
    let mut raw = Raw { bytes: plain(options) };
    raw.set_header_len(104);
    raw.set_extensions(extensions);
    if let Some((at, len)) = name {
        raw.set_backing_name(at, &("./".repeat(len / 4) + &"b".repeat(len - len / 4 * 2)).into_bytes());
    }
    raw.bytes
}

/// A disk with one bitmap whose record stands between these extensions.
fn with_bitmap(options: &str, before: &[(u32, Vec<u8>)], after: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let image = qemu_image(options, &["last"]);
    image.write(70_000, 512);
    let mut raw = Raw::read(&image.path);
    let record = raw.extension_list().into_iter().find(|(kind, _)| *kind == BITMAPS).expect("the extension");
    raw.set_header_len(104);
    raw.set_extensions(&[before, &[record], after].concat());
    raw.bytes
}

fn delete_last(image: &Image) -> checkmap::Result<Plan> {
    delete(image, "last")
}

/// Plays the scenarios, and looks whether the unknown extensions are whole when all is written.
fn play(scenarios: &[Scenario]) {
    if !tools_are_here() {
        return;
    }
    play_all(scenarios);
    for scenario in scenarios {
        assert_eq!(unknown_of(&scenario.image), unknown_of(&committed(scenario)), "{}", scenario.name);
    }
}

fn committed(scenario: &Scenario) -> Vec<u8> {
    let recorder = Arc::new(Recorder::new(scenario.image.clone()));
    let mut image = open(recorder.clone());
    let plan = (scenario.plan)(&image).expect("a plan");
    image.commit(&plan, &mut Unobserved).expect("the commit succeeds");
    recorder.image()
}

fn unknown_of(image: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let raw = Raw { bytes: image.to_vec() };
    raw.extension_list().into_iter().filter(|(kind, _)| [UNKNOWN, OTHER].contains(kind)).collect()
}

#[test]
fn a_feature_name_table_gives_way_to_the_first_bitmap_or_not() {
    if !tools_are_here() {
        return;
    }
    let image = |name, options, extensions: &[(u32, Vec<u8>)]| {
        scenario(name, without_bitmaps(options, extensions, None), create)
    };
    play(&[
        image("it fills 512 bytes", "cluster_size=512", &[features(8)]),
        image("it fills 512 bytes before another", "cluster_size=512", &[features(7), unknown(32)]),
        image("it fills 512 bytes behind another", "cluster_size=512", &[unknown(32), features(7)]),
        image("it crosses a sector of 1 KiB", "cluster_size=1k", &[unknown(300), features(8), (OTHER, vec![7; 184])]),
        image("its end crosses a sector of 1 KiB", "cluster_size=1k", &[features(9), unknown(456)]),
        image(
            "it begins at the end of a sector",
            "cluster_size=1k",
            &[unknown(392), features(9), (OTHER, vec![1; 40])],
        ),
        image("4 KiB", "cluster_size=4k", &[features(8), unknown(3576)]),
        image("4 KiB, at the end", "cluster_size=4k", &[unknown(3568), features(8)]),
        image("64 KiB", "", &[features(8), unknown(64_952)]),
        image("64 KiB, at the end", "", &[unknown(64_960), features(8)]),
    ]);
}

#[test]
fn a_backing_name_makes_room_for_the_first_bitmap_or_not() {
    let image = |name, options, extensions: &[(u32, Vec<u8>)], place| {
        scenario(name, without_bitmaps(options, extensions, Some(place)), create)
    };
    if !tools_are_here() {
        return;
    }
    play(&[
        image("right behind the fields", "cluster_size=1k", &[], (104, 380)),
        image("right behind the fields, in one sector", "cluster_size=512", &[], (104, 300)),
        image("right behind an extension", "cluster_size=1k", &[unknown(100)], (216, 350)),
        image("behind an end marker that crosses to the next sector", "cluster_size=1k", &[unknown(392)], (512, 200)),
        image("behind a feature name table", "cluster_size=1k", &[features(8)], (504, 240)),
        image("no room for a copy, but in the feature name table", "cluster_size=1k", &[features(8)], (504, 500)),
        image("no end marker, but a feature name table", "cluster_size=1k", &[unknown(24), features(8)], (528, 100)),
    ]);
}

#[test]
fn the_last_bitmap_leaves_in_front_of_other_extensions_or_not() {
    if !tools_are_here() {
        return;
    }
    let image = |name, options, before: &[(u32, Vec<u8>)], after: &[(u32, Vec<u8>)]| {
        scenario(name, with_bitmap(options, before, after), delete_last)
    };
    let other = |len| (OTHER, vec![b'o'; len]);
    play(&[
        image("in one sector", "cluster_size=1k", &[], &[unknown(40), other(8)]),
        image("across sectors", "cluster_size=1k", &[], &[unknown(500)]),
        image("up to the end of the cluster", "cluster_size=1k", &[unknown(8)], &[unknown(400), other(440)]),
        image("in the second sector", "cluster_size=4k", &[unknown(400)], &[other(8)]),
        image("its type in one sector, its data in the next", "cluster_size=4k", &[unknown(392)], &[other(8)]),
        image("its type in one sector, its data in the next, last", "cluster_size=4k", &[unknown(392)], &[]),
        image("its data across sectors", "cluster_size=4k", &[unknown(380)], &[other(100), unknown(600)]),
        image("its data across sectors, last", "cluster_size=4k", &[unknown(376)], &[]),
        image("64 KiB", "", &[features(8)], &[unknown(600), other(30)]),
    ]);
}

#[test]
fn the_room_that_the_last_bitmap_left_is_used_again_or_not() {
    if !tools_are_here() {
        return;
    }
    let left = |options, before: &[(u32, Vec<u8>)]| {
        let after = [unknown(500), (OTHER, vec![b'o'; 20])];
        committed(&scenario("delete", with_bitmap(options, before, &after), delete_last))
    };
    let scenarios = [
        scenario("in the first sector", left("cluster_size=1k", &[]), create),
        scenario("across sectors", left("cluster_size=4k", &[unknown(392)]), create),
        scenario("64 KiB", left("", &[features(8)]), create),
    ];
    for scenario in &scenarios {
        let (before, after) = (Raw { bytes: scenario.image.clone() }, Raw { bytes: committed(scenario) });
        assert_eq!(
            before.extension_list().len(),
            after.extension_list().len(),
            "{}: no record is added",
            scenario.name
        );
        assert_eq!(before.extensions_end(), after.extensions_end(), "{}: the header does not grow", scenario.name);
    }
    play(&scenarios);
}

#[test]
fn a_change_of_the_header_that_fails_is_taken_back() {
    if !tools_are_here() {
        return;
    }
    let feature_table = without_bitmaps("cluster_size=1k", &[unknown(300), features(8), (OTHER, vec![7; 184])], None);
    let name = without_bitmaps("cluster_size=1k", &[], Some((104, 380)));
    let last = with_bitmap("cluster_size=4k", &[unknown(392)], &[(OTHER, vec![1; 8])]);
    for (case, image, plan) in [
        ("a feature name table", feature_table, create as fn(&Image) -> checkmap::Result<Plan>),
        ("a backing name", name, create),
        ("the last bitmap", last, delete_last),
    ] {
        let whole = Arc::new(Recorder::new(image.clone()));
        let mut opened = open(whole.clone());
        let old = bitmaps_of(&opened);
        let planned = plan(&opened).expect("a plan");
        opened.commit(&planned, &mut Unobserved).expect("the commit succeeds");
        let new = bitmaps_of(&opened);
        for operations in 0..whole.operations() {
            let failing = Arc::new(Recorder::failing_at(image.clone(), &[operations]));
            let mut opened = open(failing.clone());
            let planned = plan(&opened).expect("a plan");
            let failed = opened.commit(&planned, &mut Unobserved);
            let found = bitmaps_of(&open(Arc::new(Recorder::new(failing.image()))));
            assert!(found == old || found == new, "{case}: after {operations} operations: {found:?}");
            if failed.is_err() {
                assert_eq!(found, old, "{case}: after {operations} operations");
                let cluster = Raw { bytes: image.clone() }.cluster();
                assert_eq!(failing.image()[..cluster], image[..cluster], "{case}: after {operations} operations");
            }
        }
        assert_ne!(old, new, "{case}");
        let none = Found::Bitmaps(Bitmaps::new());
        assert!(old == none || new == none, "{case}");
    }
}
