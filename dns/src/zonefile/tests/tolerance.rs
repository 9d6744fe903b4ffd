//! What NSD and BIND both load is loaded, and means what it means there; what they warn of is a warning.

use super::*;

/// A text behind a proper head of four lines.
fn tolerated(text: &str) -> Read {
    octets(text.as_bytes())
}

fn octets(text: &[u8]) -> Read {
    let all = [HEAD.as_bytes(), text].concat();
    let read = read_placed("z", &all, &apex(), &NoFiles, Dnssec::Refuse);
    read.unwrap_or_else(|errors| panic!("{}\n{errors:#?}", String::from_utf8_lossy(text)))
}

/// Its records but those of the head.
fn read_as(text: &str) -> Vec<String> {
    records(&tolerated(text).zone).split_off(1)
}

fn warnings(text: &str) -> Vec<String> {
    tolerated(text).warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_ttl_may_be_zero_and_so_may_the_times_of_a_soa() {
    assert_eq!(
        read_as("a 0 A 192.0.2.1\n$TTL 0\nb A 192.0.2.1\n"),
        ["a.example.com 0 A 192.0.2.1", "b.example.com 0 A 192.0.2.1"]
    );
    let zone = loaded("$TTL 1h\n@ SOA . . 0 0 0 4294967295 0\n@ NS .\n");
    let soa = zone.soa.unwrap();
    assert!(soa.mname.is_root() && soa.rname.is_root() && zone.nameservers[0].name.is_root());
    assert_eq!((soa.serial, soa.refresh, soa.retry), (Some(0), Ttl::ZERO, Ttl::ZERO));
    // 2^31 seconds and more are not used.
    assert_eq!((soa.expire.as_secs(), zone.negative_ttl), (3600, Ttl::ZERO));
}

#[test]
fn a_ttl_of_half_the_range_or_more_is_not_used() {
    let text =
        "a 2147483648 A 192.0.2.1\n$TTL 60\nb 4294967295 A 192.0.2.1\n$TTL 2147483648\nc A 192.0.2.1\n";
    assert_eq!(
        read_as(text),
        ["a.example.com 3600 A 192.0.2.1", "b.example.com 60 A 192.0.2.1", "c.example.com 3600 A 192.0.2.1"]
    );
    let found = warnings(text);
    assert_eq!(found.len(), 3);
    assert!(
        found[0].starts_with("z:5:3: the TTL \"2147483648\" is passed over, the default is taken"),
        "{found:?}"
    );
}

#[test]
fn the_root_is_a_name_like_others_in_data() {
    assert_eq!(
        read_as("a CNAME .\nb DNAME .\nc NS .\nd PTR .\ne SRV 0 0 0 .\n"),
        [
            "a.example.com 3600 CNAME .",
            "b.example.com 3600 DNAME .",
            "c.example.com 3600 NS .",
            "d.example.com 3600 PTR .",
            "e.example.com 3600 SRV 0 0 0 .",
        ]
    );
}

#[test]
fn quotes_part_strings_wherever_they_are() {
    let texts = "a TXT \"a\"\"b\"\nb TXT \"a\"b\nc TXT v=\"b c\"d\nd TXT a\\\"b\n";
    assert_eq!(
        read_as(texts),
        [
            r#"a.example.com 3600 TXT "a" "b""#,
            r#"b.example.com 3600 TXT "a" "b""#,
            r#"c.example.com 3600 TXT "v=" "b c" "d""#,
            r#"d.example.com 3600 TXT "a\"b""#,
        ]
    );
}

#[test]
fn owners_may_hold_any_octet_and_may_be_quoted() {
    let zone =
        octets(b"caf\xe9 A 192.0.2.1\n\"a b\" A 192.0.2.1\nc\\ d A 192.0.2.1\ne\\;\\\"f A 192.0.2.1\n").zone;
    let names: Vec<_> = zone.records.iter().skip(1).map(|it| it.name.as_str()).collect();
    assert_eq!(
        names,
        [r"caf\233.example.com", r"a\032b.example.com", r"c\032d.example.com", r"e\059\034f.example.com"]
    );
    let found = tolerated("\"a.b\" A 192.0.2.1\n\"@\" A 192.0.2.1\n");
    let names: Vec<_> = found.zone.records.iter().skip(1).map(|it| it.name.as_str()).collect();
    assert_eq!(names, [r"a\046b.example.com", r"\064.example.com"]);
    assert!(found.warnings[0].to_string().contains("in quotes is one label"), "{:?}", found.warnings);
}

#[test]
fn what_lies_outside_and_a_repeated_soa_are_passed_over_with_a_warning() {
    let text = "www.example.org. A 192.0.2.1\n A 192.0.2.2\n. NS x\nexample.org. SOA a b 1 2 3 4 5\n\
                @ SOA ns1 john\\.doe 7 2h 10m 2w 1m\na A 192.0.2.3\n";
    assert_eq!(read_as(text), ["a.example.com 3600 A 192.0.2.3"]);
    let found = warnings(text);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert_eq!(
        found[0],
        "z:5:1: \"www.example.org.\" lies outside the zone example.com, and is passed over; expected a name in example.com"
    );
    assert!(
        found[3].starts_with("z:9:1: the SOA is repeated, and passed over; the first is at z:2"),
        "{found:#?}"
    );
    let many = "x.org. A 192.0.2.1\n".repeat(100);
    let found = warnings(&many);
    assert_eq!((found.len(), found[20].as_str()), (21, "z: 80 more warnings like these"));
}

#[test]
fn ttls_of_one_set_that_differ_are_a_warning() {
    let found = warnings("a 60 A 192.0.2.1\na 30 A 192.0.2.2\na 10 A 192.0.2.3\na 10 TXT x\n");
    assert_eq!(
        found,
        [
            "z:6: the TTLs of the A records at a.example.com differ; all are answered with the lowest; expected one TTL \
         (RFC 2181 §5.2)"
        ]
    );
}

#[test]
fn the_class_may_be_a_number_with_zeros_before_it() {
    for class in ["CLASS1", "CLASS001", "class01"] {
        assert_eq!(read_as(&format!("a {class} 60 A 192.0.2.1\n")), ["a.example.com 60 A 192.0.2.1"]);
    }
}

#[test]
fn an_old_signature_may_be_beside_a_cname() {
    let sig = "SIG A 5 3 86400 20300101000000 20200101000000 1 example. AQID";
    assert_eq!(read_as(&format!("a CNAME b\na {sig}\n")).len(), 2);
    assert!(
        errors(&format!("a CNAME b\na {sig}\na TXT x\n"))[0].contains("is a CNAME, and there is other data")
    );
}

#[test]
fn lines_end_as_on_every_system() {
    assert_eq!(read_as("a A 192.0.2.1\r\nb A 192.0.2.2\rc A 192.0.2.3\n").len(), 3);
}

#[test]
fn every_type_is_known_by_its_name() {
    for (text, wire) in [
        ("WKS 192.0.2.1 TCP smtp 80", "c0000201 06 00000040 000000000000 80"),
        ("APL 1:192.168.32.0/21 !2:FF00::/8", "0001 15 03 c0a820 0002 08 81 ff"),
        ("NSAP 0x47.0005", "470005"),
        ("NID 10 14:4fff:ff20:ee64", "000a 00144fffff20ee64"),
        ("L32 10 10.1.2.0", "000a 0a010200"),
        ("IPSECKEY 10 1 2 192.0.2.38 AQID", "0a 01 02 c0000226 010203"),
        ("IPSECKEY 10 3 2 x.", "0a 03 02 017800"),
        ("AMTRELAY 10 1 0 .", "0a 80"),
        ("HIP 2 0102 AwQ= x.", "02 02 0002 0102 0304 017800"),
        ("A6 64 ::1 x.", "40 0000000000000001 017800"),
        ("NXT x. A MX", "017800 4001"),
        ("DSYNC CDS NOTIFY 5359 x.", "003b 01 14ef 017800"),
        ("DOA 1 2 3 \"t\" -", "00000001 00000002 03 0174"),
        ("MB x.", "017800"),
        ("KEY 256 3 5", "0100 03 05"),
        (
            "SIG A 5 3 60 20300101000000 20200101000000 1 x. AQID",
            "0001 05 03 0000003c 70dbd880 5e0be100 0001 017800 010203",
        ),
        ("HTTPS 1 . alpn=h2 ech=", "0001 00 0001 0003 026832 0005 0000"),
        ("APL", ""),
    ] {
        let zone = tolerated(&format!("a {text}\n")).zone;
        let RecordData::Other { data, .. } = &zone.records[1].data else { panic!("{text}: {zone:?}") };
        let shown: String = data.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(shown, wire.replace(' ', ""), "{text}");
    }
    let simple = "MD MF MG MR NULL HINFO MINFO RP AFSDB X25 ISDN RT NSAP-PTR PX GPOS LOC EID NIMLOC ATMA NAPTR KX CERT \
                  SINK DS SSHFP DHCID TLSA SMIMEA NINFO RKEY TALINK CDS CDNSKEY OPENPGPKEY CSYNC ZONEMD SVCB HHIT BRID \
                  SPF UINFO UID GID UNSPEC L64 LP EUI48 EUI64 URI CAA AVC RESINFO WALLET CLA IPN TA DLV KEYDATA";
    for name in simple.split_whitespace() {
        assert!(store::model::rdata::number(name).is_some(), "{name}");
    }
}

#[test]
fn a_name_server_has_its_address_where_the_zone_has_none() {
    for fine in [
        "@ NS ns.sub\nsub NS ns.elsewhere.\n",
        "@ NS sub\nsub NS ns.elsewhere.\n",
        "@ NS a.w\n*.w AAAA 2001:db8::1\n",
        "@ NS ns.elsewhere.\n",
    ] {
        tolerated(fine);
    }
    for lonely in [
        "@ NS ns2\n",
        "@ NS a.w\n*.w TXT x\n",
        "@ NS a.w\n*.w A 192.0.2.1\na.w TXT \"here, so the wildcard is not\"\n",
        "@ NS a.w\n*.w A 192.0.2.1\nx.a.w A 192.0.2.1\n",
        "@ NS ns2\nns2 CNAME ns1\n",
    ] {
        assert!(errors(lonely)[0].contains("lies in the zone and has no address"), "{lonely}");
    }
}

#[test]
fn a_delegation_may_be_redirected_too() {
    assert_eq!(read_as("a DNAME x.\na NS y.\n").len(), 2);
}

#[test]
fn signed_zones_are_refused_and_keys_of_others_are_not() {
    for (signed, kinds) in [
        ("@ DNSKEY 257 3 13 AQID\n", "DNSKEY"),
        ("a RRSIG A 13 3 60 20300101000000 20200101000000 1 example.com. AQID\n", "RRSIG"),
        ("a TYPE46 \\# 27 0001 0d 01 00000e10 70dbd880 70dbd880 0001 00 0102030405060708\n", "RRSIG"),
        ("a NSEC b A\n@ NSEC3PARAM 1 0 0 -\n", "NSEC, NSEC3PARAM"),
        ("0p9mhaveqvm6t7vbl5lop2u3t2rp3tom NSEC3 1 1 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A\n", "NSEC3"),
    ] {
        let found = errors(signed);
        let expected = format!("z:5: the zone is signed (it has {kinds}), and DNSSEC is not served yet");
        assert!(found[0].starts_with(&expected), "{found:#?}");
    }
    // A signed zone is one error, not one more for each record that its signatures lie beside or below.
    let all = "@ DNSKEY 257 3 13 AQID\na CNAME b\na NSEC b CNAME RRSIG\n\
               a RRSIG CNAME 13 3 60 20300101000000 20200101000000 1 example.com. AQID\nd DNAME b\n\
               0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.d NSEC3 1 1 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A\n";
    assert_eq!(errors(all).len(), 1, "{:#?}", errors(all));
    assert_eq!(errors(&format!("{all}a TXT x\n")).len(), 2, "other errors are reported too");
    tolerated(
        "sub NS ns.elsewhere.\nsub DS 1 8 2 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n\
         x DNSKEY 257 3 13 AQID\n@ CDS 0 0 0 00\ny DLV 1 8 99 00\n",
    );
}

#[test]
fn a_signed_zone_can_be_read_without_its_signatures() {
    let text = format!(
        "{HEAD}@ DNSKEY 257 3 13 AQID\n@ CDNSKEY 257 3 13 AQID\n@ ZONEMD 7 1 1 {}\n@ TYPE65534 \\# 1 00\n\
         a RRSIG A 13 3 60 20300101000000 20200101000000 1 example.com. AQID\na A 192.0.2.1\nb CNAME a\nb NSEC c CNAME\n",
        "00".repeat(48)
    );
    let read = read_placed("z", text.as_bytes(), &apex(), &NoFiles, Dnssec::Strip).unwrap();
    assert_eq!(
        records(&read.zone)[1..],
        ["a.example.com 3600 A 192.0.2.1", "b.example.com 3600 CNAME a.example.com."]
    );
    let counts: Vec<_> = read.stripped.into_iter().collect();
    assert_eq!(counts, [(46, 1), (47, 1), (48, 1), (60, 1), (63, 1), (65_534, 1)]);
}
