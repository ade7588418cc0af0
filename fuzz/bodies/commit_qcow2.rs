//! Any bytes as an image that is changed: a refusal leaves every byte, a success leaves a sound image.

use crate::memory::{Memory, open};
use checkmap::chain::{Name, Plan};
use checkmap::image::{Access, CheckReport, Image, Layers, Problem, Severity};
use checkmap::progress::Unobserved;
use std::sync::Arc;

/// Carries out one operation on the image that the bytes are; the last byte says which.
pub(crate) fn commit_qcow2(bytes: &[u8]) {
    let Some((selector, bytes)) = bytes.split_last() else { return };
    let storage = Arc::new(Memory::new(bytes));
    let Ok(mut image) = open(&storage, Access::Write) else { return };
    let Ok(plan) = plan(&image, *selector) else { return };
    assert!(storage.holds(bytes), "planning changed the image");
    let before = image.check(&mut Unobserved).expect("memory can be read");
    let committed = image.commit(&plan, &mut Unobserved);
    if committed.is_err() {
        assert_eq!(storage.bytes().len(), bytes.len(), "a refusal left the file longer: {committed:?}");
    }
    let reopened = open(&storage, Access::Read).expect("what was an image still is one");
    if committed.is_ok() && !plan.is_empty() {
        assert!(reopened.trouble().is_none(), "the commit left {:?}", reopened.trouble());
        assert_eq!(reopened.bitmaps(), image.bitmaps(), "the handle shows something else than the file");
    }
    let after = reopened.check(&mut Unobserved).expect("memory can be read");
    if committed.is_err() {
        assert_eq!(after, before, "a refusal changed the image: {committed:?}");
    }
    // Where guest data is not counted, or a table stands inside another, nobody can promise more than to go on.
    if before.errors > 0 {
        return;
    }
    assert_eq!(after.errors, 0, "{plan:?} made errors: {after:?}");
    assert!(leaks(&after, bytes) <= leaks(&before, bytes), "{plan:?} leaks: {after:?}");
}

/// The leaks inside the file as it was: where it grew, refcounts that nobody could see before come to light.
fn leaks(report: &CheckReport, bytes: &[u8]) -> usize {
    let inside = |problem: &&Problem| problem.offset.is_some_and(|offset| offset < bytes.len() as u64);
    report.problems.iter().filter(|problem| problem.severity == Severity::Leak).filter(inside).count()
}

fn plan(image: &Image, selector: u8) -> checkmap::Result<Plan> {
    let names: Vec<Name> = match selector & 0x80 {
        0 => image.chain(None)?.checkpoints().iter().map(|checkpoint| checkpoint.name.clone()).collect(),
        _ => image.bitmaps().into_iter().map(|state| state.name).collect(),
    };
    let number = usize::from(selector >> 3 & 0xf);
    let name = names.get(number.min(names.len().saturating_sub(1))).map_or(&b"absent"[..], Name::as_bytes);
    let other = names.first().map_or(&b"absent"[..], Name::as_bytes);
    match selector & 7 {
        0 => image.plan_create(b"new", None, None),
        1 => image.plan_delete(name, false, Layers::TopOnly, None),
        2 => image.plan_rename(name, b"a much longer name than before", Layers::TopOnly, None),
        3 => image.plan_merge(&[name], other),
        4 => image.plan_delete_all_inconsistent(Layers::TopOnly, None),
        5 => image.plan_delete(name, true, Layers::TopOnly, None),
        6 if selector & 0x80 != 0 => image.plan_drop_bitmap(name),
        6 => image.plan_rename(name, b"n", Layers::TopOnly, None),
        7 if selector & 0x80 == 0 => image.plan_drop_before(name, None),
        _ => image.plan_merge(&names.iter().map(Name::as_bytes).collect::<Vec<_>>(), other),
    }
}
