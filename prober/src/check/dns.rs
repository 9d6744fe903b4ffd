//! The DNS check: one query (RFC 1035) over UDP, repeated over TCP if the response is truncated and its records
//! matter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::{
    op::{Message, MessageType, Query},
    rr::{Name, RecordType},
};
use store::model::DnsProbe;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    time::Instant,
};

use super::{Fault, Phases, fault, tcp};

/// Sends the query and judges the response; the caller bounds the time.
pub(super) async fn query(
    probe: &DnsProbe,
    address: SocketAddr,
    phases: &mut Phases,
) -> Result<String, Fault> {
    let unsendable = |what: String| Fault::Local(format!("the query cannot be made: {what}"));
    let labels: Vec<Vec<u8>> = probe.query.octets().map(std::borrow::Cow::into_owned).collect();
    let mut name = Name::from_labels(labels).map_err(|error| unsendable(error.to_string()))?;
    name.set_fqdn(true);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, RecordType::from(probe.record_type)));
    let request = message.to_vec().map_err(|error| unsendable(error.to_string()))?;
    let started = Instant::now();
    let mut answer = over_udp(&request, &message, address).await?;
    phases.first_byte = Some(started.elapsed());
    if answer.metadata.truncation && probe.expect_record.is_some() {
        answer = over_tcp(&request, &message, address, phases).await?;
    }
    judge(probe, &answer)
}

async fn over_udp(request: &[u8], sent: &Message, address: SocketAddr) -> Result<Message, Fault> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|error| fault(&error))?;
    socket.connect(address).await.map_err(|error| fault(&error))?;
    socket.send(request).await.map_err(|error| fault(&error))?;
    let mut buffer = vec![0; 4096];
    loop {
        let read = socket.recv(&mut buffer).await.map_err(|error| fault(&error))?;
        // A datagram that answers another query may come from anywhere; the real response may still arrive.
        if let Some(answer) = answer_to(sent, buffer.get(..read).unwrap_or_default()) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(
    request: &[u8],
    sent: &Message,
    address: SocketAddr,
    phases: &mut Phases,
) -> Result<Message, Fault> {
    let mut stream = tcp::connect(address, phases).await?;
    let length = u16::try_from(request.len()).unwrap_or(u16::MAX);
    let framed = [length.to_be_bytes().as_slice(), request].concat();
    stream.write_all(&framed).await.map_err(|error| fault(&error))?;
    let length = stream.read_u16().await.map_err(|error| fault(&error))?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.map_err(|error| fault(&error))?;
    let strange = || Fault::Target("not a response to the query, over TCP".to_owned());
    answer_to(sent, &answer).ok_or_else(strange)
}

fn answer_to(sent: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == sent.metadata.id
        && (answer.queries == sent.queries || answer.queries.is_empty());
    same.then_some(answer)
}

fn judge(probe: &DnsProbe, answer: &Message) -> Result<String, Fault> {
    let named = |code: u16| DnsProbe::rcode(code).map_or_else(|| format!("rcode {code}"), ToOwned::to_owned);
    let code = u16::from(answer.metadata.response_code);
    if code != probe.expect_rcode {
        return Err(Fault::Target(format!("{}, expected {}", named(code), named(probe.expect_rcode))));
    }
    let Some(expected) = &probe.expect_record else { return Ok(named(code)) };
    let wanted = RecordType::from(probe.record_type);
    let found = answer.answers.iter().any(|record| {
        let data = record.data.to_string();
        record.record_type() == wanted
            && (data.eq_ignore_ascii_case(expected)
                || data.trim_end_matches('.').eq_ignore_ascii_case(expected.trim_end_matches('.')))
    });
    if found {
        return Ok(format!("{}, with {expected}", named(code)));
    }
    Err(Fault::Target(format!("{} records in the answer, none of them {expected}", answer.answers.len())))
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::ResponseCode,
        rr::{RData, Record, rdata::A},
    };
    use proptest::prelude::*;
    use store::model::Probe;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        check::{Outcome, Sockets, probe},
        testing::target_of,
    };

    fn question(rcode: u16, record: Option<&str>) -> DnsProbe {
        DnsProbe {
            query: "www.example.com".parse().unwrap(),
            record_type: 1,
            expect_rcode: rcode,
            expect_record: record.map(str::to_owned),
        }
    }

    async fn ask(question: DnsProbe, rcode: ResponseCode) -> Outcome {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = target_of(server.local_addr().unwrap(), Probe::Dns(Box::new(question)));
        let serve = async {
            let mut buffer = [0; 512];
            let (read, from) = server.recv_from(&mut buffer).await.unwrap();
            let mut answer = Message::from_vec(&buffer[..read]).unwrap();
            // A datagram of another sender comes first.
            server.send_to(b"nonsense", from).await.unwrap();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.response_code = rcode;
            let name = answer.queries[0].name().clone();
            answer.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
            server.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        };
        let sockets = Sockets::default();
        tokio::join!(probe(&sockets, &target), serve).0
    }

    #[tokio::test]
    async fn the_rcode_and_the_record_decide() {
        for (question, rcode, up) in [
            (question(0, None), ResponseCode::NoError, true),
            (question(0, Some("192.0.2.1")), ResponseCode::NoError, true),
            (question(0, Some("192.0.2.2")), ResponseCode::NoError, false),
            (question(0, None), ResponseCode::ServFail, false),
            (question(5, None), ResponseCode::Refused, true),
        ] {
            let outcome = ask(question, rcode).await;
            assert_eq!(matches!(outcome, Outcome::Success { .. }), up, "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_truncated_response_is_requested_over_tcp_if_its_records_matter() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = UdpSocket::bind(address).await.unwrap();
        let reply = |query: &[u8]| {
            let mut answer = Message::from_vec(query).unwrap();
            answer.metadata.message_type = MessageType::Response;
            answer
        };
        let datagrams = async {
            loop {
                let mut buffer = [0; 512];
                let (read, from) = server.recv_from(&mut buffer).await.unwrap();
                let mut answer = reply(&buffer[..read]);
                answer.metadata.truncation = true;
                server.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        };
        let connections = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let mut answer = reply(&query);
            let name = answer.queries[0].name().clone();
            answer.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
            let answer = answer.to_vec().unwrap();
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            std::future::pending::<()>().await;
        };
        let sockets = Sockets::default();
        let checks = async {
            let any = target_of(address, Probe::Dns(Box::new(question(0, None))));
            let record = target_of(address, Probe::Dns(Box::new(question(0, Some("192.0.2.1")))));
            (probe(&sockets, &any).await, probe(&sockets, &record).await)
        };
        let (any, record) = tokio::select! {
            outcomes = checks => outcomes,
            () = datagrams => unreachable!("it never ends"),
            () = connections => unreachable!("it never ends"),
        };
        let Outcome::Success { phases, .. } = any else { panic!("{any:?}") };
        assert_eq!(phases.connect, None, "the rcode was enough");
        let Outcome::Success { phases, detail } = record else { panic!("{record:?}") };
        assert!(phases.connect.is_some() && detail.contains("192.0.2.1"), "{detail}");
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes: Vec<u8>) {
            let _ = answer_to(&Message::query(), &bytes);
        }
    }
}
