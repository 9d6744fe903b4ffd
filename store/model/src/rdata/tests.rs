use proptest::prelude::*;

use super::*;

fn read(kind: &str, text: &str) -> Result<RecordData, Wrong> {
    let origin: DomainName = "example.com".parse().unwrap();
    let words = Scanner::data(text.as_bytes()).flatten().flat_map(|entry| entry.words).collect::<Vec<_>>();
    parse(number(kind).unwrap(), &words, &mut below(Some(&origin)))
}

fn wire(kind: &str, text: &str) -> String {
    let Ok(RecordData::Other { record_type, data }) = read(kind, text) else {
        panic!("{kind} {text}: {:?}", read(kind, text))
    };
    assert_eq!(Some(record_type), number(kind));
    data.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Vectors from the RFCs, and others that `dig` shows as they were written.
#[test]
fn every_type_has_its_octets() {
    let cases = [
        ("HINFO", "x86 \"a b\"", "03783836 03612062"),
        ("TLSA", "3 1 1 0a0B 0c", "030101 0a0b0c"),
        ("SMIMEA", "3 0 0 ff", "030000ff"),
        ("DS", "12345 ECDSAP256SHA256 9 aabb", "3039 0d 09 aabb"),
        ("SSHFP", "4 9 abcd", "0409abcd"),
        ("CERT", "PKIX 1 0 AQID", "0001 0001 00 010203"),
        ("OPENPGPKEY", "AQ ID", "010203"),
        ("CSYNC", "66 3 A NS AAAA", "00000042 0003 0004 60000008"),
        ("NAPTR", "100 10 u E2U+sip \"!^.*$!x!\" .", "0064 000a 0175 074532552b736970 08215e2e2a24217821 00"),
        ("URI", "10 1 \"ftp://a\"", "000a 0001 6674703a2f2f61"),
        ("LOC", "42 21 54 N 71 06 18 W -24m 30m", "00331613 89172dd0 70be15f0 00988d20"),
        ("LOC", "1 S 2 E 0", "00121613 7fc91180 806ddd00 00989680"),
        ("EUI48", "00-00-5e-00-53-2A", "00005e00532a"),
        ("EUI48", "0-0-5e-0-53-2a", "00005e00532a"),
        ("WKS", "192.0.2.1 sctp 0 7", "c0000201 84 81"),
        ("RP", "john\\.doe .", "086a6f686e2e646f65 076578616d706c65 03636f6d 00 00"),
        ("NSEC3PARAM", "1 0 12 aabb", "01 00 000c 02 aabb"),
        (
            "NSEC3",
            "1 1 0 - 00000000 A TYPE1234",
            "01 01 0000 00 05 0000000000 000140 041b000000000000000000000000000000000000000000000000000020",
        ),
        (
            "RRSIG",
            "A 13 2 300 20260101000000 1 7 . AQID",
            "0001 0d 02 0000012c 6955b900 00000001 0007 00 010203",
        ),
        ("TYPE65280", "\\# 3 0a 0b0c", "0a0b0c"),
        ("TYPE65280", "\\# 0", ""),
        ("TLSA", "\\# 4 03010101", "03010101"),
        ("MX", "0 .", "0000 00"),
        ("SRV", "0 0 0 .", "0000 0000 0000 00"),
        ("TXT", "\\255", "01ff"),
        // A number for private use, and not an ALIAS record.
        ("TYPE65401", "\\# 3 016100", "016100"),
        ("TYPE65401", "\\# 2 0a0b", "0a0b"),
    ];
    for (kind, text, expected) in cases {
        assert_eq!(wire(kind, text), expected.replace(' ', ""), "{kind} {text}");
    }
}

/// RFC 9460 appendix D.2.
#[test]
fn service_bindings() {
    let foo = "03666f6f 076578616d706c65 03636f6d 00";
    let cases = [
        ("0 foo", format!("0000 {foo}")),
        ("1 .", "0001 00".to_owned()),
        ("16 foo port=53", format!("0010 {foo} 0003 0002 0035")),
        ("1 foo key667=hello", format!("0001 {foo} 029b 0005 68656c6c6f")),
        (r#"1 foo key667="hello\210qoo""#, format!("0001 {foo} 029b 0009 68656c6c6fd2716f6f")),
        ("1 foo ipv6hint=2001:db8::1", format!("0001 {foo} 0006 0010 20010db8000000000000000000000001")),
        (
            "16 foo alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1",
            format!("0010 {foo} 0000 0004 0001 0004 0001 0009 02683205 68332d3139 0004 0004 c0000201"),
        ),
        (r#"16 foo alpn="f\\\\oo\\,bar,h2""#, format!("0010 {foo} 0001 000c 08665c6f6f2c626172 026832")),
        (r"16 foo alpn=f\\\092oo\092,bar,h2", format!("0010 {foo} 0001 000c 08665c6f6f2c626172 026832")),
    ];
    for (text, expected) in cases {
        assert_eq!(wire("HTTPS", text), expected.replace(' ', ""), "{text}");
    }
    for bad in [
        "1 foo port=99999",
        "1 foo alpn=h2 alpn=h3",
        "1 foo mandatory=alpn",
        "1 foo mandatory=mandatory",
        "1 foo mandatory=port,port port=1",
        "1 foo no-default-alpn",
        "1 foo alpn=",
        "1 foo alpn=,",
        "1 foo port",
        "1 foo what=1",
    ] {
        assert!(read("SVCB", bad).is_err(), "{bad}");
    }
}

#[test]
fn the_models_own_types_come_out_as_themselves() {
    let name = |text: &str| text.parse::<DomainName>().unwrap();
    let cases = [
        ("A", "192.0.2.1", RecordData::A([192, 0, 2, 1].into())),
        ("A", "\\# 4 c0000201", RecordData::A([192, 0, 2, 1].into())),
        ("AAAA", "::1", RecordData::Aaaa(std::net::Ipv6Addr::LOCALHOST)),
        ("CNAME", "a", RecordData::Cname(name("a.example.com"))),
        ("CNAME", ".", RecordData::Cname(DomainName::root())),
        ("NS", "@", RecordData::Ns(name("example.com"))),
        ("DNAME", "Other.ORG.", RecordData::Dname(name("other.org"))),
        ("MX", "10 mail", RecordData::Mx { preference: 10, exchange: name("mail.example.com") }),
        ("TXT", "a \"b c\" \\\"", RecordData::Txt(vec!["a".into(), "b c".into(), "\"".into()])),
        (
            "CAA",
            "128 contactemail \"a@b\"",
            RecordData::Caa { flags: 128, tag: "contactemail".into(), value: "a@b".into() },
        ),
    ];
    for (kind, text, expected) in cases {
        assert_eq!(read(kind, text).unwrap(), expected, "{kind} {text}");
    }
}

#[test]
fn errors_name_their_word() {
    let cases = [
        ("A", "192.0.2", Some(0), "an IPv4 address"),
        ("MX", "x mail", Some(0), "a whole number from 0 to 65535"),
        ("MX", "10", None, "a name"),
        ("MX", "10 mail more", Some(2), "a preference and a name: 10 mail"),
        ("MX", "10 a..b", Some(1), "labels"),
        ("ALIAS", ".", None, "one name"),
        ("TLSA", "3 1 1 abc", Some(3), "hexadecimal"),
        ("TXT", "\"\\999\"", Some(0), "three digits"),
        ("TYPE1234", "abc", Some(0), "hexadecimal"),
        ("A", "\\# 3 010203", None, "an IPv4 address"),
        ("A", "\\# 5 010203", Some(1), "their number"),
        ("MX", "\\# 1 00", None, "a preference and a name"),
        ("SRV", "\\# 4 0001c00c", None, "priority, weight, port and a name"),
        ("SOA", "a b 1 2 3 4 5", None, "a type"),
        ("TYPE255", "\\# 0", None, "a type"),
        ("DS", "1 13 2 aabb", None, "32 octets"),
        ("SSHFP", "4 1 aabb", None, "20 octets"),
        ("LOC", "91 N 1 E 0", Some(0), "N or S"),
        ("CSYNC", "1 2 WHAT", Some(2), "a record type"),
        ("CAA", "0 is-sue \"x\"", Some(1), "a tag"),
    ];
    for (kind, text, word, expected) in cases {
        let wrong = read(kind, text).unwrap_err();
        assert_eq!(wrong.word, word, "{kind} {text}: {wrong:?}");
        assert!(wrong.what.expected.contains(expected), "{kind} {text}: {wrong:?}");
    }
}

#[test]
fn periods() {
    for (text, seconds) in [("0", 0), ("3600", 3600), ("1h30m", 5400), ("2W1d", 1_296_000), ("1m5", 65)] {
        assert_eq!(period(text.as_bytes()), Some(seconds), "{text}");
    }
    for bad in ["", "h", "1x", "1hh", "-1", "4294967296", "9999999w", "1.5h"] {
        assert_eq!(period(bad.as_bytes()), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_data_is_too_strange(kind in 0..types::SHAPES.len(), text in "[0-9a-zA-Z.,=+/\\\\\"# -]{0,60}") {
        let _ = read(types::SHAPES[kind].mnemonic, &text);
    }
}
