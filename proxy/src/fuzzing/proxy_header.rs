//! Fuzzing the reader of PROXY headers.

use crate::proxy_protocol::{Header, MAX, read, write_v1, write_v2};

/// Any octets as the beginning of a connection.
pub fn proxy_header(data: &[u8]) {
    let whole = read(data);
    let end = match &whole {
        Ok(Some((_, length))) => *length,
        _ => data.len(),
    };
    assert!(end <= data.len());
    for cut in 0..end.min(MAX + 1) {
        match (read(&data[..cut]), &whole) {
            (Ok(None), _) => {}
            (Err(early), Err(late)) => assert_eq!(early, *late),
            (early, late) => panic!("{early:?} of {cut} octets, {late:?} of all"),
        }
    }
    let Ok(Some((header, length))) = whole else { return };
    assert!(length <= MAX);
    if let Some(addresses) = header.addresses {
        for write in [write_v1, write_v2] {
            let mut written = Vec::new();
            write(Some(addresses), &mut written);
            let again = Header { addresses: Some(addresses), over_tls: None };
            assert_eq!(read(&written), Ok(Some((again, written.len()))));
        }
    }
}
