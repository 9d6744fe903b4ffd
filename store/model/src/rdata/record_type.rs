//! Record types as a type of their own, with constants for those that code speaks of.
//!
//! hickory-proto has a `RecordType` too, but it has fewer types than zone files may hold, names none of the obsolete
//! ones, and would be a dependency of the documents. Numbers and mnemonics are in one table, `types::SHAPES`.

use std::{fmt, str::FromStr};

use super::types::{self, QUESTIONS, SHAPES};

/// A record or query type by its number (RFC 6895 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

/// The text is no record type: a mnemonic such as `AAAA`, or `TYPE` and a number (RFC 3597 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record type such as A, AAAA, CNAME or TXT, or TYPE and a number")]
pub struct NotAType;

const fn equal(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// The type of a mnemonic, for constants: one that is in no table does not compile.
const fn named(mnemonic: &str) -> RecordType {
    let mut at = 0;
    while at < SHAPES.len() {
        if equal(SHAPES[at].mnemonic, mnemonic) {
            return RecordType(SHAPES[at].number);
        }
        at += 1;
    }
    let mut at = 0;
    while at < QUESTIONS.len() {
        if equal(QUESTIONS[at].1, mnemonic) {
            return RecordType(QUESTIONS[at].0);
        }
        at += 1;
    }
    panic!("no record type has this mnemonic")
}

macro_rules! record_types {
    ($($constant:ident $doc:literal)*) => {
        impl RecordType {
            $(#[doc = $doc] pub const $constant: Self = named(stringify!($constant));)*
        }
    };
}

record_types! {
    A "An IPv4 address."
    NS "A name server."
    CNAME "An alias."
    SOA "The start of a zone."
    PTR "A reverse name."
    HINFO "Host data; here only as the short answer to ANY (RFC 8482)."
    MX "A mail exchanger."
    TXT "Text."
    AAAA "An IPv6 address."
    SRV "A service's location."
    DNAME "An alias for everything below a name (RFC 6672)."
    OPT "EDNS (RFC 6891); no type to ask for."
    DS "A child zone's key; belongs to the parent's side of a delegation."
    SVCB "A service binding (RFC 9460)."
    HTTPS "A service binding for HTTPS (RFC 9460)."
    TKEY "A key exchange; no type to ask for here."
    TSIG "A transaction signature; no type to ask for."
    IXFR "An incremental zone transfer."
    AXFR "A zone transfer."
    ANY "Any type (RFC 8482)."
    CAA "Who may issue certificates."
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match QUESTIONS.iter().find(|(number, _)| *number == self.0) {
            Some((_, mnemonic)) => f.write_str(mnemonic),
            None => f.write_str(&types::mnemonic(self.0)),
        }
    }
}

impl FromStr for RecordType {
    type Err = NotAType;

    fn from_str(text: &str) -> Result<Self, NotAType> {
        let question = QUESTIONS.iter().find(|(_, mnemonic)| mnemonic.eq_ignore_ascii_case(text));
        let number = question.map(|(number, _)| *number).or_else(|| types::number(text));
        number.map(Self).ok_or(NotAType)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_have_the_assigned_numbers() {
        let numbers = [
            (RecordType::A, 1, "A"),
            (RecordType::AAAA, 28, "AAAA"),
            (RecordType::OPT, 41, "OPT"),
            (RecordType::HTTPS, 65, "HTTPS"),
            (RecordType::TSIG, 250, "TSIG"),
            (RecordType::ANY, 255, "ANY"),
            (RecordType::CAA, 257, "CAA"),
            (RecordType(65_280), 65_280, "TYPE65280"),
        ];
        for (record_type, number, text) in numbers {
            assert_eq!(record_type.0, number);
            assert_eq!(record_type.to_string(), text);
            assert_eq!(text.to_ascii_lowercase().parse(), Ok(record_type));
        }
        assert_eq!("AAAAA".parse::<RecordType>(), Err(NotAType));
    }

    #[test]
    fn no_number_and_no_mnemonic_is_in_both_tables() {
        for (number, mnemonic) in QUESTIONS {
            assert!(types::shape(*number).is_none() && types::number(mnemonic).is_none(), "{mnemonic}");
        }
    }
}
