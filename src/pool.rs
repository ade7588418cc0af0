#![forbid(unsafe_code)]
//! Owns the threads: a pool for one job, or for as long as its owner keeps it, whose threads have ended when it is dropped.
//! Must never know the work of the threads, nor touch rayon's global pool.

use crate::fault;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};
use std::collections::TryReserveError;
use std::io;
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// More threads than these are never started, however many are asked for.
const MOST_THREADS: usize = 256;

/// Signals that a fault of the thread itself raises; the host's handlers must see them.
const FAULTS: [Signal; 6] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP, Signal::SIGSYS];

/// Threads that wait for work, or none: then the caller's thread does it.
///
/// Its threads block every signal that is not a fault of their own, so that a host's handlers run on its own threads. In a
/// child that was forked and has not called `exec` the pool has no threads and must not be used.
#[derive(Debug)]
pub struct Pool {
    pool: Option<ThreadPool>,
    handles: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads: none for 0 and 1, and fewer where the system refuses more.
    pub fn new(threads: usize) -> Self {
        Self::with_threads(if threads > 1 { threads } else { 0 })
    }

    fn with_threads(threads: usize) -> Self {
        let mut threads = threads.min(MOST_THREADS);
        while threads > 0 {
            let mut handles = Vec::with_capacity(threads);
            let builder = ThreadPoolBuilder::new().num_threads(threads);
            match builder.spawn_handler(|worker| start(worker).map(|handle| handles.push(handle))).build() {
                Ok(pool) => return Self { pool: Some(pool), handles },
                Err(_) => {
                    join(handles);
                    threads /= 2;
                }
            }
        }
        Self { pool: None, handles: Vec::new() }
    }

    /// How many threads work at once: 1, the caller's, where there is no pool.
    pub fn threads(&self) -> usize {
        self.handles.len().max(1)
    }

    /// Calls `work` on each item; the results are in the order of the items. A panic goes on in the caller's thread.
    pub fn map<T: Send, R: Send>(
        &self,
        items: Vec<T>,
        work: impl Fn(T) -> R + Sync,
    ) -> Result<Vec<R>, TryReserveError> {
        let mut results = Vec::new();
        results.try_reserve_exact(items.len())?;
        match &self.pool {
            // It fits where there is room already, so it is not moved.
            Some(pool) if items.len() > 1 => {
                let caught = |item| fault::catch(|| work(item));
                let mut done = Vec::new();
                done.try_reserve_exact(items.len())?;
                pool.install(|| items.into_par_iter().with_max_len(1).map(caught).collect_into_vec(&mut done));
                results.extend(done.into_iter().map(|done| done.unwrap_or_else(|fault| fault.resume())));
            }
            _ => results.extend(items.into_iter().map(work)),
        }
        Ok(results)
    }

    /// Runs `worker` with each of `parts` on a thread of the pool, and `caller` on this thread meanwhile; returns once all
    /// are done. Parts that wait for each other must be no more than there are threads. A panic is the caller's. Where there
    /// is no pool, `caller` runs first, and the parts after it.
    pub fn alongside<T: Send, R>(&self, parts: Vec<T>, worker: impl Fn(T) + Sync, caller: impl FnOnce() -> R) -> R {
        let Some(pool) = &self.pool else {
            let answer = caller();
            parts.into_iter().for_each(worker);
            return answer;
        };
        let first = Mutex::new(None);
        let run = |part| {
            if let Err(fault) = fault::catch(|| worker(part)) {
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
            }
        };
        let answer = pool.in_place_scope(|scope| {
            let run = &run;
            parts.into_iter().for_each(|part| scope.spawn(move |_| run(part)));
            caller()
        });
        match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => fault.resume(),
            None => answer,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.pool = None;
        join(mem::take(&mut self.handles));
    }
}

/// Calls `work` on each item, on `threads` threads for this job alone; the results are in the order of the items. The caller's is one
/// of them: it works while the others wake up.
pub fn map_ordered<T: Send, R: Send>(
    threads: usize,
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
) -> Result<Vec<R>, TryReserveError> {
    let (mut numbered, mut ordered) = (Vec::new(), Vec::new());
    numbered.try_reserve_exact(items.len())?;
    ordered.try_reserve_exact(items.len())?;
    let pool = Pool::with_threads(threads.min(items.len()).saturating_sub(1));
    let source = Mutex::new(items.into_iter().enumerate());
    let next = || source.lock().unwrap_or_else(PoisonError::into_inner).next();
    let results = Mutex::new(numbered);
    let run = || {
        while let Some((number, item)) = next() {
            let result = work(item);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    pool.alongside(vec![(); pool.handles.len()], |()| run(), run);
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(number, _)| *number);
    ordered.extend(results.into_iter().map(|(_, result)| result));
    Ok(ordered)
}

fn start(worker: ThreadBuilder) -> io::Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(format!("checkmap-{}", worker.index()));
    start_quietly(|| builder.spawn(|| worker.run()))
}

/// Lets `start` start a thread, which inherits the mask of signals: it blocks those that are no fault of its own.
pub(crate) fn start_quietly<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut blocked = SigSet::all();
    FAULTS.into_iter().for_each(|signal| blocked.remove(signal));
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let started = start();
    before.thread_set_mask()?;
    started
}

/// Waits for threads that were told to end; not for this one, should it be among them.
fn join(handles: Vec<JoinHandle<()>>) {
    if handles.is_empty() {
        return;
    }
    let own = thread::current().id();
    for handle in handles.into_iter().filter(|handle| handle.thread().id() != own) {
        // A panic of the work was handed on when it happened.
        let _ = handle.join();
    }
}
