//! Names of documents and of DNS.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

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

/// A fully qualified domain name in lower case, without the trailing dot; at least one label.
///
/// Only host-like names (letters, digits, `-`, `_`, and a leading `*` label) exist in documents; other octets
/// (RFC 2181 §11) come in with zone files and stay inside `dns`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Arc<str>);

impl DomainName {
    /// The text: lower case, no trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels from the left.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// True if this name is `apex` or lies below it.
    #[must_use]
    pub fn is_within(&self, apex: &Self) -> bool {
        match self.0.strip_suffix(&*apex.0) {
            Some("") => true,
            Some(rest) => rest.ends_with('.'),
            None => false,
        }
    }

    /// The name one label up; `None` for a single label.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, parent)| Self(parent.into()))
    }

    /// `relative` (one or more labels, or `@` for the origin itself, or absolute with a trailing dot) below `self`.
    ///
    /// # Errors
    /// When the result is not a domain name.
    pub fn resolve(&self, relative: &str) -> Result<Self, NameError> {
        match relative {
            "@" => Ok(self.clone()),
            absolute if absolute.ends_with('.') => absolute.parse(),
            relative => format!("{relative}.{self}").parse(),
        }
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

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|expected| de::Error::custom(format!("{text:?} is not {expected}")))
            }
        }
    };
}
text_type!(Name);
text_type!(DomainName);

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
}
