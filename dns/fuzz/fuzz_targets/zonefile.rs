//! Any text, read as a zone file.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns::fuzzing::zonefile(data));
