//! `$GENERATE`: one line for many records, as in BIND.

use std::ops::RangeInclusive;

use store::model::rdata::{self, Word};

/// What the directive looks like.
pub(super) const FORM: &str =
    "$GENERATE 1-254/2 host$ A 192.0.2.$, the numbers up to 2147483647, at most 65536 of them";
const MAX: u64 = 65_536;

/// The numbers.
#[derive(Clone, Debug)]
pub(super) struct Range {
    all: RangeInclusive<u64>,
    step: usize,
}

impl Range {
    pub(super) fn read(word: &Word<'_>) -> Option<Self> {
        let text = std::str::from_utf8(word.text).ok()?;
        let (span, step) = text.split_once('/').unwrap_or((text, "1"));
        let (from, to) = span.split_once('-')?;
        let number = |text: &str| text.parse::<u32>().ok().filter(|it| *it <= i32::MAX as u32);
        let (from, to, step) = (u64::from(number(from)?), u64::from(number(to)?), u64::from(number(step)?));
        let fits = from <= to && step > 0 && (to - from) / step < MAX;
        fits.then_some(Self { all: from..=to, step: usize::try_from(step).ok()? })
    }

    pub(super) fn numbers(self) -> impl Iterator<Item = u64> {
        self.all.step_by(self.step)
    }
}

/// True if all of the data is one word in quotes, as in `$GENERATE 1-9 m$ MX "10 mail$"`. BIND reads what is inside as
/// the data, in which quotes have a backslash before them.
fn holds_its_data(template: &[Word<'_>]) -> bool {
    let is_type = |word: &Word<'_>| {
        !word.quoted && std::str::from_utf8(word.text).ok().and_then(rdata::number).is_some()
    };
    matches!(template, [_, .., kind, data] if data.quoted && is_type(kind))
}

/// The line of one number; `None` if the template is not understood.
pub(super) fn line(template: &[Word<'_>], number: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let bare = holds_its_data(template).then(|| template.len() - 1);
    for (at, word) in template.iter().enumerate() {
        let bare = bare == Some(at);
        let quote: &[u8] = if word.quoted && !bare { b"\"" } else { b"" };
        out.extend_from_slice(quote);
        substitute(word.text, number, bare, &mut out)?;
        out.extend_from_slice(quote);
        out.push(b' ');
    }
    Some(out)
}

/// `$` is the number, `$$` and `\$` a dollar, `${offset,width,base}` the number moved and formatted. In data out of its
/// quotes `\"` is a quote.
fn substitute(text: &[u8], number: u64, bare: bool, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [next, further @ ..]) => {
                let plain = *next == b'$' || (bare && *next == b'"');
                if !plain {
                    out.push(b'\\');
                }
                out.push(*next);
                rest = further;
            }
            (b'$', [b'$', further @ ..]) => {
                out.push(b'$');
                rest = further;
            }
            (b'$', [b'{', further @ ..]) => {
                let end = further.iter().position(|octet| *octet == b'}')?;
                out.extend(formatted(further.get(..end)?, number)?.bytes());
                rest = further.get(end + 1..)?;
            }
            (b'$', _) => out.extend(number.to_string().bytes()),
            (plain, _) => out.push(*plain),
        }
    }
    Some(())
}

fn formatted(modifiers: &[u8], number: u64) -> Option<String> {
    let mut parts = std::str::from_utf8(modifiers).ok()?.split(',');
    let offset: i64 = parts.next()?.trim_start_matches('+').parse().ok()?;
    let width: usize = parts.next().map_or(Some(0), |width| width.parse().ok())?;
    let base = parts.next().unwrap_or("d");
    // As BIND: 32 bits with a sign, which the bases other than ten show as they are.
    let number = i32::try_from(i64::try_from(number).ok()?.checked_add(offset)?).ok()?;
    let bits = number.cast_unsigned();
    if width > 63 || parts.next().is_some() {
        return None;
    }
    match base {
        "d" => Some(format!("{number:0width$}")),
        "o" => Some(format!("{bits:0width$o}")),
        "x" => Some(format!("{bits:0width$x}")),
        "X" => Some(format!("{bits:0width$X}")),
        "n" => Some(nibbles(bits, width)),
        "N" => Some(nibbles(bits, width).to_ascii_uppercase()),
        _ => None,
    }
}

/// Hexadecimal digits from the last to the first, parted by dots, as in names below `ip6.arpa`. The width counts the
/// dots, and one that ends in a dot ends the name, as in BIND.
fn nibbles(mut bits: u32, width: usize) -> String {
    let mut out = String::new();
    loop {
        out.extend(char::from_digit(bits & 0xf, 16));
        bits >>= 4;
        if out.len() < width || bits != 0 {
            out.push('.');
        }
        if bits == 0 && out.len() >= width {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use store::model::rdata::Scanner;

    use super::*;

    fn lines(text: &str) -> Option<Vec<String>> {
        let entry = Scanner::new(text.as_bytes()).next().unwrap().unwrap();
        let (range, template) = entry.words.split_first().unwrap();
        let line = |number| Some(String::from_utf8(line(template, number)?).unwrap().trim().to_owned());
        Range::read(range)?.numbers().map(line).collect()
    }

    #[test]
    fn numbers_replace_the_dollar() {
        assert_eq!(
            lines("1-5/2 h$ A 192.0.2.$").unwrap(),
            ["h1 A 192.0.2.1", "h3 A 192.0.2.3", "h5 A 192.0.2.5"]
        );
        assert_eq!(
            lines(r#"9-10 ${-1,3}.a TXT "$$ \$ \065" ${1,0,x}"#).unwrap(),
            [r#"008.a TXT "$ $ \065" a"#, r#"009.a TXT "$ $ \065" b"#,]
        );
    }

    #[test]
    fn data_in_quotes_is_read_without_them() {
        for (written, read) in [
            (r#"1-1 h$ TXT "\"a $ b\" \"c\"""#, r#"h1 TXT "a 1 b" "c""#),
            (r#"1-1 h$ TXT "a $ b""#, "h1 TXT a 1 b"),
            (r#"1-1 h$ IN TXT "a" "$""#, r#"h1 IN TXT "a" "1""#),
            (r#"1-1 h$ 60 MX "10 mail$""#, "h1 60 MX 10 mail1"),
            (r#"1-1 h$ MX 10 "mail$""#, r#"h1 MX 10 "mail1""#),
            (r#"1-1 h$ NAPTR "10 $ \"u\" \"x\" \"!^.*\$!y!\" .""#, r#"h1 NAPTR 10 1 "u" "x" "!^.*$!y!" ."#),
        ] {
            assert_eq!(lines(written).unwrap(), [read], "{written}");
        }
    }

    #[test]
    fn nibbles_are_written_backwards() {
        assert_eq!(lines("16-17 ${0,7,n}.ip A x").unwrap(), ["0.1.0.0.ip A x", "1.1.0.0.ip A x"]);
        assert_eq!(lines("26-26 ${0,7,N}.ip A x").unwrap(), ["A.1.0.0.ip A x"]);
        assert_eq!(lines("10-10 x${0,0,n} A x").unwrap(), ["xa A x"]);
        assert_eq!(lines("1-1 x${0,2,n} A x").unwrap(), ["x1. A x"]);
        assert_eq!(lines("256-256 ${0,1,n} A x").unwrap(), ["0.0.1 A x"]);
    }

    #[test]
    fn what_is_no_range_or_template_is_refused() {
        for bad in [
            "1 a",
            "2-1 a",
            "0-65536 a",
            "1-2/0 a",
            "1-2 ${ a",
            "1-2 ${x} a",
            "1-2 ${0,99} a",
            "0-1 ${0,1,z} a",
        ] {
            assert_eq!(lines(bad), None, "{bad}");
        }
    }
}
