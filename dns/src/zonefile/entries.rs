//! Entry by entry: directives, owners, TTLs, classes and data.

use std::sync::Arc;

use store::model::{
    DomainName, RecordData, StartOfAuthority, StaticRecord, Ttl,
    rdata::{self, Entry, Scanner, Unfit, Word},
};

use super::{DEEPEST, Files, MOST_MISTAKES, MOST_OCTETS, Mistake, Place, generate};

/// What the files of a zone say, mistakes included.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The SOA with its minimum and its own TTL.
    pub(super) soa: Option<(StartOfAuthority, Ttl, Place)>,
    /// All other records; their TTLs are there.
    pub(super) records: Vec<(StaticRecord, Place)>,
    /// The top file.
    pub(super) file: Arc<str>,
}

/// Reads all entries.
pub(super) fn read(
    file: &str,
    text: &[u8],
    apex: &DomainName,
    files: &dyn Files,
) -> Result<Found, Vec<Mistake>> {
    let file: Arc<str> = file.into();
    let mut reading = Reading {
        apex,
        files,
        file: Arc::clone(&file),
        depth: 0,
        octets: MOST_OCTETS.saturating_sub(text.len()),
        origin: Some(apex.clone()),
        owner: None,
        default_ttl: None,
        last_ttl: None,
        found: Found { file, ..Found::default() },
        mistakes: Vec::new(),
    };
    if text.len() > MOST_OCTETS {
        reading.at_whole("the file is too long".to_owned(), format!("at most {MOST_OCTETS} octets"));
    } else {
        reading.text(text);
    }
    if reading.mistakes.is_empty() { Ok(reading.found) } else { Err(reading.mistakes) }
}

struct Reading<'r> {
    apex: &'r DomainName,
    files: &'r dyn Files,
    /// The file being read.
    file: Arc<str>,
    depth: usize,
    /// How many octets further files may have.
    octets: usize,
    /// `None` is the root.
    origin: Option<DomainName>,
    owner: Option<DomainName>,
    default_ttl: Option<Ttl>,
    last_ttl: Option<Ttl>,
    found: Found,
    mistakes: Vec<Mistake>,
}

/// A word that is wrong.
struct Wrong {
    line: u32,
    column: Option<u32>,
    what: Unfit,
}

fn wrong(word: &Word<'_>, problem: impl Into<String>, expected: impl Into<String>) -> Wrong {
    let what = Unfit { problem: problem.into(), expected: expected.into() };
    Wrong { line: word.line, column: Some(word.column), what }
}

fn unfit(word: &Word<'_>, what: Unfit) -> Wrong {
    Wrong { line: word.line, column: Some(word.column), what }
}

impl Reading<'_> {
    fn is_enough(&self) -> bool {
        self.mistakes.len() >= MOST_MISTAKES
    }

    fn mistake(&mut self, Wrong { line, column, what }: Wrong) {
        if !self.is_enough() {
            let Unfit { problem, expected } = what;
            self.mistakes.push(Mistake {
                file: Arc::clone(&self.file),
                line: Some(line),
                column,
                problem,
                expected,
            });
        }
    }

    fn at_whole(&mut self, problem: String, expected: String) {
        let file = Arc::clone(&self.file);
        self.mistakes.push(Mistake { file, line: None, column: None, problem, expected });
    }

    fn text(&mut self, text: &[u8]) {
        for entry in Scanner::new(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)) {
            let read = match &entry {
                Ok(entry) => self.entry(entry),
                Err(it) => {
                    let what = Unfit { problem: it.problem.to_owned(), expected: it.expected.to_owned() };
                    Err(Wrong { line: it.line, column: Some(it.column), what })
                }
            };
            if let Err(wrong) = read {
                self.mistake(wrong);
            }
            if self.is_enough() {
                break;
            }
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Wrong> {
        let [first, rest @ ..] = entry.words.as_slice() else { return Ok(()) };
        if !entry.indented && !first.quoted && first.text.starts_with(b"$") {
            return self.directive(first, rest);
        }
        self.record(entry.indented, &entry.words)
    }

    fn directive(&mut self, name: &Word<'_>, words: &[Word<'_>]) -> Result<(), Wrong> {
        match (name.text.to_ascii_uppercase().as_slice(), words) {
            (b"$ORIGIN", [origin]) => {
                self.origin = self.name(origin)?;
                Ok(())
            }
            (b"$TTL", [ttl]) => {
                self.default_ttl = Some(time_to_live(ttl)?);
                Ok(())
            }
            (b"$INCLUDE", [path]) => self.include(path, None),
            (b"$INCLUDE", [path, origin]) => self.include(path, Some(origin)),
            (b"$GENERATE", [range, template @ ..]) => self.generate(name, range, template),
            (b"$ORIGIN", _) => Err(wrong(name, "$ORIGIN takes one name", "$ORIGIN example.com.")),
            (b"$TTL", _) => Err(wrong(name, "$TTL takes one TTL", "$TTL 1h")),
            (b"$INCLUDE", _) => {
                Err(wrong(name, "$INCLUDE takes a file and an origin", "$INCLUDE hosts.zone"))
            }
            (b"$GENERATE", _) => Err(wrong(name, "$GENERATE takes a range and a record", generate::FORM)),
            _ => Err(unfit(name, Unfit::new(name, "one of $ORIGIN, $TTL, $INCLUDE or $GENERATE"))),
        }
    }

    /// Reads another file. Origin and owner are afterwards as they were (RFC 1035 §5.1).
    fn include(&mut self, path: &Word<'_>, origin: Option<&Word<'_>>) -> Result<(), Wrong> {
        let origin = match origin {
            Some(word) => self.name(word)?,
            None => self.origin.clone(),
        };
        if self.depth == DEEPEST {
            let problem = format!("{:?} is included too deep", path.shown());
            return Err(wrong(path, problem, format!("at most {DEEPEST} files inside one another")));
        }
        let name = path.octets().and_then(|octets| String::from_utf8(octets).ok());
        let name = name.ok_or_else(|| unfit(path, Unfit::new(path, "the path of a file")))?;
        let content = self.files.read(&name, self.octets);
        let content = content.map_err(|problem| wrong(path, problem, "a readable file inside the folder"))?;
        self.octets -= content.len().min(self.octets);
        let inside: Arc<str> = match self.found.file.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{name}").into(),
            None => name.into(),
        };
        let outer = (std::mem::replace(&mut self.file, inside), self.owner.take());
        let outer_origin = std::mem::replace(&mut self.origin, origin);
        self.depth += 1;
        self.text(&content);
        self.depth -= 1;
        self.origin = outer_origin;
        (self.file, self.owner) = outer;
        Ok(())
    }

    fn generate(&mut self, name: &Word<'_>, range: &Word<'_>, template: &[Word<'_>]) -> Result<(), Wrong> {
        let range =
            generate::Range::read(range).ok_or_else(|| unfit(range, Unfit::new(range, generate::FORM)))?;
        for number in range.numbers() {
            let text = generate::line(template, number)
                .ok_or_else(|| wrong(name, "the template of $GENERATE is not understood", generate::FORM))?;
            let Some(left) = self.octets.checked_sub(text.len()) else {
                let expected = format!("at most {MOST_OCTETS} octets in all");
                return Err(wrong(name, "$GENERATE makes the zone too large", expected));
            };
            self.octets = left;
            let entry = Scanner::new(&text).next().and_then(Result::ok).unwrap_or_default();
            // Places are those of the template.
            let at = |word: &Word<'_>| Word { line: name.line, column: name.column, text: &[], ..*word };
            let words: Vec<Word<'_>> =
                entry.words.iter().map(|word| Word { text: word.text, ..at(word) }).collect();
            if words.is_empty() {
                return Err(wrong(name, "$GENERATE without a record", generate::FORM));
            }
            self.record(false, &words)?;
        }
        Ok(())
    }

    fn name(&self, word: &Word<'_>) -> Result<Option<DomainName>, Wrong> {
        rdata::below(self.origin.as_ref())(word).map_err(|what| unfit(word, what))
    }

    fn record(&mut self, indented: bool, words: &[Word<'_>]) -> Result<(), Wrong> {
        let Some(first) = words.first() else { return Ok(()) };
        let words = if indented {
            words
        } else {
            // Also what has a bad owner must not fall to the owner before.
            self.owner = None;
            self.owner = Some(self.owned(first)?);
            words.get(1..).unwrap_or_default()
        };
        let Some(owner) = self.owner.clone() else {
            return Err(wrong(
                first,
                "the line has no owner, and there is none before it",
                "a name at its start",
            ));
        };
        let head = Head::read(words, first)?;
        let what = head.record_type;
        let data = words.get(head.words..).unwrap_or_default();
        let at = Place { file: Arc::clone(&self.file), line: first.line };
        let inside = self.origin.clone();
        let mut names = rdata::below(inside.as_ref());
        let misplaced = |it: rdata::Wrong| {
            let word = it.word.and_then(|at| data.get(at));
            let line = word.or_else(|| data.last()).unwrap_or(first).line;
            Wrong { line, column: word.map(|word| word.column), what: it.what }
        };
        if what == SOA {
            let (soa, minimum) = rdata::start_of_authority(data, &mut names).map_err(misplaced)?;
            let ttl = self.ttl(head.ttl).unwrap_or(minimum);
            self.last_ttl = Some(ttl);
            return self.start(first, &owner, soa, (minimum, ttl), at);
        }
        let data = rdata::parse(what, data, &mut names).map_err(misplaced)?;
        let ttl = self.ttl(head.ttl);
        if ttl.is_none() {
            return Err(wrong(first, "the record has no TTL", "a TTL here, in $TTL, or in a record before"));
        }
        self.last_ttl = ttl;
        self.found.records.push((StaticRecord { name: owner, ttl, data }, at));
        Ok(())
    }

    /// An owner: a name in the zone.
    fn owned(&self, word: &Word<'_>) -> Result<DomainName, Wrong> {
        let name = self.name(word)?.filter(|name| name.is_within(self.apex));
        name.ok_or_else(|| {
            let problem = format!("{:?} lies outside the zone {}", word.shown(), self.apex);
            wrong(word, problem, format!("a name in {}", self.apex))
        })
    }

    /// The TTL of a record: its own, the default (RFC 2308 §4), or that of the record before (RFC 1035 §5.1).
    fn ttl(&self, own: Option<Ttl>) -> Option<Ttl> {
        own.or(self.default_ttl).or(self.last_ttl)
    }

    fn start(
        &mut self,
        first: &Word<'_>,
        owner: &DomainName,
        soa: StartOfAuthority,
        (minimum, ttl): (Ttl, Ttl),
        at: Place,
    ) -> Result<(), Wrong> {
        if owner != self.apex {
            let problem = format!("a SOA at {owner}, which is not the apex");
            return Err(wrong(first, problem, format!("one SOA, at {}", self.apex)));
        }
        if let Some((_, _, before)) = &self.found.soa {
            let problem = format!("a second SOA; the first is at {}:{}", before.file, before.line);
            return Err(wrong(first, problem, "one SOA"));
        }
        self.found.soa = Some((StartOfAuthority { ttl: Some(ttl), ..soa }, minimum, at));
        Ok(())
    }
}

const SOA: u16 = 6;

/// What stands between the owner and the data.
struct Head {
    ttl: Option<Ttl>,
    record_type: u16,
    /// How many words it has.
    words: usize,
}

impl Head {
    /// TTL and class, each or none, in any order; then the type.
    fn read(words: &[Word<'_>], owner: &Word<'_>) -> Result<Self, Wrong> {
        let (mut ttl, mut class) = (None, false);
        for (at, word) in words.iter().enumerate() {
            if ttl.is_none() && !word.quoted && word.text.first().is_some_and(u8::is_ascii_digit) {
                ttl = Some(time_to_live(word)?);
            } else if !class && (word.is("IN") || word.is("CLASS1")) {
                class = true;
            } else if ["CH", "HS", "CS", "ANY"].iter().any(|it| word.is(it)) {
                return Err(unfit(word, Unfit::new(word, "the class IN, which is the only one")));
            } else {
                let number =
                    std::str::from_utf8(word.text).ok().filter(|_| !word.quoted).and_then(rdata::number);
                let expected = "a record type such as A, or TYPE and a number";
                let record_type = number.ok_or_else(|| unfit(word, Unfit::new(word, expected)))?;
                return Ok(Self { ttl, record_type, words: at + 1 });
            }
        }
        let word = words.last().unwrap_or(owner);
        Err(wrong(word, format!("the line ends behind {:?}", word.shown()), "a record type and its data"))
    }
}

fn time_to_live(word: &Word<'_>) -> Result<Ttl, Wrong> {
    let ttl = rdata::period(word.text).and_then(Ttl::from_secs);
    ttl.ok_or_else(|| unfit(word, Unfit::new(word, "a TTL of 1 to 2147483647 seconds, or such as 1h30m")))
}

/// True for what tells a zone's name servers.
pub(super) const fn is_ns(data: &RecordData) -> bool {
    matches!(data, RecordData::Ns(_))
}
