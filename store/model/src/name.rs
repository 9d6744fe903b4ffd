//! Names of documents and of DNS.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a name should have looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// For documents.
    #[error("a name of 1 to 63 characters a-z, 0-9, '-', '_' or '.', starting with a letter or a digit")]
    Document,
    /// For DNS.
    #[error(
        "a domain name such as gw.example.com: labels of 1 to 63 characters a-z, 0-9, '-' or '_', at most 253 in all"
    )]
    Domain,
    /// For DNS, where a label may have any octets.
    #[error(
        "a domain name: labels of 1 to 63 octets, at most 255 in all, unusual ones written \\DDD (RFC 1035 §5.1)"
    )]
    Octets,
}

/// The name of a document: also a metric label and part of a key, hence the narrow alphabet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let fits = (1..=63).contains(&bytes.len())
            && bytes.first().copied().is_some_and(plain)
            && bytes.iter().all(|&b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
            && !text.contains("..");
        if fits { Ok(Self(text.into())) } else { Err(NameError::Document) }
    }
}

/// A fully qualified domain name in lower case, without the trailing dot. Only the root has no label; its text is
/// empty, and it occurs only in record data ([`DomainName::root`]).
///
/// Names of documents are host-like (letters, digits, `-`, `_`, and a leading `*` label), which is what
/// [`FromStr`] takes. Owners and targets of records may hold any octets (RFC 2181 §11): in the text those are
/// written `\DDD`, dots inside a label as `\046`, so that every name has one text and every `.` in it parts two
/// labels. [`DomainName::resolve`] and [`DomainName::from_labels`] take them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Arc<str>);

impl DomainName {
    /// The root, which record data may point to: `CNAME .`, or a SOA without a mailbox.
    #[must_use]
    pub fn root() -> Self {
        Self("".into())
    }

    /// True for [`DomainName::root`].
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The text: lower case, no trailing dot; of the root empty.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels from the left, as octets in lower case: what goes on the wire.
    pub fn octets(&self) -> impl DoubleEndedIterator<Item = Cow<'_, [u8]>> {
        // Every record of a reply comes through here, and looking for a character in a text costs more than comparing octets.
        let labels = self.0.as_bytes().split(|octet| *octet == b'.').filter(|label| !label.is_empty());
        labels.map(|label| match label.contains(&b'\\') {
            false => Cow::Borrowed(label),
            true => Cow::Owned(unescape(label).concat()),
        })
    }

    /// A name of these labels.
    ///
    /// # Errors
    /// A label that is empty or longer than 63 octets, no label, or more than 255 octets in all (RFC 1035 §2.3.4).
    pub fn from_labels<L: AsRef<[u8]>>(labels: impl IntoIterator<Item = L>) -> Result<Self, NameError> {
        let mut text = String::new();
        let mut octets = 1;
        for label in labels {
            let label = label.as_ref();
            octets += label.len() + 1;
            if !(1..=63).contains(&label.len()) || octets > 255 {
                return Err(NameError::Octets);
            }
            if !text.is_empty() {
                text.push('.');
            }
            label.iter().for_each(|octet| push_escaped(&mut text, *octet));
        }
        if text.is_empty() { Err(NameError::Octets) } else { Ok(Self(text.into())) }
    }

    /// The labels from the left, in their text form.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.').filter(|label| !label.is_empty())
    }

    /// True if this name is `apex` or lies below it.
    #[must_use]
    pub fn is_within(&self, apex: &Self) -> bool {
        match self.0.strip_suffix(&*apex.0) {
            Some("") => true,
            Some(_) if apex.is_root() => true,
            Some(rest) => rest.ends_with('.'),
            None => false,
        }
    }

    /// True if `*` is its first label.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.") || &*self.0 == "*"
    }

    /// True if a host is this name, or if this is a wildcard and the host, or another wildcard, lies below its parent: `*` stands
    /// for one or more labels.
    #[must_use]
    pub fn covers(&self, host: &Self) -> bool {
        let Some(parent) = self.0.strip_prefix('*') else { return self == host };
        host.0.len() > parent.len() && host.0.ends_with(parent)
    }

    /// The name one label up; `None` for a single label.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, parent)| Self(parent.into()))
    }

    /// `relative` (one or more labels, or `@` for the origin itself, or absolute with a trailing dot) below `self`,
    /// in presentation form (RFC 1035 §5.1), `\DDD` and `\X` included.
    ///
    /// # Errors
    /// When the result is not a domain name, or is the root.
    pub fn resolve(&self, relative: &str) -> Result<Self, NameError> {
        Self::below(Some(self), relative.as_bytes())?.ok_or(NameError::Octets)
    }

    /// As [`DomainName::resolve`], of octets and also below the root, which is `None` here and in the result.
    ///
    /// # Errors
    /// When the result is not a domain name.
    pub fn below(origin: Option<&Self>, relative: &[u8]) -> Result<Option<Self>, NameError> {
        match relative {
            b"@" => return Ok(origin.cloned()),
            b"." => return Ok(None),
            _ => {}
        }
        Self::joined(origin, Self::labels_of(relative)?)
    }

    /// As [`DomainName::below`], of a word of a zone file: a label may have any octet, since the words are parted
    /// already. In quotes, `@` is a name as any other.
    ///
    /// # Errors
    /// When the result is not a domain name.
    pub fn in_zone_file(origin: Option<&Self>, word: &[u8], quoted: bool) -> Result<Option<Self>, NameError> {
        match word {
            b"@" if !quoted => Ok(origin.cloned()),
            b"." => Ok(None),
            _ => Self::joined(origin, Self::split(word)?),
        }
    }

    fn joined(
        origin: Option<&Self>,
        (labels, absolute): (Vec<Vec<u8>>, bool),
    ) -> Result<Option<Self>, NameError> {
        let origin = origin.into_iter().flat_map(Self::octets).filter(|_| !absolute);
        Self::from_labels(labels.into_iter().map(Cow::Owned).chain(origin)).map(Some)
    }
}

impl DomainName {
    /// The labels of a name in presentation form (RFC 1035 §5.1), as they are written, and whether a dot ends it.
    ///
    /// # Errors
    /// Octets that must be escaped, a malformed escape, or an empty label. The lengths are not looked at.
    pub fn labels_of(text: &[u8]) -> Result<(Vec<Vec<u8>>, bool), NameError> {
        let mut rest = text;
        while let [octet, after @ ..] = rest {
            rest = match octet {
                b'\\' => escaped(after).ok_or(NameError::Octets)?.1,
                plain if !plain.is_ascii_graphic() || b"\"();".contains(plain) => {
                    return Err(NameError::Octets);
                }
                _ => after,
            };
        }
        Self::split(text)
    }

    /// The labels of a name, and whether a dot ends it.
    fn split(text: &[u8]) -> Result<(Vec<Vec<u8>>, bool), NameError> {
        let mut labels = unescape(text);
        let absolute = labels.len() > 1 && labels.pop_if(|last| last.is_empty()).is_some();
        if labels.iter().any(Vec::is_empty) { Err(NameError::Octets) } else { Ok((labels, absolute)) }
    }
}

fn push_escaped(text: &mut String, octet: u8) {
    match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'*' => {
            text.push(octet.to_ascii_lowercase().into());
        }
        other => text.push_str(&format!("\\{other:03}")),
    }
}

/// Labels parted by dots, escapes taken out. An escape that is none gives an empty label, which no name has.
fn unescape(text: &[u8]) -> Vec<Vec<u8>> {
    let mut labels = vec![Vec::new()];
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        let octet = match first {
            b'.' => {
                labels.push(Vec::new());
                continue;
            }
            b'\\' => match escaped(after) {
                Some((octet, after)) => {
                    rest = after;
                    octet
                }
                None => return vec![Vec::new()],
            },
            plain => *plain,
        };
        if let Some(label) = labels.last_mut() {
            label.push(octet);
        }
    }
    labels
}

/// What follows a backslash: three decimal digits are an octet, any other character is itself
/// (RFC 1035 §5.1).
pub(crate) fn escaped(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
            let digit = |it: &u8| u16::from(it - b'0');
            let octet = u8::try_from(digit(a) * 100 + digit(b) * 10 + digit(c)).ok()?;
            Some((octet, rest))
        }
        [b'0'..=b'9', ..] | [] => None,
        [plain, rest @ ..] => Some((*plain, rest)),
    }
}

impl FromStr for DomainName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let label_fits = |(at, label): (usize, &str)| {
            let wildcard = at == 0 && label == "*";
            let octets = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            (1..=63).contains(&label.len()) && (octets || wildcard)
        };
        let fits = text.len() <= 253 && text.split('.').enumerate().all(label_fits);
        if fits { Ok(Self(text.to_ascii_lowercase().into())) } else { Err(NameError::Domain) }
    }
}

macro_rules! text_type {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}
text_type!(Name);
text_type!(DomainName);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|expected| de::Error::custom(format!("{text:?} is not {expected}")))
    }
}

impl<'de> Deserialize<'de> for DomainName {
    /// The stored form: also names that are not host-like.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::root());
        }
        let read = text.parse().or_else(|_| Self::from_labels(unescape(text.as_bytes())));
        read.map_err(|expected| de::Error::custom(format!("{text:?} is not {expected}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_names() {
        for good in ["bj", "orders-api", "gz-telecom", "9a", "a.b_c"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a b", "a/b", "a..b", "é", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn domain_names() {
        let name: DomainName = "GW.Example.com.".parse().unwrap();
        assert_eq!(name.as_str(), "gw.example.com");
        for bad in ["", ".", "a..b", "a b.c", "a.*.b", &"x".repeat(64), &["abcdefgh"; 30].join(".")] {
            assert!(bad.parse::<DomainName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn within_is_by_label() {
        let name = |text: &str| text.parse::<DomainName>().unwrap();
        assert!(name("gw.example.com").is_within(&name("example.com")));
        assert!(name("example.com").is_within(&name("example.com")));
        assert!(!name("badexample.com").is_within(&name("example.com")));
        assert_eq!(name("example.com").resolve("@").unwrap(), name("example.com"));
        assert_eq!(name("example.com").resolve("a.b").unwrap(), name("a.b.example.com"));
        assert_eq!(name("example.com").resolve("x.org.").unwrap(), name("x.org"));
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        let name = |text: &str| text.parse::<DomainName>().unwrap();
        let wildcard = name("*.example.com");
        assert!(wildcard.is_wildcard() && !name("a.example.com").is_wildcard());
        for host in ["a.example.com", "a.b.example.com", "*.b.example.com", "*.example.com"] {
            assert!(wildcard.covers(&name(host)), "{host}");
        }
        for host in ["example.com", "badexample.com", "*.com", "a.example.org"] {
            assert!(!wildcard.covers(&name(host)), "{host}");
        }
        assert!(name("a.b").covers(&name("a.b")) && !name("a.b").covers(&name("c.a.b")));
    }

    #[test]
    fn names_below_the_root() {
        let below = |text: &str| DomainName::below(None, text.as_bytes()).unwrap().map(|it| it.to_string());
        assert_eq!(below("@"), None);
        assert_eq!(below("com"), Some("com".to_owned()));
        assert_eq!(below("example.com."), Some("example.com".to_owned()));
    }

    #[test]
    fn any_octets_can_stand_in_a_label_and_have_one_text() {
        let origin: DomainName = "example.com".parse().unwrap();
        let text = |relative: &str| origin.resolve(relative).map(|name| name.to_string());
        assert_eq!(text(r"John\.Doe").unwrap(), r"john\046doe.example.com");
        assert_eq!(text(r"0/25").unwrap(), r"0\04725.example.com");
        assert_eq!(text(r"\065\000.").unwrap(), r"a\000");
        assert_eq!(text(r"a\.").unwrap(), r"a\046.example.com");
        assert_eq!(text(r"\*.a").unwrap(), "*.a.example.com");
        for bad in ["", ".", "..", "a..b", ".a", r"\", r"a\1", r"\256", "a b", "é", "a\"", &"x".repeat(64)] {
            assert!(origin.resolve(bad).is_err(), "{bad:?}");
        }
        assert_eq!(DomainName::below(Some(&origin), b".").unwrap(), None);
        let odd = origin.resolve(r"John\.Doe").unwrap();
        assert_eq!(odd.octets().next().unwrap().as_ref(), b"john.doe");
        let stored = serde_json::to_string(&odd).unwrap();
        assert_eq!(serde_json::from_str::<DomainName>(&stored).unwrap(), odd);
    }
}
