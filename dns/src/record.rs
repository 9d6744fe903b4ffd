//! What answers are made of: types, response codes and records, and how people write them.

use std::{fmt, str::FromStr};

use store::model::{DomainName, RecordData, Ttl, rdata};

/// A record or query type by its number (RFC 6895 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

/// The text is no record type: a mnemonic such as `AAAA`, or `TYPE` and a number (RFC 3597 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record type such as A, AAAA, CNAME or TXT, or TYPE and a number")]
pub struct NotAType;

macro_rules! record_types {
    ($($constant:ident $number:literal $doc:literal)*) => {
        impl RecordType {
            $(#[doc = $doc] pub const $constant: Self = Self($number);)*

            const NAMED: &'static [(Self, &'static str)] = &[$((Self::$constant, stringify!($constant))),*];
        }
    };
}

record_types! {
    A 1 "An IPv4 address."
    NS 2 "A name server."
    CNAME 5 "An alias."
    SOA 6 "The start of a zone."
    PTR 12 "A reverse name."
    HINFO 13 "Host data; here only as the short answer to ANY (RFC 8482)."
    MX 15 "A mail exchanger."
    TXT 16 "Text."
    AAAA 28 "An IPv6 address."
    SRV 33 "A service's location."
    DNAME 39 "An alias for everything below a name (RFC 6672)."
    OPT 41 "EDNS (RFC 6891); no type to ask for."
    DS 43 "A child zone's key; belongs to the parent's side of a delegation."
    SVCB 64 "A service binding (RFC 9460)."
    HTTPS 65 "A service binding for HTTPS (RFC 9460)."
    TKEY 249 "A key exchange; no type to ask for here."
    TSIG 250 "A transaction signature; no type to ask for."
    IXFR 251 "An incremental zone transfer."
    AXFR 252 "A zone transfer."
    ANY 255 "Any type (RFC 8482)."
    CAA 257 "Who may issue certificates."
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(it, _)| it == self) {
            Some((_, name)) => f.write_str(name),
            None => f.write_str(&rdata::mnemonic(self.0)),
        }
    }
}

impl FromStr for RecordType {
    type Err = NotAType;

    fn from_str(text: &str) -> Result<Self, NotAType> {
        let upper = text.to_ascii_uppercase();
        let named = Self::NAMED.iter().find(|(_, name)| *name == upper).map(|(it, _)| *it);
        named.or_else(|| rdata::number(text).map(Self)).ok_or(NotAType)
    }
}

/// The outcome of a query (RFC 6895 §2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rcode {
    /// Answered, perhaps with nothing of that type.
    #[default]
    NoError,
    /// The query is malformed.
    FormErr,
    /// This node cannot answer now.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// This kind of query is not served.
    NotImp,
    /// Not our zone, or nothing we give away.
    Refused,
    /// A redirection makes the name longer than names can be (RFC 6672 §2.2).
    YxDomain,
    /// Signed with a key that is not known here (RFC 8945 §5.2.1).
    NotAuth,
    /// An EDNS version above 0 (RFC 6891 §6.1.3).
    BadVers,
}

impl Rcode {
    /// Every one, in the order of [`Rcode::index`].
    pub const ALL: [Self; 9] = [
        Self::NoError,
        Self::FormErr,
        Self::ServFail,
        Self::NxDomain,
        Self::NotImp,
        Self::Refused,
        Self::YxDomain,
        Self::NotAuth,
        Self::BadVers,
    ];

    /// The number on the wire; above 15 its high bits go into EDNS.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::YxDomain => 6,
            Self::NotAuth => 9,
            Self::BadVers => 16,
        }
    }

    /// Its place in [`Rcode::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// As `dig` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::YxDomain => "YXDOMAIN",
            Self::NotAuth => "NOTAUTH",
            Self::BadVers => "BADVERS",
        }
    }
}

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name that was asked, in the asker's case; also where a wildcard covers it (RFC 4592 §3.3.1).
    QueryName,
    /// Another name.
    At(DomainName),
}

/// One record of class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its owner.
    pub owner: Owner,
    /// How long it may be remembered.
    pub ttl: Ttl,
    /// Type and data.
    pub data: Data,
}

/// Type and data of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// What documents can say, and what steering answers.
    Plain(RecordData),
    /// The start of the zone.
    Soa(Soa),
    /// The short answer to ANY: CPU `RFC8482`, no OS (RFC 8482 §4.2).
    Any,
}

/// The start of a zone (RFC 1035 §3.3.13); times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soa {
    /// The primary name server.
    pub mname: DomainName,
    /// The mailbox of the person responsible for the zone, as a name.
    pub rname: DomainName,
    /// The zone's own, or derived from the generation.
    pub serial: u32,
    /// How often a secondary looks for a newer serial.
    pub refresh: Ttl,
    /// How soon it tries again.
    pub retry: Ttl,
    /// After how long without contact it stops answering.
    pub expire: Ttl,
    /// How long an absence may be remembered (RFC 2308 §4).
    pub minimum: Ttl,
}

impl Data {
    /// The record's type.
    #[must_use]
    pub const fn record_type(&self) -> RecordType {
        match self {
            Self::Plain(data) => plain_type(data),
            Self::Soa(_) => RecordType::SOA,
            Self::Any => RecordType::HINFO,
        }
    }
}

/// The type of a static record.
pub(crate) const fn plain_type(data: &RecordData) -> RecordType {
    match data {
        RecordData::A(_) => RecordType::A,
        RecordData::Aaaa(_) => RecordType::AAAA,
        RecordData::Cname(_) => RecordType::CNAME,
        RecordData::Ns(_) => RecordType::NS,
        RecordData::Ptr(_) => RecordType::PTR,
        RecordData::Txt(_) => RecordType::TXT,
        RecordData::Mx { .. } => RecordType::MX,
        RecordData::Srv { .. } => RecordType::SRV,
        RecordData::Caa { .. } => RecordType::CAA,
        RecordData::Dname(_) => RecordType::DNAME,
        RecordData::Alias(_) => RecordType(rdata::ALIAS),
        RecordData::Other { record_type, .. } => RecordType(*record_type),
    }
}

/// Presentation form (RFC 1035 §5.1), names in full.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(data) => write_plain(data, f),
            Self::Soa(soa) => {
                write!(f, "{}. {}. {}", soa.mname, soa.rname, soa.serial)?;
                let times = [soa.refresh, soa.retry, soa.expire, soa.minimum];
                times.iter().try_for_each(|time| write!(f, " {}", time.as_secs()))
            }
            Self::Any => f.write_str("\"RFC8482\" \"\""),
        }
    }
}

fn write_plain(data: &RecordData, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match data {
        RecordData::A(ip) => write!(f, "{ip}"),
        RecordData::Aaaa(ip) => write!(f, "{ip}"),
        RecordData::Cname(name) | RecordData::Ns(name) | RecordData::Ptr(name) => write!(f, "{name}."),
        RecordData::Txt(strings) => {
            for (at, text) in strings.iter().enumerate() {
                f.write_str(if at == 0 { "" } else { " " })?;
                write_quoted(text, f)?;
            }
            Ok(())
        }
        RecordData::Mx { preference, exchange } => write!(f, "{preference} {exchange}."),
        RecordData::Srv { priority, weight, port, target } => {
            write!(f, "{priority} {weight} {port} {target}.")
        }
        RecordData::Caa { flags, tag, value } => {
            write!(f, "{flags} {tag} ")?;
            write_quoted(value, f)
        }
        RecordData::Dname(name) | RecordData::Alias(name) => write!(f, "{name}."),
        RecordData::Other { record_type, data } => f.write_str(&rdata::text(*record_type, data)),
    }
}

fn write_quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for octet in text.bytes() {
        match octet {
            b'"' | b'\\' => write!(f, "\\{}", char::from(octet))?,
            b' '..=b'~' => write!(f, "{}", char::from(octet))?,
            other => write!(f, "\\{other:03}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_they_print() {
        for text in ["A", "AAAA", "HTTPS", "CAA", "TLSA", "TYPE1234", "ANY"] {
            assert_eq!(text.parse::<RecordType>().unwrap().to_string(), text);
        }
        assert_eq!("aaaa".parse(), Ok(RecordType::AAAA));
        assert_eq!("TYPE28".parse(), Ok(RecordType::AAAA));
        for bad in ["", "TYPE", "TYPE65536", "TYPE-1", "FOO"] {
            assert_eq!(bad.parse::<RecordType>(), Err(NotAType), "{bad}");
        }
    }

    #[test]
    fn text_is_quoted_so_that_a_zone_file_could_hold_it() {
        let text = RecordData::Txt(vec!["a \"b\\".to_owned(), "é".to_owned()]);
        assert_eq!(Data::Plain(text).to_string(), r#""a \"b\\" "\195\169""#);
    }

    #[test]
    fn codes_stand_at_their_index() {
        for (at, rcode) in Rcode::ALL.into_iter().enumerate() {
            assert_eq!(rcode.index(), at);
        }
    }
}
