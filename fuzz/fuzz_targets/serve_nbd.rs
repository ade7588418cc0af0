#![no_main]

#[path = "../bodies/serve_nbd.rs"]
mod body;
#[path = "../bodies/recorded.rs"]
mod recorded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::serve_nbd(bytes));
