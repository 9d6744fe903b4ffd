//! Reading the pairs of a `Cookie` field and of a query, borrowed from the request and without allocation: what sticky
//! splits, consistent hashing and the conditions of routes need.
//!
//! Both readers are bounded ([`MAX_PAIRS`]), so that a head full of pairs costs no more than a head without, and skip what
//! is not a pair instead of guessing. Both skip nothing else: the value is as the client wrote it. Of several pairs with
//! one name, sticky splits and consistent hashing take the first, and a condition holds if it holds for one of them.

/// The pairs that are read of a request's cookies or query; those behind are not looked at.
pub(crate) const MAX_PAIRS: usize = 256;

/// The pairs of one `Cookie` line (RFC 6265 §4.2.1), in their order. A pair without `=`, with a name that is not a token, or
/// with a control character in its value is skipped. Quotes belong to the value, as browsers read it.
pub(crate) fn cookies(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    line.split(|&octet| octet == b';').take(MAX_PAIRS).filter_map(|pair| {
        let (name, value) = split_pair(pair)?;
        let (name, value) = (name.trim_ascii(), value.trim_ascii());
        (is_token(name) && !value.iter().any(u8::is_ascii_control)).then_some((name, value))
    })
}

/// The value of the first cookie of this name in all `Cookie` lines. Names are compared with case (RFC 6265 §5.4).
pub(crate) fn cookie<'a>(lines: impl IntoIterator<Item = &'a [u8]>, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = lines.into_iter().flat_map(cookies).take(MAX_PAIRS);
    first(pairs, |it| it == name)
}

/// The pairs of a query (without its `?`), in their order and as they are written, percent-encoded. A pair without `=` has
/// an empty value; empty pairs and empty names are skipped.
pub(crate) fn query_pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = query.split(|&octet| octet == b'&').take(MAX_PAIRS);
    pairs.map(|pair| split_pair(pair).unwrap_or((pair, b""))).filter(|(name, _)| !name.is_empty())
}

/// Whether a name or value of a query is this one once it is decoded (`%XX`, and `+` as a space). A `%` without two
/// hexadecimal digits behind it is itself.
pub(crate) fn is_decoded(written: &[u8], expected: &[u8]) -> bool {
    // Nearly all are written without an escape.
    written == expected && !written.iter().any(|it| matches!(it, b'%' | b'+'))
        || decoded(written).eq(expected.iter().copied())
}

/// The octets of a name or value of a query, decoded.
pub(crate) fn decoded(written: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = written;
    std::iter::from_fn(move || {
        let (octet, behind) = match rest {
            [b'%', high, low, behind @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, behind),
                _ => (b'%', &rest[1..]),
            },
            [b'+', behind @ ..] => (b' ', behind),
            [octet, behind @ ..] => (*octet, behind),
            [] => return None,
        };
        rest = behind;
        Some(octet)
    })
}

fn first<'a>(
    mut pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> Option<&'a [u8]> {
    pairs.find_map(|(name, value)| is_wanted(name).then_some(value))
}

fn split_pair(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|&octet| octet == b'=')?;
    Some((pair.get(..at)?, pair.get(at + 1..)?))
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Whether this is a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &[u8]) -> bool {
    const MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.iter().all(|it| it.is_ascii_alphanumeric() || MARKS.contains(it))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(String, String)> {
        let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
        pairs.map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn cookies_are_read_as_they_are_written() {
        let read = |line: &str| {
            let pairs = text(cookies(line.as_bytes()));
            pairs.iter().map(|(name, value)| format!("{name}|{value}")).collect::<Vec<_>>()
        };
        assert_eq!(read("a=1; b=2"), ["a|1", "b|2"]);
        assert_eq!(read("a=1;b=2;"), ["a|1", "b|2"], "without spaces, and with a separator at the end");
        assert_eq!(read("a=\"x y\"; b=c=d"), ["a|\"x y\"", "b|c=d"]);
        assert_eq!(read("a="), ["a|"]);
        assert_eq!(read("flag; =x; a b=c; ok=1"), ["ok|1"], "what is not a pair is skipped");
        assert_eq!(read("a=1\u{7f}; b=2\u{1}; c=3"), ["c|3"], "control characters");
        assert_eq!(read(""), Vec::<String>::new());
    }

    #[test]
    fn the_first_cookie_of_a_name_counts_over_all_lines() {
        let lines: [&[u8]; 2] = [b"b=0; A=9", b"a=1; a=2"];
        assert_eq!(cookie(lines, b"a"), Some(&b"1"[..]), "names have case");
        assert_eq!(cookie(lines, b"c"), None);
    }

    #[test]
    fn a_field_full_of_pairs_is_read_in_part() {
        let many = "x=1;".repeat(MAX_PAIRS * 2);
        assert_eq!(cookies(many.as_bytes()).count(), MAX_PAIRS);
        let last = format!("{many}a=1");
        assert_eq!(cookie([last.as_bytes()], b"a"), None);
        let lines = vec![b"x=1; x=2".as_slice(); MAX_PAIRS].into_iter().chain([b"a=1".as_slice()]);
        assert_eq!(cookie(lines, b"a"), None, "over all lines together");
        assert_eq!(query_pairs("x=1&".repeat(MAX_PAIRS * 2).as_bytes()).count(), MAX_PAIRS);
    }

    #[test]
    fn queries_are_read_pair_by_pair() {
        let pairs = text(query_pairs(b"a=1&b&&=x&c=d=e&a=2"));
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "1"), ("b", ""), ("c", "d=e"), ("a", "2")]);
        assert_eq!(query_pairs(b"").count(), 0);
    }

    #[test]
    fn values_are_compared_decoded() {
        for (written, meant) in
            [("a%20b", "a b"), ("a+b", "a b"), ("%2b", "+"), ("100%", "100%"), ("%zz", "%zz")]
        {
            assert!(is_decoded(written.as_bytes(), meant.as_bytes()), "{written}");
        }
        assert!(!is_decoded(b"a+b", b"a+b"));
        assert!(!is_decoded(b"ab", b"a"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_to_the_same(octets in prop::collection::vec(any::<u8>(), 0..40)) {
            let written: String = octets.iter().map(|it| format!("%{it:02x}")).collect();
            prop_assert!(is_decoded(written.as_bytes(), &octets));
            prop_assert_eq!(decoded(written.as_bytes()).collect::<Vec<_>>(), octets);
        }

        #[test]
        fn no_octets_are_too_strange(octets in prop::collection::vec(any::<u8>(), 0..80)) {
            for (name, value) in cookies(&octets) {
                prop_assert!(is_token(name) && !value.contains(&b';'));
            }
            prop_assert!(query_pairs(&octets).all(|(name, _)| !name.is_empty() && !name.contains(&b'=')));
        }
    }
}
