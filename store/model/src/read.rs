//! Reads a tree into types and collects every error on the way instead of stopping at the first.
//!
//! A [`Reader`] is a cursor on one node, with its path. Reading something wrong records an error and gives
//! `None`; the caller goes on, and the whole is accepted only if nothing was recorded. A map is read through
//! [`Fields`], which reports, when it is dropped, the keys that were not looked up, so that no unknown key is overlooked.

use std::{cell::RefCell, collections::HashSet, fmt, hash::Hash, ops::RangeInclusive, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

use super::{
    Span, Ttl, Words,
    input_error::{InputErrors, suggestion},
    tree::{Node, Scalar, Value},
    words::join,
};

/// A cursor on one node.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    errors: &'a InputErrors,
    document: &'a str,
    field: String,
    line: u32,
    node: &'a Node,
}

impl<'a> Reader<'a> {
    /// At the root of a tree. `document` is the name of the tree in errors, such as `Domain gw.example.com`.
    #[must_use]
    pub const fn new(errors: &'a InputErrors, document: &'a str, node: &'a Node) -> Self {
        Self { errors, document, field: String::new(), line: node.line, node }
    }

    /// The node it is on.
    #[must_use]
    pub const fn node(&self) -> &'a Node {
        self.node
    }

    /// The path from the root: `records[3].data`.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Records an error here: what is wrong, and what would be right (empty if the problem includes it).
    pub fn error(&self, problem: impl Into<String>, expected: impl Into<String>) {
        self.errors.add(self.line, self.document, &self.field, problem.into(), expected.into());
    }

    /// Records that the value here is not `expected`.
    pub fn wrong(&self, expected: impl fmt::Display) {
        self.error(format!("{} is not {expected}", self.node.found()), expected.to_string());
    }

    /// How many errors there are so far, here and elsewhere.
    #[must_use]
    pub fn count(&self) -> usize {
        self.errors.count()
    }

    /// True for `null` and for a key without a value.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// The scalar here, unless it is null; otherwise an error.
    fn scalar(&self, expected: &dyn fmt::Display) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => Some(scalar),
            _ => {
                self.wrong(expected);
                None
            }
        }
    }

    /// A text of at least one and at most `most` bytes, without control characters.
    #[must_use]
    pub fn text(&self, most: usize) -> Option<&'a str> {
        let scalar = self.scalar(&"a text")?;
        let text = scalar.text.as_str();
        if text.is_empty() || text.len() > most || text.chars().any(char::is_control) {
            self.wrong(format_args!("a text of 1 to {most} bytes on one line"));
            return None;
        }
        Some(text)
    }

    /// Anything that parses from text and whose error is what was expected.
    #[must_use]
    pub fn parse<T: FromStr>(&self) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let text = match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => scalar.text.as_str(),
            // Parsing nothing gives the words for what was expected.
            _ => "",
        };
        match text.parse() {
            Ok(value) if !text.is_empty() => Some(value),
            Ok(_) => {
                self.wrong("a text that is not empty");
                None
            }
            Err(expected) => {
                self.wrong(expected);
                None
            }
        }
    }

    /// Anything that parses from text and whose error is not what was expected.
    #[must_use]
    pub fn parse_as<T: FromStr>(&self, expected: &str) -> Option<T> {
        let parsed = self.scalar(&expected)?.text.parse().ok();
        if parsed.is_none() {
            self.wrong(expected);
        }
        parsed
    }

    /// A duration such as `800ms`.
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        self.parse()
    }

    /// A duration within a range.
    #[must_use]
    pub fn span_within(&self, range: RangeInclusive<Span>) -> Option<Span> {
        let span = self.span()?;
        if !range.contains(&span) {
            self.wrong(format_args!("a duration from {} to {}", range.start(), range.end()));
            return None;
        }
        Some(span)
    }

    /// A TTL of whole seconds such as `20s`.
    #[must_use]
    pub fn ttl(&self) -> Option<Ttl> {
        let ttl = Ttl::try_from(self.span()?);
        ttl.map_err(|expected| self.wrong(expected)).ok()
    }

    /// The TTL of a record in a zone: zero is allowed.
    pub fn record_ttl(&self) -> Option<Ttl> {
        let ttl = Ttl::of_record_in(self.span()?);
        ttl.map_err(|expected| self.wrong(expected)).ok()
    }

    /// A time of a zone's SOA: any number of seconds that fits the wire.
    pub fn soa_time(&self) -> Option<Ttl> {
        let time = Ttl::of_soa_in(self.span()?);
        time.map_err(|expected| self.wrong(expected)).ok()
    }

    /// A whole number within a range.
    #[must_use]
    pub fn int<T: TryFrom<i64> + PartialOrd + fmt::Display>(&self, range: RangeInclusive<T>) -> Option<T> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let number = self.scalar(&expected)?.as_int().and_then(|n| T::try_from(n).ok());
        let fits = number.filter(|n| range.contains(n));
        if fits.is_none() {
            self.wrong(expected);
        }
        fits
    }

    /// A number within a range.
    #[must_use]
    pub fn float(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let number = self.scalar(&expected)?.as_float().filter(|n| range.contains(n));
        if number.is_none() {
            self.wrong(expected);
        }
        number
    }

    /// `true` or `false`.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        let truth = self.scalar(&"true or false")?.as_bool();
        if truth.is_none() {
            self.wrong("true or false");
        }
        truth
    }

    /// A network in CIDR form without host bits, such as `10.1.0.0/16`. One of IPv4-mapped addresses is read as that of the
    /// IPv4 addresses, because addresses are compared in that form.
    #[must_use]
    pub fn net(&self) -> Option<IpNet> {
        let net = unmapped(self.parse_as("a network such as 10.1.0.0/16 or 2001:db8::/48")?);
        if net.trunc() != net {
            self.wrong(format_args!("a network: it has host bits; the network is {}", net.trunc()));
            return None;
        }
        Some(net)
    }

    /// One of the words of an enumeration.
    #[must_use]
    pub fn one_of<T: Words>(&self) -> Option<T> {
        let text = match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => scalar.text.as_str(),
            _ => {
                self.wrong(T::expected());
                return None;
            }
        };
        let found = T::of_word(text);
        if found.is_none() {
            self.no_such_word(text, T::EVERY.iter().map(|value| value.word()));
        }
        found
    }

    /// One of a few words that are no enumeration of their own; `T` is what each means.
    #[must_use]
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let expected = format!("one of {}", join(words.iter().map(|(word, _)| *word)));
        let text = self.scalar(&expected)?.text.as_str();
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            self.no_such_word(text, words.iter().map(|(word, _)| *word));
        }
        found.map(|(_, meaning)| *meaning)
    }

    fn no_such_word<'w>(&self, text: &str, words: impl Iterator<Item = &'w str> + Clone) {
        let expected = format!("one of {}", join(words.clone()));
        let hint = suggestion(text, words);
        self.error(format!("{} is not {expected}{hint}", self.node.found()), expected);
    }

    /// The items of a list, each read by `read`; all wrong ones are reported. `None` only if it is no list.
    #[must_use]
    pub fn list<T>(&self, read: impl FnMut(Self) -> Option<T>) -> Option<Vec<T>> {
        Some(self.items("a list")?.into_iter().filter_map(read).collect())
    }

    /// As [`Reader::list`], with at least one item and none twice.
    #[must_use]
    pub fn distinct<T: Clone + Eq + Hash>(&self, mut read: impl FnMut(Self) -> Option<T>) -> Option<Vec<T>> {
        let mut seen = HashSet::new();
        let mut values = Vec::new();
        for item in self.items("a list")? {
            let at = item.clone();
            let Some(value) = read(item) else { continue };
            if seen.insert(value.clone()) {
                values.push(value);
            } else {
                at.error(format!("{} is a duplicate value", at.node.found()), "each value once");
            }
        }
        Some(values)
    }

    /// Cursors on the items of a list; an error with `expected` if it is no list.
    fn items(&self, expected: &str) -> Option<Vec<Self>> {
        let Value::List(items) = &self.node.value else {
            self.wrong(expected);
            return None;
        };
        let at = |(n, node): (usize, &'a Node)| self.step(format!("{}[{n}]", self.field), node.line, node);
        Some(items.iter().enumerate().map(at).collect())
    }

    fn step(&self, field: String, line: u32, node: &'a Node) -> Self {
        Self { errors: self.errors, document: self.document, field, line, node }
    }

    /// The fields of a map with fixed keys.
    #[must_use]
    pub fn fields(&self) -> Option<Fields<'a>> {
        let Value::Map(_) = &self.node.value else {
            self.wrong("a map");
            return None;
        };
        let (looked_up, renamed) = (RefCell::default(), RefCell::default());
        Some(Fields { at: self.clone(), looked_up, renamed, strict: true })
    }

    /// The entries of a map with free keys: a cursor on each value, with its key.
    #[must_use]
    pub fn entries(&self) -> Option<Vec<(&'a str, Self)>> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong("a map");
            return None;
        };
        let prefix = self.prefix();
        let at = |entry: &'a super::tree::Entry| {
            self.errors.note_free(&self.field, &entry.key);
            let field = format!("{prefix}{}", entry.key);
            (entry.key.as_str(), self.step(field, entry.line, &entry.value))
        };
        Some(entries.iter().map(at).collect())
    }

    fn prefix(&self) -> String {
        if self.field.is_empty() { String::new() } else { format!("{}.", self.field) }
    }
}

/// A network whose addresses are all IPv4-mapped (RFC 4291 §2.5.5.2), as that of the IPv4 addresses.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(mapped) = net else { return net };
    let length = mapped.prefix_len().checked_sub(96);
    let found = mapped.addr().to_ipv4_mapped().zip(length);
    found.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

/// The fields of a map. When dropped, every key that was not looked up is an error.
#[derive(Debug)]
pub struct Fields<'a> {
    at: Reader<'a>,
    looked_up: RefCell<Vec<&'static str>>,
    /// Old names of keys, with the new ones.
    renamed: RefCell<Vec<[&'static str; 2]>>,
    strict: bool,
}

impl<'a> Fields<'a> {
    /// A cursor on the map itself, for errors about the whole.
    #[must_use]
    pub const fn whole(&self) -> &Reader<'a> {
        &self.at
    }

    /// A cursor on a field, if it was written (null counts as written).
    #[must_use]
    pub fn get(&self, key: &'static str) -> Option<Reader<'a>> {
        self.at.errors.note(&self.at.field, key);
        let mut looked_up = self.looked_up.borrow_mut();
        if !looked_up.contains(&key) {
            looked_up.push(key);
        }
        let entry = self.at.node.entry(key)?;
        Some(self.at.step(format!("{}{key}", self.at.prefix()), entry.line, &entry.value))
    }

    /// A field that must be there; `expected` is what belongs there, for the error when it is absent.
    #[must_use]
    pub fn required<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(Reader<'a>) -> Option<T>,
    ) -> Option<T> {
        let Some(field) = self.get(key) else {
            if self.is_under_an_old_name(key) {
                return None;
            }
            let missing = self.at.step(format!("{}{key}", self.at.prefix()), self.at.line, self.at.node);
            missing.error("is missing", expected);
            return None;
        };
        read(field)
    }

    /// A field that must be there and be one of the words of an enumeration.
    #[must_use]
    pub fn required_word<T: Words>(&self, key: &'static str) -> Option<T> {
        self.required(key, &T::expected(), |field| field.one_of())
    }

    /// A field that may be absent or null.
    #[must_use]
    pub fn optional<T>(&self, key: &'static str, read: impl FnOnce(Reader<'a>) -> Option<T>) -> Option<T> {
        self.get(key).filter(|field| !field.is_null()).and_then(read)
    }

    /// A field with a default, which is also what a wrong value reads as: the error is recorded anyway.
    #[must_use]
    pub fn or<T>(&self, key: &'static str, default: T, read: impl FnOnce(Reader<'a>) -> Option<T>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// Refuses a key that was renamed, at its line, with its new name. To be called before the new key is read, so that
    /// a required key that is there under its old name is not reported as missing as well.
    pub fn renamed(&self, old: &'static str, new: &'static str) {
        self.renamed.borrow_mut().push([old, new]);
        if let Some(entry) = self.at.node.entry(old) {
            let at = self.at.step(format!("{}{old}", self.at.prefix()), entry.line, &entry.value);
            at.error(format!("this key is now called `{new}`"), format!("`{new}`"));
        }
    }

    fn is_under_an_old_name(&self, key: &str) -> bool {
        let renamed = self.renamed.borrow();
        renamed.iter().any(|[old, new]| *new == key && self.at.node.entry(old).is_some())
    }

    /// Refuses a field that is designed but not supported yet. The error lists what is supported.
    pub fn not_yet(&self, key: &'static str, supported: &str) {
        if let Some(field) = self.get(key) {
            field.error(format!("not supported yet; supported are {supported}"), supported);
        }
    }

    /// Accepts keys that were not looked up, for a map that is refused for another reason.
    pub const fn ignore_rest(&mut self) {
        self.strict = false;
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        let Value::Map(entries) = &self.at.node.value else { return };
        let looked_up = self.looked_up.borrow();
        let renamed = self.renamed.borrow();
        let is_known = |key: &str| looked_up.contains(&key) || renamed.iter().any(|[old, _]| *old == key);
        for entry in entries.iter().filter(|entry| self.strict && !is_known(&entry.key)) {
            let hint = suggestion(&entry.key, looked_up.iter().copied());
            let known = format!("one of the keys {}", join(looked_up.iter().copied()));
            let at = self.at.step(format!("{}{}", self.at.prefix(), entry.key), entry.line, &entry.value);
            at.error(format!("unknown key{hint}"), known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InputError, Name, yaml};

    /// Reads one document and returns the errors, as printed.
    fn read(text: &str, with: impl FnOnce(&Fields<'_>)) -> Vec<String> {
        let errors = InputErrors::new("t.yaml".into());
        let trees = yaml::parse(text, &errors);
        assert_eq!(errors.count(), 0, "the YAML itself");
        let root = Reader::new(&errors, "Thing x", &trees[0]);
        with(&root.fields().unwrap());
        errors.into_vec().iter().map(InputError::to_string).collect()
    }

    #[test]
    fn every_error_in_one_run() {
        let text = "a: 70000\nb: nope\nc: [x, B, x]\nd: {e: 0s}\nsiet: 1\n";
        let found = read(text, |fields| {
            assert_eq!(fields.or("a", 9u16, |r| r.int(1..=65535)), 9);
            assert_eq!(fields.required("b", "", |r| r.boolean()), None);
            let names = fields.required("c", "", |r| r.distinct(|r| r.parse::<Name>()));
            assert_eq!(names.unwrap().len(), 1);
            let nested = fields.get("d").unwrap().fields().unwrap();
            assert_eq!(nested.optional("e", |r| r.ttl()), None);
            assert_eq!(fields.optional("site", |r| r.text(9)), None);
            assert_eq!(fields.required("g", "a name", |r| r.text(9)), None);
        });
        let name =
            "a name of 1 to 63 characters a-z, 0-9, '-', '_' or '.', starting with a letter or a digit";
        assert_eq!(
            found,
            [
                "t.yaml:1: Thing x: a: \"70000\" is not a whole number from 1 to 65535".to_owned(),
                "t.yaml:1: Thing x: g: is missing; expected a name".to_owned(),
                "t.yaml:2: Thing x: b: \"nope\" is not true or false".to_owned(),
                format!("t.yaml:3: Thing x: c[1]: \"B\" is not {name}"),
                "t.yaml:3: Thing x: c[2]: \"x\" is a duplicate value; expected each value once".to_owned(),
                "t.yaml:4: Thing x: d.e: \"0s\" is not a TTL of whole seconds, from 1s up to 24855d"
                    .to_owned(),
                "t.yaml:5: Thing x: siet: unknown key; did you mean \"site\"?; expected one of the keys \
                 a, b, c, d, site or g"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn a_renamed_key_is_refused_with_its_new_name() {
        let read_key = |fields: &Fields<'_>| {
            fields.renamed("cert", "certificate");
            fields.required("certificate", "a file", |it| it.text(9).map(str::to_owned))
        };
        let found = read("key: k\ncert: c\ncart: c\n", |fields| {
            assert_eq!(read_key(fields), None);
            assert!(fields.get("key").is_some());
        });
        let expected = [
            "t.yaml:2: Thing x: cert: this key is now called `certificate`",
            "t.yaml:3: Thing x: cart: unknown key; expected one of the keys certificate or key",
        ];
        assert_eq!(found, expected);
        let found = read("certificate: c\n", |fields| assert_eq!(read_key(fields).as_deref(), Some("c")));
        assert!(found.is_empty(), "{found:?}");
        let found = read("key: k\n", |fields| {
            assert!(fields.get("key").is_some());
            assert_eq!(read_key(fields), None);
        });
        assert_eq!(found, ["t.yaml:1: Thing x: certificate: is missing; expected a file"]);
    }

    #[test]
    fn shapes_are_told_apart() {
        let found = read("a: [1]\nb: {x: 1}\nc: text\nd: 1.5\ne: '5'\nf:\n", |fields| {
            assert_eq!(fields.optional("a", |r| r.text(9)), None);
            assert_eq!(fields.optional("b", |r| r.list(|r| r.text(9).map(str::to_owned))), None);
            assert!(fields.optional("c", |r| r.fields()).is_none());
            assert_eq!(fields.optional("d", |r| r.int(0..=9u8)), None);
            assert_eq!(fields.optional("e", |r| r.int(0..=9u8)), None);
            assert_eq!(fields.required("f", "a text", |r| r.text(9)), None);
        });
        assert_eq!(found.len(), 6, "{found:#?}");
        assert!(found[0].contains("a: a list is not a text"), "{found:#?}");
        assert!(found[5].contains("f: nothing is not a text"), "{found:#?}");
    }

    #[test]
    fn words_and_nets() {
        let found = read("a: majorty\nb: 10.1.2.3/16\nc: 10.0.0.0/33\n", |fields| {
            assert_eq!(fields.optional("a", |r| r.word(&[("majority", 1), ("any", 2)])), None);
            assert_eq!(fields.optional("b", |r| r.net()), None);
            assert_eq!(fields.optional("c", |r| r.net()), None);
        });
        assert!(found[0].contains("\"majorty\" is not one of majority or any; did you mean \"majority\"?"));
        assert!(found[1].contains("the network is 10.1.0.0/16"), "{found:#?}");
        assert!(found[2].contains("a network such as"), "{found:#?}");
    }

    #[test]
    fn a_network_of_mapped_addresses_is_that_of_the_addresses() {
        let text = "a: '::ffff:10.0.0.0/104'\nb: '::ffff:0:0/96'\nc: '::ffff:0:0/95'\nd: '::ffff:10.0.0.1/104'\n\
                    e: '2001:db8::/104'\nf: '::fffe:0:0/95'\n";
        let found = read(text, |fields| {
            let net = |key| fields.optional(key, |it| it.net()).map(|it| it.to_string());
            assert_eq!(net("a").as_deref(), Some("10.0.0.0/8"));
            assert_eq!(net("b").as_deref(), Some("0.0.0.0/0"));
            assert_eq!(net("c"), None);
            assert_eq!(net("d"), None);
            assert_eq!(net("e").as_deref(), Some("2001:db8::/104"));
            assert_eq!(net("f").as_deref(), Some("::fffe:0:0/95"));
        });
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].contains("c: ") && found[1].contains("the network is 10.0.0.0/8"), "{found:#?}");
    }
}
