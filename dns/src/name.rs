//! Names of questions: any octets, in the case of the query, with a text to look them up by.

use std::{fmt, str::FromStr};

use hickory_proto::rr::Name;
use store::model::DomainName;

/// A name from a question. Keeps the case of the query, which the reply repeats (resolvers check it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryName {
    wire: Name,
    key: Box<str>,
}

/// The text is no domain name: labels of 1 to 63 octets, at most 255 octets in all (RFC 1035 §2.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a domain name: labels of 1 to 63 octets, at most 255 octets in all")]
pub struct NotAName;

impl QueryName {
    pub(crate) fn from_wire(wire: Name) -> Self {
        let key = key(&wire).into();
        Self { wire, key }
    }

    /// The text to look it up by: lower case, without the trailing dot. Octets that no configured name has
    /// are written `\DDD`, dots inside a label too, so that every `.` in it parts two labels.
    #[must_use]
    pub const fn key(&self) -> &str {
        &self.key
    }

    pub(crate) const fn wire(&self) -> &Name {
        &self.wire
    }
}

impl FromStr for QueryName {
    type Err = NotAName;

    /// Presentation form (RFC 1035 §5.1), with or without the trailing dot.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        if text == "." {
            return Ok(Self::from_wire(Name::root()));
        }
        let (labels, _) = DomainName::labels_of(text.as_bytes()).map_err(|_| NotAName)?;
        let wire = Name::from_labels(labels.iter().map(Vec::as_slice)).map_err(|_| NotAName)?;
        Ok(Self::from_wire(wire))
    }
}

impl From<&DomainName> for QueryName {
    fn from(name: &DomainName) -> Self {
        let labels: Vec<_> = name.octets().collect();
        // A domain name keeps the limits of RFC 1035 §2.3.4 itself.
        Self::from_wire(Name::from_labels(labels.iter().map(AsRef::as_ref)).unwrap_or_default())
    }
}

impl fmt::Display for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wire.to_ascii())
    }
}

fn key(wire: &Name) -> String {
    let mut key = String::with_capacity(wire.len());
    for label in wire.iter() {
        if !key.is_empty() {
            key.push('.');
        }
        for &octet in label {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'*' => {
                    key.push(octet.to_ascii_lowercase().into());
                }
                other => key.push_str(&format!("\\{other:03}")),
            }
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_lower_case_and_the_name_is_not() {
        let name: QueryName = "GW.Example.COM".parse().unwrap();
        assert_eq!(name.key(), "gw.example.com");
        assert_eq!(name.to_string(), "GW.Example.COM.");
    }

    #[test]
    fn octets_inside_a_label_never_look_like_another_name() {
        let key = |labels: &[&[u8]]| {
            QueryName::from_wire(Name::from_labels(labels.iter().copied()).unwrap()).key().to_owned()
        };
        assert_eq!(key(&[b"a.b", b"example"]), "a\\046b.example");
        assert_eq!(key(&[b"a\\", b"\x00\xff"]), "a\\092.\\000\\255");
        assert_eq!(key(&[b"*", b"example"]), "*.example");
        assert_eq!(key(&[]), "");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["a..b", &"x".repeat(64), &["abcdefgh"; 32].join(".")] {
            assert!(bad.parse::<QueryName>().is_err(), "{bad}");
        }
        assert_eq!(".".parse::<QueryName>().unwrap().key(), "");
    }

    #[test]
    fn every_domain_name_can_be_queried() {
        let origin: DomainName = "example.com".parse().unwrap();
        for odd in [r"John\.Doe", "a.*.b", r"0/25", r"\065\000\200", "*"] {
            let name = origin.resolve(odd).unwrap();
            assert_eq!(QueryName::from(&name).key(), name.as_str());
            assert_eq!(name.as_str().parse::<QueryName>().unwrap().key(), name.as_str());
        }
    }
}
