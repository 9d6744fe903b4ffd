use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType as WireType,
};
use proptest::prelude::*;
use store::{
    engine::{CheckStatus, Endpoint, Index},
    handle::{Clock, Publisher, channel},
};

use super::*;
use crate::{request::Request, testing::query};

fn offer() -> Offer {
    Offer {
        domain: "In.Example".parse().unwrap(),
        datacenter: "bj".to_owned(),
        clients: Offer::inside(),
        ttl: Ttl::ZERO,
    }
}

fn start() -> (Discovery, Publisher) {
    let (handle, publisher) = channel(Clock::default(), Duration::MAX);
    (Discovery::new(offer(), handle), publisher)
}

fn endpoint(address: &str, status: CheckStatus) -> Endpoint {
    Endpoint {
        node_address: "10.0.0.9".into(),
        address: address.into(),
        tags: vec!["v1".into()],
        weight: 7,
        status,
        ..store::testing::endpoint("web", address)
    }
}

fn entry(standing: Standing) -> Entry {
    let endpoints = vec![
        endpoint("10.0.0.1", CheckStatus::Passing),
        endpoint("10.0.0.2", CheckStatus::Warning),
        endpoint("10.0.0.3", CheckStatus::Critical),
        endpoint("host.example", CheckStatus::Passing),
    ];
    Entry { index: Index(5), endpoints, standing, ..Entry::default() }
}

fn ask(discovery: &Discovery, name: &str, wanted: WireType) -> Message {
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
    let outcome =
        discovery.respond(&query(name, wanted, None), peer, (Transport::Udp, 1232)).unwrap().unwrap();
    Message::from_vec(&outcome.bytes).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    let mut data: Vec<String> = message.answers.iter().map(|it| it.data.to_string()).collect();
    data.sort();
    data
}

#[test]
fn a_name_that_is_queried_is_followed_and_answered_once_it_was_read() {
    let (discovery, publisher) = start();
    let handle = publisher.handle();
    let cold = ask(&discovery, "web.service.in.example.", WireType::A);
    assert_eq!(cold.metadata.response_code, ResponseCode::ServFail);
    assert!(handle.services_in_use().borrow().contains("web"));
    publisher.discovery().slot("web").store(entry(Standing::Present));
    for name in ["web.service.in.example.", "WEB.Service.BJ.In.Example.", "_web._v1.service.in.example."] {
        assert_eq!(data(&ask(&discovery, name, WireType::A)), ["10.0.0.1", "10.0.0.2"], "{name}");
    }
    let located = ask(&discovery, "web.service.in.example.", WireType::SRV);
    let expected = [
        "1 7 80 0a000001.addr.bj.in.example.",
        "1 7 80 0a000002.addr.bj.in.example.",
        "1 7 80 host.example.",
    ];
    assert_eq!(data(&located), expected);
    let target = ask(&discovery, "0a000001.addr.bj.in.example.", WireType::A);
    assert_eq!(data(&target), ["10.0.0.1"]);
    assert_eq!(handle.services_in_use().borrow().len(), 1, "only services are followed");
}

#[test]
fn the_last_instances_are_answered_while_the_registry_is_away() {
    let (discovery, publisher) = start();
    let name = "web.service.in.example.";
    let slot = publisher.discovery().slot("web");
    let away = || Standing::Unreachable { reason: "no route".into() };
    slot.store(entry(away()));
    assert_eq!(data(&ask(&discovery, name, WireType::A)).len(), 2);
    // A service that was never read is not taken for an absent one.
    slot.store(Entry { standing: away(), ..Entry::default() });
    assert_eq!(ask(&discovery, name, WireType::A).metadata.response_code, ResponseCode::ServFail);
    slot.store(Entry { standing: Standing::Gone, ..Entry::default() });
    assert_eq!(ask(&discovery, name, WireType::A).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn only_clients_inside_are_answered() {
    let (discovery, publisher) = start();
    publisher.discovery().slot("web").store(entry(Standing::Present));
    let packet = query("web.service.in.example.", WireType::A, None);
    let answered = |ip: &str| {
        let peer = SocketAddr::new(ip.parse().unwrap(), 4000);
        discovery.respond(&packet, peer, (Transport::Udp, 1232)).is_some()
    };
    for inside in ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "::1", "fd00::1", "::ffff:10.1.2.3"]
    {
        assert!(answered(inside), "{inside}");
    }
    for outside in ["192.0.2.1", "172.32.0.1", "2001:db8::1", "fe80::1"] {
        assert!(!answered(outside), "{outside}");
    }
}

/// A client that the operator answers is inside, in any network.
#[test]
fn every_client_that_is_answered_gets_as_large_a_datagram_as_it_takes() {
    let (handle, publisher) = channel(Clock::default(), Duration::MAX);
    let clients = vec!["192.0.2.0/24".parse().unwrap(), "100.64.0.0/10".parse().unwrap()];
    let discovery = Discovery::new(Offer { clients, ..offer() }, handle);
    let many = (0..200).map(|n| endpoint(&format!("10.0.0.{n}"), CheckStatus::Passing)).collect();
    publisher.discovery().slot("web").store(Entry { endpoints: many, ..entry(Standing::Present) });
    for client in ["192.0.2.9", "100.64.1.1"] {
        let peer = SocketAddr::new(client.parse().unwrap(), 4000);
        for (payload, room, at_most) in [(8192, 65_507, 8192), (8192, 1232, 1232), (600, 65_507, 600)] {
            let packet = query("web.service.in.example.", WireType::A, Some(payload));
            let reply = discovery.respond(&packet, peer, (Transport::Udp, room)).unwrap().unwrap();
            let whole = at_most > 4000;
            assert_eq!(reply.truncated, !whole, "{client} {payload} {room}");
            assert!(
                reply.bytes.len() <= at_most && (!whole || reply.bytes.len() > 3000),
                "{}",
                reply.bytes.len()
            );
        }
    }
}

#[test]
fn what_is_no_service_puts_nothing_into_use() {
    let (discovery, publisher) = start();
    for name in ["in.example.", "service.in.example.", "n1.node.in.example.", "x.in.example."] {
        ask(&discovery, name, WireType::A);
    }
    ask(&discovery, "web.service.in.example.", WireType::AXFR);
    assert!(publisher.handle().services_in_use().borrow().is_empty());
}

#[test]
fn a_service_is_in_use_for_as_long_as_its_discovery() {
    let (discovery, publisher) = start();
    ask(&discovery, "web.service.in.example.", WireType::A);
    drop(discovery);
    assert!(publisher.handle().services_in_use().borrow().is_empty());
}

proptest! {
    #[test]
    fn the_name_is_read_in_place(
        labels in prop::collection::vec("[a-zA-Z0-9]{1,20}|in|example|IN|Example", 1..8),
        garbage in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (discovery, _publisher) = start();
        let name = labels.join(".");
        let packet = query(&format!("{name}."), WireType::A, None);
        let Ok(Request { question: Some(question), .. }) = Request::parse(&packet) else { panic!("a query") };
        let key = question.name.key();
        let ours = key == "in.example" || key.ends_with(".in.example");
        prop_assert_eq!(ends_in(&packet, &discovery.ending), ours);
        // Nothing a packet may hold is a reason to panic.
        ends_in(&garbage, &discovery.ending);
        ends_in(&packet[..packet.len().min(garbage.len())], &discovery.ending);
    }
}

#[test]
fn parts_of_labels_are_not_taken_for_names() {
    let ending = b"\x02in\x07example\x00";
    for name in ["notin.example.", "in.example.org.", "in-example."] {
        assert!(!ends_in(&query(name, WireType::A, None), ending), "{name}");
    }
}

#[test]
fn slots_are_shared_with_other_users_of_the_service() {
    let (discovery, publisher) = start();
    let slot = publisher.handle().service("web");
    ask(&discovery, "web.service.in.example.", WireType::A);
    assert!(Arc::ptr_eq(&slot, &publisher.discovery().slot("web")));
}

#[tokio::test(start_paused = true)]
async fn the_first_question_waits_for_the_first_reading_and_not_for_ever() {
    let (discovery, publisher) = start();
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
    let packet = query("web.service.in.example.", WireType::A, None);
    let wait = discovery.wait(&packet, peer).unwrap();
    let before = tokio::time::Instant::now();
    wait.await;
    assert_eq!(before.elapsed(), PATIENCE);
    let wait = tokio::spawn(discovery.wait(&packet, peer).unwrap());
    publisher.discovery_changed();
    tokio::task::yield_now().await;
    assert!(!wait.is_finished(), "it was another service");
    publisher.discovery().slot("web").store(entry(Standing::Present));
    publisher.discovery_changed();
    wait.await.unwrap();
    assert_eq!(before.elapsed(), PATIENCE, "no client waits any longer");
    assert!(discovery.wait(&packet, peer).is_none());
}

#[tokio::test]
async fn only_so_many_wait() {
    let (discovery, _publisher) = start();
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
    let packet = query("web.service.in.example.", WireType::A, None);
    let waiting: Vec<_> = (0..MAX_WAITING).map(|_| discovery.wait(&packet, peer).unwrap()).collect();
    assert!(discovery.wait(&packet, peer).is_none());
    drop(waiting);
    assert!(discovery.wait(&packet, peer).is_some());
    for other in ["n1.node.in.example.", "in.example.", "web.service.example."] {
        assert!(discovery.wait(&query(other, WireType::A, None), peer).is_none(), "{other}");
    }
}
