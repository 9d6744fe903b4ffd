//! When a certificate expires: the one field of X.509 (RFC 5280 §4.1.2.5) that a check reads. A certificate parser
//! would be another dependency for it.

/// The seconds since 1970 at which the certificate expires; `None` if this is no certificate.
pub(super) fn not_after(der: &[u8]) -> Option<u64> {
    const SEQUENCE: u8 = 0x30;
    let (_, certificate, _) = element(der, Some(SEQUENCE))?;
    let (_, mut rest, _) = element(certificate, Some(SEQUENCE))?;
    // [0] version, which is optional.
    if rest.first() == Some(&0xa0) {
        rest = element(rest, None)?.2;
    }
    // serialNumber, signature, issuer.
    for _ in 0..3 {
        rest = element(rest, None)?.2;
    }
    let (_, validity, _) = element(rest, Some(SEQUENCE))?;
    let (_, _, after) = element(validity, None)?;
    let (tag, text, _) = element(after, None)?;
    match tag {
        0x17 => time(text, 2),
        0x18 => time(text, 4),
        _ => None,
    }
}

/// The tag and content of an element, and what follows it.
fn element(der: &[u8], expected: Option<u8>) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    if expected.is_some_and(|it| it != tag) {
        return None;
    }
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        let fits = octets.len() <= 4;
        (fits.then(|| octets.iter().fold(0usize, |sum, octet| sum << 8 | usize::from(*octet)))?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ`, or with four digits of the year.
fn time(text: &[u8], year_digits: usize) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    let (year, rest) = digits.split_at_checked(year_digits)?;
    let number = |digits: &[u8]| {
        let all = digits.iter().all(u8::is_ascii_digit);
        all.then(|| digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    };
    let year = number(year)?;
    let year = match (year_digits, year) {
        (2, 50..) => 1900 + year,
        (2, _) => 2000 + year,
        _ => year,
    };
    let [month, day, hour, minute, second]: [u64; 5] =
        rest.chunks(2).map(number).collect::<Option<Vec<_>>>()?.try_into().ok()?;
    if rest.len() != 10 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    // Days from civil, counted from March so that the leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1;
    let since_1970 = days.checked_sub(719_468)?;
    Some(since_1970 * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_both_forms() {
        assert_eq!(time(b"700101000000Z", 2), Some(0));
        assert_eq!(time(b"20000229235959Z", 4), Some(951_868_799));
        assert_eq!(time(b"491231235959Z", 2), Some(2_524_607_999));
        assert_eq!(time(b"20500101000000Z", 4), Some(2_524_608_000));
        for bad in [b"20001329235959Z".as_slice(), b"2000Z", b"", b"20000229235959", b"2000022923595aZ"] {
            assert_eq!(time(bad, 4), None);
        }
    }

    #[test]
    fn the_end_of_a_real_certificate() {
        let mut params = rcgen::CertificateParams::new(vec!["a.b".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 3, 4);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert_eq!(not_after(certificate.der()), Some(1_930_348_800));
    }

    proptest! {
        #[test]
        fn anything_else_is_no_certificate(mut bytes: Vec<u8>) {
            let _ = not_after(&bytes);
            bytes.splice(0..0, [0x30, 0x10, 0x30, 0x0e]);
            let _ = not_after(&bytes);
        }
    }
}
