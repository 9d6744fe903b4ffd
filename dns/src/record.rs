//! What answers are made of: types, response codes and records, and their presentation form.

use std::fmt;

use store::model::{DomainName, RecordData, Ttl, rdata};

pub use store::model::{
    Rcode,
    rdata::{NotAType, RecordType},
};

/// The owner of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name of the question, in the case of the query; also where a wildcard covers it (RFC 4592 §3.3.1).
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
    /// What documents can hold, and what steering answers.
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
    fn codes_are_at_their_index() {
        for (at, rcode) in Rcode::ALL.into_iter().enumerate() {
            assert_eq!(rcode.index(), at);
        }
    }
}
