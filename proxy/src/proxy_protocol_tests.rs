//! PROXY headers of both versions, valid and not.

use proptest::prelude::*;

use super::{HeaderError::*, *};

fn told(source: &str, destination: &str) -> Option<Addresses> {
    Some(Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

/// A header of version 2 with this command, family and rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

/// A header of version 2 for IPv4 with these values behind the addresses.
fn with_values(values: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&[192, 0, 2, 1, 192, 0, 2, 2, 0x1f, 0x90, 0, 80], values].concat())
}

fn value(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

#[test]
fn lines_of_version_1_are_read() {
    for (line, addresses) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", told("192.0.2.1:56324", "198.51.100.2:443")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n",
            told("255.255.255.255:65535", "255.255.255.255:0"),
        ),
        ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", told("[2001:db8::1]:1", "[::1]:2")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff:: whatever 65536 1\r\n", None),
    ] {
        let header = Header { addresses, over_tls: None };
        assert_eq!(read(line.as_bytes()), Ok(Some((header, line.len()))), "{line}");
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
    assert_eq!((longest.len(), read(longest.as_bytes()).is_ok()), (MAX_V1, true));
}

#[test]
fn other_lines_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 0080 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +80 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 80 443\r\n",
        "PROXY TCP4 192.0.2.1 ::1 80 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 80 443\r\n",
        "PROXY TCP6 ::1%lo ::1 80 443\r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.2 80 443\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 80 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY \u{fc}\r\n",
        "PROXY UNKNOWN\n",
    ] {
        assert_eq!(read(line.as_bytes()), Err(Line), "{line:?}");
    }
    assert_eq!(read(format!("PROXY UNKNOWN {}\r\n", "f".repeat(92)).as_bytes()), Err(LongLine));
    assert_eq!(read(&[&b"PROXY "[..], &[b'x'; 101]].concat()), Err(LongLine));
    for other in ["GET / HTTP/1.1\r\n", "proxy TCP4", "PROXYTCP4", "\r\n\r\nGET", "P R", "\x16\x03\x01"] {
        assert_eq!(read(other.as_bytes()), Err(Absent), "{other:?}");
    }
}

#[test]
fn headers_of_version_2_are_read() {
    let addresses = told("192.0.2.1:8080", "192.0.2.2:80");
    let six = [[0x20; 16], [0x21; 16]].concat();
    let ssl = |flags| value(0x20, &[&[flags, 0, 0, 0, 0][..], &value(0x21, b"TLSv1.3")].concat());
    for (header, addresses, over_tls) in [
        (with_values(&[]), addresses, None),
        (with_values(&value(0x04, &[0; 9])), addresses, None),
        (with_values(&[value(0xee, b"custom"), ssl(1)].concat()), addresses, Some(true)),
        (with_values(&ssl(4)), addresses, Some(false)),
        (
            v2(0x21, 0x21, &[&six[..], &[0, 1, 0, 2]].concat()),
            told(
                "[2020:2020:2020:2020:2020:2020:2020:2020]:1",
                "[2121:2121:2121:2121:2121:2121:2121:2121]:2",
            ),
            None,
        ),
        (v2(0x21, 0x31, &[1; 216]), None, None),
        (v2(0x21, 0x00, &[]), None, None),
        // Whatever UNSPEC brings is skipped, and so are combinations that tell of no connection (section 2.2).
        (v2(0x21, 0x00, &[1, 2, 3, 4]), None, None),
        (v2(0x21, 0x01, &[]), None, None),
        (v2(0x21, 0x10, &[7; 5]), None, None),
        (v2(0x21, 0x12, &[&[7; 12][..], &ssl(1)].concat()), None, Some(true)),
        (v2(0x21, 0x22, &[7; 36]), None, None),
        (v2(0x21, 0x32, &[1; 216]), None, None),
        (v2(0x20, 0x11, &[7; 3]), None, None),
        (v2(0x20, 0xff, &[]), None, None),
    ] {
        let length = header.len();
        assert_eq!(read(&header), Ok(Some((Header { addresses, over_tls }, length))), "{header:x?}");
    }
}

#[test]
fn other_headers_of_version_2_are_refused() {
    for (header, error) in [
        (v2(0x22, 0x11, &[0; 12]), Command),
        (v2(0x11, 0x11, &[0; 12]), Command),
        (v2(0x21, 0x41, &[0; 12]), Family),
        (v2(0x21, 0x13, &[0; 12]), Family),
        (v2(0x21, 0x12, &[0; 11]), Short),
        (v2(0x21, 0x22, &[0; 35]), Short),
        (v2(0x21, 0x11, &[0; 11]), Short),
        (v2(0x21, 0x21, &[0; 35]), Short),
        (v2(0x21, 0x31, &[0; 215]), Short),
        (v2(0x21, 0x00, &[0; MAX_V2_REST + 1]), Long),
        (with_values(&[4]), Values),
        (with_values(&[4, 0, 2, 0]), Values),
        (with_values(&value(0x20, &[1, 0, 0, 0])), Values),
        (with_values(&value(0x20, &[1, 0, 0, 0, 0, 0x21, 0, 9])), Values),
        (with_values(&value(3, &[0; 3])), Values),
        (with_values(&value(3, &[0; 4])), Checksum),
    ] {
        assert_eq!(read(&header), Err(error), "{header:x?}");
    }
    assert_eq!(read(&[&SIGNATURE[..], &[0x31]].concat()), Err(Command), "before it is complete");
    assert_eq!(read(&[&SIGNATURE[..], &[0x21, 0x11, 0x10, 0x01]].concat()), Err(Long));
}

#[test]
fn a_checksum_is_checked() {
    // RFC 3720, appendix B.4.
    assert_eq!(tlv::crc32c([0; 32].into_iter()), 0x8a91_36aa);
    assert_eq!(tlv::crc32c(0..32), 0x46dd_794e);
    let mut header = with_values(&[value(4, &[0; 5]), value(3, &[0; 4]), value(4, &[])].concat());
    let at = 16 + 12 + 8 + 3;
    let sum = tlv::crc32c(header.iter().copied()).to_be_bytes();
    header[at..at + 4].copy_from_slice(&sum);
    assert!(read(&header).unwrap().is_some());
    header[20] ^= 1;
    assert_eq!(read(&header), Err(Checksum));
}

/// The two as they are read again: IPv4 beside IPv6 becomes IPv6.
fn as_read(addresses: Addresses) -> Addresses {
    let Addresses { source, destination } = addresses;
    if source.is_ipv4() == destination.is_ipv4() {
        return addresses;
    }
    let mapped = |it: SocketAddr| match it.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), it.port()),
        IpAddr::V6(_) => it,
    };
    Addresses { source: mapped(source), destination: mapped(destination) }
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let family = prop_oneof![Just(0x11), Just(0x21), Just(0x00), Just(0x31), any::<u8>()];
    prop_oneof![
        "PROXY (TCP4|TCP6|UNKNOWN) [0-9a-f.: ]{0,110}\r\n".prop_map(String::into_bytes),
        (0x20..=0x21_u8, family, prop::collection::vec(any::<u8>(), 0..260))
            .prop_map(|(command, family, rest)| v2(command, family, &rest)),
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(source in any_address(), destination in any_address(), after in any::<[u8; 3]>()) {
        let addresses = Addresses { source, destination };
        for write in [write_v1, write_v2] {
            let mut header = Vec::new();
            write(Some(addresses), &mut header);
            let length = header.len();
            header.extend(after);
            let expected = Header { addresses: Some(as_read(addresses)), over_tls: None };
            prop_assert_eq!(read(&header), Ok(Some((expected, length))));
        }
    }

    #[test]
    fn a_header_is_read_alike_however_it_is_cut(header in any_header()) {
        let whole = read(&header);
        let end = whole.as_ref().ok().and_then(|it| it.as_ref()).map_or(header.len(), |(_, length)| *length);
        for cut in 0..end {
            match read(&header[..cut]) {
                Ok(None) => {}
                // An error that is seen before the end stays one.
                Err(error) => prop_assert_eq!(Err(error), whole.clone()),
                Ok(Some(early)) => prop_assert!(false, "{early:?} of {cut} bytes"),
            }
        }
    }
}

#[test]
fn without_addresses_there_is_a_header_as_well() {
    let written = |write: fn(&mut Vec<u8>)| {
        let mut header = Vec::new();
        write(&mut header);
        header
    };
    assert_eq!(written(|it| write_v1(None, it)), b"PROXY UNKNOWN\r\n");
    let local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
    for header in [written(|it| write_v2(None, it)), local] {
        assert_eq!(read(&header), Ok(Some((Header::default(), 16))));
    }
}
