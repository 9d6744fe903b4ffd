//! The rules about bodies in chunks (RFC 9112 §7.1) and trailers.

use super::*;

const TRAILERS: TrailerLimits = TrailerLimits { bytes: 64, fields: 2 };

/// The data, the octets that were used, and whether the body ended.
fn decode(text: &str) -> Result<(String, usize, bool), ChunkError> {
    let mut decoder = ChunkedDecoder::new(TRAILERS);
    let (mut data, mut at, bytes) = (Vec::new(), 0, text.as_bytes());
    loop {
        let decoded = decoder.decode(&bytes[at..])?;
        data.extend_from_slice(&bytes[at..][decoded.data]);
        at += decoded.consumed;
        if decoded.end || at == bytes.len() {
            return Ok((String::from_utf8(data).unwrap(), at, decoded.end));
        }
    }
}

#[test]
fn chunks_are_read() {
    for (text, data) in [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world"),
        ("A\r\n0123456789\r\n00\r\n\r\n", "0123456789"),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", "hello"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
        ("5;a\r\nhello\r\n0;b\r\n\r\n", "hello"),
        ("5;a=b\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5 ; a = b ;c\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5;a=\"b;\\\"c\td\"\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\t;\ta=\"\";b\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n0\r\nA: b\r\n\r\n", "hello"),
    ] {
        let next = format!("{text}GET / HTTP/1.1");
        assert_eq!(decode(&next), Ok((data.to_owned(), text.len(), true)), "{text:?}");
        for length in 0..text.len() {
            assert!(!decode(&text[..length]).unwrap().2, "{:?}", &text[..length]);
        }
    }
}

// RFC 9112 §7.1: chunk-size is 1*HEXDIG.
#[test]
fn a_size_is_hexadecimal_digits() {
    for text in [
        "\r\n",
        "g\r\n",
        "x5\r\n",
        "0x5\r\n",
        "+5\r\n",
        "-5\r\n",
        " 5\r\n",
        "\t5\r\n",
        ";a\r\n",
        "5g\r\n",
        "5,\r\n",
        "5_0\r\n",
        "5\0\r\n",
        "\u{ff15}\r\n",
        "5\"\r\n",
    ] {
        assert_eq!(decode(text), Err(ChunkError::BadSize), "{text:?}");
    }
    for text in
        ["00000000000000005\r\n", "10000000000000000\r\n", "fffffffffffffffff\r\n", "8000000000000000\r\n"]
    {
        assert_eq!(decode(text), Err(ChunkError::LargeSize), "{text:?}");
    }
    assert_eq!(decode("7fffffffffffffff\r\nab"), Ok(("ab".to_owned(), 20, false)));
}

// RFC 9112 §2.2 and §7.1: lines end in CR LF, and so does data.
#[test]
fn lines_of_chunks_end_in_cr_lf() {
    for text in
        ["5\nhello\r\n", "5\r\rhello\r\n", "5\rhello", "5;a\nhello", "5;a=\"b\nc\"\r\nhello", "0\n\n", "5;\n"]
    {
        assert_eq!(decode(text), Err(ChunkError::BadLineEnd), "{text:?}");
    }
    for text in [
        "5\r\nhello0\r\n\r\n",
        "5\r\nhellox\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\rx",
        "5\r\nhelloo\r\n",
    ] {
        assert_eq!(decode(text), Err(ChunkError::NoEndOfData), "{text:?}");
    }
    assert_eq!(decode("5\r\nhello\r\n\r\n"), Err(ChunkError::BadSize));
}

// RFC 9112 §7.1.1.
#[test]
fn extensions_are_well_formed_and_bounded() {
    for text in [
        "5;\r\n",
        "5 \r\n",
        "5\t\r\n",
        "5;a=\r\n",
        "5;=b\r\n",
        "5;a;\r\n",
        "5;a b\r\n",
        "5;a=\"b\r\n",
        "5;a=\"b\"c\r\n",
        "5;a=b c\r\n",
        "5;a=\"\0\"\r\n",
        "5;a \r\n",
        "5;a=b \r\n",
        "5;\"a\"=b\r\n",
        "5;a=\"\\\r\n\"\r\n",
        "5; ;a\r\n",
        "5 a\r\n",
        "5;a\0\r\n",
    ] {
        assert_eq!(decode(text), Err(ChunkError::BadExtension), "{text:?}");
    }
    let chunk = |length: usize| format!("1;{}\r\na\r\n", "e".repeat(length - 1));
    assert!(decode(&chunk(256)).is_ok());
    assert_eq!(decode(&chunk(257)), Err(ChunkError::LongExtensions));
    assert!(decode(&chunk(256).repeat(64)).is_ok());
    assert_eq!(decode(&chunk(256).repeat(65)), Err(ChunkError::LongExtensions));
}

// RFC 9112 §7.1.2.
#[test]
fn trailers_are_read_as_fields_are() {
    let read = |trailers: &str| {
        let mut decoder = ChunkedDecoder::new(TRAILERS);
        let text = format!("0\r\n{trailers}\r\nnext");
        let decoded = decoder.decode(text.as_bytes())?;
        assert_eq!((decoded.consumed, decoded.end), (text.len() - 4, true));
        let (fields, bytes) = decoder.trailers();
        Ok::<_, ChunkError>(pairs(fields, bytes))
    };
    assert_eq!(read(""), Ok(vec![]));
    let two = vec![("Grpc-Status".to_owned(), "0".to_owned()), ("b".to_owned(), "c d".to_owned())];
    assert_eq!(read("Grpc-Status: 0\r\nb:\tc d \r\n"), Ok(two));
    for (trailers, error) in [
        ("A : b\r\n", HeadError::SpaceBeforeColon),
        (" A: b\r\n", HeadError::FoldedLine),
        ("A: b\r\n c\r\n", HeadError::FoldedLine),
        ("A\r\n", HeadError::BadName),
        ("A: \0\r\n", HeadError::BadValue),
        ("A: b\n", HeadError::BareLineFeed),
        ("A: b\rc\r\n", HeadError::BareCarriageReturn),
        ("\r\r\n", HeadError::BareCarriageReturn),
        ("A: 1\r\nB: 2\r\nC: 3\r\n", HeadError::TooManyFields),
    ] {
        assert_eq!(read(trailers), Err(ChunkError::BadTrailers(error)), "{trailers:?}");
    }
    for text in ["0\r\n\rX", "0\r\nA: b\rc", "0\r\nA: b\r\r"] {
        let error = ChunkError::BadTrailers(HeadError::BareCarriageReturn);
        assert_eq!(decode(text), Err(error), "{text:?}: no LF is waited for");
        let mut decoder = ChunkedDecoder::new(TRAILERS);
        let octets = text.as_bytes().chunks(1);
        let refused = octets.map(|octet| decoder.decode(octet)).find_map(Result::err);
        assert_eq!(refused, Some(error), "{text:?} octet by octet");
    }
    let long = |length: usize| format!("A: {}\r\n", "b".repeat(length - 7));
    assert!(read(&long(64)).is_ok());
    assert_eq!(read(&long(65)), Err(ChunkError::LargeTrailers));
}

#[test]
fn what_follows_a_body_belongs_to_the_next_message() {
    let mut decoder = ChunkedDecoder::new(TRAILERS);
    assert_eq!(decoder.decode(b"1\r\na\r\n").unwrap().data, 3..4);
    assert!(decoder.decode(b"\r\n0\r\nA: b\r\n\r\n").unwrap().end);
    assert_eq!(decoder.trailers().0.len(), 1);
    let after = decoder.decode(b"GET").unwrap();
    assert_eq!((after.consumed, after.end), (0, true));
}

#[test]
fn heads_of_chunks_are_written() {
    for (length, line) in [
        (1, "1\r\n"),
        (15, "f\r\n"),
        (16, "10\r\n"),
        (0xabcdef, "abcdef\r\n"),
        (usize::MAX, "ffffffffffffffff\r\n"),
    ] {
        let mut room = [0; 20];
        let written = chunk_head(length, &mut room);
        assert_eq!(&room[..written], line.as_bytes());
    }
}

// RFC 9110 §6.5.1.
#[test]
fn trailers_are_written_without_fields_that_cannot_be_there() {
    let mut decoder = ChunkedDecoder::new(TrailerLimits { bytes: 4096, fields: 64 });
    let text = "0\r\nGrpc-Status: 0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\nAuthorization: a\r\nSet-Cookie: a\r\n\
                Cookie: a\r\nConnection: a\r\nX-Forwarded-For: a\r\nContent-Type: a\r\nTrailer: a\r\nCache-Control: a\r\nServer-Timing: a\r\n\
                Date: a\r\nETag: b\r\n\r\n";
    assert!(decoder.decode(text.as_bytes()).unwrap().end);
    let mut out = Vec::new();
    let (fields, bytes) = decoder.trailers();
    write_trailers(&mut out, fields, bytes, |_| false);
    assert_eq!(String::from_utf8(out).unwrap(), "0\r\nGrpc-Status: 0\r\nServer-Timing: a\r\nETag: b\r\n\r\n");
    let mut out = Vec::new();
    write_trailers(&mut out, &Fields::default(), b"", |_| false);
    assert_eq!(out, LAST_CHUNK);
}
