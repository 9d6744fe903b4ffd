//! Response codes: their names and numbers, for answers and for the checks that expect one.

use crate::words::words;

words! {
    /// The outcome of a query (RFC 6895 §2.3). Its word is what `dig` shows.
    #[derive(Default)]
    pub enum Rcode {
        /// Answered, perhaps with nothing of that type.
        #[default]
        "NOERROR" NoError,
        /// The query is malformed.
        "FORMERR" FormErr,
        /// This node cannot answer now.
        "SERVFAIL" ServFail,
        /// The name does not exist.
        "NXDOMAIN" NxDomain,
        /// This kind of query is not served.
        "NOTIMP" NotImp,
        /// Not our zone, or nothing we give away.
        "REFUSED" Refused,
        /// A redirection makes the name longer than names can be (RFC 6672 §2.2).
        "YXDOMAIN" YxDomain,
        /// Signed with a key that is not known here (RFC 8945 §5.2.1).
        "NOTAUTH" NotAuth,
        /// An EDNS version above 0 (RFC 6891 §6.1.3).
        "BADVERS" BadVers,
    }
}

impl Rcode {
    /// The number on the wire; above 15 its high bits go into EDNS.
    #[inline]
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
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
