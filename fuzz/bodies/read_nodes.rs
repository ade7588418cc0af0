//! Any bytes as what a hypervisor told of its block nodes: nothing panics, a plan is what QEMU can carry out without harm, and the same
//! bytes give the same plan.

use checkmap::planner::{Step, Verb, plan};
use checkmap::{ErrorKind, Result};

/// The chains of nodes that are asked for, the top first.
const CHAINS: [&[&str]; 4] = [&["d0"], &["d1"], &["d0", "d1"], &[]];

/// The last byte chooses the verb and the chain. Bytes that are a list of three are read as the answers to the questions for block nodes, the
/// graph and the devices, too.
pub(crate) fn read_nodes(bytes: &[u8]) {
    checkmap::qemu::read_answers(bytes);
    let Some((choice, bytes)) = bytes.split_last() else { return };
    let chain = CHAINS[usize::from(choice >> 3 & 3)];
    let verb = match choice & 7 {
        0 => Verb::Create { checkpoint: b"thu", granularity: None, model: None },
        1 => Verb::Delete { checkpoints: &[b"tue"], force_inconsistent: false, model: None },
        2 => Verb::Delete { checkpoints: &[b"mon", b"wed"], force_inconsistent: true, model: None },
        3 => Verb::Rename { checkpoint: b"tue", new_name: b"x", model: None },
        4 => Verb::Merge { sources: &[b"x"], into: b"y" },
        5 => Verb::Diff { since: b"mon", until: Some(b"wed"), model: None, export: "e" },
        _ => Verb::Diff { since: b"tue", until: None, model: None, export: "e" },
    };
    let step = planned(bytes, chain, &verb);
    if let Ok(step) = &step {
        check(step);
        let again = planned(bytes, chain, &verb).expect("it was planned before");
        assert_eq!(*step, again);
    }
}

fn planned(bytes: &[u8], chain: &[&str], verb: &Verb<'_>) -> Result<Step> {
    plan(bytes, chain, verb).inspect_err(|error| {
        let never = [ErrorKind::Io, ErrorKind::CommitInDoubt, ErrorKind::Cancelled, ErrorKind::OutOfMemory];
        assert!(!never.contains(&error.kind()), "{error}");
    })
}

/// No merge of nothing, and no action behind a remove.
fn check(step: &Step) {
    for command in &step.commands {
        assert!(!command.contains("\"bitmaps\":[]"), "{command}");
        let behind = command.find("block-dirty-bitmap-remove").map_or("", |first| &command[first..]);
        for kind in ["-add\"", "-merge\"", "-enable\"", "-disable\""] {
            assert!(!behind.contains(&format!("\"type\":\"block-dirty-bitmap{kind}")), "{command}");
        }
    }
    assert!(step.exports.iter().all(|export| !export.contexts.is_empty()));
}
