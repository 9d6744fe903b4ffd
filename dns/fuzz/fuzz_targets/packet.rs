//! Any octets, answered as a datagram and as a message of a stream.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns::fuzzing::packet(data));
