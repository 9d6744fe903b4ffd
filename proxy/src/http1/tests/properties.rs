//! What the fuzz targets say, over input that is close to HTTP: parts of messages, good and bad, in any order.

use proptest::{prelude::*, sample::select};

use crate::fuzzing::{http1_request, http1_response};

const STARTS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "POST / HTTP/1.0\r\n",
    "OPTIONS * HTTP/1.2\r\n",
    "GET http://a/%41 HTTP/1.1\r\n",
    "\r\n\r\nPUT /[x]\\y HTTP/1.1\r\n",
    "GET  / HTTP/1.1\r\n",
    "GET /#a HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200\r\n",
    "HTTP/1.0 304 Not Modified\r\n",
    "HTTP/1.3 204 \r\n",
    "HTTP/1.1 103 Early Hints\r\n",
    "HTTP/1.1 0 OK\r\n",
];

const LINES: &[&str] = &[
    "Host: a\r\n",
    "host: [::1]:80\r\n",
    "Host: a, b\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: +5\r\n",
    "Content-Length : 5\r\n",
    "content-LENGTH:\t5 \t\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: x\r\n",
    "Connection: close, A, Content-Length\r\n",
    "Connection: transfer-encoding\r\n",
    "TE: trailers\r\n",
    "A: b\r\n c\r\n",
    "A: b\r\n",
    "a:\r\n",
    "X-Long-Name-Of-A-Field: a value that has more than eight octets, and\ttabs \r\n",
    "A: \u{fc}\r\n",
    "A: b\n",
    "A: b\rc\r\n",
    "A: \0\r\n",
    ": b\r\n",
    "no colon\r\n",
    "\r\n",
    "\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "5;a=\"b\\\"\"\r\nhello\r\n",
    "5 ;a\r\nhello\r\n",
    "5\r\nhello",
    "5\nhello\r\n",
    "0\r\n",
    "fffffffffffffffff\r\n",
];

/// A start, lines, and perhaps some octets replaced.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let lines = proptest::collection::vec(select(LINES), 0..8);
    let odd = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let chunked = select(&["", "\r\n", "Transfer-Encoding: chunked\r\n\r\n", "Host: a\r\n"][..]);
    (select(STARTS), chunked, lines, odd, any::<bool>()).prop_map(|(start, chunked, lines, odd, spoil)| {
        let mut text = format!("{start}Host: a\r\n{chunked}{}", lines.concat()).into_bytes();
        if spoil {
            for (at, octet) in odd {
                let at = at.index(text.len());
                text[at] = octet;
            }
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Equal to `httparse` where both accept, in any split, and when it is written again.
    #[test]
    fn there_is_one_way_to_read_a_message(message in message()) {
        http1_request(&message);
        http1_response(&message);
    }

    #[test]
    fn arbitrary_octets_are_no_trouble(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        http1_request(&octets);
        http1_response(&octets);
        for head in ["POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            let message = [head.as_bytes(), &octets].concat();
            http1_request(&message);
            http1_response(&message);
        }
    }

    /// Targets are looked at twice, here for what may be in them and in `target` for what they mean. What is good there is not
    /// refused here.
    #[test]
    fn what_routing_can_read_is_not_refused(
        target in "(/|http://a|HTTPS://a:1/?|[a*?])([a-cA/.:?\\[\\]\\\\;=~%&,-]|%2[fF]|%61|[\"#<|^{ ])*",
    ) {
        if crate::target::Target::read("GET", target.as_bytes()).is_ok() {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            prop_assert!(super::request(text).is_ok());
        }
    }

    /// `decode(encode(x)) = x`, for data in any pieces and any sizes of chunks.
    #[test]
    fn data_in_chunks_is_the_same_data(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 0..10)) {
        use super::{ChunkedDecoder, LAST_CHUNK, TrailerLimits, chunk_head};
        let mut text = Vec::new();
        for piece in &pieces {
            let mut line = [0; 20];
            let written = chunk_head(piece.len(), &mut line);
            text.extend_from_slice(&line[..written]);
            text.extend_from_slice(piece);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(LAST_CHUNK);
        let mut decoder = ChunkedDecoder::new(TrailerLimits { bytes: 2, fields: 0 });
        let (mut data, mut at) = (Vec::new(), 0);
        loop {
            let decoded = decoder.decode(&text[at..]).unwrap();
            data.extend_from_slice(&text[at..][decoded.data]);
            at += decoded.consumed;
            if decoded.end {
                break;
            }
        }
        prop_assert_eq!((data, at), (pieces.concat(), text.len()));
    }
}
