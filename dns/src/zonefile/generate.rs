//! `$GENERATE`: one line for many records, as in BIND.

use std::ops::RangeInclusive;

use store::model::rdata::Word;

/// What the directive looks like.
pub(super) const FORM: &str =
    "$GENERATE 1-254/2 host$ A 192.0.2.$, the numbers up to 2147483647, at most 65536 of them";
const MOST: u64 = 65_536;

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
        let fits = from <= to && step > 0 && (to - from) / step < MOST;
        fits.then_some(Self { all: from..=to, step: usize::try_from(step).ok()? })
    }

    pub(super) fn numbers(self) -> impl Iterator<Item = u64> {
        self.all.step_by(self.step)
    }
}

/// The line of one number; `None` if the template is not understood.
pub(super) fn line(template: &[Word<'_>], number: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for word in template {
        let quote: &[u8] = if word.quoted { b"\"" } else { b"" };
        out.extend_from_slice(quote);
        substitute(word.text, number, &mut out)?;
        out.extend_from_slice(quote);
        out.push(b' ');
    }
    Some(out)
}

/// `$` is the number, `$$` and `\$` a dollar, `${offset,width,base}` the number moved and formatted.
fn substitute(text: &[u8], number: u64, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [next, further @ ..]) => {
                if *next != b'$' {
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
    let number = u64::try_from(i64::try_from(number).ok()?.checked_add(offset)?).ok()?;
    if width > 63 || parts.next().is_some() {
        return None;
    }
    match base {
        "d" => Some(format!("{number:0width$}")),
        "o" => Some(format!("{number:0width$o}")),
        "x" => Some(format!("{number:0width$x}")),
        "X" => Some(format!("{number:0width$X}")),
        _ => None,
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
    fn numbers_stand_where_the_dollar_stood() {
        assert_eq!(
            lines("1-5/2 h$ A 192.0.2.$").unwrap(),
            ["h1 A 192.0.2.1", "h3 A 192.0.2.3", "h5 A 192.0.2.5"]
        );
        assert_eq!(
            lines(r#"9-10 ${-1,3}.a TXT "$$ \$ \065 ${1,0,x}""#).unwrap(),
            [r#"008.a TXT "$ $ \065 a""#, r#"009.a TXT "$ $ \065 b""#,]
        );
    }

    #[test]
    fn what_is_no_range_or_template_is_refused() {
        for bad in
            ["1 a", "2-1 a", "0-65536 a", "1-2/0 a", "1-2 ${ a", "1-2 ${x} a", "1-2 ${0,99} a", "0-1 ${-1} a"]
        {
            assert_eq!(lines(bad), None, "{bad}");
        }
    }
}
