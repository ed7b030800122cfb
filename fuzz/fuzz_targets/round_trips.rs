//! The body of the property test of the same name, on texts that the fuzzer finds.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| limiter::language::fuzzing::round_trips(text));
