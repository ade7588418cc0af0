#![forbid(unsafe_code)]
//! The pool of threads: order, panics, signals, and that nothing of it is left. One test only counts threads, since the
//! count is of the whole process; so all are one.

use checkmap::pool::{Pool, map_ordered};
use nix::sys::signal::{SigSet, Signal};
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn threads_now() -> usize {
    fs::read_dir("/proc/self/task").expect("Linux says which threads there are").count()
}

/// A thread that was joined has run its last instruction, but the kernel may list it for a moment longer.
fn assert_threads(expected: usize, when: &str) {
    let patience = Instant::now() + Duration::from_secs(5);
    while threads_now() != expected && Instant::now() < patience {
        thread::yield_now();
    }
    assert_eq!(threads_now(), expected, "{when}");
}

fn no_threads_without_need() {
    let before = threads_now();
    let caller = thread::current().id();
    for threads in [0, 1] {
        let pool = Pool::new(threads);
        assert_eq!((pool.threads(), threads_now()), (1, before));
        assert!(pool.map(vec![1, 2, 3], |_| thread::current().id()).unwrap().into_iter().all(|id| id == caller));
        let done = AtomicUsize::new(0);
        assert_eq!(pool.alongside(vec![2, 3], |part| assert!(done.fetch_add(part, Relaxed) < 5), || 7), 7);
        assert_eq!((done.into_inner(), threads_now()), (5, before));
    }
    assert_eq!(map_ordered(8, vec![5], |item| (item, thread::current().id())), Ok(vec![(5, caller)]));
}

fn order_and_work_on_all_threads() {
    let before = threads_now();
    let pool = Pool::new(4);
    assert_eq!((pool.threads(), threads_now()), (4, before + 4));
    let items: Vec<u64> = (0..10_000).collect();
    let squares: Vec<u64> = items.iter().map(|item| item * item).collect();
    assert_eq!(pool.map(items, |item| item * item), Ok(squares));
    let all = Barrier::new(5);
    let numbers = Mutex::new(BTreeSet::new());
    pool.alongside(
        vec![0, 1, 2, 3],
        |number| {
            numbers.lock().expect("nobody panics").insert((number, thread::current().name().map(str::to_owned)));
            all.wait();
        },
        || all.wait(),
    );
    let numbers = numbers.into_inner().expect("nobody panics");
    assert_eq!(numbers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(numbers.iter().all(|(_, name)| name.as_deref().is_some_and(|name| name.starts_with("checkmap-"))));
    drop(pool);
    assert_threads(before, "a thread is left behind");
}

fn threads_have_ended_after_every_drop() {
    let before = threads_now();
    for round in 0..200 {
        let done = AtomicUsize::new(0);
        map_ordered(2 + round % 5, vec![(); 64], |()| done.fetch_add(1, Relaxed)).unwrap();
        assert_eq!(done.into_inner(), 64);
        assert_threads(before, &format!("a thread is left behind in round {round}"));
    }
}

fn panics_come_to_the_caller() {
    let before = threads_now();
    let pool = Pool::new(3);
    let map = catch_unwind(AssertUnwindSafe(|| pool.map(vec![1, 2, 3], |item| assert_ne!(item, 2, "two"))));
    assert!(map.is_err());
    let ordered = catch_unwind(|| map_ordered(3, vec![1, 2, 3, 4, 5], |item| assert_ne!(item, 4, "four")));
    assert!(ordered.is_err());
    let worker = catch_unwind(AssertUnwindSafe(|| pool.alongside(vec![0, 1], |number| assert_ne!(number, 1), || ())));
    assert!(worker.is_err());
    let (to, from) = channel::<()>();
    let from = Mutex::new(from);
    let caller = catch_unwind(AssertUnwindSafe(|| {
        pool.alongside(
            vec![(); 3],
            |()| assert!(from.lock().expect("nobody panics here").recv().is_err()),
            move || {
                let _to = to;
                panic!("the workers must see that nobody sends any more");
            },
        )
    }));
    assert!(caller.is_err());
    assert_eq!(pool.map(vec![1, 2], |item| item + 1), Ok(vec![2, 3]), "the pool lives on");
    drop(pool);
    assert_threads(before, "a thread is left behind after a panic");
}

fn signals_are_for_the_hosts_own_threads() {
    let before = SigSet::thread_get_mask().expect("a thread has a mask");
    // Both threads come, as neither ends alone.
    let (caller, both) = (thread::current().id(), Barrier::new(2));
    let masks = map_ordered(2, vec![(); 2], |()| {
        both.wait();
        (thread::current().id(), SigSet::thread_get_mask().expect("a thread has a mask"))
    })
    .unwrap();
    let ours: Vec<SigSet> = masks.into_iter().filter(|(id, _)| *id != caller).map(|(_, mask)| mask).collect();
    assert_eq!(ours.len(), 1, "the caller's thread works too");
    for mask in ours {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGCHLD, Signal::SIGALRM] {
            assert!(mask.contains(signal), "{signal}");
        }
        assert!(!mask.contains(Signal::SIGSEGV) && !mask.contains(Signal::SIGBUS));
    }
    assert!(SigSet::thread_get_mask().expect("a thread has a mask") == before, "the caller's mask stays");
}

#[test]
fn a_pool_does_its_work_in_order_and_leaves_nothing_behind() {
    no_threads_without_need();
    order_and_work_on_all_threads();
    threads_have_ended_after_every_drop();
    panics_come_to_the_caller();
    signals_are_for_the_hosts_own_threads();
}
