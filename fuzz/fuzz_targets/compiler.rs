#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sg_fuzz_targets::compiler(bytes));
