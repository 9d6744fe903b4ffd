//! Tests of the codec, by what they are about.
