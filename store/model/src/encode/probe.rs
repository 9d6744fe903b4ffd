//! What a check dials, as its document says it.

use super::{Map, list, plain, text};
use crate::{DnsProbe, Header, HttpProbe, HttpVersion, Method, Probe, Tls, rdata};

pub(super) fn probe(it: &Probe, map: Map) -> Map {
    match it {
        Probe::Tcp(it) => {
            map.maybe("send", it.send.as_ref().map(text)).maybe("expect", it.expect.as_ref().map(text))
        }
        Probe::Tls(it) => tls(&it.tls, map),
        Probe::Http(it) => http(it, map),
        Probe::Dns(it) => map
            .with("query", text(&it.query))
            .with("record_type", text(rdata::mnemonic(it.record_type)))
            .maybe("expect_rcode", DnsProbe::rcode(it.expect_rcode).map(text))
            .maybe("expect_record", it.expect_record.as_ref().map(text)),
        Probe::Grpc(it) => {
            let map = map
                .maybe("service", (!it.service.is_empty()).then(|| text(&it.service)))
                .maybe("host", it.host.as_ref().map(text));
            match &it.tls {
                Some(terms) => tls(terms, map.with("tls", plain(true))),
                None => map,
            }
        }
        Probe::Icmp {} => map,
        Probe::External(it) => map.with("program", text(&it.program)),
    }
}

fn tls(it: &Tls, map: Map) -> Map {
    map.maybe("server_name", it.server_name.as_ref().map(text))
        .with("verify", plain(it.verify))
        .maybe("warn_before", it.warn_before.map(text))
}

fn http(it: &HttpProbe, map: Map) -> Map {
    let statuses = list(&it.expect_status, |range| match range.single() {
        Some(status) => plain(status),
        None => text(range),
    });
    let headers = |map: Map, header: &Header| map.with(&header.name, text(&header.value));
    let map = map
        .with("path", text(&it.path))
        .maybe("host", it.host.as_ref().map(text))
        .with("expect_status", statuses)
        .maybe("method", (it.method != Method::default()).then(|| text(it.method.as_str())))
        .maybe(
            "http_version",
            (it.http_version != HttpVersion::default()).then(|| plain(it.http_version.as_str())),
        )
        .maybe(
            "headers",
            (!it.headers.is_empty()).then(|| it.headers.iter().fold(Map::new(), headers).done()),
        )
        .maybe("expect_body", it.expect_body.as_ref().map(text));
    match &it.tls {
        Some(terms) => tls(terms, map),
        None => map,
    }
}
