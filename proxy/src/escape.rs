//! Texts of clients in JSON and in HTML: escaped so that they end where they should, and always valid.

/// Octets of a JSON string that are not written as they are: the others up to 127 are.
static JSON: [bool; 256] = special(false);
static HTML: [bool; 256] = special(true);

const fn special(html: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let octet = at as u8;
        let mark = if html {
            matches!(octet, b'<' | b'>' | b'&' | b'"' | b'\'')
        } else {
            matches!(octet, b'"' | b'\\')
        };
        table[at] = mark || octet < 0x20 || octet >= 0x7f;
        at += 1;
    }
    table
}

/// Appends the inside of a JSON string (RFC 8259 §7). What is not UTF-8 becomes U+FFFD.
pub(crate) fn append_json(out: &mut Vec<u8>, text: &[u8]) {
    append(out, text, &JSON, |out, character| match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // Also the separators that JavaScript takes as ends of lines, and DEL with the controls behind it.
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
            let code = u32::from(character);
            let digit = |shift: u32| b"0123456789abcdef"[(code >> shift & 15) as usize];
            out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
        }
        _ => append_character(out, character),
    });
}

/// Appends text to the content or a quoted attribute of HTML. Control characters and what is not UTF-8 become U+FFFD.
pub(crate) fn append_html(out: &mut Vec<u8>, text: &[u8]) {
    append(out, text, &HTML, |out, character| match character {
        '<' => out.extend_from_slice(b"&lt;"),
        '>' => out.extend_from_slice(b"&gt;"),
        '&' => out.extend_from_slice(b"&amp;"),
        '"' => out.extend_from_slice(b"&quot;"),
        '\'' => out.extend_from_slice(b"&#39;"),
        '\n' | '\t' => append_character(out, character),
        it if it.is_control() => append_character(out, char::REPLACEMENT_CHARACTER),
        it => append_character(out, it),
    });
}

/// Copies what needs no escape in one piece, and escapes the rest by character.
fn append(out: &mut Vec<u8>, text: &[u8], special: &[bool; 256], escape: impl Fn(&mut Vec<u8>, char)) {
    let (plain, rest) = text.split_at(plain_beginning(text, special));
    out.extend_from_slice(plain);
    if rest.is_empty() {
        return;
    }
    for chunk in rest.utf8_chunks() {
        let mut valid = chunk.valid();
        while let Some(first) = valid.chars().next() {
            let plain = valid.bytes().position(|octet| special[usize::from(octet)]).unwrap_or(valid.len());
            if plain > 0 {
                out.extend_from_slice(&valid.as_bytes()[..plain]);
                valid = &valid[plain..];
            } else {
                escape(out, first);
                valid = &valid[first.len_utf8()..];
            }
        }
        if !chunk.invalid().is_empty() {
            append_character(out, char::REPLACEMENT_CHARACTER);
        }
    }
}

/// How many octets at the beginning need no escape. Eight are looked at together, with arithmetic on a word that may find
/// too many of them but misses none; a table then decides. A line of the access log takes a
/// quarter less time for it.
fn plain_beginning(text: &[u8], special: &[bool; 256]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, _) = text.as_chunks::<8>();
    let is_suspect = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        let below = |limit: u8| word.wrapping_sub(ONES * u64::from(limit));
        let equal = |octet: u8| (word ^ (ONES * u64::from(octet))).wrapping_sub(ONES);
        // Borrows make only octets behind one that is suspect look suspect.
        (word | word.wrapping_add(ONES) | below(0x20) | equal(b'"') | equal(b'\\')) & HIGH != 0
    };
    let checked = if special[usize::from(b'<')] {
        0
    } else {
        words.iter().take_while(|it| !is_suspect(it)).count() * 8
    };
    let rest = text.get(checked..).unwrap_or_default();
    checked + rest.iter().position(|octet| special[usize::from(*octet)]).unwrap_or(rest.len())
}

fn append_character(out: &mut Vec<u8>, character: char) {
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &[u8]) -> String {
        let mut out = Vec::new();
        append_json(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    fn html(text: &[u8]) -> String {
        let mut out = Vec::new();
        append_html(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_escaped() {
        assert_eq!(json(b"/a?b=c"), "/a?b=c");
        assert_eq!(
            json("a\"b\\c\nd\u{1}\u{7f}é\u{2028}".as_bytes()),
            "a\\\"b\\\\c\\nd\\u0001\\u007fé\\u2028"
        );
        assert_eq!(json(b"a\xffb\xc3"), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn html_is_escaped() {
        assert_eq!(
            html(b"<script>alert('1&2')</script>"),
            "&lt;script&gt;alert(&#39;1&amp;2&#39;)&lt;/script&gt;"
        );
        assert_eq!(html(b"\" \x00\xff \xc3\xa9"), "&quot; \u{fffd}\u{fffd} é");
    }

    #[test]
    fn what_is_looked_at_together_is_found_like_what_is_looked_at_alone() {
        for octet in 0..=255 {
            for at in 0..20 {
                let mut text = *b"/api/v1/items/4711?p";
                text[at] = octet;
                for special in [&JSON, &HTML] {
                    let alone = text.iter().position(|it| special[usize::from(*it)]).unwrap_or(text.len());
                    assert_eq!(plain_beginning(&text, special), alone, "{octet} at {at}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_json(text in any::<String>()) {
            let read: String = serde_json::from_str(&format!("\"{}\"", json(text.as_bytes()))).unwrap();
            prop_assert_eq!(read, text);
        }

        #[test]
        fn any_octets_are_valid(octets in prop::collection::vec(any::<u8>(), 0..60)) {
            let read: String = serde_json::from_str(&format!("\"{}\"", json(&octets))).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&octets));
            prop_assert!(!html(&octets).contains(['<', '>', '"', '\'']));
        }
    }
}
