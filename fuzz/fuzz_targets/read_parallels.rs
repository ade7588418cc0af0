#![no_main]

#[path = "../bodies/read_parallels.rs"]
mod body;
#[allow(dead_code, unreachable_pub, reason = "the tests share it, and use more of it")]
#[path = "../../tests/support/memory.rs"]
mod memory;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::read_parallels(bytes));
