//! Any bytes as an undo log: `cargo +nightly fuzz run undo_log`.
#![no_main]

#[path = "../../tests/mutated/mod.rs"]
mod mutated;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mutated::read_log(bytes));
