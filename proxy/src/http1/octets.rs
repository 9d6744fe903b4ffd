//! Classes of octets, and how far a run of one class reaches: the inner loops of reading a head.
//!
//! Tokens and targets are short, so a table with one look-up per octet is the fastest there. Values are long, so they are read
//! eight octets at a time.

/// In [`CLASS`]: may be part of a token (RFC 9110 §5.6.2), which are names and methods.
const TOKEN: u8 = 1;
/// In [`CLASS`]: may be in the path of a target, or before it in the absolute form (RFC 3986 §2), without `%` and `?`. With
/// `\`, which no URI has: whether it is refused depends on the route.
const PATH: u8 = 2;
/// In [`CLASS`]: may be in the query of a target. A `%` there is the business of the program that reads the query.
const QUERY: u8 = 32;
/// In [`CLASS`]: visible ASCII that no query may have (RFC 3986 §3.4) and clients send in queries nevertheless. Without `#`,
/// which ends a query.
const ODD: u8 = 64;
/// In [`CLASS`]: a hexadecimal digit.
const HEX: u8 = 4;
/// In [`CLASS`]: may be in a field value: white space, visible, or above 127 (RFC 9110 §5.5).
const TEXT: u8 = 8;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "at is below 256")]
        let octet = at as u8;
        let unreserved = octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~');
        let mut class = 0;
        if octet.is_ascii_alphanumeric()
            || matches!(octet, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^')
            || matches!(octet, b'_' | b'`' | b'|' | b'~')
        {
            class |= TOKEN;
        }
        if unreserved
            || matches!(octet, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
            || matches!(octet, b':' | b'/' | b'[' | b']' | b'@' | b'\\')
        {
            class |= PATH | QUERY;
        }
        if matches!(octet, b'?' | b'%') {
            class |= QUERY;
        }
        if matches!(octet, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') {
            class |= ODD;
        }
        if octet.is_ascii_hexdigit() {
            class |= HEX;
        }
        if octet == b'\t' || (octet >= b' ' && octet != 0x7f) {
            class |= TEXT;
        }
        table[at] = class;
        at += 1;
    }
    table
}

const fn is(octet: u8, class: u8) -> bool {
    CLASS[octet as usize] & class != 0
}

/// Whether this may be part of a token.
pub(super) const fn is_token(octet: u8) -> bool {
    is(octet, TOKEN)
}

/// Whether this may be in a field value or a reason.
pub(super) const fn is_text(octet: u8) -> bool {
    is(octet, TEXT)
}

/// Where the run of octets of a token that starts here ends.
pub(super) fn token_end(bytes: &[u8], from: usize) -> usize {
    run(bytes, from, TOKEN)
}

/// Where the run of octets of a target that starts here ends: at the end, at another octet, or at a `%` in the path that two
/// hexadecimal digits do not follow. `lenient`: queries may have octets that are not of URIs.
pub(super) fn target_end(bytes: &[u8], from: usize, lenient: bool) -> usize {
    let query = if lenient { QUERY | ODD } else { QUERY };
    let mut at = run(bytes, from, PATH);
    loop {
        match bytes.get(at..) {
            Some([b'?', ..]) => return run(bytes, at + 1, query),
            Some([b'%', high, low, ..]) if is(*high, HEX) && is(*low, HEX) => at = run(bytes, at + 3, PATH),
            _ => return at,
        }
    }
}

fn run(bytes: &[u8], from: usize, class: u8) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().position(|&octet| !is(octet, class)).unwrap_or(rest.len())
}

/// Where the run of octets of a field value or reason that starts here ends.
pub(super) fn text_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) else {
            return run(bytes, at, TEXT);
        };
        let controls = controls(u64::from_le_bytes(*eight));
        if controls == 0 {
            at += 8;
            continue;
        }
        at += (controls.trailing_zeros() / 8) as usize;
        // A tab is a control octet and the only one that may be in a value.
        if bytes[at] != b'\t' {
            return at;
        }
        at += 1;
    }
}

/// The highest bit of every octet below 32 or equal to 127. Those above the lowest one found may be wrong, which does not
/// matter to who looks for the first.
const fn controls(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    let low = eight.wrapping_sub(ONES * 0x20);
    let deletes = (eight ^ (ONES * 0x7f)).wrapping_sub(ONES);
    // An octet above 127 is neither; in `eight ^ 0x7f…` it also has its highest bit set.
    (low | deletes) & !eight & HIGHS
}

/// Where the white space that starts here ends (OWS of RFC 9110 §5.6.3).
pub(super) fn white_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    at
}

/// Without white space at both ends.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The elements of a list (RFC 9110 §5.6.1), without those that are empty. Not for lists with quoted strings.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&octet| octet == b',').map(trim).filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_classes_are_those_of_the_rfcs() {
        let all = |class: u8| (0..=u8::MAX).filter(|&it| is(it, class)).map(char::from).collect::<String>();
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let small = letters.to_lowercase();
        assert_eq!(all(TOKEN), format!("!#$%&'*+-.0123456789{letters}^_`{small}|~"));
        assert_eq!(all(PATH), format!("!$&'()*+,-./0123456789:;=@{letters}[\\]_{small}~"));
        assert_eq!(all(QUERY), format!("!$%&'()*+,-./0123456789:;=?@{letters}[\\]_{small}~"));
        let text = (0..=u8::MAX).filter(|&it| is(it, TEXT)).count();
        assert_eq!(text, 256 - 32 - 1 + 1, "all but controls and DEL, and the tab");
    }

    proptest! {
        #[test]
        fn eight_at_a_time_ends_where_one_at_a_time_ends(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\t'), Just(0x7f_u8), Just(0x1f), 0x20..=0xff_u8, any::<u8>()],
                0..64,
            ),
            from in 0..64_usize,
        ) {
            let from = from.min(bytes.len());
            prop_assert_eq!(text_end(&bytes, from), run(&bytes, from, TEXT));
        }
    }
}
