//! Enumerations of which people write the values as words.
//!
//! [`words!`] declares such an enumeration, and [`tagged!`] one whose values hold more than their word. Each word is
//! written once, in the declaration: the reader, the writer, the stored form, messages and the command line take it from
//! there. serde alone has the words too, but it offers no list of them for messages.

use std::fmt;

/// An enumeration whose values are words.
pub trait Words: Copy + Eq + fmt::Debug + 'static {
    /// Every value, in the order in which messages list them.
    const EVERY: &'static [Self];

    /// The word for it.
    fn word(self) -> &'static str;

    /// The value of a word.
    #[must_use]
    fn of_word(word: &str) -> Option<Self> {
        Self::EVERY.iter().copied().find(|value| value.word() == word)
    }

    /// The words, for people: `one of a, b or c`.
    #[must_use]
    fn expected() -> String {
        format!("one of {}", join(Self::EVERY.iter().map(|value| value.word())))
    }
}

/// `a, b or c`.
pub(crate) fn join<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let words: Vec<&str> = words.collect();
    match words.split_last() {
        None => String::new(),
        Some((only, [])) => (*only).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// A text that is none of the words; it prints as what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownWord(pub(crate) String);

/// Declares an enumeration of words: `"word" Variant,`.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $word:literal $variant:ident, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize
        )]
        pub enum $name {
            $( $(#[$variant_meta])* #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// Every one.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word for it, as in documents and views.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl $crate::Words for $name {
            const EVERY: &'static [Self] = &Self::ALL;

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::UnknownWord;

            fn from_str(text: &str) -> Result<Self, $crate::UnknownWord> {
                use $crate::Words as _;
                Self::of_word(text).ok_or_else(|| $crate::UnknownWord(Self::expected()))
            }
        }
    };
}

/// Declares an enumeration whose values hold more than a word, and beside it the enumeration of their words.
macro_rules! tagged {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $(
                $(#[$variant_meta:meta])*
                $word:literal $variant:ident $(($($inner:tt)*))? $({$($fields:tt)*})?,
            )+
        }
        $(#[$kind_meta:meta])*
        pub enum $kind:ident;
    ) => {
        #[derive(serde::Serialize, serde::Deserialize)]
        $(#[$meta])*
        pub enum $name {
            $( $(#[$variant_meta])* #[serde(rename = $word)] $variant $(($($inner)*))? $({$($fields)*})?, )+
        }

        $crate::words::words! {
            $(#[$kind_meta])*
            pub enum $kind {
                $( #[doc = concat!("[`", stringify!($name), "::", stringify!($variant), "`].")] $word $variant, )+
            }
        }

        impl $name {
            /// Which of them it is, without what it holds.
            #[must_use]
            pub const fn kind(&self) -> $kind {
                match self {
                    $( Self::$variant { .. } => $kind::$variant, )+
                }
            }

            /// The word for it, as in documents and views.
            #[must_use]
            pub const fn as_str(&self) -> &'static str {
                self.kind().as_str()
            }
        }
    };
}

pub(crate) use {tagged, words};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Authority, Colour, Day, Document, HttpVersion, Jurisdiction, Kind, Method, OverrideState, Policy,
        PolicyType, ProbeType, RecoveryKind, RecoveryMode, Role, RouteBy,
    };

    /// The stored form, `Display` and `FromStr` have the same word.
    fn one_word_each<T: Words + serde::Serialize + fmt::Display + std::str::FromStr>() {
        for value in T::EVERY {
            let stored = serde_json::to_value(value).unwrap();
            assert_eq!(stored, value.word());
            assert_eq!(value.to_string(), value.word());
            assert_eq!(value.word().parse::<T>().ok(), Some(*value));
            assert_eq!(format!("{}x", value.word()).parse::<T>().ok(), None);
        }
    }

    #[test]
    fn a_word_is_the_same_everywhere() {
        one_word_each::<Authority>();
        one_word_each::<Colour>();
        one_word_each::<Day>();
        one_word_each::<HttpVersion>();
        one_word_each::<Jurisdiction>();
        one_word_each::<Kind>();
        one_word_each::<Method>();
        one_word_each::<OverrideState>();
        one_word_each::<PolicyType>();
        one_word_each::<ProbeType>();
        one_word_each::<RecoveryKind>();
        one_word_each::<Role>();
        one_word_each::<RouteBy>();
        assert_eq!("blu".parse::<Colour>().unwrap_err().to_string(), "one of blue or green");
    }

    #[test]
    fn a_tag_is_the_word_of_its_kind() {
        let policy = serde_json::to_value(Policy::Nearest {}).unwrap();
        assert_eq!(policy["type"], Policy::Nearest {}.kind().as_str());
        let mode = serde_json::to_value(RecoveryMode::Manual).unwrap();
        assert_eq!(mode["mode"], RecoveryMode::Manual.kind().as_str());
        let site = crate::Site {
            name: "a".parse().unwrap(),
            location: None,
            networks: vec![],
            region: None,
            control: None,
            reach: [].into(),
        };
        let document = Document::Site(site);
        assert_eq!(serde_json::to_value(&document).unwrap()["kind"], document.kind().as_str());
    }
}
