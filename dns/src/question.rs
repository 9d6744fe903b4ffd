//! A question, and which questions no zone can answer.

use crate::{
    extended::ExtendedError,
    name::QueryName,
    record::{Rcode, RecordType},
};

/// A question of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: QueryName,
    /// The type.
    pub record_type: RecordType,
    /// The class; only IN (1) is served.
    pub class: u16,
}

impl Question {
    /// Class IN, the class of nearly all queries.
    pub const IN: u16 = 1;

    /// A question of class IN.
    #[must_use]
    pub const fn new(name: QueryName, record_type: RecordType) -> Self {
        Self { name, record_type, class: Self::IN }
    }
}

/// Questions no zone's content can answer.
pub(crate) const fn unanswerable(question: &Question) -> Option<(Rcode, ExtendedError)> {
    const fn because(rcode: Rcode, text: &'static str) -> Option<(Rcode, ExtendedError)> {
        Some((rcode, ExtendedError::not_supported(text)))
    }
    if question.class != Question::IN {
        return because(Rcode::Refused, "only class IN is served");
    }
    match question.record_type {
        RecordType::AXFR | RecordType::IXFR => because(Rcode::Refused, "zones are not transferred"),
        RecordType::OPT | RecordType::TKEY | RecordType::TSIG => {
            because(Rcode::FormErr, "no type to ask for")
        }
        // MAILB and MAILA (RFC 1035 §3.2.3), long obsolete.
        RecordType(253 | 254) => because(Rcode::NotImp, "an obsolete type"),
        _ => None,
    }
}
