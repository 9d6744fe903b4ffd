//! Connections to instances, and the pool of the idle ones. `upstream` decides what happens to them.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle, time::Instant};

use crate::{instance::Instance, request_body::RequestBody};

/// A connection to an instance.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    pub(crate) sender: SendRequest<RequestBody>,
    /// Ends when the connection is closed.
    pub(crate) task: JoinHandle<()>,
    pub(crate) address: SocketAddr,
    /// The instance that it served last, or was made for.
    pub(crate) instance: Arc<Instance>,
}

impl UpstreamConnection {
    /// HTTP/1.1 over a new TCP connection.
    ///
    /// # Errors
    /// When the connection cannot be used.
    pub(crate) async fn over(
        stream: TcpStream,
        instance: Arc<Instance>,
        address: SocketAddr,
        max_header_bytes: usize,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .max_header_size(max_header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let task = tokio::task::spawn_local(async move {
            // The request in flight gets the error through its sender.
            let _ = connection.await;
        });
        Ok(Self { sender, task, address, instance })
    }

    /// Closes the connection, and returns when it is closed.
    pub(crate) async fn close(self) {
        drop(self.sender);
        self.task.abort();
        let _ = self.task.await;
    }
}

/// The idle connections.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: HashMap<SocketAddr, Vec<(UpstreamConnection, Instant)>>,
    count: u64,
}

impl Pool {
    /// The connection to an address that was used last, if it is still open.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<UpstreamConnection> {
        let connections = self.idle.get_mut(&address)?;
        while let Some((connection, _)) = connections.pop() {
            self.count -= 1;
            if connection.sender.is_ready() && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection, unless `most` to its address are there already; then it is returned.
    pub(crate) fn put(&mut self, connection: UpstreamConnection, most: usize) -> Option<UpstreamConnection> {
        let connections = self.idle.entry(connection.address).or_default();
        if connections.len() >= most {
            return Some(connection);
        }
        connections.push((connection, Instant::now()));
        self.count += 1;
        None
    }

    /// Takes out every connection for which `unwanted` is true.
    pub(crate) fn remove(
        &mut self,
        unwanted: impl Fn(&UpstreamConnection) -> bool,
    ) -> Vec<UpstreamConnection> {
        let mut removed = Vec::new();
        for connections in self.idle.values_mut() {
            removed.extend(
                connections
                    .extract_if(.., |(connection, _)| unwanted(connection))
                    .map(|(connection, _)| connection),
            );
        }
        self.idle.retain(|_, connections| !connections.is_empty());
        self.count -= removed.len() as u64;
        removed
    }

    /// Takes out the connections that are closed or were idle for too long.
    pub(crate) fn sweep(&mut self, kept_for: Duration) -> Vec<UpstreamConnection> {
        let mut removed = Vec::new();
        for connections in self.idle.values_mut() {
            let over = |(connection, since): &mut (UpstreamConnection, Instant)| {
                connection.sender.is_closed() || since.elapsed() >= kept_for
            };
            removed.extend(connections.extract_if(.., over).map(|(connection, _)| connection));
        }
        self.idle.retain(|_, connections| !connections.is_empty());
        self.count -= removed.len() as u64;
        removed
    }

    /// The number of idle connections.
    pub(crate) const fn len(&self) -> u64 {
        self.count
    }
}
