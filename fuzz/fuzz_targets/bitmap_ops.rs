#![no_main]

#[path = "../bodies/bitmap_ops.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::bitmap_ops(bytes));
