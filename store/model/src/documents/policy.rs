//! Policies: in which order a domain's sites are offered, to whom, and when.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    Name, Weight,
    words::{tagged, words},
};

tagged! {
    /// How sites are ranked among those of equal health.
    #[derive(Clone, Debug, PartialEq, Eq)]
    #[serde(tag = "type")]
    pub enum Policy {
        /// By the client's locality.
        "nearest" Nearest {},
        /// In this order.
        "failover" Failover {
            /// Every site of the domain, first choice first.
            order: Vec<Name>,
        },
        /// By shares: each client network is given one of the sites by consistent hash and keeps it while the weights
        /// and the sites' health stay as they are.
        "weighted" Weighted {
            /// The share of every site of the domain, relative to the others; zero: only when no other is left.
            weights: BTreeMap<Name, Weight>,
        },
        /// The sites of one colour first, nearest first, then those of the other.
        "blue_green" BlueGreen(Box<BlueGreen>),
    }
    /// What a [`Policy`] is called.
    pub enum PolicyType;
}

/// Two sets of sites, of which one is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueGreen {
    /// The colour in use.
    pub active: Colour,
    /// The blue sites. Every site of the domain has one colour.
    pub blue: Vec<Name>,
    /// The green sites.
    pub green: Vec<Name>,
}

impl BlueGreen {
    /// The sites of the colour in use.
    #[must_use]
    pub fn in_use(&self) -> &[Name] {
        match self.active {
            Colour::Blue => &self.blue,
            Colour::Green => &self.green,
        }
    }
}

words! {
    /// One of two sets of sites, of which one is in use.
    #[derive(Default)]
    pub enum Colour {
        /// The blue one.
        #[default]
        "blue" Blue,
        /// The green one.
        "green" Green,
    }
}

impl Colour {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

/// Another policy for some clients, or for some time. The first rule whose conditions all hold decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Clients in one of these networks; empty: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// Clients in one of these countries (ISO 3166-1 alpha-2), as the node's GeoIP database has it; empty: everybody. On a
    /// node without one no client is in any country.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub countries: Vec<Country>,
    /// Only then; absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<Schedule>,
    /// How sites are ranked for them.
    pub policy: Policy,
}

/// A country by its two letters (ISO 3166-1 alpha-2), in upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

/// Not two letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a country of two letters as in ISO 3166-1, such as CN")]
pub struct NotACountry;

impl std::str::FromStr for Country {
    type Err = NotACountry;

    fn from_str(text: &str) -> Result<Self, NotACountry> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => Err(NotACountry),
        }
    }
}

impl std::fmt::Display for Country {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl Serialize for Country {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Hours of the week, by the wall clock of a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The place's name in the IANA time zone database, such as `Asia/Shanghai`.
    pub time_zone: String,
    /// The days on which it begins; all seven if the document names none.
    pub days: Vec<Day>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends, on the next day if that is not later than `from`.
    pub to: TimeOfDay,
}

words! {
    /// A day of the week.
    #[expect(missing_docs, reason = "the days")]
    pub enum Day {
        "mon" Mon,
        "tue" Tue,
        "wed" Wed,
        "thu" Thu,
        "fri" Fri,
        "sat" Sat,
        "sun" Sun,
    }
}

/// A time of day in whole minutes: `00:00` to `24:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeOfDay(u16);

/// Not a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time of day from \"00:00\" to \"24:00\"")]
pub struct NotATimeOfDay;

impl TimeOfDay {
    /// Minutes in a day.
    pub const DAY: u16 = 24 * 60;

    /// Minutes since midnight; `None` for more than a day.
    #[must_use]
    pub const fn from_minutes(minutes: u16) -> Option<Self> {
        if minutes > Self::DAY { None } else { Some(Self(minutes)) }
    }

    /// Minutes since midnight.
    #[must_use]
    pub const fn minutes(self) -> u16 {
        self.0
    }
}

impl std::str::FromStr for TimeOfDay {
    type Err = NotATimeOfDay;

    fn from_str(text: &str) -> Result<Self, NotATimeOfDay> {
        let (hours, minutes) = text.split_once(':').ok_or(NotATimeOfDay)?;
        let number = |text: &str| match text.as_bytes() {
            [a, b] if a.is_ascii_digit() && b.is_ascii_digit() => {
                Ok(u16::from(a - b'0') * 10 + u16::from(b - b'0'))
            }
            _ => Err(NotATimeOfDay),
        };
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        if minutes > 59 {
            return Err(NotATimeOfDay);
        }
        Self::from_minutes(hours * 60 + minutes).ok_or(NotATimeOfDay)
    }
}

impl std::fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
