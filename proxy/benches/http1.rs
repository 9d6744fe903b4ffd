//! What reading heads costs, beside `httparse`, and writing them again.
//!
//! `cargo bench -p proxy --bench http1 --features fuzzing`

#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use proxy::fuzzing::Head;

const WRK: &[u8] =
    b"GET /api/v1/items HTTP/1.1\r\nHost: api-0042.example.com\r\nUser-Agent: wrk/4.1\r\nAccept: */*\r\n\r\n";
const BROWSER: &[u8] = b"GET /wp-content/uploads/2010/03/hello-kitty-darth-vader-pink.jpg HTTP/1.1\r\n\
Host: www.kittyhell.com\r\n\
User-Agent: Mozilla/5.0 (Macintosh; U; Intel Mac OS X 10.6; ja-JP-mac; rv:1.9.2.3) Gecko/20100401 Firefox/3.6.3 Pathtraq/0.9\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
Accept-Language: ja,en-us;q=0.7,en;q=0.3\r\n\
Accept-Encoding: gzip,deflate\r\n\
Accept-Charset: Shift_JIS,utf-8;q=0.7,*;q=0.7\r\n\
Keep-Alive: 115\r\n\
Connection: keep-alive\r\n\
Cookie: wp_ozh_wsa_visits=2; wp_ozh_wsa_visit_lasttime=xxxxxxxxxx; __utma=xxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.x\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.26.0\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
Content-Type: application/octet-stream\r\nContent-Length: 128\r\nConnection: keep-alive\r\n\r\n";

/// Nanoseconds of one call: the least of five rounds.
fn time(mut call: impl FnMut() -> usize) -> f64 {
    const CALLS: u32 = 500_000;
    let round = |call: &mut dyn FnMut() -> usize| {
        let start = Instant::now();
        for _ in 0..CALLS {
            assert!(black_box(call()) > 0);
        }
        start.elapsed()
    };
    let least = (0..5).map(|_| round(&mut call)).min().unwrap_or(Duration::ZERO);
    least.as_nanos() as f64 / f64::from(CALLS)
}

fn other(bytes: &[u8]) -> usize {
    let mut room = [const { std::mem::MaybeUninit::uninit() }; 64];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(black_box(bytes), &mut room) {
        Ok(httparse::Status::Complete(length)) => length,
        _ => 0,
    }
}

fn other_answer(bytes: &[u8]) -> usize {
    let mut room = [httparse::EMPTY_HEADER; 64];
    match httparse::Response::new(&mut room).parse(black_box(bytes)) {
        Ok(httparse::Status::Complete(length)) => length,
        _ => 0,
    }
}

fn main() {
    let (mut head, mut out) = (Head::default(), Vec::new());
    println!("nanoseconds                   ours   httparse");
    for (name, bytes) in [("a request of wrk", WRK), ("a request of a browser", BROWSER)] {
        let (ours, other) = (time(|| head.request(black_box(bytes))), time(|| other(bytes)));
        println!("{name:<26} {ours:>7.1} {other:>10.1}");
        let written = time(|| {
            head.forward(bytes, &mut out);
            out.len()
        });
        println!("{:<26} {written:>7.1}", "  written again");
    }
    let (ours, other) = (time(|| head.response(black_box(ANSWER))), time(|| other_answer(ANSWER)));
    println!("{:<26} {ours:>7.1} {other:>10.1}", "an answer");
}
