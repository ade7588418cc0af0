#![no_main]

#[path = "../bodies/read_nbd.rs"]
mod body;
#[path = "../bodies/recorded.rs"]
mod recorded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::read_nbd(bytes));
