//! In which form a client wants to read why its request failed: content negotiation over three media types (RFC 9110
//! §12.5.1).

/// The forms of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// `application/problem+json` (RFC 9457), for programs, and for clients that do not say.
    #[default]
    Problem,
    /// A page for people in front of a browser.
    Page,
    /// The sentence alone.
    Text,
}

/// The forms with the media types that ask for them; if a client wants two alike, the first.
const FORMS: [(Form, &[&str]); 3] = [
    (Form::Problem, &["application/problem+json", "application/json"]),
    (Form::Page, &["text/html"]),
    (Form::Text, &["text/plain"]),
];
/// The most ranges that are read.
const MAX_RANGES: usize = 64;

/// How much a client wants a form: the quality in thousandths, then how exactly it is named. The most exact range that
/// covers a form decides on its quality.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    quality: u16,
    exactness: u8,
}

impl Form {
    /// The form for these lines of `Accept`. If none is acceptable, the problem details come anyway: a client that cannot
    /// read them has the status.
    pub(crate) fn wanted<'a>(accept: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut wishes = [Wish::default(); FORMS.len()];
        let ranges = accept.into_iter().flat_map(|line| line.split(|it| *it == b','));
        for (range, quality) in ranges.take(MAX_RANGES).filter_map(read) {
            for ((_, types), wish) in FORMS.iter().zip(&mut wishes) {
                let exactness = types.iter().map(|it| covers(range, it.as_bytes())).max().unwrap_or(0);
                let as_exact = exactness > 0 && exactness == wish.exactness;
                if exactness > wish.exactness || as_exact && quality > wish.quality {
                    *wish = Wish { quality, exactness };
                }
            }
        }
        let mut best = (Self::default(), Wish::default());
        for ((form, _), wish) in FORMS.into_iter().zip(wishes) {
            let order = |it: Wish| (it.quality, it.exactness);
            if wish.quality > 0 && order(wish) > order(best.1) {
                best = (form, wish);
            }
        }
        best.0
    }
}

/// A media range and its quality in thousandths; `None` if it is malformed.
fn read(range: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = range.split(|it| *it == b';').map(<[u8]>::trim_ascii);
    let media_type = parts.next().filter(|it| !it.is_empty())?;
    for part in parts {
        if let [b'q' | b'Q', b'=', value @ ..] = part {
            return Some((media_type, quality(value)?));
        }
    }
    Some((media_type, 1000))
}

/// `0` to `1` with up to three digits behind the point (RFC 9110 §12.4.2).
fn quality(text: &[u8]) -> Option<u16> {
    let (whole, digits) = match text {
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            (whole, digits)
        }
        _ => return None,
    };
    let mut thousandths = u16::from(*whole == b'1');
    for place in 0..3 {
        thousandths = thousandths * 10 + digits.get(place).map_or(0, |it| u16::from(it - b'0'));
    }
    (matches!(whole, b'0' | b'1') && thousandths <= 1000).then_some(thousandths)
}

/// How exactly a range names a media type; 0 if it does not.
fn covers(range: &[u8], media_type: &[u8]) -> u8 {
    let kind = media_type.iter().position(|it| *it == b'/').map_or(media_type, |at| &media_type[..=at]);
    match range {
        b"*/*" => 1,
        [rest @ .., b'*'] if rest.eq_ignore_ascii_case(kind) => 2,
        _ if range.eq_ignore_ascii_case(media_type) => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_they_want() {
        let of = |accept: &str| Form::wanted([accept.as_bytes()]);
        for (accept, form) in [
            // curl, fetch, axios, Firefox, Chrome, old browsers.
            ("*/*", Form::Problem),
            ("application/json, text/plain, */*", Form::Problem),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Form::Page),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
                Form::Page,
            ),
            ("text/html, application/xhtml+xml, */*", Form::Page),
            ("", Form::Problem),
            ("text/plain", Form::Text),
            ("text/*", Form::Page),
            ("TEXT/HTML", Form::Page),
            ("application/problem+json, text/html;q=0.9", Form::Problem),
            ("application/json;q=0.5, text/html;q=0.6", Form::Page),
            ("text/html;q=0.5, */*", Form::Problem),
            ("application/*;q=0.3, text/plain;q=0.4", Form::Text),
            ("text/html;level=1;q=0.5, application/json;q=0.4", Form::Page),
            ("text/html;q=0, */*;q=0.1", Form::Problem),
            ("*/*, application/json;q=0, application/problem+json;q=0", Form::Page),
            ("image/png", Form::Problem),
            ("text/html;q=0", Form::Problem),
            ("text/html;q=2, application/json;q=0.1", Form::Problem),
            ("text/html;q=1.001", Form::Problem),
            ("text/html;q=0.1234", Form::Problem),
            ("text/html;q=1.", Form::Page),
            ("text/html ; q=0.5 ,, application/json; Q=0.05", Form::Page),
        ] {
            assert_eq!(of(accept), form, "{accept}");
        }
        assert_eq!(Form::wanted([]), Form::Problem);
        assert_eq!(Form::wanted([&b"text/html;q=0.2"[..], b"text/plain;q=0.3"]), Form::Text, "two lines");
        let many = "a/b,".repeat(MAX_RANGES) + "text/html";
        assert_eq!(of(&many), Form::Problem, "a line without end is read in part");
    }
}
