#![no_main]

#[path = "../bodies/read_segment.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::read_segment(bytes));
