#![no_main]

#[path = "../bodies/read_qcow2.rs"]
mod body;
#[allow(dead_code, unreachable_pub, reason = "the tests share it, and use more of it")]
#[path = "../../tests/support/memory.rs"]
mod memory;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::read_qcow2(bytes));
