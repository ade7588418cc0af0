//! The NBD client: against real servers, whose answers are compared with those of other clients and of the file; and against a
//! server of our own that breaks every rule.

mod faults;
mod marking;
mod model;
mod program;
mod read;
mod real;
#[path = "../../fuzz/bodies/recorded.rs"]
mod recorded;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod uri;

use checkmap::nbd::{Client, ConnectOptions};
use checkmap::progress::Unobserved;
use std::time::Duration;
use support::nbd_server::{Seen, Server};

/// Lets a client with these contexts talk to `server`; returns its answer, and the facts that the server saw.
fn talk<T>(
    server: Server,
    contexts: &[&[u8]],
    work: impl FnOnce(&mut Client) -> checkmap::Result<T>,
) -> (checkmap::Result<T>, Seen) {
    talk_within(Duration::from_secs(60), server, contexts, work)
}

fn talk_within<T>(
    timeout: Duration,
    server: Server,
    contexts: &[&[u8]],
    work: impl FnOnce(&mut Client) -> checkmap::Result<T>,
) -> (checkmap::Result<T>, Seen) {
    let (stream, thread) = server.start();
    let options = ConnectOptions::new(b"disk").contexts(contexts).timeout(timeout);
    let answer = Client::over(Box::new(stream), &options, &mut Unobserved).and_then(|mut client| work(&mut client));
    (answer, thread.join().expect("the server does not panic"))
}
