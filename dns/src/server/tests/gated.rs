//! The gate, seen through the sockets: both paths that answer a datagram apply it.

use hickory_proto::{
    op::ResponseCode,
    rr::rdata::opt::{EdnsCode, EdnsOption},
};

use super::*;
use crate::{cookie, gate, rate, testing::with_option};

/// Answered in the fastest way there is: steered, static, absent.
const NAMES: [&str; 4] = ["gw.example.com.", "orders.example.com.", "www.example.com.", "none.example.com."];

fn gated(gate: gate::Config) -> Running {
    start(Config { gate, ..config() }, true)
}

/// One answer a second of each kind to each network; what is beyond slips.
fn strict() -> gate::Config {
    let rate_limit = rate::Config {
        responses_per_second: 1,
        absences_per_second: 1,
        slip: 1,
        exempt: vec![],
        ..rate::Config::default()
    };
    gate::Config { rate_limit: Some(rate_limit), ..gate::Config::default() }
}

fn server_cookie(reply: &Message) -> Vec<u8> {
    match reply.edns.as_ref().and_then(|edns| edns.options().get(EdnsCode::Cookie)) {
        Some(EdnsOption::Unknown(_, data)) => data.clone(),
        other => panic!("a cookie and not {other:?}"),
    }
}

#[tokio::test]
async fn datagrams_are_limited_and_streams_are_not() {
    let running = gated(strict());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for name in NAMES {
        let packet = query(name, WireType::A, Some(1232));
        let whole = over_udp(running.address, &packet).await;
        assert!(!whole.metadata.truncation, "{name}");
        let mut slipped = over_udp(running.address, &packet).await;
        // A machine that takes more than a second for one query is no reason to fail.
        while !slipped.metadata.truncation {
            slipped = over_udp(running.address, &packet).await;
        }
        assert!(slipped.answers.is_empty(), "{name}");
        write(&mut stream, &packet).await;
        assert!(!read(&mut stream).await.metadata.truncation, "{name}");
    }
    assert_eq!(running.metrics.rate().slipped.get(), 4);
}

#[tokio::test]
async fn a_cookie_that_was_learned_is_good_for_everything() {
    let running = gated(strict());
    for name in NAMES {
        let reply = over_udp(running.address, &with_option(name, cookie::OPTION, &[7; 8])).await;
        let learned = server_cookie(&reply);
        assert_eq!((&learned[..8], learned.len()), (&[7; 8][..], 24), "{name}");
        for _ in 0..3 {
            let reply = over_udp(running.address, &with_option(name, cookie::OPTION, &learned)).await;
            assert!(!reply.metadata.truncation, "{name}");
            assert_eq!(server_cookie(&reply), learned, "a young one is repeated");
        }
        let malformed = over_udp(running.address, &with_option(name, cookie::OPTION, &[7; 9])).await;
        assert_eq!(malformed.metadata.response_code, ResponseCode::FormErr, "{name}");
    }
}

#[tokio::test]
async fn a_closed_zone_is_closed_over_every_transport() {
    let allow_query = [("example.com".parse().unwrap(), vec!["10.0.0.0/8".parse().unwrap()])].into();
    let running = gated(gate::Config { allow_query, ..gate::Config::default() });
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for name in NAMES {
        let packet = query(name, WireType::A, None);
        let udp = over_udp(running.address, &packet).await;
        write(&mut stream, &packet).await;
        let tcp = read(&mut stream).await;
        assert_eq!([udp, tcp].map(|it| it.metadata.response_code), [ResponseCode::Refused; 2], "{name}");
    }
    assert_eq!(running.metrics.denied.get(), 8);
}
