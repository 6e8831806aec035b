//! Any bytes as an experiment file. Begin with the cases: `cargo +nightly fuzz run loader tests/cases/good tests/cases/refused`.
#![no_main]

#[path = "../../tests/mutated/mod.rs"]
mod mutated;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mutated::load(bytes));
