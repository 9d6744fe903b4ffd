//! A client that writes bytes and reads responses strictly.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection to the gateway.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) unread: Vec<u8>,
}

/// A complete response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, text.to_owned())
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), unread: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The gateway's own answers are in sentences.
    pub(super) async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/plain\r\n\r\n")).await
    }

    /// Sends a request without a body to answer to.
    pub(super) async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await;
        let bodiless = request.starts_with("HEAD ");
        self.answer_to(bodiless).await.unwrap()
    }

    pub(super) async fn answer(&mut self) -> Answer {
        self.answer_to(false).await.unwrap()
    }

    /// Reads one response; an error when it is not complete.
    pub(super) async fn answer_to(&mut self, bodiless: bool) -> io::Result<Answer> {
        let read = self.read_answer(bodiless);
        tokio::time::timeout(Duration::from_secs(10), read).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    async fn read_answer(&mut self, bodiless: bool) -> io::Result<Answer> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|it| it.parse().ok());
        let split = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let fields = lines.filter_map(split).collect();
        let status = status.ok_or_else(|| broken("no status line"))?;
        let mut answer = Answer { status, fields, body: Vec::new() };
        if bodiless || answer.status < 200 || matches!(answer.status, 204 | 304) {
            return Ok(answer);
        }
        answer.body = if answer.field("transfer-encoding") == Some("chunked") {
            self.chunks().await?
        } else if let Some(length) = answer.field("content-length") {
            self.exactly(length.parse().map_err(io::Error::other)?).await?
        } else {
            self.rest().await?
        };
        Ok(answer)
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.until(b"\r\n").await?;
            let size = std::str::from_utf8(&size).map_err(io::Error::other)?.trim().to_owned();
            let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
            let chunk = self.exactly(size + 2).await?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.unread).await
    }

    async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|it| it == end) {
                return Ok(self.unread.drain(..at + end.len()).collect());
            }
            if self.more().await? == 0 {
                return Err(broken("the connection ended in an answer's head"));
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            if self.more().await? == 0 {
                return Err(broken("the connection ended in an answer's body"));
            }
        }
        Ok(self.unread.drain(..length).collect())
    }

    async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more().await? > 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// True when the gateway closes the connection within five seconds and sends nothing more.
    pub(super) async fn is_closed(&mut self) -> bool {
        let ended = tokio::time::timeout(Duration::from_secs(5), self.more()).await;
        self.unread.is_empty() && matches!(ended, Ok(Ok(0) | Err(_)))
    }
}
