//! Zone files through `check`, `import` and `file:` in documents.

use std::sync::Arc;

use dns::zonefile::{self, Dnssec};
use store::model::{self, Document, DomainName, InputError, Moment, Placed, World};

use super::*;
use crate::api::FileText;

const ZONE: &str = "$TTL 1h\n@ SOA ns1 h 7 2h 10m 2w 1m\n@ NS ns1\nns1 A 192.0.2.53\n";

/// Documents in a folder with a zone file, as `check` reads them.
fn checked(documents: &str, zone: &str) -> Result<Vec<Document>, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("zones")).unwrap();
    std::fs::write(folder.path().join("zones/z"), zone).unwrap();
    let name = folder.path().join("w.yaml").display().to_string();
    let prefix = format!("{}/", folder.path().display());
    let shown = |errors: Vec<InputError>| -> Vec<String> {
        errors.iter().map(|it| it.to_string().replace(&prefix, "")).collect()
    };
    let files = vec![FileText { name: name.clone(), text: documents.to_owned() }];
    let (files, origins) = expand(files).map_err(shown)?;
    let placed = model::parse(&name, &files[0].text).map_err(shown)?;
    let values = placed.iter().map(|it| it.value.clone()).collect();
    let placed = placed.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
    match World::check(placed, Moment(0)) {
        Ok(_) => Ok(values),
        Err(mut errors) => {
            origins.point_out(&mut errors);
            Err(shown(errors))
        }
    }
}

#[test]
fn what_is_imported_is_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("z"), folder.path().join("z.yaml"));
    std::fs::write(
        &file,
        format!("{ZONE}a\\.b 5 TXT \"x;\" y\n_443._tcp TLSA 3 1 1 0a\n@ MX 0 .\nd DNAME x.org.\n"),
    )
    .unwrap();
    import(&file, "example.com", Import::default(), Some(&out)).unwrap();
    let text = std::fs::read_to_string(&out).unwrap();
    let read = model::parse("z", &text).unwrap().remove(0).value;
    let expected = zonefile::read_from(&file, &"example.com".parse().unwrap(), Dnssec::Refuse).unwrap();
    assert_eq!(read, Document::Zone(expected.zone), "{text}");
}

#[test]
fn a_file_and_records_beside_it_are_one_zone() {
    let documents = "kind: Zone\nname: example.com\nrecords:\n  - { name: own, type: A, data: 192.0.2.9 }\nfile: zones/z\n";
    let read = checked(documents, &format!("{ZONE}www A 192.0.2.1\n")).unwrap();
    let Document::Zone(zone) = &read[0] else { panic!("{read:?}") };
    let names: Vec<_> = zone.records.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["own.example.com", "ns1.example.com", "www.example.com"]);
    assert_eq!(zone.soa.as_ref().unwrap().serial, Some(7));
}

#[test]
fn errors_name_the_line_that_is_wrong() {
    let world = "kind: Site\nname: bj\n---\nkind: Zone\nname: example.com\nfile: zones/z\n---\n\
                 kind: Cluster\nname: main\nzone: example.com\ngateway_domain: gw.example.com\n\
                 gateways: { bj: { a: [203.0.113.10] } }\n";
    assert!(checked(world, ZONE).is_ok());
    let cases = [
        (world.to_owned(), "x A y\n", "zones/z:5: Zone example.com: \"y\" is not an IPv4 address"),
        (world.to_owned(), "gw A 192.0.2.1\n", "zones/z:5: Zone example.com: gw.example.com is steered, so"),
        (
            world.replace("zone: example.com", "zone: b"),
            "",
            "w.yaml:10: Cluster main: zone: there is no Zone b",
        ),
        (world.replace("zones/z", "nowhere"), "", "nowhere: Zone example.com: nowhere: No such file"),
        (
            world.replace("zones/z", "zones/z\nttl: 1h"),
            "",
            "w.yaml:7: Zone example.com: ttl: is set by the zone file",
        ),
        (
            world.replace("zones/z", "zones/z\nrecords: [{ name: own, type: A, data: x }]"),
            "",
            "w.yaml:7: Zone example.com: records[0].data: \"x\" is not an IPv4 address",
        ),
        (
            world.replace("zones/z", "zones/z\nrecords: [{ name: gw, type: A, data: 192.0.2.1 }]"),
            "a CNAME gw\n",
            "w.yaml:7: Zone example.com: records[0]: gw.example.com is steered",
        ),
    ];
    for (documents, more, expected) in cases {
        let found = checked(&documents, &format!("{ZONE}{more}")).unwrap_err();
        assert!(found[0].starts_with(expected), "{documents}{more}: {found:#?}");
    }
}

#[test]
fn zone_files_are_checked_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("example.com.zone"), ZONE).unwrap();
    std::fs::write(path("b.zone"), format!("{ZONE}x A y\n")).unwrap();
    assert_eq!(check(&path("example.com.zone")).0, Ok(("example.com".parse().unwrap(), vec![])));
    std::fs::write(path("c.zone"), format!("{ZONE}x.d. A 192.0.2.1\n")).unwrap();
    let (_, warnings) = check(&path("c.zone")).0.unwrap();
    assert!(
        warnings[0].to_string().contains("c.zone:5: \"x.d.\" lies outside the zone c, and is passed over")
    );
    assert!(
        check(&path("b.zone")).0.unwrap_err()[0]
            .to_string()
            .contains("b.zone:5: \"y\" is not an IPv4 address")
    );
    assert!(
        check(&path("a..b.zone")).0.unwrap_err()[0].to_string().contains("a name such as example.com.zone")
    );
}

#[test]
fn a_zone_file_is_known_by_what_is_in_it() {
    for zone in [ZONE, "@ IN SOA a b 1 2 3 4 5", "; only\n$ORIGIN example.com.\n", "x 60 soa a b 1 2 3 4 5"] {
        assert!(looks_like_a_zone(zone.as_bytes()), "{zone}");
    }
    for other in
        ["", "kind: Zone\nsoa: {}\n# SOA\n", "{ kind: Zone } # SOA", "notes about a SOA-record", "; SOA"]
    {
        assert!(!looks_like_a_zone(other.as_bytes()), "{other}");
    }
}

#[test]
fn a_zone_too_large_for_a_document_says_where_it_fits() {
    let many: String = (0..20_000).map(|n| format!("h{n} A 192.0.2.1\n")).collect();
    let found =
        checked("kind: Zone\nname: example.com\nfile: zones/z\n", &format!("{ZONE}{many}")).unwrap_err();
    assert!(found[0].contains("zones_dir"), "{found:#?}");
}

/// What `import` makes of a zone file with these lines behind its head, or what it says.
fn imported(more: &str, strip_dnssec: bool) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("z"), folder.path().join("z.yaml"));
    std::fs::write(&file, format!("{ZONE}{more}")).unwrap();
    match import(&file, "example.com", Import { strip_dnssec, json: false }, Some(&out)) {
        Ok(()) => Ok(std::fs::read_to_string(&out).unwrap()),
        Err(failure) => Err(failure.text()),
    }
}

/// A Zone document together with others, as `apply` checks them.
fn applied(zone: &str, others: &str) -> Result<(), Vec<String>> {
    let shown = |found: Vec<InputError>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
    let placed = model::parse("z", &format!("{zone}---\n{others}")).map_err(shown)?;
    let placed = placed.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
    World::check(placed, Moment(0)).map(drop).map_err(shown)
}

#[test]
fn what_is_imported_is_applied() {
    let child = "kind: Zone\nname: sub.example.com\nnameservers: [{ name: ns.x. }]\n";
    for more in [
        "x CNAME *.w\n*.w A 192.0.2.1\n",
        "sub NS ns.x.\nsub DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118\n",
        "sub NS ns.x.\nb.sub TXT \"never answered\"\n",
        "x 0 A 192.0.2.1\ny CNAME .\nz DNAME .\nd NS .\nd DNAME x.\n",
        "x 4294967295 A 192.0.2.1\n",
        "caf\\195\\169 A 192.0.2.1\na\\ b TXT \"\\255\"\n",
        "@ NS ns.w\n*.w A 192.0.2.1\n",
    ] {
        let text = imported(more, false).unwrap();
        assert_eq!(applied(&text, child), Ok(()), "{text}");
    }
}

#[test]
fn what_apply_would_refuse_is_not_imported() {
    let found = imported("x CNAME y\ny CNAME x\n", false).unwrap_err();
    assert!(found.contains("z:5: Zone example.com: a CNAME loop"), "{found}");
    let many: String = (0..20_000).map(|n| format!("h{n} A 192.0.2.1\n")).collect();
    let found = imported(&many, false).unwrap_err();
    assert!(found.contains("bytes, more than 524288") && found.contains("zones_dir"), "{found}");
}

#[test]
fn a_signed_zone_is_imported_without_its_signatures_or_not_at_all() {
    let signed = "@ DNSKEY 257 3 13 AQID\n@ TYPE46 \\# 27 0006 0d 01 00000e10 70dbd880 70dbd880 0001 00 01020304\
                  05060708\n@ NSEC x NS SOA NSEC\n@ CDS 1 13 2 \
                  000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n@ TYPE65534 \\# 1 00\n\
                  sub NS ns.x.\nsub DS 1 13 2 \
                  000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
    let found = imported(signed, false).unwrap_err();
    assert!(found.contains("z:5: the zone is signed (it has RRSIG, NSEC, DNSKEY)"), "{found}");
    assert!(found.contains("--strip-dnssec"), "{found}");
    let text = imported(signed, true).unwrap();
    for gone in ["DNSKEY", "RRSIG", "NSEC", "CDS", "65534"] {
        assert!(!text.contains(gone), "{text}");
    }
    assert!(text.contains("type: DS"), "{text}");
    for kind in ["DNSKEY, data: 257 3 13 AQID", "NSEC, data: x A", "TYPE46, data: '\\# 1 00'"] {
        let record = format!("records:\n  - {{ name: '@', type: {kind} }}\n");
        let zone = format!("kind: Zone\nname: a.b\nnameservers: [{{ name: ns.x. }}]\n{record}");
        let found = model::parse("z", &zone).unwrap_err();
        assert!(found[0].to_string().contains("DNSSEC is not served yet"), "{found:#?}");
    }
    let found = checked("kind: Zone\nname: example.com\nfile: zones/z\n", &format!("{ZONE}{signed}"));
    assert!(found.unwrap_err()[0].contains("zones/z:5: Zone example.com: the zone is signed"));
}

#[test]
fn a_file_beside_a_document_of_the_same_zone_is_a_warning() {
    let origin: DomainName = "example.com".parse().unwrap();
    let filed = [("example.com.zone".to_owned(), origin)];
    let zone = "kind: Zone\nname: example.com\nnameservers: [{ name: ns.x. }]\n";
    let documents: Vec<_> = model::parse("z", zone).unwrap().into_iter().map(|it| it.value).collect();
    let said = shadowed(&filed, documents.iter());
    assert!(
        said[0].to_string().starts_with("example.com.zone: Zone example.com: there is a document"),
        "{said:?}"
    );
    assert_eq!(shadowed(&filed, [].iter()), []);
}
