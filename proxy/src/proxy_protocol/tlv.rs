//! What may follow the addresses of version 2: types, lengths and values (section 2.2).

use super::HeaderError;

const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
/// In the first byte of [`SSL`]: the client has connected over TLS.
const CLIENT_SSL: u8 = 0x01;

/// Reads the values, which begin at `at` in the header; whether the client's connection is encrypted, if they tell it.
/// Types that we do not know are skipped.
pub(super) fn read(values: &[u8], header: &[u8], mut at: usize) -> Result<Option<bool>, HeaderError> {
    let (mut rest, mut over_tls) = (values, None);
    while let Some((kind, value, after)) = next(rest)? {
        at += 3;
        match kind {
            CRC32C => check(value, header, at)?,
            SSL => {
                // Behind the flags comes the result of the verification, 32 bits, and then further values.
                let (&flags, more) = value.split_first().ok_or(HeaderError::Values)?;
                let (_, mut inner) = more.split_at_checked(4).ok_or(HeaderError::Values)?;
                while let Some((_, _, after)) = next(inner)? {
                    inner = after;
                }
                over_tls = Some(flags & CLIENT_SSL != 0);
            }
            _ => {}
        }
        at += value.len();
        rest = after;
    }
    Ok(over_tls)
}

/// A type, its value, and what follows.
type Next<'b> = Option<(u8, &'b [u8], &'b [u8])>;

fn next(rest: &[u8]) -> Result<Next<'_>, HeaderError> {
    match rest {
        [] => Ok(None),
        [kind, high, low, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (value, after) = rest.split_at_checked(length).ok_or(HeaderError::Values)?;
            Ok(Some((*kind, value, after)))
        }
        _ => Err(HeaderError::Values),
    }
}

/// Whether the checksum at `at` is that of the whole header with zeros in its own place.
fn check(value: &[u8], header: &[u8], at: usize) -> Result<(), HeaderError> {
    let expected = value.first_chunk::<4>().filter(|_| value.len() == 4).ok_or(HeaderError::Values)?;
    let octets = header.iter().enumerate();
    let zeroed = octets.map(|(index, octet)| if (at..at + 4).contains(&index) { 0 } else { *octet });
    if crc32c(zeroed) == u32::from_be_bytes(*expected) { Ok(()) } else { Err(HeaderError::Checksum) }
}

/// CRC-32C (RFC 3720, appendix B.4). Headers are short, so bit by bit is quick enough.
pub(super) fn crc32c(octets: impl Iterator<Item = u8>) -> u32 {
    !octets.fold(!0, |crc, octet| {
        (0..8).fold(crc ^ u32::from(octet), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}
