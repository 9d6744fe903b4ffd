//! The words of a zone file (RFC 1035 §5.1): quotes, escapes, comments and parentheses, with their places.

use std::borrow::Cow;

use crate::name::escaped;

/// One word, as it was written: escapes are still in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// The text; of a quoted word, the text between the quotes.
    pub text: &'a [u8],
    /// Whether it is in quotes.
    pub quoted: bool,
    /// Its line, 1-based.
    pub line: u32,
    /// Its first octet's place in the line, 1-based.
    pub column: u32,
}

impl Word<'_> {
    /// The word without its escapes; `None` if one of them is no octet.
    #[must_use]
    pub fn octets(&self) -> Option<Vec<u8>> {
        unescaped(self.text)
    }

    /// True for exactly this word outside quotes, in upper or lower case.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        !self.quoted && self.text.eq_ignore_ascii_case(text.as_bytes())
    }

    /// The word for messages: cut short, without control characters.
    #[must_use]
    pub fn shown(&self) -> String {
        let text = String::from_utf8_lossy(self.text.get(..80).unwrap_or(self.text));
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.text)
    }
}

pub(crate) fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let (octet, after) = if *first == b'\\' { escaped(after)? } else { (*first, after) };
        out.push(octet);
        rest = after;
    }
    Some(out)
}

impl<'a> Word<'a> {
    /// True where quotes begin inside the word.
    pub(super) fn holds_quotes(&self) -> bool {
        !self.quoted && self.text.contains(&b'"')
    }

    /// The character strings that a word is made of: one, unless quotes begin inside it, as in `v="a b"`,
    /// which is `v=` and `a b` (as NSD and BIND read it).
    pub(super) fn strings(&self) -> Vec<Self> {
        if !self.holds_quotes() {
            return vec![*self];
        }
        let mut parts: Vec<Self> = Vec::new();
        let (mut at, mut start, mut quoted) = (0, 0, false);
        let part = |start: usize, end: usize, quoted| Self {
            text: self.text.get(start..end).unwrap_or_default(),
            quoted,
            line: self.line,
            column: self.column,
        };
        while let Some(octet) = self.text.get(at) {
            match octet {
                b'\\' => at += 1,
                b'"' => {
                    if quoted || at > start {
                        parts.push(part(start, at, quoted));
                    }
                    (start, quoted) = (at + 1, !quoted);
                }
                _ => {}
            }
            at += 1;
        }
        if start < self.text.len() {
            parts.push(part(start, self.text.len(), quoted));
        }
        parts
    }
}

/// The words of one entry: a line, or several where parentheses join them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry<'a> {
    /// At least one.
    pub words: Vec<Word<'a>>,
    /// It starts with white space, so it has the owner of the entry before.
    pub indented: bool,
}

/// What is wrong with an entry as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The line, 1-based.
    pub line: u32,
    /// The place in the line, 1-based.
    pub column: u32,
    /// What is wrong.
    pub problem: &'static str,
    /// What would be right.
    pub expected: &'static str,
}

/// Cuts a text into entries. After an error it goes on with the next line.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
    line_start: usize,
    /// `;`, `(` and `)` mean something.
    file: bool,
}

impl<'a> Scanner<'a> {
    /// Of a whole file.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, line: 1, line_start: 0, file: true }
    }

    /// Of record data by itself, where neither comments nor parentheses have a meaning.
    #[must_use]
    pub const fn data(text: &'a [u8]) -> Self {
        Self { file: false, ..Self::new(text) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn column(&self) -> u32 {
        u32::try_from(self.at - self.line_start + 1).unwrap_or(u32::MAX)
    }

    fn wrong(&self, problem: &'static str, expected: &'static str) -> Malformed {
        Malformed { line: self.line, column: self.column(), problem, expected }
    }

    fn newline(&mut self) {
        self.at += 1;
        self.line = self.line.saturating_add(1);
        self.line_start = self.at;
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|octet| octet != b'\n') && !self.is_lone_return() {
            self.at += 1;
        }
    }

    /// A carriage return without a line feed behind it, which ends a line too.
    fn is_lone_return(&self) -> bool {
        self.file && self.peek() == Some(b'\r') && self.text.get(self.at + 1) != Some(&b'\n')
    }

    const fn ends_word(&self, octet: u8) -> bool {
        matches!(octet, b' ' | b'\t' | b'\r' | b'\n') || (self.file && matches!(octet, b';' | b'(' | b')'))
    }

    /// What lies in quotes; the first quote is behind us already.
    fn quotes(&mut self) -> Result<&'a [u8], Malformed> {
        let mut unclosed = self.wrong("a quote that is not closed on its line", "a closing \"");
        unclosed.column -= 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') if self.text.get(self.at + 1).is_some_and(|next| *next != b'\n') => self.at += 2,
                None | Some(b'\n') => return Err(unclosed),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(self.text.get(start..self.at - 1).unwrap_or_default())
    }

    fn word(&mut self) -> Result<Word<'a>, Malformed> {
        let (line, column, start) = (self.line, self.column(), self.at);
        if self.peek() == Some(b'"') {
            self.at += 1;
            // What begins right behind the quotes is the next word: "a""b" are two.
            let text = self.quotes()?;
            return Ok(Word { text, quoted: true, line, column });
        }
        while let Some(octet) = self.peek().filter(|octet| !self.ends_word(*octet)) {
            self.at += 1;
            match octet {
                b'\\' if self.peek().is_some_and(|next| next != b'\n') => self.at += 1,
                // As in alpn="h2,h3": the word goes on behind the quotes.
                b'"' => drop(self.quotes()?),
                _ => {}
            }
        }
        Ok(Word { text: self.text.get(start..self.at).unwrap_or_default(), quoted: false, line, column })
    }

    /// The next entry; `None` at the end.
    fn entry(&mut self) -> Result<Option<Entry<'a>>, Malformed> {
        let mut entry = Entry::default();
        let mut open: Vec<Malformed> = Vec::new();
        let mut fresh = self.at == self.line_start;
        while let Some(octet) = self.peek() {
            match octet {
                b'\n' | b'\r' if octet == b'\n' || self.is_lone_return() => {
                    self.newline();
                    if open.is_empty() && !entry.words.is_empty() {
                        return Ok(Some(entry));
                    }
                    fresh = true;
                    continue;
                }
                b' ' | b'\t' | b'\r' => {
                    entry.indented |= fresh && entry.words.is_empty() && open.is_empty() && octet != b'\r';
                    self.at += 1;
                }
                b';' if self.file => self.skip_line(),
                b'(' if self.file => {
                    open.push(self.wrong("a parenthesis that is not closed", "a closing )"));
                    self.at += 1;
                }
                b')' if self.file => {
                    if open.pop().is_none() {
                        return Err(self.wrong("a ) without its (", "an opening ( before it"));
                    }
                    self.at += 1;
                }
                _ => {
                    if fresh && entry.words.is_empty() && open.is_empty() {
                        entry.indented = false;
                    }
                    entry.words.push(self.word()?);
                }
            }
            fresh = false;
        }
        match open.pop() {
            Some(unclosed) => Err(unclosed),
            None => Ok(Some(entry).filter(|entry| !entry.words.is_empty())),
        }
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.entry();
        if found.is_err() {
            self.skip_line();
        }
        found.transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Indented or not, and the words; or where it is wrong.
    type Line = Result<(bool, Vec<String>), (u32, u32)>;

    fn words(text: &str) -> Vec<Line> {
        let shown = |entry: Entry<'_>| (entry.indented, entry.words.iter().map(Word::shown).collect());
        Scanner::new(text.as_bytes()).map(|it| it.map(shown).map_err(|it| (it.line, it.column))).collect()
    }

    fn line(indented: bool, words: &[&str]) -> Line {
        Ok((indented, words.iter().map(|word| (*word).to_owned()).collect()))
    }

    #[test]
    fn lines_comments_and_parentheses() {
        let text = "; a comment\n\n@ IN SOA ns (\n  1 ; serial\n 2)\r\n\tA 192.0.2.1;x\n   \nb\\;c \"d ; e\" \"\" k=\"l m\"n";
        let found = words(text);
        assert_eq!(
            found,
            [
                line(false, &["@", "IN", "SOA", "ns", "1", "2"]),
                line(true, &["A", "192.0.2.1"]),
                line(false, &["b\\;c", "d ; e", "", "k=\"l m\"n"]),
            ]
        );
    }

    #[test]
    fn places_count_from_one() {
        let entry = Scanner::new(b"\na  bc (\n d )").next().unwrap().unwrap();
        let places: Vec<_> = entry.words.iter().map(|word| (word.line, word.column)).collect();
        assert_eq!(places, [(2, 1), (2, 4), (3, 2)]);
    }

    #[test]
    fn an_error_costs_its_own_line() {
        assert_eq!(words("a \"b\nc )d\ne"), [Err((1, 3)), Err((2, 3)), line(false, &["e"])]);
        assert_eq!(words("a (\nb\n"), [Err((1, 3))]);
    }

    #[test]
    fn quotes_end_a_word_and_a_lone_carriage_return_ends_a_line() {
        let found = words("\"a\"\"b\"c\nd\"e f\"\"g\"h");
        assert_eq!(found, [line(false, &["a", "b", "c"]), line(false, &["d\"e f\"\"g\"h"])]);
        let entry = Scanner::new(b"d\"e f\"\"g\"h\\\"i").next().unwrap().unwrap();
        let strings: Vec<_> = entry.words[0].strings().iter().map(Word::shown).collect();
        assert_eq!(strings, ["d", "e f", "g", "h\\\"i"]);
        assert_eq!(
            words("a b ; c\rd e\r\n f"),
            [line(false, &["a", "b"]), line(false, &["d", "e"]), line(true, &["f"]),]
        );
    }

    #[test]
    fn data_by_itself_has_no_comments() {
        let entry = Scanner::data(b"v=DKIM1;p=(x)").next().unwrap().unwrap();
        assert_eq!(entry.words[0].shown(), "v=DKIM1;p=(x)");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            for entry in Scanner::new(&text).flatten() {
                prop_assert!(!entry.words.is_empty());
            }
        }

        #[test]
        fn nor_one_of_marks(text in "[ab \\\\\"();\n\t0-9]{0,60}") {
            let lines = u32::try_from(text.matches('\n').count()).unwrap() + 1;
            for entry in Scanner::new(text.as_bytes()).flatten() {
                prop_assert!(entry.words.iter().all(|word| word.line <= lines));
            }
        }
    }
}
