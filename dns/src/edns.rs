//! The numbers of EDNS (RFC 6891) that reading and writing messages share.

/// The bit by which an asker takes signatures, DO, in the first octet of the flags (RFC 3225 §3).
pub(crate) const SIGNATURES: u8 = 0x80;
/// The option that names a client subnet (RFC 7871 §6).
pub(crate) const SUBNET: u16 = 8;
/// The option that carries cookies (RFC 7873 §4).
pub(crate) const COOKIE: u16 = 10;
/// The option that carries extended errors (RFC 8914 §2).
pub(crate) const EXTENDED_ERROR: u16 = 15;
