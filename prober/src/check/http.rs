//! The HTTP check: one GET over HTTP/1.1, judged by its status line once its header block is complete.
//!
//! Written over the bare stream: a probe needs a dozen lines of request and the head of the answer, and a
//! client library's connection task would cost more than the probe. The body is never read.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::{Fault, Phases, fault, tcp};

/// A longer header block than this is a failure.
pub(super) const LONGEST_HEAD: usize = 16 * 1024;

/// A GET and what it should say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Get<'a> {
    pub(super) path: &'a str,
    /// Absent: the address.
    pub(super) host: Option<&'a str>,
    pub(super) expect_status: &'a [u16],
}

impl Get<'_> {
    /// Sends it and judges the answer.
    pub(super) async fn send(self, address: SocketAddr, phases: &mut Phases) -> Result<String, Fault> {
        let request = self.request(address)?;
        let started = Instant::now();
        let mut stream = tcp::connect(address, phases).await?;
        stream.write_all(request.as_bytes()).await.map_err(|error| fault(&error))?;
        let mut head = Vec::with_capacity(1024);
        loop {
            if let Some(status) = final_status(&mut head)? {
                return self.judge(status);
            }
            if head.len() >= LONGEST_HEAD {
                return Err(Fault::Target(format!("its headers are longer than {LONGEST_HEAD} bytes")));
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

    fn request(self, address: SocketAddr) -> Result<String, Fault> {
        let own = match address.port() {
            80 if address.is_ipv6() => format!("[{}]", address.ip()),
            80 => address.ip().to_string(),
            _ => address.to_string(),
        };
        let host = self.host.unwrap_or(&own);
        let path = self.path;
        let sendable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !path.starts_with('/') || !sendable(path) || !sendable(host) {
            let reason = format!("the check cannot be sent: path {path:?}, host {host:?}");
            return Err(Fault::Local(reason));
        }
        Ok(format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: waypost-prober\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        ))
    }

    fn judge(self, status: u16) -> Result<String, Fault> {
        if self.expect_status.contains(&status) {
            return Ok(format!("status {status}"));
        }
        let expected: Vec<_> = self.expect_status.iter().take(8).map(u16::to_string).collect();
        Err(Fault::Target(format!("status {status}, expected {}", expected.join(" or "))))
    }
}

/// The status of the answer once its header block is complete; interim answers (RFC 9110 §15.2) are dropped
/// from `head`.
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

/// Refuses at once what can no longer become an HTTP/1 answer, instead of waiting for its end.
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
            // The prober may have seen enough and gone.
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
        let outcome = probe(&Sockets, &target).await;
        (outcome, server.await.unwrap())
    }

    fn reason(outcome: &Outcome) -> &str {
        match outcome {
            Outcome::Success { said, .. } => said,
            Outcome::Failure { reason } | Outcome::Inconclusive { reason } => reason,
        }
    }

    #[tokio::test]
    async fn an_expected_status_succeeds_with_its_phases() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbody that is never read";
        let (outcome, request) = ask(answer, 1, true).await;
        let Outcome::Success { phases, said } = outcome else { panic!("{outcome:?}") };
        assert_eq!(said, "status 200");
        assert!(phases.connect.unwrap() <= phases.first_byte.unwrap());
        assert!(phases.first_byte.unwrap() <= phases.whole);
        assert!(request.starts_with("GET /readyz HTTP/1.1\r\nHost: gw.example.com\r\n"), "{request}");
        assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    }

    #[tokio::test]
    async fn answers_and_what_is_said_of_them() {
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
                // What is no answer is told at its first piece, however long that is.
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
        let get = |path, host| Get { path, host, expect_status: &[200] };
        let host = |address: &str| {
            let request = get("/", None).request(address.parse().unwrap()).unwrap();
            request.lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(host("10.0.0.1:80"), "Host: 10.0.0.1");
        assert_eq!(host("10.0.0.1:8080"), "Host: 10.0.0.1:8080");
        assert_eq!(host("[::1]:80"), "Host: [::1]");
        let address = "10.0.0.1:80".parse().unwrap();
        for bad in
            [get("/ HTTP/1.1\r\nX: y", None), get("x", None), get("/", Some("a\r\nb")), get("/é", None)]
        {
            assert!(matches!(bad.request(address), Err(Fault::Local(_))), "{bad:?}");
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
