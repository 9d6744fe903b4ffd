//! The number of a configuration.
//!
//! It is copied wherever a configuration is named: in snapshots, heartbeats, records and answers. So it is `Copy`, and the
//! site that gave its epoch is stored in place.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Name, NameError};

/// The number of a configuration: given out by the home engine only, and only ever upwards.
///
/// A restore from backup raises the epoch, so that nodes take the older content as the newer generation, and so does a
/// promotion, which makes another site the home. Two sites that are promoted while they cannot reach one another raise the
/// epoch to the same number; the site that gave it decides then, everywhere in the same way. Ordered by epoch, site and
/// number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// Raised by a restore and by a promotion.
    pub epoch: u32,
    /// The site that gave the epoch, which is the home. Empty for an engine that is connected to no other site.
    #[serde(default, skip_serializing_if = "SiteTag::is_empty")]
    pub site: SiteTag,
    /// Raised by every commit.
    pub number: u64,
}

impl Generation {
    /// A generation of an engine that is connected to no other site.
    #[must_use]
    pub const fn new(epoch: u32, number: u64) -> Self {
        Self { epoch, site: SiteTag::NONE, number }
    }

    /// True if both were given out by one home in one epoch, so that the higher number contains the lower one.
    #[must_use]
    pub fn same_epoch(self, other: Self) -> bool {
        (self.epoch, self.site) == (other.epoch, other.site)
    }
}

/// `2.17`, or `2.17@sh` if a site gave the epoch.
impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)?;
        if self.site.is_empty() { Ok(()) } else { write!(f, "@{}", self.site) }
    }
}

/// Why a text is no generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a generation such as 2.17 or 2.17@sh")]
pub struct NotAGeneration;

impl FromStr for Generation {
    type Err = NotAGeneration;

    fn from_str(text: &str) -> Result<Self, NotAGeneration> {
        let (numbers, site) = match text.split_once('@') {
            Some((numbers, site)) => (numbers, SiteTag::of(&site.parse().map_err(|_| NotAGeneration)?)),
            None => (text, SiteTag::NONE),
        };
        let (epoch, number) = numbers.split_once('.').ok_or(NotAGeneration)?;
        let epoch = epoch.parse().map_err(|_| NotAGeneration)?;
        Ok(Self { epoch, site, number: number.parse().map_err(|_| NotAGeneration)? })
    }
}

/// The name of a site, or nothing. Ordered as names are, nothing first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteTag([u8; Self::MAX]);

impl SiteTag {
    /// No site.
    pub const NONE: Self = Self([0; Self::MAX]);
    /// The longest name, in octets.
    const MAX: usize = 63;

    /// The tag of a site.
    #[must_use]
    pub fn of(site: &Name) -> Self {
        let mut octets = [0; Self::MAX];
        for (to, from) in octets.iter_mut().zip(site.as_str().bytes()) {
            *to = from;
        }
        Self(octets)
    }

    /// True if it names no site.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// The site; `None` if there is none.
    #[must_use]
    pub fn name(&self) -> Option<Name> {
        self.as_str().parse().ok()
    }

    /// The name; empty if there is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|octet| *octet == 0).unwrap_or(Self::MAX);
        self.0.get(..end).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

impl Default for SiteTag {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for SiteTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for SiteTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl FromStr for SiteTag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() { Ok(Self::NONE) } else { Ok(Self::of(&text.parse()?)) }
    }
}

impl Serialize for SiteTag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SiteTag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(text: &str) -> Generation {
        text.parse().unwrap()
    }

    #[test]
    fn an_epoch_outranks_every_number() {
        assert!(Generation::new(2, 1) > Generation::new(1, 900));
    }

    #[test]
    fn of_two_sites_promoted_at_once_the_later_name_wins_whatever_the_numbers() {
        assert!(generation("2.1@sh") > generation("2.9@gz"));
        assert!(generation("2.1@bj") > generation("2.9"));
        assert!(generation("3.1") > generation("2.9@sh"));
        assert!(generation("2.1@a-b") > generation("2.1@a"));
        assert!(!generation("2.1@sh").same_epoch(generation("2.1@gz")));
        assert!(generation("2.1@sh").same_epoch(generation("2.7@sh")));
    }

    #[test]
    fn text_and_json_read_as_they_were_written() {
        let longest = format!("7.1@{}", "x".repeat(63));
        for text in ["0.0", "2.17", "2.17@sh", "4294967295.18446744073709551615@a.b_c-1", &longest] {
            let read = generation(text);
            assert_eq!(read.to_string(), text);
            let json = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<Generation>(&json).unwrap(), read, "{json}");
        }
        let plain = serde_json::to_string(&Generation::new(2, 17)).unwrap();
        assert_eq!(plain, r#"{"epoch":2,"number":17}"#, "as versions that know no sites wrote it");
        for none in ["", "1", "1.", "1.2@", "1.2@A", "1.x", "-1.2", "1.2@sh@bj"] {
            assert_eq!(none.parse::<Generation>(), Err(NotAGeneration), "{none}");
        }
    }
}
