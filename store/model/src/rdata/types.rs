//! Record types: their numbers, their mnemonics and what their data is made of.

use std::borrow::Cow;

/// A piece of record data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    U8,
    U16,
    U32,
    /// Seconds, also as `1h30m`.
    Period,
    Ip4,
    Ip6,
    Name,
    /// One character string.
    Text,
    /// One or more character strings.
    Texts,
    /// A property's tag: a character string of letters and digits.
    Tag,
    /// One word, all of the rest, without a length.
    Rest,
    /// Hexadecimal, all of the rest, spaces allowed.
    Hex,
    /// As `Hex`, one word with its length in an octet before it; `-` for none.
    Salt,
    /// One word in base32hex (RFC 4648 §7), with its length in an octet before it.
    Hash,
    /// Base64, all of the rest, spaces allowed.
    Base64,
    /// The number of a DNSSEC algorithm, or its mnemonic.
    Algorithm,
    /// The number of a certificate's kind, or its mnemonic.
    CertKind,
    /// A type.
    Type,
    /// Types as a bitmap (RFC 4034 §4.1.2), all of the rest.
    Types,
    /// A moment: seconds, or `YYYYMMDDHHmmSS` (RFC 4034 §3.2).
    Moment,
    /// This many octets in hexadecimal parted by `-`.
    Eui(usize),
    /// The parameters of a service binding (RFC 9460 §2.1).
    Params,
    /// A place on earth (RFC 1876).
    Location,
    /// As `Base64`, perhaps nothing.
    KeyOrNothing,
    /// As `Base64`, where `-` or no word at all means no octets.
    Base64OrDash,
    /// Well-known services: an address, a protocol and ports (RFC 1035 §3.4.2).
    Services,
    /// Address prefixes (RFC 3123), all of the rest.
    Prefixes,
    /// `0x` and hexadecimal with dots anywhere (RFC 1706).
    Nsap,
    /// An ATM address: `+` and digits, or hexadecimal.
    Atm,
    /// Precedence, gateway type, algorithm, gateway and perhaps a key (RFC 4025).
    Gateway,
    /// Precedence, discovery bit, type and relay (RFC 8777).
    Relay,
    /// Algorithm, identity tag, key and rendezvous servers (RFC 8005).
    HostIdentity,
    /// A prefix length, the rest of an address, and a name for the prefix (RFC 2874).
    Prefixed,
    /// Types below 128 as plain bits (RFC 2535 §5.2), all of the rest.
    OldTypes,
    /// Four groups of up to four hexadecimal digits parted by `:` (RFC 6742 §2.1).
    Locator,
    /// How a notification is sent (RFC 9859): `NOTIFY` or a number.
    Scheme,
    /// Eight octets as a number.
    U64,
}

impl Field {
    /// True for character strings.
    pub(super) const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Texts)
    }
}

use Field::*;

/// What data of one type looks like.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) number: u16,
    pub(super) mnemonic: &'static str,
    /// `None`: only the form for unknown types is read.
    pub(super) fields: Option<&'static [Field]>,
    /// An example or a description, for errors.
    pub(super) form: &'static str,
}

const fn of(number: u16, mnemonic: &'static str, fields: &'static [Field], form: &'static str) -> Shape {
    Shape { number, mnemonic, fields: Some(fields), form }
}

const fn raw(number: u16, mnemonic: &'static str) -> Shape {
    Shape { number, mnemonic, fields: None, form: NOTHING_KNOWN }
}

const STRINGS: &str = "strings of up to 255 bytes, each in double quotes: '\"v=spf1 -all\"'";
const ASSOCIATION: &str = "usage, selector, matching type and hexadecimal: 3 1 1 0a0b…";
const DIGEST: &str = "key tag, algorithm, digest type and hexadecimal: 12345 13 2 0a0b…";
const KEY: &str = "flags, protocol, algorithm and base64: 257 3 13 bWQ=…";
const SIGNATURE: &str = "type, algorithm, labels, TTL, two moments, key tag, signer and base64";
const NOTHING_KNOWN: &str = r"\# and the data in hexadecimal: \# 2 0a0b";
const BINDING: &str = "priority, target and parameters: 1 . alpn=h2,h3 port=8443";

/// Every type of record data that the registry of DNS parameters lists, and the few others that BIND reads.
pub(super) static SHAPES: &[Shape] = &[
    of(1, "A", &[Ip4], "an IPv4 address"),
    of(28, "AAAA", &[Ip6], "an IPv6 address"),
    of(5, "CNAME", &[Name], "one name"),
    of(2, "NS", &[Name], "one name"),
    of(12, "PTR", &[Name], "one name"),
    of(16, "TXT", &[Texts], STRINGS),
    of(15, "MX", &[U16, Name], "a preference and a name: 10 mail"),
    of(33, "SRV", &[U16, U16, U16, Name], "priority, weight, port and a name: 0 5 5060 sip"),
    of(257, "CAA", &[U8, Tag, Rest], "flags, a tag and a quoted value: 0 issue \"ca.example.net\""),
    of(39, "DNAME", &[Name], "one name"),
    of(6, "SOA", &[Name, Name, U32, Period, Period, Period, Period], "mname, rname, serial and four times"),
    of(3, "MD", &[Name], "one name"),
    of(4, "MF", &[Name], "one name"),
    of(7, "MB", &[Name], "one name"),
    of(8, "MG", &[Name], "one name"),
    of(9, "MR", &[Name], "one name"),
    raw(10, "NULL"),
    of(11, "WKS", &[Services], "an address, a protocol and ports: 192.0.2.1 TCP 25 80"),
    of(13, "HINFO", &[Text, Text], "CPU and OS: \"x86\" \"linux\""),
    of(14, "MINFO", &[Name, Name], "two names"),
    of(17, "RP", &[Name, Name], "a mailbox and a name: hostmaster info"),
    of(18, "AFSDB", &[U16, Name], "a subtype and a name: 1 afs"),
    of(19, "X25", &[Text], "an address in digits"),
    of(20, "ISDN", &[Texts], "an address in digits"),
    of(21, "RT", &[U16, Name], "a preference and a name: 10 relay"),
    of(22, "NSAP", &[Nsap], "0x and hexadecimal: 0x47.0005.80"),
    of(23, "NSAP-PTR", &[Name], "one name"),
    of(24, "SIG", &[Type, Algorithm, U8, U32, Moment, Moment, U16, Name, Base64], SIGNATURE),
    of(25, "KEY", &[U16, U8, Algorithm, KeyOrNothing], KEY),
    of(26, "PX", &[U16, Name, Name], "a preference and two names"),
    of(27, "GPOS", &[Text, Text, Text], "longitude, latitude and altitude: -32.6882 116.8652 10.0"),
    of(29, "LOC", &[Location], "latitude, longitude and altitude: 52 22 23.0 N 4 53 32.0 E -2m"),
    of(30, "NXT", &[Name, OldTypes], "a name and types"),
    of(31, "EID", &[Hex], "hexadecimal"),
    of(32, "NIMLOC", &[Hex], "hexadecimal"),
    of(34, "ATMA", &[Atm], "+ and digits, or hexadecimal"),
    of(35, "NAPTR", &[U16, U16, Text, Text, Text, Name], "100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b!\" ."),
    of(36, "KX", &[U16, Name], "a preference and a name: 10 exchanger"),
    of(
        37,
        "CERT",
        &[CertKind, U16, Algorithm, Base64],
        "kind, key tag, algorithm and base64: PKIX 0 0 bWQ=…",
    ),
    of(38, "A6", &[Prefixed], "a prefix length, an address and a name: 64 ::1 prefix"),
    of(40, "SINK", &[U8, U8, U8, Base64], "meaning, coding, subcoding and base64"),
    of(42, "APL", &[Prefixes], "prefixes: 1:192.0.2.0/24 !2:2001:db8::/32"),
    of(43, "DS", &[U16, Algorithm, U8, Hex], DIGEST),
    of(44, "SSHFP", &[U8, U8, Hex], "algorithm, kind and hexadecimal: 4 2 0a0b…"),
    of(
        45,
        "IPSECKEY",
        &[Gateway],
        "precedence, gateway type, algorithm, gateway and base64: 10 1 2 192.0.2.38 AQID",
    ),
    of(46, "RRSIG", &[Type, Algorithm, U8, U32, Moment, Moment, U16, Name, Base64], SIGNATURE),
    of(47, "NSEC", &[Name, Types], "a name and types"),
    of(48, "DNSKEY", &[U16, U8, Algorithm, Base64], KEY),
    of(49, "DHCID", &[Base64], "base64"),
    of(50, "NSEC3", &[U8, U8, U16, Salt, Hash, Types], "1 0 0 - 0P9MHAVEQVM6T7VBL5LOP2U3T2RP3TOM A RRSIG"),
    of(51, "NSEC3PARAM", &[U8, U8, U16, Salt], "1 0 0 -"),
    of(52, "TLSA", &[U8, U8, U8, Hex], ASSOCIATION),
    of(53, "SMIMEA", &[U8, U8, U8, Hex], ASSOCIATION),
    of(55, "HIP", &[HostIdentity], "algorithm, hexadecimal, base64 and names: 2 2001… AwEAAb… rvs"),
    of(56, "NINFO", &[Texts], STRINGS),
    of(57, "RKEY", &[U16, U8, Algorithm, Base64], KEY),
    of(58, "TALINK", &[Name, Name], "two names"),
    of(59, "CDS", &[U16, Algorithm, U8, Hex], DIGEST),
    of(60, "CDNSKEY", &[U16, U8, Algorithm, Base64], KEY),
    of(61, "OPENPGPKEY", &[Base64], "base64"),
    of(62, "CSYNC", &[U32, U16, Types], "serial, flags and types: 66 3 A NS AAAA"),
    of(63, "ZONEMD", &[U32, U8, U8, Hex], "serial, scheme, algorithm and hexadecimal: 1 1 1 0a0b…"),
    of(64, "SVCB", &[U16, Name, Params], BINDING),
    of(65, "HTTPS", &[U16, Name, Params], BINDING),
    of(66, "DSYNC", &[Type, Scheme, U16, Name], "a type, NOTIFY, a port and a name: CDS NOTIFY 5359 scanner"),
    of(67, "HHIT", &[Base64], "base64"),
    of(68, "BRID", &[Base64], "base64"),
    of(99, "SPF", &[Texts], STRINGS),
    raw(100, "UINFO"),
    raw(101, "UID"),
    raw(102, "GID"),
    of(103, "UNSPEC", &[Base64], "base64"),
    of(104, "NID", &[U16, Locator], "a preference and four groups: 10 14:4fff:ff20:ee64"),
    of(105, "L32", &[U16, Ip4], "a preference and an IPv4 address: 10 10.1.2.0"),
    of(106, "L64", &[U16, Locator], "a preference and four groups: 10 2001:db8:1140:1000"),
    of(107, "LP", &[U16, Name], "a preference and a name: 10 l64"),
    of(108, "EUI48", &[Eui(6)], "six octets: 00-00-5e-00-53-2a"),
    of(109, "EUI64", &[Eui(8)], "eight octets: 00-00-5e-ef-10-00-00-2a"),
    of(256, "URI", &[U16, U16, Rest], "priority, weight and a quoted URI: 10 1 \"https://example.com/\""),
    of(258, "AVC", &[Texts], STRINGS),
    of(
        259,
        "DOA",
        &[U32, U32, U8, Text, Base64OrDash],
        "two numbers, a location, a media type and base64: 0 1 2 \"\" bWQ=",
    ),
    of(260, "AMTRELAY", &[Relay], "precedence, discovery bit, type and relay: 10 0 1 192.0.2.15"),
    of(261, "RESINFO", &[Texts], STRINGS),
    of(262, "WALLET", &[Texts], STRINGS),
    of(263, "CLA", &[Texts], STRINGS),
    of(264, "IPN", &[U64], "a whole number"),
    // It is no type of the wire. The number is one for private use (RFC 6895 §3.1), and other servers use the same one.
    of(super::ALIAS, "ALIAS", &[Name], "one name"),
    of(32768, "TA", &[U16, Algorithm, U8, Hex], DIGEST),
    of(32769, "DLV", &[U16, Algorithm, U8, Hex], DIGEST),
    raw(65533, "KEYDATA"),
];

/// Types that occur only in questions or in messages themselves. No zone holds them, so [`number`] has none of them.
pub(super) static QUESTIONS: &[(u16, &str)] =
    &[(41, "OPT"), (249, "TKEY"), (250, "TSIG"), (251, "IXFR"), (252, "AXFR"), (255, "ANY")];

pub(super) fn shape(record_type: u16) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.number == record_type)
}

/// The number of a type by its mnemonic or as `TYPE1234` (RFC 3597 §5), in any case.
#[must_use]
pub fn number(text: &str) -> Option<u16> {
    let named = SHAPES.iter().find(|shape| shape.mnemonic.eq_ignore_ascii_case(text));
    let numbered = || {
        let (head, digits) = text.split_at_checked(4)?;
        let digits = head.eq_ignore_ascii_case("TYPE").then_some(digits)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    named.map(|shape| shape.number).or_else(numbered)
}

/// The mnemonic of a type, or `TYPE1234`.
#[must_use]
pub fn mnemonic(record_type: u16) -> Cow<'static, str> {
    match shape(record_type) {
        Some(shape) => Cow::Borrowed(shape.mnemonic),
        None => Cow::Owned(format!("TYPE{record_type}")),
    }
}

/// True for the types that make a zone a signed one: RRSIG, NSEC, DNSKEY, NSEC3 and NSEC3PARAM (RFC 4034, RFC 5155).
/// A DS is none of them: an unsigned zone may have one as well.
#[must_use]
pub const fn signs(record_type: u16) -> bool {
    matches!(record_type, 46 | 47 | 48 | 50 | 51)
}

/// True for those of them that concern the zone only at its apex: DNSKEY and NSEC3PARAM.
#[must_use]
pub const fn signs_only_at_apex(record_type: u16) -> bool {
    matches!(record_type, 48 | 51)
}

/// Every mnemonic, for suggestions.
pub fn mnemonics() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.mnemonic)
}

/// DNSSEC's algorithms (RFC 4034 appendix A.1 and the registry).
pub(super) const ALGORITHMS: &[(&str, u16)] = &[
    ("RSAMD5", 1),
    ("DH", 2),
    ("DSA", 3),
    ("RSASHA1", 5),
    ("DSA-NSEC3-SHA1", 6),
    ("RSASHA1-NSEC3-SHA1", 7),
    ("RSASHA256", 8),
    ("RSASHA512", 10),
    ("ECC-GOST", 12),
    ("ECDSAP256SHA256", 13),
    ("ECDSAP384SHA384", 14),
    ("ED25519", 15),
    ("ED448", 16),
    ("INDIRECT", 252),
    ("PRIVATEDNS", 253),
    ("PRIVATEOID", 254),
];

/// Schemes of DSYNC (RFC 9859).
pub(super) const SCHEMES: &[(&str, u16)] = &[("NOTIFY", 1)];

/// Kinds of certificates (RFC 4398 §2.1).
pub(super) const CERT_KINDS: &[(&str, u16)] = &[
    ("PKIX", 1),
    ("SPKI", 2),
    ("PGP", 3),
    ("IPKIX", 4),
    ("ISPKI", 5),
    ("IPGP", 6),
    ("ACPKIX", 7),
    ("IACPKIX", 8),
    ("URI", 253),
    ("OID", 254),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_they_print() {
        for shape in SHAPES {
            assert_eq!(number(shape.mnemonic), Some(shape.number));
            assert_eq!(mnemonic(shape.number), shape.mnemonic);
            assert_eq!(SHAPES.iter().filter(|it| it.number == shape.number).count(), 1);
        }
        assert_eq!(number("type1234"), Some(1234));
        assert_eq!(mnemonic(1234), "TYPE1234");
        for bad in ["", "TYPE", "TYPE65536", "TYPE+1", "FOO", "éé"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
