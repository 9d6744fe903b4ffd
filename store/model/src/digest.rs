//! Digests as text.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// SHA-256 in 64 hexadecimal digits, in lower case: the stored form of secrets and of what a commit writes.
#[must_use]
pub fn sha256_hex(octets: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(&Sha256::digest(octets))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_of_fips_180() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(super::sha256_hex("abc"), abc);
    }
}
