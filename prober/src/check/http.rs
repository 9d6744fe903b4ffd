//! The HTTP check: one request, judged by its status once the header block is complete, and by its body if the check
//! requires a text in it.
//!
//! The usual case, HTTP/1.1 without reading the body, is written directly to the stream: it needs a dozen lines of
//! request and the head of the response, and a client library's connection would cost more than the probe. The other
//! cases go through `client`.

use std::{fmt::Write as _, net::SocketAddr};

use store::model::{HttpProbe, HttpVersion};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::{
    Fault, Phases,
    client::{self, MAX_HEAD, Stream, authority},
    fault, tcp,
};

/// Sends the request over an open stream, and judges the response.
pub(super) async fn send(
    probe: &HttpProbe,
    stream: impl Stream,
    address: SocketAddr,
    phases: &mut Phases,
) -> Result<String, Fault> {
    if probe.http_version == HttpVersion::One && probe.expect_body.is_none() {
        let status = bare(probe, stream, address, phases).await?;
        return judge(probe, status);
    }
    let answer = client::send(probe, stream, address, phases).await?;
    let detail = judge(probe, answer.status.as_u16())?;
    match &probe.expect_body {
        Some(words) if !tcp::contains(&answer.body, words.as_bytes()) => {
            let read = answer.body.len();
            Err(Fault::Target(format!("{detail}, but not what is expected in {read} bytes of its body")))
        }
        _ => Ok(detail),
    }
}

async fn bare(
    probe: &HttpProbe,
    mut stream: impl Stream,
    address: SocketAddr,
    phases: &mut Phases,
) -> Result<u16, Fault> {
    let request = request(probe, address)?;
    let started = Instant::now();
    stream.write_all(request.as_bytes()).await.map_err(|error| fault(&error))?;
    stream.flush().await.map_err(|error| fault(&error))?;
    let mut head = Vec::with_capacity(1024);
    loop {
        if let Some(status) = final_status(&mut head)? {
            return Ok(status);
        }
        if head.len() >= MAX_HEAD {
            return Err(Fault::Target(format!("its headers are longer than {MAX_HEAD} bytes")));
        }
        let read = stream.read_buf(&mut head).await.map_err(|error| fault(&error))?;
        match (read, head.is_empty()) {
            (0, true) => return Err(Fault::Target("connection closed without an answer".to_owned())),
            (0, false) => {
                return Err(Fault::Target("connection closed in the middle of an answer".to_owned()));
            }
            _ => _ = phases.first_byte.get_or_insert_with(|| started.elapsed()),
        }
    }
}

fn request(probe: &HttpProbe, address: SocketAddr) -> Result<String, Fault> {
    let host = authority(probe.host.as_deref(), address, if probe.tls.is_some() { 443 } else { 80 });
    let path = &probe.path;
    let sendable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !sendable(path) || !sendable(&host) {
        let reason = format!("the check cannot be sent: path {path:?}, host {host:?}");
        return Err(Fault::Local(reason));
    }
    let method = probe.method.as_str();
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: waypost-prober\r\nAccept: */*\r\nConnection: close\r\n"
    );
    for header in &probe.headers {
        if !sendable(&header.name) || header.value.contains(char::is_control) {
            return Err(Fault::Local(format!("the check cannot be sent: header {:?}", header.name)));
        }
        let _ = write!(text, "{}: {}\r\n", header.name, header.value);
    }
    text.push_str("\r\n");
    Ok(text)
}

fn judge(probe: &HttpProbe, status: u16) -> Result<String, Fault> {
    if probe.expect_status.iter().any(|range| range.contains(status)) {
        return Ok(format!("status {status}"));
    }
    let expected: Vec<_> = probe.expect_status.iter().take(8).map(ToString::to_string).collect();
    Err(Fault::Target(format!("status {status}, expected {}", expected.join(" or "))))
}

/// The status of the response once its header block is complete. Interim responses (RFC 9110 §15.2) are removed from
/// `head`.
fn final_status(head: &mut Vec<u8>) -> Result<Option<u16>, Fault> {
    loop {
        let Some(end) = end_of_head(head) else {
            check_start(head)?;
            return Ok(None);
        };
        let status = status(head)?;
        if (200..1000).contains(&status) || status == 101 {
            return Ok(Some(status));
        }
        head.drain(..end);
    }
}

/// Where the header block ends, after its empty line. A bare LF ends a line too (RFC 9112 §2.2).
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut after_newline = false;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if after_newline => return Some(at + 1),
            b'\n' => after_newline = true,
            b'\r' => {}
            _ => after_newline = false,
        }
    }
    None
}

/// Refuses at once what can no longer become an HTTP/1 response, instead of waiting for its end.
fn check_start(head: &[u8]) -> Result<(), Fault> {
    let expected = b"HTTP/1.";
    let shared = head.len().min(expected.len());
    if head.get(..shared) == expected.get(..shared) { Ok(()) } else { Err(not_http(head)) }
}

fn status(head: &[u8]) -> Result<u16, Fault> {
    let rest = head.strip_prefix(b"HTTP/1.").ok_or_else(|| not_http(head))?;
    let [b'0'..=b'9', b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ' | b'\r' | b'\n', ..] =
        rest
    else {
        return Err(not_http(head));
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    Ok(digit(*a) * 100 + digit(*b) * 10 + digit(*c))
}

fn not_http(head: &[u8]) -> Fault {
    let start = head.get(..head.len().min(24)).unwrap_or_default();
    Fault::Target(format!("not an HTTP/1 answer: it starts with \"{}\"", start.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        check::{Outcome, Sockets, probe},
        testing::http_target_at,
    };

    /// Serves one connection: waits for the end of the request, then sends `answer` in `pieces`, then closes
    /// or holds the connection open. Returns the request.
    async fn serve(listener: TcpListener, answer: Vec<u8>, pieces: usize, hold: bool) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while end_of_head(&request).is_none() {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        for piece in answer.chunks(answer.len().div_ceil(pieces).max(1)) {
            // The prober may have closed the connection already.
            if stream.write_all(piece).await.is_err() {
                break;
            }
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        if hold {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        String::from_utf8(request).unwrap()
    }

    async fn ask(answer: impl Into<Vec<u8>>, pieces: usize, hold: bool) -> (Outcome, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = http_target_at(listener.local_addr().unwrap());
        let server = tokio::spawn(serve(listener, answer.into(), pieces, hold));
        let outcome = probe(&Sockets::default(), &target).await;
        (outcome, server.await.unwrap())
    }

    fn reason(outcome: &Outcome) -> &str {
        match outcome {
            Outcome::Success { detail, .. } => detail,
            Outcome::Failure { reason } | Outcome::Inconclusive { reason } => reason,
        }
    }

    #[tokio::test]
    async fn an_expected_status_succeeds_with_its_phases() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbody that is never read";
        let (outcome, request) = ask(answer, 1, true).await;
        let Outcome::Success { phases, detail } = outcome else { panic!("{outcome:?}") };
        assert_eq!(detail, "status 200");
        assert!(phases.connect.unwrap() <= phases.whole);
        assert!(phases.first_byte.unwrap() <= phases.whole);
        assert!(request.starts_with("GET /readyz HTTP/1.1\r\nHost: gw.example.com\r\n"), "{request}");
        assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    }

    #[tokio::test]
    async fn responses_and_their_outcomes() {
        let table = [
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503, expected 200 or 204"),
            ("HTTP/1.0 204\r\n\r\n", "status 204"),
            ("HTTP/1.1 200 OK\n\n", "status 200"),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "status 200"),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 500 No\r\n\r\n",
                "status 500, expected 200 or 204",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Le", "connection closed in the middle of an answer"),
            ("HTTP/1.1 2", "connection closed in the middle of an answer"),
            ("", "connection closed without an answer"),
            (
                "SSH-2.0-OpenSSH_9.2p1\r\n",
                "not an HTTP/1 answer: it starts with \"SSH-2.0-OpenSSH_9.2p1\\r\\n\"",
            ),
            (
                "HTTP/1.1 20x OK\r\n\r\n",
                "not an HTTP/1 answer: it starts with \"HTTP/1.1 20x OK\\r\\n\\r\\n\"",
            ),
        ];
        for (answer, expected) in table {
            for pieces in [1, 7] {
                let (outcome, _) = ask(answer, pieces, false).await;
                // A response that is not HTTP is refused at its first piece, however long that is.
                let expected = if pieces > 1 { expected.split(": it").next().unwrap() } else { expected };
                assert!(reason(&outcome).starts_with(expected), "{answer:?} in {pieces}: {outcome:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_silent_or_half_answer_runs_into_the_timeout() {
        for half in ["", "HTTP/1.1 200 OK\r\nX: 1\r\n"] {
            let (outcome, _) = ask(half, 1, true).await;
            assert_eq!(reason(&outcome), "connected, but no answer within 800ms", "{half:?}");
        }
    }

    #[tokio::test]
    async fn endless_headers_are_cut() {
        let answer = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(1 << 20));
        let (outcome, _) = ask(answer, 1, true).await;
        assert_eq!(reason(&outcome), "its headers are longer than 16384 bytes");
    }

    #[test]
    fn the_host_is_the_address_unless_given_and_nothing_is_smuggled() {
        let get = |path: &str, host: Option<&str>| HttpProbe::get(path, host.map(str::to_owned), Vec::new());
        let host = |address: &str| {
            let request = request(&get("/", None), address.parse().unwrap()).unwrap();
            request.lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(host("10.0.0.1:80"), "Host: 10.0.0.1");
        assert_eq!(host("10.0.0.1:8080"), "Host: 10.0.0.1:8080");
        assert_eq!(host("[::1]:80"), "Host: [::1]");
        let address = "10.0.0.1:80".parse().unwrap();
        for bad in
            [get("/ HTTP/1.1\r\nX: y", None), get("x", None), get("/", Some("a\r\nb")), get("/é", None)]
        {
            assert!(matches!(request(&bad, address), Err(Fault::Local(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = final_status(&mut bytes);
            let mut answer = b"HTTP/1.1 ".to_vec();
            answer.extend(&bytes);
            let _ = final_status(&mut answer);
        }
    }
}
