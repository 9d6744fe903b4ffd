//! The gate on the fast path: the same cookies, rates and rules as on the general one.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{op::Message, rr::RecordType as WireType};

use super::{Scratch, Table};
use crate::{
    cookie,
    gate::{self, Gate},
    packet::{Dropped, Transport},
    rate::{self, Decision},
    respond::respond,
    testing::{Small, query, with_option},
};

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 9));

fn gate(slip: u8) -> Gate {
    let rate_limit =
        rate::Config { responses_per_second: 2, absences_per_second: 2, slip, ..Default::default() };
    let cookies = "e5e973e5a6b2a43f48e7dc849e37bfcf".parse().ok();
    let config = gate::Config { rate_limit: Some(rate_limit), cookies, ..gate::Config::default() };
    Gate::new(config, Arc::default()).unwrap()
}

/// Every kind of answer the path writes, over and over: both paths send, cut and drop the same.
#[test]
fn both_paths_let_the_same_through() {
    let small = Small::healthy();
    let cookie = cookie::write(
        [7; 8],
        SOURCE,
        small.lookup().now,
        &"e5e973e5a6b2a43f48e7dc849e37bfcf".parse().unwrap(),
    );
    for slip in 0..3 {
        let (one, other) = (gate(slip), gate(slip));
        let table = Table::compile(small.lookup(), &one);
        for (name, record_type) in [
            ("gw.example.com.", WireType::A),
            ("orders.example.com.", WireType::A),
            ("orders.example.com.", WireType::HTTPS),
            ("www.example.com.", WireType::A),
            ("www.example.com.", WireType::TXT),
            ("one.example.com.", WireType::CNAME),
            ("none.example.com.", WireType::A),
            ("gw.example.com.", WireType::A),
        ] {
            let plain = query(name, record_type, Some(1232));
            let client = with_option(name, cookie::OPTION, &[7; 8]);
            let proven = with_option(name, cookie::OPTION, &cookie);
            for packet in [&plain, &plain, &plain, &plain, &client, &proven] {
                let lookup = (small.lookup(), one.at(small.lookup().now));
                let mut out = [0; 1280];
                let fast =
                    table.reply(packet, SOURCE, lookup, &mut Scratch::default(), &mut out).expect(name);
                let guard = other.at(small.lookup().now);
                match respond(packet, SOURCE, Transport::Udp, Some(small.lookup()), guard) {
                    Err(why) => {
                        assert_eq!((why, fast.octets), (Dropped::RateLimited, 0), "{name}");
                        assert_eq!(fast.decision, Decision::Drop);
                    }
                    Ok(general) => {
                        let message = |bytes: &[u8]| Message::from_vec(bytes).unwrap();
                        assert_eq!(message(&out[..fast.octets]), message(&general.bytes), "{name}");
                        assert_eq!(fast.rcode, general.rcode, "{name}");
                        assert_eq!(fast.decision == Decision::Slip, general.truncated, "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn closed_zones_and_malformed_cookies_are_for_the_general_path() {
    let small = Small::healthy();
    let now = small.lookup().now;
    let allow_query = [("example.com".parse().unwrap(), vec!["10.0.0.0/8".parse().unwrap()])].into();
    let closed = Gate::new(gate::Config { allow_query, ..gate::Config::default() }, Arc::default()).unwrap();
    let open = gate(0);
    let mut out = [0; 1280];
    let mut ask = |gate: &Gate, packet: &[u8]| {
        let table = Table::compile(small.lookup(), gate);
        table.reply(packet, SOURCE, (small.lookup(), gate.at(now)), &mut Scratch::default(), &mut out)
    };
    for name in ["gw.example.com.", "www.example.com.", "none.example.com.", "example.com."] {
        assert!(ask(&closed, &query(name, WireType::A, None)).is_none(), "{name}");
        assert!(ask(&open, &query(name, WireType::A, None)).is_some(), "{name}");
        assert!(ask(&open, &with_option(name, cookie::OPTION, &[7; 9])).is_none(), "{name}");
    }
}
