//! Entry by entry: directives, owners, TTLs, classes and data.

use std::sync::Arc;

use store::model::{
    DomainName, RecordData, StartOfAuthority, StaticRecord, Ttl,
    rdata::{self, Entry, Scanner, Unfit, Word},
};

use super::{Files, MAX_DEPTH, MAX_ERRORS, MAX_OCTETS, MAX_WARNINGS, Place, ZoneFileError, generate};

/// The TTL where a record has none and there is no `$TTL` before it, and that of a `$TTL` of 2^31 or more (as in NSD).
const INSTEAD: Ttl = Ttl::of_record(3_600);

/// What was read from the files of a zone, errors included.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The SOA with its minimum and its own TTL.
    pub(super) soa: Option<(StartOfAuthority, Ttl, Place)>,
    /// All other records; their TTLs are there.
    pub(super) records: Vec<(StaticRecord, Place)>,
    /// The top file.
    pub(super) file: Arc<str>,
    /// What was passed over.
    pub(super) warnings: Warnings,
}

/// Warnings, so many and no more.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    kept: Vec<ZoneFileError>,
    more: usize,
}

impl Warnings {
    pub(super) fn add(&mut self, warning: ZoneFileError) {
        if self.kept.len() < MAX_WARNINGS {
            self.kept.push(warning);
        } else {
            self.more += 1;
        }
    }

    /// All of them, and one that counts those that were not kept.
    pub(super) fn into_vec(self) -> Vec<ZoneFileError> {
        let mut all = self.kept;
        if let Some(file) = all.first().map(|it| Arc::clone(&it.file)).filter(|_| self.more > 0) {
            let problem = format!("{} more warnings like these", self.more);
            all.push(ZoneFileError { file, line: None, column: None, problem, expected: String::new() });
        }
        all
    }
}

/// The owner of the records of a line.
#[derive(Clone, Debug)]
enum Owner {
    /// A name in the zone.
    Here(DomainName),
    /// A name outside it; its records are passed over.
    Elsewhere,
}

/// Reads all entries.
pub(super) fn read(
    file: &str,
    text: &[u8],
    apex: &DomainName,
    files: &dyn Files,
) -> Result<Found, Vec<ZoneFileError>> {
    let file: Arc<str> = file.into();
    let mut reading = Reading {
        apex,
        files,
        file: Arc::clone(&file),
        depth: 0,
        octets: MAX_OCTETS.saturating_sub(text.len()),
        origin: Some(apex.clone()),
        owner: None,
        default_ttl: None,
        warned_of_ttl: false,
        found: Found { file, ..Found::default() },
        errors: Vec::new(),
    };
    if text.len() > MAX_OCTETS {
        reading.at_whole("the file is too long".to_owned(), format!("at most {MAX_OCTETS} octets"));
    } else {
        reading.text(text);
    }
    if reading.errors.is_empty() { Ok(reading.found) } else { Err(reading.errors) }
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
    owner: Option<Owner>,
    default_ttl: Option<Ttl>,
    /// The warning that a record has no TTL was given; it is given once.
    warned_of_ttl: bool,
    found: Found,
    errors: Vec<ZoneFileError>,
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
        self.errors.len() >= MAX_ERRORS
    }

    fn error(&mut self, Wrong { line, column, what }: Wrong) {
        if !self.is_enough() {
            let Unfit { problem, expected } = what;
            self.errors.push(ZoneFileError {
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
        self.errors.push(ZoneFileError { file, line: None, column: None, problem, expected });
    }

    fn warn(&mut self, word: &Word<'_>, problem: String, expected: &str) {
        let (file, expected) = (Arc::clone(&self.file), expected.to_owned());
        let (line, column) = (Some(word.line), Some(word.column));
        self.found.warnings.add(ZoneFileError { file, line, column, problem, expected });
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
                self.error(wrong);
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
                let stated = time_to_live(ttl)?;
                self.default_ttl = Some(self.believed(stated, ttl).unwrap_or(INSTEAD));
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

    /// Reads another file. The origin is afterwards as it was (RFC 1035 §5.1); the owner goes in and comes out, as in NSD.
    fn include(&mut self, path: &Word<'_>, origin: Option<&Word<'_>>) -> Result<(), Wrong> {
        let origin = match origin {
            Some(word) => self.name(word)?,
            None => self.origin.clone(),
        };
        if self.depth == MAX_DEPTH {
            let problem = format!("{:?} is included too deep", path.shown());
            return Err(wrong(path, problem, format!("at most {MAX_DEPTH} files inside one another")));
        }
        let name = path.octets().and_then(|octets| String::from_utf8(octets).ok());
        let name = name.ok_or_else(|| unfit(path, Unfit::new(path, "the path of a file")))?;
        let content = self.files.read(&name, self.octets);
        let content = content.map_err(|problem| wrong(path, problem, "a readable file inside the folder"))?;
        self.octets -= content.len().min(self.octets);
        let inside: Arc<str> = match self.found.file.rsplit_once('/') {
            Some((folder, _)) if !name.starts_with('/') => format!("{folder}/{name}").into(),
            _ => name.into(),
        };
        let outer = std::mem::replace(&mut self.file, inside);
        let outer_origin = std::mem::replace(&mut self.origin, origin);
        self.depth += 1;
        self.text(&content);
        self.depth -= 1;
        self.origin = outer_origin;
        self.file = outer;
        Ok(())
    }

    fn generate(&mut self, name: &Word<'_>, range: &Word<'_>, template: &[Word<'_>]) -> Result<(), Wrong> {
        let range =
            generate::Range::read(range).ok_or_else(|| unfit(range, Unfit::new(range, generate::FORM)))?;
        for number in range.numbers() {
            let text = generate::line(template, number)
                .ok_or_else(|| wrong(name, "the template of $GENERATE is not understood", generate::FORM))?;
            let Some(left) = self.octets.checked_sub(text.len()) else {
                let expected = format!("at most {MAX_OCTETS} octets in all");
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

    /// A TTL as it is written, unless it is 2^31 or more (RFC 2181 §8).
    fn believed(&mut self, secs: u32, word: &Word<'_>) -> Option<Ttl> {
        if secs <= Ttl::MAX.as_secs() {
            return Some(Ttl::of_record(secs));
        }
        let problem = format!("the TTL {:?} is passed over, the default is taken", word.shown());
        self.warn(word, problem, "at most 2147483647 seconds (RFC 2181 §8)");
        None
    }

    /// The times of a SOA as they are written, unless one is 2^31 or more: that is the default TTL then, as in NSD.
    fn believed_times(
        &mut self,
        soa: StartOfAuthority,
        minimum: Ttl,
        first: &Word<'_>,
    ) -> (StartOfAuthority, Ttl) {
        let times = [soa.refresh, soa.retry, soa.expire, minimum];
        if times.iter().all(|time| *time <= Ttl::MAX) {
            return (soa, minimum);
        }
        let problem = "a time of the SOA is passed over, the default is taken".to_owned();
        self.warn(first, problem, "at most 2147483647 seconds");
        let instead = self.default_ttl.unwrap_or(INSTEAD);
        let [refresh, retry, expire, minimum] =
            times.map(|time| if time > Ttl::MAX { instead } else { time });
        (StartOfAuthority { refresh, retry, expire, ..soa }, minimum)
    }

    fn name(&self, word: &Word<'_>) -> Result<Option<DomainName>, Wrong> {
        rdata::below(self.origin.as_ref())(word).map_err(|what| unfit(word, what))
    }

    fn record(&mut self, indented: bool, words: &[Word<'_>]) -> Result<(), Wrong> {
        let Some(first) = words.first() else { return Ok(()) };
        let words = if indented {
            words
        } else {
            // Records with a bad owner must not go to the owner before.
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
        let misplaced = |error: rdata::Wrong| {
            let word = error.word.and_then(|at| data.get(at));
            let line = word.or_else(|| data.last()).unwrap_or(first).line;
            Wrong { line, column: word.map(|word| word.column), what: error.what }
        };
        if what == SOA {
            let (soa, minimum) = rdata::start_of_authority(data, &mut names).map_err(misplaced)?;
            let (soa, minimum) = self.believed_times(soa, minimum, first);
            let ttl = self.ttl(&head, first);
            return self.start(first, &owner, soa, (minimum, ttl), at);
        }
        let data = rdata::parse(what, data, &mut names).map_err(misplaced)?;
        let ttl = Some(self.ttl(&head, first));
        if let Owner::Here(name) = owner {
            self.found.records.push((StaticRecord { name, ttl, data }, at));
        }
        Ok(())
    }

    /// An owner: a name in the zone, or one whose records are passed over.
    fn owned(&mut self, word: &Word<'_>) -> Result<Owner, Wrong> {
        let name = if word.quoted { self.label(word)? } else { self.name(word)? };
        if let Some(name) = name.filter(|name| name.is_within(self.apex)) {
            return Ok(Owner::Here(name));
        }
        let problem = format!("{:?} lies outside the zone {}, and is passed over", word.shown(), self.apex);
        let expected = format!("a name in {}", self.apex);
        self.warn(word, problem, &expected);
        Ok(Owner::Elsewhere)
    }

    /// A name in quotes: one label, dots included, as NSD reads it.
    fn label(&mut self, word: &Word<'_>) -> Result<Option<DomainName>, Wrong> {
        let label = word.octets().unwrap_or_default();
        if label.contains(&b'.') {
            let problem = format!("{:?} in quotes is one label, whose dots part nothing", word.shown());
            self.warn(word, problem, "the name without quotes");
        }
        let labels = std::iter::once(label.into());
        let name = DomainName::from_labels(labels.chain(self.origin.iter().flat_map(DomainName::octets)));
        name.map(Some).map_err(|expected| unfit(word, Unfit::new(word, expected.to_string())))
    }

    /// The TTL of a record: its own, the default (RFC 2308 §4), or NSD's where there is neither. RFC 1035 §5.1 has the
    /// TTL of the record before instead.
    fn ttl(&mut self, head: &Head<'_>, first: &Word<'_>) -> Ttl {
        let stated = head.ttl.map(|(secs, word)| self.believed(secs, &word));
        if stated.is_none() && self.default_ttl.is_none() && !self.warned_of_ttl {
            self.warned_of_ttl = true;
            let problem = format!(
                "a record without a TTL, and there is no $TTL before it: it has {} seconds, as has every other such one",
                INSTEAD.as_secs()
            );
            self.warn(first, problem, "a line such as `$TTL 1h` before it");
        }
        stated.flatten().or(self.default_ttl).unwrap_or(INSTEAD)
    }

    fn start(
        &mut self,
        first: &Word<'_>,
        owner: &Owner,
        soa: StartOfAuthority,
        (minimum, ttl): (Ttl, Ttl),
        at: Place,
    ) -> Result<(), Wrong> {
        match owner {
            Owner::Here(owner) if owner == self.apex => {}
            Owner::Elsewhere => return Ok(()),
            Owner::Here(owner) => {
                let problem = format!("a SOA at {owner}, which is not the apex");
                return Err(wrong(first, problem, format!("one SOA, at {}", self.apex)));
            }
        }
        let soa = StartOfAuthority { ttl: Some(ttl), ..soa };
        if let Some((before, least, there)) = &self.found.soa {
            let same = StartOfAuthority { ttl: before.ttl, ..soa } == *before && *least == minimum;
            let first_at = format!("the first is at {}:{}", there.file, there.line);
            if !same {
                return Err(wrong(first, format!("a second SOA with other content; {first_at}"), "one SOA"));
            }
            self.warn(first, format!("the SOA is repeated, and passed over; {first_at}"), "one SOA");
            return Ok(());
        }
        self.found.soa = Some((soa, minimum, at));
        Ok(())
    }
}

const SOA: u16 = 6;

/// What is between the owner and the data of a record.
struct Head<'w> {
    /// In seconds, with its word.
    ttl: Option<(u32, Word<'w>)>,
    record_type: u16,
    /// How many words it has.
    words: usize,
}

impl<'w> Head<'w> {
    /// TTL and class, each or none, in any order; then the type.
    fn read(words: &[Word<'w>], owner: &Word<'_>) -> Result<Self, Wrong> {
        let (mut ttl, mut class) = (None, false);
        for (at, word) in words.iter().enumerate() {
            if ttl.is_none() && !word.quoted && word.text.first().is_some_and(u8::is_ascii_digit) {
                ttl = Some((time_to_live(word)?, *word));
            } else if !class && (word.is("IN") || class_number(word) == Some(1)) {
                class = true;
            } else if ["CH", "HS", "CS", "ANY"].iter().any(|it| word.is(it))
                || class_number(word).is_some_and(|class| class != 1)
            {
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

/// The number of a class that is written as `CLASS1` (RFC 3597 §5).
fn class_number(word: &Word<'_>) -> Option<u16> {
    let (head, digits) = word.text.split_at_checked(5).filter(|_| !word.quoted)?;
    let digits = head.eq_ignore_ascii_case(b"CLASS").then(|| std::str::from_utf8(digits).ok())??;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn time_to_live(word: &Word<'_>) -> Result<u32, Wrong> {
    let secs = rdata::period(word.text);
    secs.ok_or_else(|| unfit(word, Unfit::new(word, "a TTL of 0 to 2147483647 seconds, or such as 1h30m")))
}

/// True for the NS records of the zone itself.
pub(super) const fn is_ns(data: &RecordData) -> bool {
    matches!(data, RecordData::Ns(_))
}
