//! What reading and writing messages share of EDNS (RFC 6891): its numbers, and the one reader of its options.

/// The bit with which a client accepts signatures, DO, in the first octet of the flags (RFC 3225 §3).
pub(crate) const SIGNATURES: u8 = 0x80;
/// The option that names a client subnet (RFC 7871 §6).
pub(crate) const SUBNET: u16 = 8;
/// The option that carries cookies (RFC 7873 §4).
pub(crate) const COOKIE: u16 = 10;
/// The option that requests, and gives, the idle limit of a connection (RFC 7828 §3.1).
pub(crate) const KEEPALIVE: u16 = 11;
/// The option that pads a message (RFC 7830 §3).
pub(crate) const PADDING: u16 = 12;
/// The option that carries extended errors (RFC 8914 §2).
pub(crate) const EXTENDED_ERROR: u16 = 15;

/// The first option in the data of an OPT record (RFC 6891 §6.1.2): its number, its data, and what follows it. `None` where
/// it is cut off.
#[inline]
pub(crate) fn option(data: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (&[code_high, code_low, length_high, length_low], rest) = data.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let (option, rest) = rest.split_at_checked(length)?;
    Some((u16::from_be_bytes([code_high, code_low]), option, rest))
}
