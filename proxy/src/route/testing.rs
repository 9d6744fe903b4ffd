//! Requests for the tests of routing.

use std::net::{IpAddr, Ipv4Addr};

use super::request::Request;

#[derive(Clone, Debug)]
pub(crate) struct TestRequest {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) https: bool,
    pub(crate) client: IpAddr,
    pub(crate) fields: Vec<(String, String)>,
}

/// A request in the clear from 192.0.2.1, of a path that may have a query.
pub(crate) fn request(method: &str, host: &str, path: &str) -> TestRequest {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (path, None),
    };
    TestRequest {
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        query,
        https: false,
        client: Ipv4Addr::new(192, 0, 2, 1).into(),
        fields: Vec::new(),
    }
}

impl Request for TestRequest {
    fn method(&self) -> &str {
        &self.method
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn is_https(&self) -> bool {
        self.https
    }

    fn client(&self) -> IpAddr {
        self.client
    }

    fn fields<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
        let named = self.fields.iter().filter(move |(it, _)| it.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_bytes())
    }
}
