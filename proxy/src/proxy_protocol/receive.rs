//! Taking a header from a socket, and not one byte more: what follows may be the beginning of a TLS handshake.

use std::io;

use tokio::{io::AsyncReadExt as _, net::TcpStream};

use super::{Header, MAX, MAX_V1, read};

/// Reads the header with which a connection begins. The caller limits the time.
///
/// Octets are looked at before they are taken. As long as a header is not complete all of them belong to it; nearly
/// always it comes in one piece, and costs one look and one read.
///
/// # Errors
/// `InvalidData` for a header that is refused, with the reason; `UnexpectedEof` for a connection that ends before it is
/// complete; or the error of the socket.
pub(crate) async fn receive(stream: &mut TcpStream) -> io::Result<Header> {
    // Most headers are short; the rest of a long one is made room for.
    let mut header = vec![0; MAX_V1];
    let mut taken = 0;
    loop {
        let seen = taken + stream.peek(&mut header[taken..]).await?;
        if seen == taken {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let complete =
            read(&header[..seen]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let end = complete.as_ref().map_or(seen, |(_, length)| *length);
        // They are there, so this does not wait.
        stream.read_exact(&mut header[taken..end]).await?;
        if let Some((header, _)) = complete {
            return Ok(header);
        }
        taken = end;
        if taken == header.len() {
            header.resize(MAX, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::{super::write_v2, *};
    use crate::proxy_protocol::Addresses;

    /// What is received of these pieces, and what follows it.
    async fn received(pieces: &[&[u8]]) -> (io::Result<Header>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let receiving = async {
            let header = receive(&mut stream).await;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            (header, rest)
        };
        tokio::join!(sending, receiving).1
    }

    #[tokio::test]
    async fn a_header_is_taken_and_what_follows_stays() {
        let addresses = Addresses {
            source: "192.0.2.1:1".parse().unwrap(),
            destination: "192.0.2.2:80".parse().unwrap(),
        };
        let mut header = Vec::new();
        write_v2(Some(addresses), &mut header);
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n";
        for header in [&header[..], line] {
            for cut in [0, 1, 5, 13, 16, header.len()] {
                let (start, end) = header.split_at(cut);
                let (received, rest) = received(&[start, &[end, b"GET /"].concat(), b" HTTP"]).await;
                assert_eq!(received.unwrap().addresses, Some(addresses), "{cut}");
                assert_eq!(rest, b"GET / HTTP");
            }
        }
        // Longer than a line of version 1.
        let long = [&header[..14], &[0x10, 0x00], &header[16..], &[4, 0x0f, 0xf1], &[0; 0xff1]].concat();
        assert_eq!(received(&[&long, b"x"]).await.0.unwrap().addresses, Some(addresses));
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let kind = |received: (io::Result<Header>, Vec<u8>)| received.0.unwrap_err().kind();
        assert_eq!(kind(received(&[b"GET / HTTP/1.1\r\n\r\n"]).await), io::ErrorKind::InvalidData);
        assert_eq!(kind(received(&[b"PROXY TCP4 192.0.2.1"]).await), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(received(&[]).await), io::ErrorKind::UnexpectedEof);
    }
}
