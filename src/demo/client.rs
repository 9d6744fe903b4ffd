//! Clients of the demo: one DNS query, one HTTP request, the admin API.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData, RecordType},
};
use http::{Request, header::HOST};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use store::health::State;
use tokio::net::{TcpStream, UdpSocket};

use super::error::DemoError;
use crate::api::{Applied, Apply, FileText, Status, TargetStatus};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Answer to a DNS query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The names of the CNAME chain, in order.
    pub chain: Vec<String>,
    /// The addresses at its end, in order.
    pub addresses: Vec<IpAddr>,
    /// The smallest TTL of the addresses.
    pub ttl: u32,
}

/// Asks a DNS server for the IPv4 addresses of a name over UDP, once.
///
/// # Errors
/// When no proper answer comes within two seconds.
pub async fn resolve(server: SocketAddr, name: &str) -> Result<DnsAnswer, std::io::Error> {
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).map_err(std::io::Error::other)?;
    let mut question = Message::query();
    question.metadata.id = fastrand::u16(..);
    question.metadata.recursion_desired = false;
    question.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec().map_err(std::io::Error::other)?).await?;
    let mut buffer = [0; 4096];
    let length =
        tokio::time::timeout(TIMEOUT, socket.recv(&mut buffer)).await.map_err(std::io::Error::other)??;
    let answer =
        Message::from_vec(buffer.get(..length).unwrap_or_default()).map_err(std::io::Error::other)?;
    if answer.metadata.id != question.metadata.id {
        return Err(std::io::Error::other("an answer to another question"));
    }
    let mut read = DnsAnswer { ttl: u32::MAX, ..DnsAnswer::default() };
    for record in &answer.answers {
        match &record.data {
            RData::CNAME(target) => read.chain.push(target.0.to_string().trim_end_matches('.').to_owned()),
            RData::A(address) => {
                read.addresses.push(IpAddr::V4(address.0));
                read.ttl = read.ttl.min(record.ttl);
            }
            _ => {}
        }
    }
    Ok(read)
}

/// Answer of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// Sends a gateway one GET for a path of a host, on a connection of its own.
///
/// # Errors
/// When the connection or the exchange fails.
pub async fn get(gateway: SocketAddr, host: &str, path: &str) -> Result<HttpAnswer, std::io::Error> {
    let exchange = async {
        let stream = TcpStream::connect(gateway).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new());
        let request = request.map_err(std::io::Error::other)?;
        let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
        connection.abort();
        Ok(HttpAnswer { status, body })
    };
    tokio::time::timeout(Duration::from_secs(65), exchange).await.map_err(std::io::Error::other)?
}

/// The admin API, as far as the demo needs it.
#[derive(Clone, Debug)]
pub struct Admin {
    client: reqwest::Client,
    url: String,
}

impl Admin {
    /// At this address, without a token, because everything is on loopback.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { client: reqwest::Client::new(), url: url.to_owned() }
    }

    /// Applies documents.
    ///
    /// # Errors
    /// When they are refused or control does not answer.
    pub async fn apply(&self, file: &str, text: &str) -> Result<(), DemoError> {
        let file = FileText { name: file.to_owned(), text: text.to_owned() };
        let order = Apply { files: vec![file], prune: false, order: false };
        self.post::<Applied>("/v1/apply", &order).await.map(drop)
    }

    /// Gives an order: an override that is in no file.
    ///
    /// # Errors
    /// When it is refused or control does not answer.
    pub async fn order(&self, text: &str) -> Result<(), DemoError> {
        let file = FileText { name: "order".to_owned(), text: text.to_owned() };
        let order = Apply { files: vec![file], prune: false, order: true };
        self.post::<Applied>("/v1/apply", &order).await.map(drop)
    }

    /// Sends a DELETE.
    ///
    /// # Errors
    /// When control does not answer with success.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, DemoError> {
        Self::read(self.client.delete(format!("{}{path}", self.url))).await
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// When control does not answer with success.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DemoError> {
        Self::read(self.client.get(format!("{}{path}", self.url))).await
    }

    /// Sends a POST.
    ///
    /// # Errors
    /// When control does not answer with success.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, DemoError> {
        Self::read(self.client.post(format!("{}{path}", self.url)).json(body)).await
    }

    async fn read<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, DemoError> {
        let fail = |error: reqwest::Error| DemoError::Admin(format!("control: {error}"));
        let response = request.timeout(Duration::from_secs(90)).send().await.map_err(fail)?;
        let status = response.status();
        let text = response.text().await.map_err(fail)?;
        if !status.is_success() {
            return Err(DemoError::Admin(format!("control answered {status}: {text}")));
        }
        serde_json::from_str(&text).map_err(|error| DemoError::Admin(format!("control: {error} in {text:?}")))
    }

    /// True when the targets of every site are up, as every vantage sees them.
    ///
    /// # Errors
    /// When control does not answer with success.
    pub async fn all_up(&self) -> Result<bool, DemoError> {
        let status: Status = self.get("/v1/status").await?;
        let agree = |target: &TargetStatus| {
            let seen = target.observations.values().filter(|it| it.fresh && it.state == "up").count();
            target.verdict.state == State::Up && seen == status.vantages.len()
        };
        Ok(status.targets.len() == super::addresses::SITES.len() && status.targets.iter().all(agree))
    }
}
