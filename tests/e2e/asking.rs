//! Clients at a place of a network: they ask name servers and gateways, once or all the time.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{
        Name, RData, RecordType,
        rdata::opt::{ClientSubnet, EdnsOption},
    },
};
use tokio::net::UdpSocket;
use waypost::demo::load::LoadGenerator;

use crate::network::Place;

/// A query without an answer for this long has none.
const TIMEOUT: Duration = Duration::from_millis(400);
/// How often a watched name server is asked.
const EVERY: Duration = Duration::from_millis(10);

/// The first address that a name server answers with; the error says what came instead.
pub async fn first_address(
    server: SocketAddr,
    name: &str,
    client: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, String> {
    let asked = ask(server, name, client);
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) => Err("no address".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

async fn ask(
    server: SocketAddr,
    name: &str,
    client: Option<Ipv4Addr>,
) -> Result<Option<Ipv4Addr>, std::io::Error> {
    let mut question = Message::query();
    question.metadata.id = fastrand::u16(..);
    question.metadata.recursion_desired = false;
    let name = Name::from_str(&format!("{name}.")).map_err(std::io::Error::other)?;
    question.add_query(Query::query(name, RecordType::A));
    if let Some(client) = client {
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(IpAddr::V4(client), 24, 0)));
        question.set_edns(edns);
    }
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec().map_err(std::io::Error::other)?).await?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await?;
    let answer = Message::from_vec(&buffer[..length]).map_err(std::io::Error::other)?;
    Ok(answer.answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    }))
}

/// The status and the text that a gateway answers.
pub async fn ask_gateway(gateway: SocketAddr, host: &str) -> Result<(u16, String), String> {
    let asked = waypost::demo::client::get(gateway, host, "/");
    match tokio::time::timeout(Duration::from_secs(15), asked).await {
        Ok(Ok(answer)) => Ok((answer.status, String::from_utf8_lossy(&answer.body).trim().to_owned())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// A name server that is asked all the time. The answers that differ from the one before are kept; a query without an
/// answer is not one.
pub struct Watch {
    task: tokio::task::JoinHandle<()>,
    seen: Arc<Mutex<Vec<(Instant, Ipv4Addr)>>>,
}

impl Watch {
    pub fn start(place: &Place, server: SocketAddr, name: &str) -> Self {
        let seen = Arc::<Mutex<Vec<(Instant, Ipv4Addr)>>>::default();
        let (name, into) = (name.to_owned(), Arc::clone(&seen));
        let task = place.start(async move {
            loop {
                if let Ok(address) = first_address(server, &name, None).await {
                    let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                    if seen.last().is_none_or(|(_, last)| *last != address) {
                        seen.push((Instant::now(), address));
                    }
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { task, seen }
    }

    pub fn seen(&self) -> Vec<(Instant, Ipv4Addr)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn last(&self) -> Option<Ipv4Addr> {
        self.seen().last().map(|(_, address)| *address)
    }

    /// How often the answer changed since a moment.
    pub fn changes_since(&self, since: Instant) -> usize {
        self.seen().iter().skip(1).filter(|(at, _)| *at > since).count()
    }

    /// When the address that is answered now was answered first.
    pub fn since(&self, address: Ipv4Addr) -> Option<Instant> {
        self.seen().last().filter(|(_, last)| *last == address).map(|(at, _)| *at)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Requests at a fixed rate from a place.
pub fn load(place: &Place, gateways: &[SocketAddr], host: &str, rate: u32) -> LoadGenerator {
    let (gateways, host) = (gateways.to_vec(), host.to_owned());
    place.run(async move { LoadGenerator::start(&gateways, &host, "/", rate) })
}
