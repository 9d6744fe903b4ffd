//! Queries octet by octet, and their way to a server and back. They are written here, because a library would refuse to
//! write the malformed ones.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use fastrand::Rng;

/// The longest wait for an answer; only a defect takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A question as it is in a packet.
#[derive(Clone, Debug)]
pub struct Query {
    pub id: u16,
    pub recursion: bool,
    pub name: String,
    pub record_type: u16,
    /// The largest reply that the client takes (RFC 6891), whether it wants signatures, and its options; `None` without EDNS.
    pub edns: Option<(u16, bool, Vec<u8>)>,
}

impl Query {
    pub fn octets(&self) -> Vec<u8> {
        let mut packet = self.id.to_be_bytes().to_vec();
        packet.extend([u8::from(self.recursion), 0, 0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        for label in self.name.split('.').filter(|it| !it.is_empty()) {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend(label.bytes());
        }
        packet.push(0);
        packet.extend(self.record_type.to_be_bytes());
        packet.extend([0, 1]);
        if let Some((size, signatures, options)) = &self.edns {
            packet.extend([0, 0, 41]);
            packet.extend(size.to_be_bytes());
            packet.extend([0, 0, u8::from(*signatures) << 7, 0]);
            packet.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
            packet.extend(options);
        }
        packet
    }
}

/// A name in any mixture of cases (RFC 1034 §3.1).
pub fn any_case(random: &mut Rng, name: &str) -> String {
    name.chars().map(|it| if random.bool() { it.to_ascii_uppercase() } else { it }).collect()
}

/// A socket connected to one server.
pub fn connected(server: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The reply to a query, over UDP.
pub fn ask(socket: &UdpSocket, query: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.send(query)?;
    let mut reply = [0; 4096];
    loop {
        let octets = socket.recv(&mut reply)?;
        if reply[..2] == query[..2] {
            return Ok(reply[..octets].to_vec());
        }
    }
}

/// The reply to a query, over a TCP connection of its own.
pub fn ask_over_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}
